"""The protocol at its door: each row of the table, what raises, and random histories."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import (
    IllegalOperation,
    QueueFull,
    SessionBusy,
    StreamError,
    StreamRefused,
    TraceIdKnown,
)
from registry.invariants import violated
from registry.protocol import (
    PERFORM,
    TABLE,
    Action,
    Admitted,
    Cancel,
    Close,
    Effect,
    Ended,
    Forgotten,
    GraceExpired,
    Logged,
    Operation,
    Queued,
    Register,
    Rejected,
    Situation,
    State,
    StopRequested,
    Strategy,
    StreamProtocol,
    WaitExpired,
    Withdraw,
)
from tests.registry.protocol_document import BEFORE, README, document

# One stream may be DETACHED per session, and two enqueued, so that the limits are near.
LIMITS = {
    "grace_s": 2.0,
    "detached_per_session_max": 1,
    "detached_max": 2,
    "queue_max": 2,
    "queue_s": 30.0,
}

History = Sequence[tuple[float, Operation]]


def words(effect: Effect) -> str:
    """An effect as the tests below write it down."""
    match effect:
        case Admitted(trace_id, fencing_token):
            return f"admitted {trace_id} {fencing_token}"
        case Queued(trace_id, wait_deadline):
            return f"queued {trace_id}, until {wait_deadline:g}"
        case Rejected(trace_id, error):
            return f"rejected {trace_id}: {error.code}"
        case StopRequested(trace_id, error, grace_deadline):
            return f"stop {trace_id}: {error.code}, until {grace_deadline:g}"
        case Forgotten(trace_id):
            return f"forgotten {trace_id}"
        case Logged(event, fields):
            return " ".join([f"log {event}", *(f"{name}={value}" for name, value in fields)])


def after(history: History, **limits: float) -> StreamProtocol:
    """A protocol that has this history."""
    protocol = StreamProtocol(**{**LIMITS, **limits})
    for now, operation in history:
        protocol.apply(operation, now)
    return protocol


def states(protocol: StreamProtocol) -> dict[str, str]:
    return {
        stream.trace_id: "OVERDUE" if stream.overdue else stream.state.name
        for stream in protocol.snapshot().streams
    }


# ---- each row --------------------------------------------------------------------------------

FRESH: History = ()
ACTIVE: History = ((0.0, Register("p1", "s")),)
STOPPING: History = (*ACTIVE, (1.0, Cancel("p1", "requested")))
WAITING: History = (*ACTIVE, (1.0, Register("p2", "s")))
QUEUED: History = (*ACTIVE, (1.0, Register("p2", "s", Strategy.ENQUEUE)))
FULL: History = (*QUEUED, (2.0, Register("p3", "s", Strategy.ENQUEUE)))
DETACHED: History = (*WAITING, (3.0, GraceExpired("p1")))
AT_LIMIT: History = (*DETACHED, (4.0, Register("p3", "s")))
OVERDUE: History = (*AT_LIMIT, (6.0, GraceExpired("p2")))
CLOSED: History = (*ACTIVE, (1.0, Close()))


@dataclass(frozen=True)
class Case:
    """An operation after a history: the row it takes, its effects in order, the states then."""

    row: Situation
    history: History
    now: float
    operation: Operation
    effects: list[str] = field(default_factory=list)
    states: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{type(self.operation).__name__.lower()}, {self.row.value}"


TAKEN = [
    Case(
        Situation.SESSION_FREE,
        FRESH,
        0.0,
        Register("p1", "s"),
        ["log stream_start trace=p1 trace_id=p1 session=s", "admitted p1 1"],
        {"p1": "ACTIVE"},
    ),
    Case(
        Situation.HOLDER_ACTIVE,
        ACTIVE,
        1.0,
        Register("p2", "s"),
        [
            "log stream_cancelled trace=p1 reason=new_stream_registered",
            "stop p1: superseded, until 3",
        ],
        {"p1": "STOPPING", "p2": "WAITING"},
    ),
    Case(
        Situation.HOLDER_STOPPING,
        STOPPING,
        1.5,
        Register("p2", "s"),
        [],
        {"p1": "STOPPING", "p2": "WAITING"},
    ),
    Case(
        Situation.HOLDER_STOPPING_CONTENDED,
        WAITING,
        1.5,
        Register("p3", "s"),
        [
            "log stream_cancelled trace=p2 reason=new_stream_registered",
            "rejected p2: superseded",
            "forgotten p2",
        ],
        {"p1": "STOPPING", "p3": "WAITING"},
    ),
    Case(
        Situation.HOLDER_ACTIVE_CONTENDED,
        FULL,
        3.0,
        Register("p4", "s"),
        [
            "log stream_cancelled trace=p1 reason=new_stream_registered",
            "stop p1: superseded, until 5",
            "log stream_cancelled trace=p2 reason=new_stream_registered",
            "rejected p2: superseded",
            "forgotten p2",
            "log stream_cancelled trace=p3 reason=new_stream_registered",
            "rejected p3: superseded",
            "forgotten p3",
        ],
        {"p1": "STOPPING", "p4": "WAITING"},
    ),
    Case(
        Situation.QUEUE_OPEN,
        ACTIVE,
        1.0,
        Register("p2", "s", Strategy.ENQUEUE),
        ["queued p2, until 31"],
        {"p1": "ACTIVE", "p2": "WAITING"},
    ),
    Case(
        Situation.WAITING,
        FULL,
        31.0,
        WaitExpired("p2"),
        [
            "log stream_cancelled trace=p2 reason=queue_timeout",
            "rejected p2: queue_timeout",
            "forgotten p2",
        ],
        {"p1": "ACTIVE", "p3": "WAITING"},
    ),
    Case(
        Situation.ACTIVE,
        ACTIVE,
        1.0,
        Cancel("p1", "stop_pressed"),
        ["log stream_cancelled trace=p1 reason=stop_pressed", "stop p1: cancelled, until 3"],
        {"p1": "STOPPING"},
    ),
    Case(
        Situation.WAITING,
        WAITING,
        1.5,
        Cancel("p2", "stop_pressed"),
        [
            "log stream_cancelled trace=p2 reason=stop_pressed",
            "rejected p2: cancelled",
            "forgotten p2",
        ],
        {"p1": "STOPPING"},
    ),
    Case(Situation.STOPPING, STOPPING, 1.5, Cancel("p1", "again"), [], {"p1": "STOPPING"}),
    Case(
        Situation.OVERDUE,
        OVERDUE,
        6.5,
        Cancel("p2", "again"),
        [],
        {"p1": "DETACHED", "p2": "OVERDUE"},
    ),
    Case(
        Situation.DETACHED,
        DETACHED,
        3.5,
        Cancel("p1", "again"),
        [],
        {"p1": "DETACHED", "p2": "ACTIVE"},
    ),
    Case(Situation.UNKNOWN, FRESH, 0.0, Cancel("p1", "no such stream"), [], {}),
    Case(
        Situation.WAITING,
        WAITING,
        1.5,
        Withdraw("p2"),
        [
            "log stream_cancelled trace=p2 reason=caller_left",
            "rejected p2: cancelled",
            "forgotten p2",
        ],
        {"p1": "STOPPING"},
    ),
    Case(
        Situation.ACTIVE,
        ACTIVE,
        1.0,
        Withdraw("p1"),
        ["log stream_cancelled trace=p1 reason=caller_left", "stop p1: cancelled, until 3"],
        {"p1": "STOPPING"},
    ),
    Case(Situation.STOPPING, STOPPING, 1.5, Withdraw("p1"), [], {"p1": "STOPPING"}),
    Case(
        Situation.ACTIVE,
        ACTIVE,
        1.25,
        Ended("p1"),
        ["log stream_end trace=p1 stream_id=p1 session=s duration_ms=1250", "forgotten p1"],
        {},
    ),
    Case(
        Situation.STOPPING,
        WAITING,
        1.5,
        Ended("p1"),
        [
            "log prev_stream_finished_cleanly session=s trace=p1",
            "log stream_end trace=p1 stream_id=p1 session=s duration_ms=1500",
            "forgotten p1",
            "log stream_start trace=p2 trace_id=p2 session=s",
            "admitted p2 2",
        ],
        {"p2": "ACTIVE"},
    ),
    Case(
        Situation.OVERDUE,
        OVERDUE,
        7.0,
        Ended("p2"),
        ["log stream_end trace=p2 stream_id=p2 session=s duration_ms=4000", "forgotten p2"],
        {"p1": "DETACHED"},
    ),
    Case(
        Situation.DETACHED,
        DETACHED,
        5.0,
        Ended("p1"),
        ["log stream_end trace=p1 stream_id=p1 session=s duration_ms=5000", "forgotten p1"],
        {"p2": "ACTIVE"},
    ),
    Case(
        Situation.STOPPING,
        WAITING,
        3.0,
        GraceExpired("p1"),
        [
            "log prev_stream_timeout_on_cancel session=s trace=p1",
            "log stream_start trace=p2 trace_id=p2 session=s",
            "admitted p2 2",
        ],
        {"p1": "DETACHED", "p2": "ACTIVE"},
    ),
    Case(
        Situation.STOPPING_AT_LIMIT,
        AT_LIMIT,
        6.0,
        GraceExpired("p2"),
        [
            "log prev_stream_timeout_on_cancel session=s trace=p2",
            "log stream_cancelled trace=p3 reason=session_overdue",
            "rejected p3: refused",
            "forgotten p3",
        ],
        {"p1": "DETACHED", "p2": "OVERDUE"},
    ),
    Case(
        Situation.REGISTRY_OPEN,
        (*WAITING, (1.0, Register("q1", "t"))),
        2.0,
        Close(),
        [
            "log stream_cancelled trace=p2 reason=registry_closed",
            "rejected p2: refused",
            "forgotten p2",
            "log stream_cancelled trace=q1 reason=registry_closed",
            "stop q1: refused, until 4",
        ],
        {"p1": "STOPPING", "q1": "STOPPING"},
    ),
    Case(Situation.REGISTRY_CLOSED, CLOSED, 2.0, Close(), [], {"p1": "STOPPING"}),
]

RAISED = [
    (Case(Situation.TRACE_ID_KNOWN, ACTIVE, 1.0, Register("p1", "t")), TraceIdKnown),
    (
        Case(Situation.QUEUE_FULL, FULL, 3.0, Register("p4", "s", Strategy.ENQUEUE)),
        QueueFull,
    ),
    (
        Case(Situation.SESSION_BUSY, STOPPING, 1.5, Register("p4", "s", Strategy.REJECT)),
        SessionBusy,
    ),
    (Case(Situation.HOLDER_OVERDUE, OVERDUE, 6.5, Register("p4", "s")), StreamRefused),
    (Case(Situation.REGISTRY_CLOSED, CLOSED, 2.0, Register("p4", "s")), StreamRefused),
]


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_row_has_exactly_its_effects_in_their_order(case: Case) -> None:
    """The operation takes the row it names, has exactly these effects, and leaves these states."""
    protocol = after(case.history)
    assert protocol.situation_of(case.operation) is case.row
    effects = protocol.apply(case.operation, case.now)
    assert [words(effect) for effect in effects] == case.effects
    assert states(protocol) == case.states


@pytest.mark.parametrize(("case", "error"), RAISED, ids=lambda given: getattr(given, "name", ""))
def test_register_that_is_turned_away_changes_nothing(case: Case, error: type[StreamError]) -> None:
    """A register that is refused, or whose trace id is known, raises and leaves all as it was."""
    protocol = after(case.history)
    before = protocol.snapshot()
    assert protocol.situation_of(case.operation) is case.row
    with pytest.raises(error) as caught:
        protocol.apply(case.operation, case.now)
    assert caught.value.trace_id == case.operation.trace_id
    assert protocol.snapshot() == before


def test_every_row_of_the_table_is_tested() -> None:
    """The rows tested above are the rows of the table, no more and no less."""
    cases = [*TAKEN, *(case for case, _ in RAISED)]
    tested = [(type(case.operation), case.row) for case in cases]
    assert len(tested) == len(set(tested))
    assert set(tested) == set(TABLE)


def moves_seen(before: dict[str, str], after: dict[str, str]) -> list[str]:
    """Every change of a stream's state, each as from and to."""
    names = sorted({*before, *after})
    moves = [(before.get(name, "UNKNOWN"), after.get(name, "UNKNOWN")) for name in names]
    return sorted({f"{a} → {b}" for a, b in moves if a != b})


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.name)
def test_row_does_what_the_table_says_of_it(case: Case) -> None:
    """The states change as the actions of the row say, and the effects are those they name."""
    protocol = after(case.history)
    before = states(protocol)
    effects = protocol.apply(case.operation, case.now)
    row = TABLE[type(case.operation), case.row]
    named = before.get(getattr(case.operation, "trace_id", ""), "UNKNOWN")
    declared = {
        f"{BEFORE[move.who].name if move.who in BEFORE else named} → {move.to.name}"
        for action in row
        for move in action.value.moves
    }
    # There is a successor only where somebody waits.
    if "WAITING" not in before.values():
        declared.discard("WAITING → ACTIVE")
    assert moves_seen(before, states(protocol)) == sorted(declared)
    may = {each for action in row for each in action.value.effects}
    assert {each.event if isinstance(each, Logged) else type(each) for each in effects} <= may


