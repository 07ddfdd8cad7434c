"""The same operations on the lease table and on a store: replies, messages and records compared.

Row by row, from states that take it, and in random histories. A store is driven by a clock and a
generation of the test's, so that nothing depends on real time.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache

from registry.attempts import Attempt
from registry.errors import IllegalOperation
from registry.lease_records import (
    LATE_KEEP_MS,
    LATE_MAX,
    Answer,
    Cancel,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Poll,
    Register,
    Renew,
    SessionRecord,
)
from registry.lease_rows import TABLE
from registry.lease_table import LeaseTable
from registry.states import Strategy
from sim.bench.proving.lease_states import LIMITS, NOW, WHOLE, operations, states

# Of each row, for each operation in it, within and outside of the quarantine, held or not.
CASES_OF_A_KIND = 1
# States that are looked at; a prime, so that every dimension of them is met.
EVERY = 29


@dataclass
class Moment:
    """What time it is in the store, and which generation."""

    now_ms: int = NOW
    generation: str = "g"


class Driven:
    """A store under test. It is asked, read and set by these."""

    moment: Moment

    async def answer(self, operation: LeaseOperation) -> Answer:
        raise NotImplementedError

    async def queue(self, session: str) -> tuple[str, ...]:
        raise NotImplementedError

    async def read(self) -> LeaseSnapshot:
        raise NotImplementedError

    async def write(self, state: LeaseSnapshot) -> None:
        """The store's state becomes this one."""
        raise NotImplementedError


class Differs(AssertionError):
    """The store does otherwise than the table."""


async def compare(table: LeaseTable, store: Driven, operation: LeaseOperation) -> None:
    """One operation on both. Raises Differs."""
    moment, before = store.moment, table.snapshot()
    wanted = await outcome(_at_once(table, operation, moment))
    got = await outcome(store.answer(operation))
    if got != wanted:
        raise Differs(f"{before}\n{operation} at {moment}\ntable {wanted}\nstore {got}")
    kept, read = table.snapshot(), await store.read()
    if kept != read:
        raise Differs(f"{before}\n{operation} at {moment}\ntable {kept}\nstore {read}")
    if await store.queue(operation.session) != table.queue(operation.session, moment.now_ms):
        raise Differs(f"{kept}\nat {moment}: another queue of {operation.session}")


async def _at_once(table: LeaseTable, operation: LeaseOperation, moment: Moment) -> Answer:
    return table.apply(operation, moment.now_ms, moment.generation)


async def outcome(asked: Awaitable[Answer]) -> Answer | type[Exception]:
    try:
        return await asked
    except IllegalOperation:
        return IllegalOperation


# ---- row by row ------------------------------------------------------------------------------

Case = tuple[LeaseSnapshot, str, LeaseOperation]


@cache
def cases() -> tuple[Case, ...]:
    """States with an operation: each row of the table in its several circumstances."""
    found: dict[tuple[object, ...], list[Case]] = defaultdict(list)
    for number, (state, generation) in enumerate(states(WHOLE)):
        if number % EVERY:
            continue
        for operation in operations(state):
            alike = found[_kind_of(state, generation, operation)]
            if len(alike) < CASES_OF_A_KIND:
                alike.append((state, generation, operation))
    assert set(TABLE) <= {(kind[0], kind[1]) for kind in found}
    return tuple(case for alike in found.values() for case in alike)


def _kind_of(
    state: LeaseSnapshot, generation: str, operation: LeaseOperation
) -> tuple[object, ...]:
    table = LeaseTable(LIMITS)
    table.restore(state)
    found = table._found(operation, NOW, generation)
    situation = found.situation_of(operation, NOW)
    is_held = found._record(operation).holder is not None
    what = [getattr(operation, each.name) for each in fields(operation) if each.name != "stream"]
    return type(operation), situation, *what, found._is_quarantined(NOW), is_held


