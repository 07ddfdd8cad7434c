"""A worker's side of a lease: explored under faults, and its gate step by step."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from registry.lease_records import LeaseLimits, LeaseOperation, Register, Renew, Reply, Told, Word
from registry.lease_table import LeaseTable
from server.stores.lease import End, Lease, NotLetIn
from server.stores.memory_store import MemoryStore, SharedMemory
from server.stores.store import StoreUnreachable
from sim import World, explore, run
from tests.limits import AMPLE_S
from tests.server.lease_scenarios import LIMITS, Scenario, program_of

ONE_OPEN = "S1 a session has at most one stream with an open gate"

QUICK = {
    "nothing": Scenario(),
    "message lost": Scenario(frozenset({"message lost"})),
    "request or reply lost": Scenario(frozenset({"request lost", "reply lost"})),
}
LARGE = {
    "three prompts, message lost": Scenario(frozenset({"message lost"}), prompts=3),
    "crash": Scenario(trouble="crash"),
    "stall": Scenario(trouble="stall"),
    "partition": Scenario(trouble="partition"),
    "fail-over": Scenario(trouble="fail-over"),
    "split brain": Scenario(trouble="split brain", limits=replace(LIMITS, lag_ms=1000)),
}


def check_proved(scenario: Scenario) -> None:
    report = explore(program_of(scenario), strategy="states", budget_s=AMPLE_S)
    assert report.verdict == "proved", report.reason
    wanted = {"all over", *scenario.faults}
    assert wanted <= set(report.labels)


@pytest.mark.parametrize("name", QUICK)
def test_one_gate_is_open_whatever_is_lost_on_the_way_to_the_store(name: str) -> None:
    """Every schedule: one open gate, fencing tokens increase, each register is answered in time."""
    check_proved(QUICK[name])


@pytest.mark.thorough
@pytest.mark.parametrize("name", LARGE)
def test_one_gate_is_open_whatever_becomes_of_its_worker(name: str) -> None:
    """The same where the first worker is cut off, crashes, or its store is replaced."""
    check_proved(LARGE[name])


class GateWithoutClock(Lease):
    @property
    def is_open(self) -> bool:
        return self.grant is not None and self.end is None


class DatedFromTheReply(Lease):
    def __setattr__(self, name: str, value: object) -> None:
        if name == "_deadline" and value:
            value = self._clock() + self._lease_s
        super().__setattr__(name, value)


class GoesOnWithoutAskingWhyNot(Lease):
    """A renewal that is not answered counts as granted."""

    async def _ask(self, operation: LeaseOperation) -> Reply:
        try:
            return await super()._ask(operation)
        except StoreUnreachable:
            if isinstance(operation, Renew) and not operation.closed:
                return Reply(Word.OK)
            raise


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(trouble="stall", lease=GateWithoutClock),
        Scenario(trouble="partition", lease=GoesOnWithoutAskingWhyNot),
        pytest.param(
            Scenario(frozenset({"slow reply"}), trouble="partition", lease=DatedFromTheReply),
            marks=pytest.mark.thorough,
        ),
    ],
    ids=lambda scenario: scenario.lease.__name__,
)
def test_each_mutant_of_the_worker_is_refuted(scenario: Scenario) -> None:
    """A gate that rests on less than its clock and its requests is open beside another."""
    report = explore(program_of(scenario), strategy="states", budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.reason
    assert report.counterexample is not None
    assert report.counterexample.property.startswith(ONE_OPEN)


def test_a_quarantine_without_the_lag_is_refuted() -> None:
    """A primary that answers for a second after it was replaced extends leases meanwhile (A3)."""
    report = explore(
        program_of(Scenario(trouble="split brain")), strategy="states", budget_s=AMPLE_S
    )
    assert report.verdict == "refuted", report.reason


def test_a_fail_over_without_a_quarantine_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The replica lets another in while the holder, of which it knows nothing, goes on."""
    monkeypatch.setattr(LeaseTable, "_is_quarantined", lambda self, now_ms: False)
    report = explore(program_of(Scenario(trouble="fail-over")), strategy="states", budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.reason


def test_a_clock_that_is_slower_than_assumed_is_refuted() -> None:
    """The limit of A1: a fifth is more than the margin within a lease allows for."""
    report = explore(
        program_of(Scenario(trouble="partition", rate=0.8)), strategy="states", budget_s=AMPLE_S
    )
    assert report.verdict == "refuted", report.reason


# ---- step by step ----------------------------------------------------------------------------


class Store(MemoryStore):
    """Sessions in memory, and a way to them that can be cut."""

    is_away = False
    asked: int = 0

    async def ask(self, operation: LeaseOperation) -> Reply:
        self.asked += 1
        if self.is_away:
            raise StoreUnreachable("no answer")
        return await super().ask(operation)


def simulated(program: Callable[[World, Store], Awaitable[None]]) -> None:
    async def main(world: World) -> None:
        shared = SharedMemory.new(LeaseLimits(), lambda: round(world.now * 1000))
        await program(world, Store(shared, "v"))

    outcome = run(main)
    assert outcome.violation is None, outcome.violation


def lease_of(world: World, store: Store, stream: str, ends: list[End]) -> Lease:
    return Lease(store, "s", stream, clock=lambda: world.now, on_closed=ends.append)


def test_the_gate_is_open_for_a_lease_after_the_last_answer() -> None:
    """Renewed while the store answers; shut by the clock itself where it does not, and reported."""

    async def program(world: World, store: Store) -> None:
        ends: list[End] = []
        lease = lease_of(world, store, "v/1", ends)
        assert not lease.is_open
        await lease.acquire()
        keeper = asyncio.create_task(lease.keep())
        await asyncio.sleep(20)
        assert lease.is_open
        store.is_away = True
        await asyncio.sleep(4)
        assert lease.is_open
        await asyncio.sleep(2.5)
        assert not lease.is_open
        assert ends == [End.LOST]
        await lease.leave()
        await keeper

    simulated(program)


def test_a_store_that_is_back_in_time_is_not_noticed() -> None:
    """A renewal that fails is asked for again soon, so that a short failure ends no stream."""

    async def program(world: World, store: Store) -> None:
        ends: list[End] = []
        lease = lease_of(world, store, "v/1", ends)
        await lease.acquire()
        keeper = asyncio.create_task(lease.keep())
        for _ in range(3):
            store.is_away = True
            await asyncio.sleep(4)
            store.is_away = False
            await asyncio.sleep(1)
            assert lease.is_open
        assert ends == []
        await lease.leave()
        await keeper

    simulated(program)


@pytest.mark.parametrize(
    ("told", "end"), [(Told.SUPERSEDED, End.SUPERSEDED), (Told.CANCELLED, End.CANCELLED)]
)
def test_a_message_shuts_the_gate_in_its_own_step(told: Told, end: End) -> None:
    """Not only once the store was asked; and the store hears of it at once."""

    async def program(world: World, store: Store) -> None:
        ends: list[End] = []
        lease = lease_of(world, store, "v/1", ends)
        await lease.acquire()
        keeper = asyncio.create_task(lease.keep())
        await asyncio.sleep(0.1)
        lease.hear(told)
        assert not lease.is_open
        assert ends == [end]
        await asyncio.sleep(0.001)
        holder = (await store.snapshot()).session("s").holder
        assert holder is not None
        assert holder.closed
        await lease.leave()
        await keeper
        assert (await store.snapshot()).sessions == ()

    simulated(program)


def test_without_a_store_a_new_stream_is_not_let_in_and_says_so_at_once() -> None:
    """Fail closed, with one request."""

    async def program(world: World, store: Store) -> None:
        store.is_away = True
        lease = lease_of(world, store, "v/1", [])
        with pytest.raises(StoreUnreachable):
            await lease.acquire()
        assert store.asked == 1
        assert not lease.is_open

    simulated(program)


class SlowReplies(Store):
    """A reply takes longer than a lease, as to a worker that stood still meanwhile."""

    delay_s = 0.0

    async def ask(self, operation: LeaseOperation) -> Reply:
        reply = await super().ask(operation)
        await asyncio.sleep(self.delay_s)
        return reply


def test_a_grant_that_arrives_after_its_lease_is_asked_for_again() -> None:
    """Where another holds the session by then, who was let in too late begins nothing.

    `onestream check --level cluster --scenario pause` found it: the worker stood still with its
    first request, and began its call to Ollama beside its successor's.
    """

    async def program(world: World, store: Store) -> None:
        late = SlowReplies(store._shared, "v")
        late.delay_s = 10.0
        first = lease_of(world, late, "v/1", [])
        waits = asyncio.create_task(first.acquire())
        await asyncio.sleep(1)
        second = lease_of(world, store, "w/2", [])
        await second.acquire()
        late.delay_s = 0.0
        with pytest.raises(NotLetIn):
            await waits
        assert second.is_open
        await second.leave()

    simulated(program)


def test_a_grant_that_arrives_after_its_lease_is_given_again_where_nobody_came() -> None:
    """With a lease from the second request on."""

    async def program(world: World, store: Store) -> None:
        late = SlowReplies(store._shared, "v")
        late.delay_s = 10.0
        lease = lease_of(world, late, "v/1", [])
        waits = asyncio.create_task(lease.acquire())
        await asyncio.sleep(1)
        late.delay_s = 0.0
        await waits
        assert lease.is_open
        await lease.leave()

    simulated(program)


def test_who_was_overtaken_while_it_waited_learns_why() -> None:
    """By the reply; the message that came before says it more precisely."""

    async def program(world: World, store: Store) -> None:
        first = lease_of(world, store, "v/1", [])
        await first.acquire()
        second = lease_of(world, store, "v/2", [])
        waits = asyncio.create_task(second.acquire())
        await asyncio.sleep(0.01)
        await store.ask(Register("s", "v/3"))
        second.hear(Told.SUPERSEDED)
        with pytest.raises(NotLetIn) as overtaken:
            await waits
        assert (overtaken.value.word, overtaken.value.told) == (Word.GONE, Told.SUPERSEDED)

    simulated(program)


def test_leaving_ends_by_itself_where_the_store_stays_away() -> None:
    """After a lease and its margin the stream is dead to the store anyway."""

    async def program(world: World, store: Store) -> None:
        lease = lease_of(world, store, "v/1", [])
        await lease.acquire()
        store.is_away = True
        begun = world.now
        await lease.leave()
        assert 6 <= world.now - begun <= 7

    simulated(program)