def test_every_action_is_performed_and_used() -> None:
    """Each action has its code, and a row that takes it."""
    assert set(PERFORM) == set(Action) == {action for row in TABLE.values() for action in row}


def test_the_document_shows_the_table_of_the_code() -> None:
    """registry/README.md has the rows and the diagram that `TABLE` has."""
    assert README.read_text() == document(README.read_text())


STREAMS_IN_EACH_STATE: dict[Situation, tuple[History, str]] = {
    Situation.WAITING: (WAITING, "p2"),
    Situation.ACTIVE: (ACTIVE, "p1"),
    Situation.STOPPING: (STOPPING, "p1"),
    Situation.OVERDUE: (OVERDUE, "p2"),
    Situation.DETACHED: (DETACHED, "p1"),
    Situation.UNKNOWN: (FRESH, "p1"),
}

IMPOSSIBLE = [
    (operation, situation)
    for operation in (Withdraw, Ended, GraceExpired, WaitExpired)
    for situation in STREAMS_IN_EACH_STATE
    if (operation, situation) not in TABLE
]


def test_which_operations_are_impossible() -> None:
    """The pairs without a row are these, so that none goes missing from the table unseen."""
    assert set(IMPOSSIBLE) == {
        (Withdraw, Situation.OVERDUE),
        (Withdraw, Situation.DETACHED),
        (Withdraw, Situation.UNKNOWN),
        (Ended, Situation.WAITING),
        (Ended, Situation.UNKNOWN),
        (GraceExpired, Situation.WAITING),
        (GraceExpired, Situation.ACTIVE),
        (GraceExpired, Situation.OVERDUE),
        (GraceExpired, Situation.DETACHED),
        (GraceExpired, Situation.UNKNOWN),
        (WaitExpired, Situation.ACTIVE),
        (WaitExpired, Situation.STOPPING),
        (WaitExpired, Situation.OVERDUE),
        (WaitExpired, Situation.DETACHED),
        (WaitExpired, Situation.UNKNOWN),
    }


