"""Each invariant is false of something: a hand-made state or step that breaks it and no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from registry.invariants import SENTENCES, STATE_INVARIANTS, STEP_INVARIANTS, violated
from registry.protocol import (
    Cancel,
    Close,
    Ended,
    GraceExpired,
    Operation,
    Register,
    Snapshot,
    State,
    Strategy,
    StreamView,
    WaitExpired,
    Withdraw,
)


def view(
    trace_id: str,
    state: State,
    *,
    session_id: str | None = "s",
    token: int | None = None,
    overdue: bool = False,
) -> StreamView:
    """One stream; its serial is the number at the end of its trace id."""
    serial = int(trace_id[1:])
    if token is None and state is not State.WAITING:
        token = serial
    started_at = None if state is State.WAITING else 0.0
    deadline = 2.0 if state in (State.STOPPING, State.DETACHED) else None
    return StreamView(trace_id, session_id, state, serial, token, started_at, deadline, overdue)


def snapshot(*streams: StreamView) -> Snapshot:
    return Snapshot(
        streams=streams,
        sessions_kept=len({stream.session_id for stream in streams if stream.session_id}),
        fencing_token_last=max((stream.fencing_token or 0 for stream in streams), default=0),
        closed=False,
        detached_per_session_max=2,
        detached_max=3,
        queue_max=2,
    )


def enqueued(trace_id: str) -> StreamView:
    waiting = view(trace_id, State.WAITING)
    return replace(waiting, strategy=Strategy.ENQUEUE, wait_deadline=9.0)


A1 = view("p1", State.ACTIVE)
S1 = view("p1", State.STOPPING)
D1 = view("p1", State.DETACHED)
W2 = view("p2", State.WAITING)
A2 = view("p2", State.ACTIVE)
S2 = view("p2", State.STOPPING)
E2, E3, E4 = enqueued("p2"), enqueued("p3"), enqueued("p4")
OTHER = view("p9", State.ACTIVE, session_id="t")

GOOD_STATES = {
    "nothing": snapshot(),
    "one is active": snapshot(A1),
    "one stops, another waits": snapshot(S1, W2),
    "two are enqueued behind an active one": snapshot(A1, E2, E3),
    "one is enqueued behind one that interrupts": snapshot(S1, W2, E3),
    "one interrupts, and as many are enqueued as may": snapshot(S1, W2, E3, E4),
    "one is enqueued behind a stopping one": snapshot(S1, E2),
    "one is detached, another active": snapshot(D1, A2),
    "two sessions": snapshot(A1, OTHER),
    "two streams without a session": snapshot(
        view("p1", State.ACTIVE, session_id=None), view("p2", State.ACTIVE, session_id=None)
    ),
    "one is overdue": snapshot(view("p1", State.STOPPING, overdue=True)),
}

BAD_STATES: list[tuple[str, str, Snapshot]] = [
    ("S1 one_active", "two active streams of one session", snapshot(A1, A2)),
    ("S4 newest_wins", "one is active while one that interrupts waits", snapshot(A1, W2)),
    (
        "S4 newest_wins",
        "one that interrupts has not overtaken an enqueued one",
        snapshot(S1, E2, view("p3", State.WAITING)),
    ),
    (
        "S4 reject_never_waits",
        "one that is to be rejected waits",
        snapshot(S1, replace(W2, strategy=Strategy.REJECT)),
    ),
    (
        "S5 fencing",
        "the later stream has the smaller fencing token",
        snapshot(view("p1", State.DETACHED, token=2), view("p2", State.ACTIVE, token=1)),
    ),
    (
        "S5 fencing",
        "two streams have the same fencing token",
        snapshot(view("p1", State.DETACHED, token=1), view("p2", State.ACTIVE, token=1)),
    ),
    (
        "S7 bounded",
        "more are detached in the session than may be",
        snapshot(*(view(f"p{number}", State.DETACHED) for number in (1, 2, 3))),
    ),
    (
        "S7 bounded",
        "more are detached in the process than may be",
        snapshot(
            *(view(f"p{number}", State.DETACHED, session_id=f"s{number}") for number in range(1, 5))
        ),
    ),
    (
        "S7 bounded",
        "two streams of one session wait to interrupt",
        snapshot(S1, W2, view("p3", State.WAITING)),
    ),
    ("S7 bounded", "more are enqueued than may be", snapshot(A1, E2, E3, E4)),
    ("L1 admission", "one is enqueued, and nobody holds the session", snapshot(E2)),
    ("L1 admission", "one is enqueued for a detached stream", snapshot(D1, E2)),
    (
        "L1 admission",
        "one is enqueued for an overdue stream",
        snapshot(view("p1", State.STOPPING, overdue=True), E2),
    ),
    (
        "L1 admission",
        "one is enqueued without an end",
        snapshot(A1, replace(E2, wait_deadline=None)),
    ),
    ("L1 admission", "one waits, and nobody holds the session", snapshot(W2)),
    ("L1 admission", "one waits for a detached stream", snapshot(D1, W2)),
    (
        "L1 admission",
        "one waits for an overdue stream",
        snapshot(view("p1", State.STOPPING, overdue=True), W2),
    ),
    ("L3 no_leak", "a session is kept without a stream", replace(snapshot(A1), sessions_kept=2)),
]

BAD_STEPS: list[tuple[str, str, Snapshot, Operation, Snapshot]] = [
    (
        "S4 newest_wins",
        "the overtaken stream starts",
        snapshot(S1, W2, view("p3", State.WAITING)),
        Ended("p1"),
        snapshot(A2),
    ),
    (
        "S4 oldest_next",
        "the younger of two that are enqueued comes first",
        snapshot(A1, E2, E3),
        Ended("p1"),
        snapshot(view("p3", State.ACTIVE), E2),
    ),
    (
        "S4 oldest_next",
        "a register is let in before one that waits",
        snapshot(S1, E2),
        Register("p3", "s", Strategy.ENQUEUE),
        snapshot(S1, view("p3", State.ACTIVE), E2),
    ),
    (
        "S5 fencing",
        "a fencing token comes again after an idle time",
        replace(snapshot(), fencing_token_last=2),
        Register("p3", "s"),
        replace(snapshot(view("p3", State.ACTIVE, token=2)), fencing_token_last=2),
    ),
    (
        "S6 isolation",
        "a register in one session stops a stream of another",
        snapshot(A1, OTHER),
        Register("p2", "t"),
        snapshot(S1, OTHER),
    ),
    (
        "S6 isolation",
        "an expired grace makes a stream of another session overdue",
        snapshot(S1, view("p9", State.STOPPING, session_id="t")),
        GraceExpired("p1"),
        snapshot(D1, view("p9", State.STOPPING, session_id="t", overdue=True)),
    ),
    (
        "S6 isolation",
        "a register without a session stops a stream of another",
        snapshot(A1),
        Register("p2", None),
        snapshot(S1, replace(A2, session_id=None)),
    ),
    (
        "S6 isolation",
        "the end of a stream without a session changes another such stream",
        snapshot(replace(A1, session_id=None), replace(S2, session_id=None)),
        Ended("p1"),
        snapshot(replace(S2, session_id=None, overdue=True)),
    ),
    (
        "L1 admission",
        "another register starts the grace anew",
        snapshot(S1, W2),
        Register("p3", "s"),
        snapshot(replace(S1, grace_deadline=3.0), view("p3", State.WAITING)),
    ),
    (
        "S8 identity",
        "a cancel stops the wrong stream",
        snapshot(D1, A2),
        Cancel("p1", "x"),
        snapshot(D1, S2),
    ),
    (
        "S8 identity",
        "one that is enqueued stops the holder",
        snapshot(A1),
        Register("p2", "s", Strategy.ENQUEUE),
        snapshot(S1, E2),
    ),
    (
        "S8 identity",
        "one that is to be rejected removes one that waits",
        snapshot(A1, E2),
        Register("p3", "s", Strategy.REJECT),
        snapshot(A1),
    ),
    (
        "S8 identity",
        "one that leaves the queue takes another with it",
        snapshot(A1, E2, E3),
        Withdraw("p2"),
        snapshot(A1),
    ),
    (
        "S8 identity",
        "the end of a wait stops the holder",
        snapshot(A1, E2),
        WaitExpired("p2"),
        snapshot(S1),
    ),
    (
        "S8 identity",
        "the cancel of one who waits takes the holder away",
        snapshot(S1, W2),
        Cancel("p2", "x"),
        snapshot(),
    ),
    (
        "S8 identity",
        "the end of a detached stream ends its successor",
        snapshot(D1, A2),
        Ended("p1"),
        snapshot(),
    ),
    (
        "S8 identity",
        "an expired grace stops the successor",
        snapshot(D1, A2),
        GraceExpired("p1"),
        snapshot(D1, S2),
    ),
]


@pytest.mark.parametrize("state", GOOD_STATES.values(), ids=GOOD_STATES.keys())
def test_state_invariants_hold_of_good_states(state: Snapshot) -> None:
    """A state that the protocol may be in breaks no invariant."""
    assert [each.name for each in STATE_INVARIANTS if not each.holds(state)] == []


@pytest.mark.parametrize(
    ("name", "state"),
    [(name, state) for name, _, state in BAD_STATES],
    ids=[f"{name}: {what}" for name, what, _ in BAD_STATES],
)
def test_state_invariant_is_false_of_a_bad_state(name: str, state: Snapshot) -> None:
    """A state with one fault breaks the invariant against that fault, and `violated` names it."""
    broken = {each.name for each in STATE_INVARIANTS if not each.holds(state)}
    assert name in broken
    assert violated(state, Close(), state) in broken


@pytest.mark.parametrize(
    ("name", "before", "operation", "now"),
    [(name, before, operation, now) for name, _, before, operation, now in BAD_STEPS],
    ids=[f"{name}: {what}" for name, what, *_ in BAD_STEPS],
)
def test_step_invariant_is_false_of_a_bad_step(
    name: str, before: Snapshot, operation: Operation, now: Snapshot
) -> None:
    """A step with one fault breaks the invariant against it, though the state after it is good."""
    assert [each.name for each in STATE_INVARIANTS if not each.holds(now)] == []
    broken = [each.name for each in STEP_INVARIANTS if not each.holds(before, operation, now)]
    assert broken == [name]
    assert violated(before, operation, now) == name


def test_each_invariant_has_a_bad_example() -> None:
    """No predicate is left untested: each has a state or a step here that it is false of."""
    assert {name for name, *_ in BAD_STATES} == {each.name for each in STATE_INVARIANTS}
    assert {name for name, *_ in BAD_STEPS} == {each.name for each in STEP_INVARIANTS}


@pytest.mark.parametrize("invariant", [*STATE_INVARIANTS, *STEP_INVARIANTS], ids=lambda i: i.name)
def test_each_invariant_has_its_sentence(invariant) -> None:
    """What a counterexample prints about an invariant is the sentence of the project's list."""
    assert invariant.sentence == SENTENCES[invariant.name]


def test_good_steps_break_nothing() -> None:
    """Superseding, ending and expiring, as they should go, break no invariant."""
    steps: list[tuple[Snapshot, Operation, Snapshot]] = [
        (snapshot(), Register("p1", "s"), snapshot(A1)),
        (snapshot(A1, OTHER), Register("p2", "s"), snapshot(S1, W2, OTHER)),
        (snapshot(S1, W2), Ended("p1"), snapshot(A2)),
        (snapshot(S1, W2), GraceExpired("p1"), snapshot(D1, A2)),
        (snapshot(D1, A2), Ended("p1"), snapshot(A2)),
        (snapshot(A1, E2, E3), Ended("p1"), snapshot(A2, E3)),
        (snapshot(A1, E2, E3), WaitExpired("p2"), snapshot(A1, E3)),
        (snapshot(A1, E2), Register("p3", "s"), snapshot(S1, view("p3", State.WAITING))),
        (snapshot(S1, W2), Register("p3", "s", Strategy.ENQUEUE), snapshot(S1, W2, E3)),
        (snapshot(A1, OTHER), Close(), snapshot(S1, replace(OTHER, state=State.STOPPING))),
    ]
    for before, operation, now in steps:
        assert violated(before, operation, now) is None, operation
