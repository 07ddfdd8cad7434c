"""A worker's side of a lease, step by step; under faults it is explored at level cluster."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from registry import SessionLeaseLost, SessionsUnavailable
from registry.lease_records import (
    LeaseLimits,
    LeaseOperation,
    Register,
    Renew,
    Reply,
    Told,
    Word,
)
from registry.wording import TIMEOUT_ON_CANCEL
from server.stores.lease import End, Lease, NotLetIn
from server.stores.leased_registry import LeasedRegistry
from server.stores.memory_store import MemoryStore, SharedMemory
from server.stores.store import StoreUnreachable
from sim import World, run

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
        assert (overtaken.value.reply.word, overtaken.value.told) == (Word.GONE, Told.SUPERSEDED)

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


def test_who_leaves_says_whether_it_has_logged_whom_it_took_over() -> None:
    """Else the session is kept for it, though nobody holds it, and the next one is told."""

    async def program(world: World, store: Store) -> None:
        await store.ask(Register("s", "v/1"))
        await asyncio.sleep(7)
        for is_logged, late in ((False, ("v/1",)), (True, ())):
            lease = lease_of(world, store, f"w/{is_logged}", [])
            assert (await lease.acquire()).late == ("v/1",)
            lease.is_logged = is_logged
            await lease.leave()
            assert (await store.snapshot()).session("s").late == late
        assert (await store.snapshot()).sessions == ()

    simulated(program)


def test_what_was_logged_of_the_stream_before_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also where the taker ends before its first renewal; and not by who never was let in."""
    caplog.set_level(logging.INFO, "onestream.registry")

    async def program(world: World, store: Store) -> None:
        await store.ask(Register("s", "v/1"))
        await asyncio.sleep(7)
        registry = LeasedRegistry(store, "w", clock=lambda: world.now, queue_s=60)
        for trace_id in ("2", "3"):
            gate = asyncio.Event()
            task = asyncio.create_task(gate.wait())
            await registry.register({"trace_id": trace_id, "session_id": "s", "task": task})
            gate.set()
            await task
            await asyncio.sleep(0.1)
        await registry.end()

    simulated(program)
    timeouts = [each for each in caplog.messages if each.startswith(TIMEOUT_ON_CANCEL)]
    assert timeouts == ["prev_stream_timeout_on_cancel session=s trace=1 worker=w"]


def test_a_stream_leaves_also_where_the_others_cannot_be_told_of_its_end() -> None:
    """Else its lease would be renewed for as long as the worker lives."""

    async def program(world: World, store: Store) -> None:
        registry = LeasedRegistry(store, "v", clock=lambda: world.now, queue_s=60)
        task = asyncio.create_task(asyncio.sleep(1))
        await registry.register({"trace_id": "1", "session_id": "s", "task": task})
        told: list[str] = []

        def fails(trace_id: str) -> None:
            told.append(trace_id)
            raise KeyError(trace_id)

        registry.on_change = fails
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        await asyncio.sleep(2)
        assert told == ["1"]
        assert (await store.snapshot()).sessions == ()
        await registry.end()

    simulated(program)


class Fails(Store):
    """Answers one kind of operation in a way that nobody foresaw."""

    on: type[LeaseOperation] | None = None

    async def ask(self, operation: LeaseOperation) -> Reply:
        if self.on is not None and isinstance(operation, self.on):
            raise ValueError("an answer of another release")
        return await super().ask(operation)


@pytest.mark.parametrize(
    ("on", "error"), [(Register, SessionsUnavailable), (Renew, SessionLeaseLost)]
)
def test_a_failure_that_nobody_foresaw_ends_its_stream_and_not_its_client_s_patience(
    on: type[LeaseOperation], error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Who asks for its session is answered, who holds it is stopped; the log has the traceback."""

    async def program(world: World, store: Store) -> None:
        fails = Fails(store._shared, "v")
        fails.on = on
        registry = LeasedRegistry(fails, "v", clock=lambda: world.now, queue_s=60)

        async def answer() -> None:
            task = asyncio.current_task()
            stream = await registry.register({"trace_id": "1", "session_id": "s", "task": task})
            try:
                await asyncio.sleep(60)
            finally:
                stream.raise_if_stopped()

        async with asyncio.timeout(20):
            with pytest.raises(error, match="in an unforeseen way; the log has the traceback"):
                await asyncio.create_task(answer())
        await registry.close()
        await registry.end()
        assert (await store.snapshot()).sessions == ()

    simulated(program)
    (failed,) = [each for each in caplog.records if "worker_failed" in each.getMessage()]
    assert "acquire-1" in failed.getMessage()
    assert failed.exc_info is not None and isinstance(failed.exc_info[1], ValueError)


class Closing(Store):
    """Knows whether it was closed."""

    is_closed = False

    async def close(self) -> None:
        await asyncio.sleep(0.01)
        self.is_closed = True


def test_an_end_that_is_cancelled_closes_the_store_all_the_same() -> None:
    """A second Ctrl-C cancels the server's own end, in which its tasks have not ended yet."""

    async def program(world: World, store: Store) -> None:
        closing = Closing(store._shared, "v")
        registry = LeasedRegistry(closing, "v", clock=lambda: world.now, queue_s=60)
        await registry.start()
        stubborn = asyncio.create_task(asyncio.sleep(60), name="left behind")
        registry._tasks[stubborn] = None
        end = asyncio.create_task(registry.end())
        await asyncio.sleep(0)
        end.cancel()
        with pytest.raises(asyncio.CancelledError):
            await end
        assert closing.is_closed

    simulated(program)