@pytest.mark.parametrize(
    ("operation", "situation"),
    IMPOSSIBLE,
    ids=[f"{operation.__name__.lower()}, {situation.value}" for operation, situation in IMPOSSIBLE],
)
def test_impossible_operation_raises_and_changes_nothing(
    operation: type[Withdraw | Ended | GraceExpired | WaitExpired], situation: Situation
) -> None:
    """An operation without a row raises IllegalOperation and leaves all as it was."""
    history, trace_id = STREAMS_IN_EACH_STATE[situation]
    protocol = after(history)
    before = protocol.snapshot()
    assert protocol.situation_of(operation(trace_id)) is situation
    with pytest.raises(IllegalOperation, match=situation.value):
        protocol.apply(operation(trace_id), 9.0)
    assert protocol.snapshot() == before


# ---- what several rows together promise ------------------------------------------------------


def test_clean_finish_is_logged_in_the_notes_order() -> None:
    """Superseded and finished in time: the log lines are the note's, in the note's order."""
    protocol = after(ACTIVE)
    effects = [
        *protocol.apply(Register("p2", "s"), 0.1),
        *protocol.apply(Ended("p1"), 0.15),
    ]
    assert [words(each) for each in effects if isinstance(each, Logged)] == [
        "log stream_cancelled trace=p1 reason=new_stream_registered",
        "log prev_stream_finished_cleanly session=s trace=p1",
        "log stream_end trace=p1 stream_id=p1 session=s duration_ms=150",
        "log stream_start trace=p2 trace_id=p2 session=s",
    ]