async def rows_agree(store: Driven) -> int:
    """How many operations were compared."""
    table = LeaseTable(LIMITS)
    for state, generation, operation in cases():
        store.moment.now_ms, store.moment.generation = NOW, generation
        table.restore(state)
        await store.write(state)
        await compare(table, store, operation)
    return len(cases())


# ---- random histories ------------------------------------------------------------------------

STEPS_MS = (0, 0, 1, 5, 19, 20, 59, 60, 64, 65, 66, 72)


async def histories_agree(store: Driven, seeds: int, length: int) -> int:
    """How many operations were compared."""
    await _late_ones_agree(store)
    for seed in range(seeds):
        chance = random.Random(seed)
        table = LeaseTable(LIMITS, generation="g")
        await store.write(table.snapshot())
        store.moment.now_ms, store.moment.generation = NOW, "g"
        for operation in history(chance, table, store.moment, length):
            await compare(table, store, operation)
    return seeds * length


async def _late_ones_agree(store: Driven) -> None:
    """Those whose places were taken are named on: as many as are kept, and for as long."""
    table, moment = LeaseTable(LIMITS, generation="g"), store.moment
    await store.write(table.snapshot())
    moment.now_ms, moment.generation = NOW, "g"
    for number in range(LATE_MAX + 2):
        await compare(table, store, Register("s", f"v/{number}"))
        moment.now_ms += LIMITS.lease_ms + LIMITS.margin_ms
    assert len(table.sessions["s"].late) == LATE_MAX
    for days, stream in enumerate(("w/1", "w/2", "w/3", "w/4")):
        # Its dead holder is forgotten: named to the next one, but not a day later.
        await compare(table, store, Poll("s", "w/9", 0))
        await compare(table, store, Register("s", stream))
        moment.now_ms += LATE_KEEP_MS * days + LIMITS.lease_ms + LIMITS.margin_ms


def history(
    chance: random.Random, table: LeaseTable, moment: Moment, length: int
) -> Iterator[LeaseOperation]:
    for number in range(length):
        moment.now_ms += chance.choice(STEPS_MS)
        if chance.random() < 0.02:
            # The clock is set back, or the store is another one and has forgotten a session.
            moment.now_ms -= 50
        if chance.random() < 0.02:
            moment.generation = f"g{number}"
        session = chance.choice(("s", "other", "7:x"))
        yield chance.choice((_anybody, _who_is_there))(
            chance, session, table.sessions.get(session, SessionRecord())
        )


def _anybody(chance: random.Random, session: str, record: SessionRecord) -> LeaseOperation:
    stream = f"{chance.choice('vw')}/{chance.randrange(6)}"
    strategy = chance.choice((Strategy.INTERRUPT, *Strategy))
    number = NOW + chance.randrange(1000)
    attempt = Attempt(chance.choice("abc"), chance.random() < 0.3)
    kinds: tuple[Callable[[], LeaseOperation], ...] = (
        lambda: Register(session, stream, strategy),
        lambda: Register(session, stream, strategy, attempt),
        lambda: Poll(session, stream, number, strategy),
        lambda: Renew(session, stream, number, number - 1, chance.random() < 0.5),
        lambda: Leave(session, stream, chance.random() < 0.5),
        lambda: Cancel(session, stream),
    )
    return chance.choice(kinds)()


def _who_is_there(chance: random.Random, session: str, record: SessionRecord) -> LeaseOperation:
    holder = record.holder
    if record.waiting and chance.random() < 0.5:
        each = chance.choice(record.waiting)
        return chance.choice(
            (
                Poll(session, each.stream, each.ticket, each.strategy),
                Poll(session, each.stream, each.ticket, each.strategy),
                Leave(session, each.stream),
                Cancel(session, each.stream),
            )
        )
    if holder is None:
        return _anybody(chance, session, record)
    renew = Renew(
        session, holder.stream, holder.fencing_token, holder.ticket, chance.random() < 0.5
    )
    return chance.choice(
        (
            renew,
            renew,
            Leave(session, holder.stream, chance.random() < 0.5),
            Cancel(session, holder.stream),
        )
    )
