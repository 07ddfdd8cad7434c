"""Every state of the lease table up to a cut-off, reachable or not, and what can be asked of it.

One session is whole: each kind of holder at each side of each of its times, up to three that wait,
up to two that are detached; one other session is there or not. A row reads and writes its session,
the number of those that are detached, and the counters; numbers and times count by their order, and
a predicate speaks of two streams: so more of either adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product

from registry.attempts import PER_SESSION_MAX, Asked, Attempt
from registry.errors import IllegalOperation
from registry.lease_invariants import LeaseStep, violated
from registry.lease_records import (
    LATE_KEEP_MS,
    LATE_MAX,
    Cancel,
    Detached,
    Holder,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Poll,
    Register,
    Renew,
    SessionRecord,
    Waiting,
    Why,
)
from registry.lease_rows import TABLE, Situation
from registry.lease_table import LeaseTable, Said, Step
from registry.states import Strategy
from sim.bench.proving.induction import Row, Table, Taken
from sim.bench.proving.lease_contract import breaks_contract

LIMITS = LeaseLimits(
    lease_ms=60,
    margin_ms=5,
    grace_ms=20,
    lag_ms=7,
    detached_per_session_max=2,
    detached_max=3,
    queue_max=2,
    repeat_ms=300,
)
NOW = 100_000_000
CONTRACT = "a step keeps what the proof of S1 for any number of workers rests on"
# When a stream was seen that is dead now, and one that is not for another millisecond.
DEAD = NOW - LIMITS.lease_ms - LIMITS.margin_ms
INTERRUPT, ENQUEUE = Strategy.INTERRUPT, Strategy.ENQUEUE
OTHER = (
    "other",
    SessionRecord(
        Holder("v/o1", 50, 49, NOW + 9, NOW - 51, NOW - 3, Why.SUPERSEDED),
        (Waiting("v/o2", 51, INTERRUPT, NOW - 1),),
    ),
)


# Prompts that are over, the holder, and who waits first: each may be repeated, or protected. With
# as many as are kept, the oldest has to go.
ASKED = (
    Asked("old", 1, "w/old", NOW - LIMITS.repeat_ms - 1),
    Asked("gone", 2, "w/left", NOW - LIMITS.repeat_ms),
    Asked("waits", 3, "w/typed", NOW - 1),
    *(Asked("more", 4 + n, f"w/more{n}", NOW - 1) for n in range(PER_SESSION_MAX - 5)),
    Asked("holds", 20, "w/h"),
    Asked("waits", 21, "w/w0"),
    Asked("late", 22, "w/late", NOW - 1),
)
# What is to be logged: nothing, something until now, something that is a day old, all that is kept.
LATE = (
    ((), 0),
    (("w/late",), NOW - LATE_KEEP_MS + 1),
    (("w/late",), NOW - LATE_KEEP_MS),
    (tuple(f"w/late{n}" for n in range(LATE_MAX)), NOW),
)


@dataclass(frozen=True)
class Size:
    """Which states there are: at their natural size, or fewer.

    thinned: not each number of detached streams with each session, but with every third one.
    """

    until: tuple[int, ...]
    waiting: tuple[tuple[Strategy, ...], ...]
    detached: tuple[tuple[int, int], ...]
    thinned: bool = False

    def late_of(self, number: int) -> Iterable[tuple[tuple[str, ...], int]]:
        """What is to be logged there, in the session of this number: each kind by turns."""
        if self.thinned:
            return (LATE[number % len(LATE)],)
        return LATE[0], LATE[1 + (number + number // len(self.waiting)) % (len(LATE) - 1)]


SMALL = Size(
    until=(NOW + LIMITS.lease_ms, NOW - LIMITS.margin_ms + 1, NOW - LIMITS.margin_ms),
    waiting=((), (INTERRUPT,), (ENQUEUE, ENQUEUE)),
    detached=((0, 0), (2, 0), (1, 2)),
    thinned=True,
)
WHOLE = Size(
    until=(
        NOW + 10 * LIMITS.lease_ms,
        NOW + LIMITS.lease_ms,
        NOW - LIMITS.margin_ms + 1,
        NOW - LIMITS.margin_ms,
    ),
    waiting=(
        (),
        (INTERRUPT,),
        (ENQUEUE,),
        (ENQUEUE, ENQUEUE),
        (INTERRUPT, ENQUEUE),
        (INTERRUPT, ENQUEUE, ENQUEUE),
    ),
    detached=((0, 0), (2, 0), (0, 3), (1, 2)),
)


def holders(size: Size) -> Iterator[Holder | None]:
    yield None
    for until_ms in size.until:
        holder = Holder("w/h", 20, 10, until_ms, until_ms - LIMITS.lease_ms)
        yield holder
        later = max(holder.seen_ms, DEAD + 1)
        graces = (NOW, NOW - LIMITS.grace_ms + 1, NOW - LIMITS.grace_ms)
        for seen_ms, stop_ms in product({holder.seen_ms, later}, graces):
            stopped = replace(holder, seen_ms=seen_ms, stop_ms=stop_ms, why=Why.SUPERSEDED)
            yield stopped
            yield replace(stopped, closed=True)
            if stop_ms == graces[-1]:
                yield replace(stopped, closed=True, overdue=True)


def sessions(size: Size) -> Iterator[SessionRecord]:
    for number, (holder, strategies) in enumerate(product(holders(size), size.waiting)):
        must_stop = INTERRUPT in strategies and holder is not None and holder.stop_ms is None
        if must_stop or (strategies and holder is not None and holder.overdue):
            continue
        waiting = tuple(
            Waiting(f"w/w{place}", 30 + 2 * place, strategy, NOW - 1)
            for place, strategy in enumerate(strategies)
        )
        record = SessionRecord(holder, waiting, "w/left" if waiting or holder is not None else "")
        for late, late_ms in size.late_of(number):
            yield replace(record, late=late, late_ms=late_ms)
        if waiting:
            dead = (replace(waiting[0], seen_ms=DEAD), *waiting[1:])
            yield SessionRecord(holder, dead, late=LATE[1][0], late_ms=LATE[1][1])


def states(size: Size) -> Iterator[tuple[LeaseSnapshot, str]]:
    """Each with the generation that the store has now: the same as before, or another."""
    quarantines = ((NOW, "g"), (NOW + 8, "g"), (NOW + 10_000, "another"))
    records = list(sessions(size))
    for (number, record), (turn, (own, elsewhere)), (quarantine_ms, generation) in product(
        enumerate(records), enumerate(size.detached), quarantines
    ):
        if size.thinned and (number + turn) % len(size.detached):
            continue
        if generation != "g" and own + elsewhere not in (0, 3):
            continue
        # The other session is there, so that it can be seen to stay as it is.
        for other in (OTHER,):
            here = () if record.is_idle else (("s", record),)
            seen = (DEAD + 1, NOW - 1, DEAD)
            detached = [Detached("s", f"w/d{n}", seen[n]) for n in range(own)]
            detached += [Detached(f"far{n % 2}", f"w/f{n}", seen[-1 - n]) for n in range(elsewhere)]
            detached.sort(key=lambda each: (each.session, each.stream))
            yield (
                LeaseSnapshot(
                    tuple(sorted((*here, other))),
                    tuple(detached),
                    last=60,
                    generation="g",
                    quarantine_until_ms=quarantine_ms,
                    active_until_ms=NOW + LIMITS.lease_ms + LIMITS.margin_ms,
                    limits_text=LIMITS.text,
                    asked=(("s", ASKED),),
                ),
                generation,
            )


def operations(state: LeaseSnapshot) -> Iterator[LeaseOperation]:
    record = state.session("s")
    for strategy in Strategy:
        yield Register("s", "w/new", strategy)
        # As one of those that wait, between them and after all, before and after the holder.
        for ticket in (5, 30, 31, 61):
            yield Poll("s", "w/new", ticket, strategy)
    for digest in ("old", "gone", "holds", "waits", "late"):
        for repeats in (False, True):
            yield Register("s", "w/new", INTERRUPT, Attempt(digest, repeats))
    yield Register("s", "w/new", ENQUEUE, Attempt("gone"))
    for token, ticket, closed in product((15, 25), (5, 30), (False, True)):
        yield Renew("s", "w/new", token, ticket, closed)
    yield Leave("s", "w/new")
    yield Cancel("s", "w/new")
    named: list[tuple[str, int, Strategy]] = []
    if record.holder is not None:
        named.append((record.holder.stream, record.holder.ticket, INTERRUPT))
    named += [(each.stream, each.ticket, each.strategy) for each in record.waiting]
    named += [(each.stream, 3, INTERRUPT) for each in state.detached if each.session == "s"]
    for stream, ticket, strategy in named:
        yield Register("s", stream, strategy)
        yield Poll("s", stream, ticket, strategy)
        for token, closed in product((20, 70), (False, True)):
            yield Renew("s", stream, token, ticket, closed)
        yield Leave("s", stream)
        yield Leave("s", stream, whole=True, logged=True)
        yield Cancel("s", stream)


class _Noting(LeaseTable):
    """Notes the rows that it takes: an action may take another."""

    def __init__(self, limits: LeaseLimits) -> None:
        super().__init__(limits)
        self.rows: list[Row] = []

    def _take_row(self, step: Step, situation: Situation) -> Said:
        self.rows.append((type(step.operation), situation))
        return super()._take_row(step, situation)


def steps(state: LeaseSnapshot, generation: str) -> Iterator[tuple[LeaseStep, tuple[Row, ...]]]:
    """Each step that production's `apply` takes from the state, with the rows of it."""
    for operation in operations(state):
        table = _Noting(LIMITS)
        table.restore(state)
        try:
            answer = table.apply(operation, NOW, generation)
        except IllegalOperation:
            # Of a stream that is detached: it has had its answer.
            assert type(operation) is Register
            continue
        after = table.snapshot()
        yield (
            LeaseStep(state, operation, NOW, generation, answer, after, LIMITS),
            tuple(table.rows),
        )


def all_steps(size: Size) -> Iterator[LeaseStep]:
    for state, generation in states(size):
        for step, _ in steps(state, generation):
            yield step


def _taken(state: LeaseSnapshot, generation: str) -> Iterator[Taken]:
    for step, rows in steps(state, generation):
        wrong = violated(step) or (CONTRACT if breaks_contract(step) else None)
        yield Taken(rows, wrong, lambda step=step: str(step))  # type: ignore[misc]


def lease_table(size: Size = WHOLE) -> Table:
    return Table(
        "registry/lease_table.py",
        TABLE,
        lambda: (list(_taken(state, generation)) for state, generation in states(size)),
    )