def test_timeout_is_logged_in_the_notes_order() -> None:
    """Superseded and not finished in time: the log lines are the note's, in the note's order."""
    protocol = after(ACTIVE)
    effects = [
        *protocol.apply(Register("p2", "s"), 0.1),
        *protocol.apply(GraceExpired("p1"), 2.1),
    ]
    assert [words(each) for each in effects if isinstance(each, Logged)] == [
        "log stream_cancelled trace=p1 reason=new_stream_registered",
        "log prev_stream_timeout_on_cancel session=s trace=p1",
        "log stream_start trace=p2 trace_id=p2 session=s",
    ]


def test_timeout_is_logged_when_nobody_waits() -> None:
    """An expired grace is logged also if no register waits for it, and frees the session."""
    protocol = after(STOPPING)
    effects = protocol.apply(GraceExpired("p1"), 3.0)
    assert [words(effect) for effect in effects] == [
        "log prev_stream_timeout_on_cancel session=s trace=p1"
    ]
    assert protocol.situation_of(Register("p2", "s")) is Situation.SESSION_FREE


def test_end_without_successor_says_nothing_of_a_previous_stream() -> None:
    """A stopped stream that ends while nobody waits logs its end alone."""
    protocol = after(STOPPING)
    effects = protocol.apply(Ended("p1"), 1.5)
    assert [words(effect) for effect in effects] == [
        "log stream_end trace=p1 stream_id=p1 session=s duration_ms=1500",
        "forgotten p1",
    ]


@pytest.mark.parametrize(
    "meanwhile",
    [Register("p3", "s"), Cancel("p2", "x"), Withdraw("p2"), Cancel("p1", "x"), Close()],
    ids=lambda operation: type(operation).__name__.lower(),
)
def test_the_grace_does_not_start_anew(meanwhile: Operation) -> None:
    """Whatever comes while a stream is stopping, its deadline stays where it was."""
    protocol = after(WAITING)
    effects = protocol.apply(meanwhile, 2.9)
    assert not any(isinstance(each, StopRequested) for each in effects)
    assert protocol.snapshot().streams[0].grace_deadline == 3.0


def test_the_limit_of_a_session_is_its_own() -> None:
    """At its limit of DETACHED streams a session is overdue, and another one is not."""
    protocol = after((*AT_LIMIT, (4.0, Register("q1", "t")), (4.0, Cancel("q1", "x"))))
    assert protocol.situation_of(GraceExpired("p2")) is Situation.STOPPING_AT_LIMIT
    assert protocol.situation_of(GraceExpired("q1")) is Situation.STOPPING


def test_the_limit_of_the_process_binds_every_session() -> None:
    """At the limit of the process a session without any DETACHED stream is overdue as well."""
    protocol = after(
        [
            step
            for name in ("a", "b", "c")
            for step in ((0.0, Register(f"{name}1", name)), (0.0, Cancel(f"{name}1", "x")))
        ]
    )
    protocol.apply(GraceExpired("a1"), 2.0)
    assert protocol.situation_of(GraceExpired("c1")) is Situation.STOPPING
    protocol.apply(GraceExpired("b1"), 2.0)
    assert protocol.situation_of(GraceExpired("c1")) is Situation.STOPPING_AT_LIMIT
    protocol.apply(GraceExpired("c1"), 2.0)
    assert states(protocol) == {"a1": "DETACHED", "b1": "DETACHED", "c1": "OVERDUE"}
    protocol.apply(Ended("a1"), 3.0)
    with pytest.raises(StreamRefused, match="c1"):
        protocol.apply(Register("c2", "c"), 3.0)


def test_detached_is_no_longer_counted_once_it_ended() -> None:
    """After a DETACHED stream has ended, another one of its session may be DETACHED."""
    protocol = after(AT_LIMIT)
    protocol.apply(Ended("p1"), 5.0)
    protocol.apply(GraceExpired("p2"), 6.0)
    assert states(protocol) == {"p2": "DETACHED", "p3": "ACTIVE"}


def test_overdue_session_is_free_once_its_holder_ended() -> None:
    """The end of an overdue stream frees its session for the next register."""
    protocol = after((*OVERDUE, (7.0, Ended("p2"))))
    protocol.apply(Register("p4", "s"), 7.5)
    assert states(protocol) == {"p1": "DETACHED", "p4": "ACTIVE"}


def test_the_session_is_free_while_its_last_stream_is_detached() -> None:
    """A DETACHED stream alone keeps nobody out: the next register is answered at once."""
    protocol = after((*STOPPING, (3.0, GraceExpired("p1"))))
    effects = protocol.apply(Register("p2", "s"), 4.0)
    assert "admitted p2 2" in [words(effect) for effect in effects]


def test_fencing_tokens_increase_across_idle_times() -> None:
    """A session that was forgotten goes on with a greater fencing token."""
    protocol = StreamProtocol()
    given_tokens = []
    for name in ("p1", "p2", "p3"):
        effects = protocol.apply(Register(name, "s"), 0.0)
        given_tokens += [each.fencing_token for each in effects if isinstance(each, Admitted)]
        protocol.apply(Ended(name), 1.0)
        assert protocol.snapshot().sessions_kept == 0
    assert given_tokens == [1, 2, 3]


def test_nothing_is_kept_for_idle_sessions() -> None:
    """A thousand sessions that came and went leave no stream and no session behind."""
    protocol = StreamProtocol()
    for number in range(1000):
        protocol.apply(Register(f"p{number}", f"s{number}"), 0.0)
        protocol.apply(Ended(f"p{number}"), 1.0)
    assert protocol.snapshot().streams == ()
    assert protocol.snapshot().sessions_kept == 0


def test_streams_without_a_session_know_nothing_of_each_other() -> None:
    """Each register without a session id is answered at once, and stops no other."""
    protocol = StreamProtocol()
    for name in ("p1", "p2", "p3"):
        protocol.apply(Register(name, None), 0.0)
    assert states(protocol) == {"p1": "ACTIVE", "p2": "ACTIVE", "p3": "ACTIVE"}
    protocol.apply(Cancel("p2", "x"), 1.0)
    protocol.apply(Ended("p1"), 1.0)
    assert states(protocol) == {"p2": "STOPPING", "p3": "ACTIVE"}


def test_only_the_active_stream_with_its_fencing_token_may_emit() -> None:
    """The emit gate is open for an ACTIVE stream with its own fencing token, and for no other."""
    protocol = after(WAITING)
    assert not protocol.may_emit("p1", 1)
    assert not protocol.may_emit("p2", None)
    protocol.apply(GraceExpired("p1"), 3.0)
    assert not protocol.may_emit("p1", 1)
    assert protocol.may_emit("p2", 2)
    assert not protocol.may_emit("p2", 1)
    assert not protocol.may_emit("unknown", None)


def test_a_reused_trace_id_does_not_open_the_gate_for_the_stream_that_had_it() -> None:
    """Who kept an old fencing token cannot emit under the trace id that another stream has now."""
    protocol = after((*ACTIVE, (1.0, Ended("p1")), (2.0, Register("p1", "s"))))
    assert not protocol.may_emit("p1", 1)
    assert protocol.may_emit("p1", 2)


@pytest.mark.parametrize("limit", LIMITS)
def test_negative_limits_are_refused(limit: str) -> None:
    """No limit may be negative; the error names them."""
    with pytest.raises(ValueError, match=f"{limit}=-1"):
        StreamProtocol(**{**LIMITS, limit: -1})


def test_the_oldest_of_the_queue_is_next() -> None:
    """Enqueued streams become ACTIVE one by one in the order in which they came, and none stops."""
    protocol = after(FULL)
    stopped = []
    for ends, now in (("p1", 3.0), ("p2", 4.0), ("p3", 5.0)):
        stopped += [e for e in protocol.apply(Ended(ends), now) if isinstance(e, StopRequested)]
        if ends != "p3":
            assert [s.trace_id for s in protocol.snapshot().in_state(State.ACTIVE)] == [
                "p2" if ends == "p1" else "p3"
            ]
    assert stopped == []
    assert states(protocol) == {}


def test_the_queue_goes_on_when_the_holder_is_detached() -> None:
    """An enqueued prompt waits for a holder that is stopping no longer than its grace."""
    protocol = after((*FULL, (3.0, Cancel("p1", "x"))))
    assert states(protocol) == {"p1": "STOPPING", "p2": "WAITING", "p3": "WAITING"}
    protocol.apply(GraceExpired("p1"), 5.0)
    assert states(protocol) == {"p1": "DETACHED", "p2": "ACTIVE", "p3": "WAITING"}


def test_who_is_enqueued_behind_one_that_interrupts_comes_after_it() -> None:
    """An enqueued stream that comes while an interrupting one waits is the next after it."""
    protocol = after((*WAITING, (1.5, Register("p3", "s", Strategy.ENQUEUE))))
    protocol.apply(Ended("p1"), 2.0)
    assert states(protocol) == {"p2": "ACTIVE", "p3": "WAITING"}
    protocol.apply(Ended("p2"), 3.0)
    assert states(protocol) == {"p3": "ACTIVE"}


def test_one_that_interrupts_has_no_place_in_the_count_of_the_queue() -> None:
    """A full queue keeps nobody from interrupting, and one that interrupts keeps none out of it."""
    protocol = after(WAITING, queue_max=1)
    protocol.apply(Register("p3", "s", Strategy.ENQUEUE), 1.5)
    with pytest.raises(QueueFull, match="p4 was refused: 1 streams wait"):
        protocol.apply(Register("p4", "s", Strategy.ENQUEUE), 1.5)
    protocol.apply(Register("p5", "s"), 1.5)
    assert states(protocol) == {"p1": "STOPPING", "p5": "WAITING"}


@pytest.mark.parametrize("strategy", Strategy)
def test_every_strategy_is_let_in_at_once_where_the_session_is_free(strategy: Strategy) -> None:
    """Free is a session without a holder, also if streams of it are DETACHED."""
    protocol = after((*STOPPING, (3.0, GraceExpired("p1"))))
    protocol.apply(Register("p2", "s", strategy), 4.0)
    assert states(protocol) == {"p1": "DETACHED", "p2": "ACTIVE"}


@pytest.mark.parametrize("strategy", Strategy)
def test_an_overdue_session_refuses_every_strategy(strategy: Strategy) -> None:
    """Nobody waits for a holder of which nobody knows whether it ends."""
    with pytest.raises(StreamRefused, match="look at the upstream"):
        after(OVERDUE).apply(Register("p4", "s", strategy), 6.5)


def test_at_the_limit_and_at_the_close_the_whole_queue_is_refused() -> None:
    """An overdue holder, or a close, leaves nobody waiting; all are refused, oldest first."""
    enqueue = Strategy.ENQUEUE
    queue = ((4.0, Register("p4", "s", enqueue)), (4.0, Register("p5", "s", enqueue)))
    for last in (GraceExpired("p2"), Close()):
        protocol = after((*AT_LIMIT, *queue))
        effects = protocol.apply(last, 6.0)
        told = [words(each) for each in effects if isinstance(each, Rejected)]
        assert told == [f"rejected {name}: refused" for name in ("p3", "p4", "p5")]
        assert not protocol.snapshot().in_state(State.WAITING)


def test_a_snapshot_shows_the_queue() -> None:
    """The position of who waits, how, and until when; nothing of it once it is ACTIVE."""
    protocol = after((*FULL, (2.5, Withdraw("p2"))))
    (waiting,) = protocol.snapshot().in_state(State.WAITING)
    assert (waiting.trace_id, waiting.queue_position) == ("p3", 1)
    assert (waiting.strategy, waiting.wait_deadline) == (Strategy.ENQUEUE, 32.0)
    protocol.apply(Ended("p1"), 3.0)
    (active,) = protocol.snapshot().streams
    assert (active.queue_position, active.wait_deadline) == (None, None)


def test_an_unknown_strategy_is_refused_with_those_that_there_are() -> None:
    """The error shows the value and what to write instead."""
    with pytest.raises(ValueError, match=r"'queue' is no strategy .* interrupt, enqueue, reject"):
        Strategy("queue")


def test_a_snapshot_is_a_moment() -> None:
    """A snapshot does not change with the protocol it was taken of."""
    protocol = after(WAITING)
    taken = protocol.snapshot()
    copy = dataclasses.replace(taken)
    protocol.apply(Ended("p1"), 2.0)
    assert taken == copy
    assert [stream.trace_id for stream in taken.in_state(State.STOPPING)] == ["p1"]
    assert len(taken.of_session("s")) == 2


# ---- random histories ------------------------------------------------------------------------


class Shell:
    """Says at the door only what a shell may say, and keeps what a shell keeps, by the effects."""

    def __init__(self) -> None:
        self.protocol = StreamProtocol(**LIMITS)
        self.now = 0.0
        self.names = 0
        # Streams of which the protocol has not said that it has forgotten them.
        self.known: list[str] = []
        # Those whose caller has not seen an answer, so that it may still leave.
        self.unseen: list[str] = []
        self.answers: dict[str, str] = {}
        self.timers: dict[str, float] = {}
        self.wait_timers: dict[str, float] = {}

    def say(self, operation: Operation) -> None:
        before = self.protocol.snapshot()
        try:
            effects = self.protocol.apply(operation, self.now)
        except StreamError:
            assert isinstance(operation, Register)
            assert self.protocol.snapshot() == before
            return
        if isinstance(operation, Register):
            self.known.append(operation.trace_id)
            self.unseen.append(operation.trace_id)
        for effect in effects:
            self.note(effect)
        now = self.protocol.snapshot()
        assert violated(before, operation, now) is None
        assert {stream.trace_id for stream in now.streams} == set(self.known)
        assert set(self.timers) == {
            stream.trace_id for stream in now.in_state(State.STOPPING) if not stream.overdue
        }
        assert set(self.wait_timers) == {
            stream.trace_id
            for stream in now.in_state(State.WAITING)
            if stream.strategy is Strategy.ENQUEUE
        }

    def note(self, effect: Effect) -> None:
        match effect:
            case Admitted(trace_id, _):
                assert self.answers.setdefault(trace_id, "admitted") == "admitted"
                self.wait_timers.pop(trace_id, None)
            case Queued(trace_id, wait_deadline):
                self.wait_timers[trace_id] = wait_deadline
            case Rejected(trace_id, _):
                assert trace_id not in self.answers
                self.answers[trace_id] = "rejected"
                self.wait_timers.pop(trace_id, None)
            case StopRequested(trace_id, _, grace_deadline):
                assert trace_id not in self.timers
                self.timers[trace_id] = grace_deadline
            case Forgotten(trace_id):
                self.known.remove(trace_id)
                self.timers.pop(trace_id, None)
                if trace_id in self.unseen:
                    self.unseen.remove(trace_id)

    # -- what may happen; `pick` chooses among the streams

    def register(self, pick: int) -> None:
        self.names += 1
        self.say(Register(f"p{self.names}", ("s", "t", None)[pick % 3]))

    def register_with_strategy(self, pick: int) -> None:
        self.names += 1
        strategy = (Strategy.ENQUEUE, Strategy.REJECT)[pick % 4 == 0]
        self.say(Register(f"p{self.names}", ("s", "t")[pick % 2], strategy))

    def register_again(self, pick: int) -> None:
        if self.known:
            self.say(Register(self.known[pick % len(self.known)], "s"))

    def cancel(self, pick: int) -> None:
        names = [*self.known, "unknown"]
        self.say(Cancel(names[pick % len(names)], "requested"))

    def see_answer(self, pick: int) -> None:
        seen = [name for name in self.unseen if name in self.answers]
        if seen:
            self.unseen.remove(seen[pick % len(seen)])

    def withdraw(self, pick: int) -> None:
        # The caller of an admitted stream has its turn before the stream's grace could expire.
        able = [
            name
            for name in self.unseen
            if self.protocol.situation_of(Withdraw(name))
            in (Situation.WAITING, Situation.ACTIVE, Situation.STOPPING)
        ]
        if able:
            name = able[pick % len(able)]
            self.unseen.remove(name)
            self.say(Withdraw(name))

    def end(self, pick: int) -> None:
        able = [name for name in self.known if self.answers.get(name) == "admitted"]
        if able:
            self.say(Ended(able[pick % len(able)]))

    def let_time_pass(self, pick: int) -> None:
        self.now += pick / 2
        for name, grace_deadline in sorted(self.timers.items(), key=lambda timer: timer[1]):
            if grace_deadline <= self.now:
                del self.timers[name]
                self.say(GraceExpired(name))
        for name, wait_deadline in sorted(self.wait_timers.items(), key=lambda timer: timer[1]):
            # One that has expired before may have let it in.
            if wait_deadline <= self.now and name in self.wait_timers:
                self.say(WaitExpired(name))

    def close(self, pick: int) -> None:
        if pick == 7:
            self.say(Close())


COMMANDS = (
    Shell.register,
    Shell.register_with_strategy,
    Shell.register_again,
    Shell.cancel,
    Shell.see_answer,
    Shell.withdraw,
    Shell.end,
    Shell.let_time_pass,
    Shell.close,
)


@given(st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 7)), max_size=60))
def test_random_histories_keep_every_invariant(commands: list) -> None:
    """Whatever a shell says, in whatever order, no invariant breaks and no row is missing."""
    shell = Shell()
    for command, pick in commands:
        command(shell, pick)


@given(st.lists(st.tuples(st.sampled_from(COMMANDS), st.integers(0, 7)), max_size=60))
def test_random_histories_end_with_nothing_left(commands: list) -> None:
    """Once every grace is over and every stream has ended, each register was answered."""
    shell = Shell()
    for command, pick in commands:
        command(shell, pick)
    for _ in range(8):
        shell.let_time_pass(8)
        while any(shell.answers.get(name) == "admitted" for name in shell.known):
            shell.end(0)
    assert shell.known == []
    assert shell.timers == {}
    assert shell.protocol.snapshot().sessions_kept == 0
    assert shell.unseen == []
