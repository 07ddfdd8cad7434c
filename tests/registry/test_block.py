"""`async with registry.stream(…)`: how a block ends that is stopped, and what it may emit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from registry import StreamCancelled, StreamError, StreamRefused, StreamRegistry, StreamSuperseded
from sim import World, explore
from tests.registry.producers import Producer, seconds, simulate, states, turns


async def work_until_stopped(
    registry: StreamRegistry, entered: asyncio.Event, name: str = "p1"
) -> None:
    async with registry.stream("s", trace_id=name):
        entered.set()
        await asyncio.sleep(100)


STOPS: dict[str, tuple[Callable[[StreamRegistry], Awaitable[object]], type[StreamError]]] = {
    "superseded": (lambda registry: enter_and_leave(registry), StreamSuperseded),
    "cancelled": (lambda registry: registry.cancel("p1"), StreamCancelled),
    "closed": (lambda registry: registry.close(), StreamRefused),
}


async def enter_and_leave(registry: StreamRegistry) -> None:
    async with registry.stream("s"):
        pass


@pytest.mark.parametrize(("stop", "reason"), STOPS.values(), ids=STOPS.keys())
def test_a_stop_ends_the_block_with_its_reason_and_not_the_task(
    stop: Callable[[StreamRegistry], Awaitable[object]], reason: type[StreamError]
) -> None:
    """A stopped block raises why, and the task around it goes on with no cancel left over."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        entered = asyncio.Event()
        went_on = False

        async def work() -> None:
            nonlocal went_on
            with pytest.raises(reason) as caught:
                await work_until_stopped(registry, entered)
            assert caught.value.trace_id == "p1"
            task = asyncio.current_task()
            assert task is not None
            assert task.cancelling() == 0
            await asyncio.sleep(0.1)
            went_on = True

        task = asyncio.create_task(work())
        await entered.wait()
        await stop(registry)
        await task
        assert went_on
        assert registry.snapshot().streams == ()

    simulate(main)


def test_a_cancel_from_outside_stays_a_cancel() -> None:
    """A cancel that is not the registry's stays a CancelledError, and ends the stream."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        entered = asyncio.Event()
        task = asyncio.create_task(work_until_stopped(registry, entered))
        await entered.wait()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()
        assert task.cancelling() == 1
        assert registry.snapshot().streams == ()

    simulate(main)


@pytest.mark.parametrize("stop_first", [True, False])
def test_a_cancel_from_outside_outweighs_a_stop(stop_first: bool) -> None:
    """Stopped and cancelled in one step, the task is cancelled, by the one cancel from outside."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        entered = asyncio.Event()
        task = asyncio.create_task(work_until_stopped(registry, entered))
        await entered.wait()
        if stop_first:
            await registry.cancel("p1")
        task.cancel()
        if not stop_first:
            await registry.cancel("p1")
        await asyncio.wait({task})
        assert task.cancelled()
        assert task.cancelling() == 1
        assert registry.snapshot().streams == ()

    simulate(main)


def test_a_body_that_swallows_its_stop_leaves_in_peace() -> None:
    """A block that catches its CancelledError and ends raises nothing and leaves no cancel."""

    async def main(world: World) -> None:
        registry = StreamRegistry()

        async def work() -> int:
            async with registry.stream("s", trace_id="p1"):
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(100)
            await asyncio.sleep(0.1)
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

        task = asyncio.create_task(work())
        await turns()
        await registry.cancel("p1")
        assert await task == 0

    simulate(main)


def test_a_body_that_raises_after_its_stop_keeps_its_exception() -> None:
    """An exception of the block's own is not replaced by the reason of the stop."""

    async def main(world: World) -> None:
        registry = StreamRegistry()

        async def work() -> None:
            async with registry.stream("s", trace_id="p1"):
                try:
                    await asyncio.sleep(100)
                except asyncio.CancelledError:
                    raise KeyError("of its own") from None

        task = asyncio.create_task(work())
        await turns()
        await registry.cancel("p1")
        with pytest.raises(KeyError, match="of its own"):
            await task
        assert task.cancelling() == 0

    simulate(main)


def test_a_block_that_stops_itself_is_cancelled_at_its_next_await() -> None:
    """After cancelling its own stream, a block is ended at the next await that suspends it."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        went_on = False

        async def block() -> None:
            nonlocal went_on
            async with registry.stream("s", trace_id="p1"):
                assert await registry.cancel("p1", "by itself") is True
                went_on = True
                await asyncio.sleep(1)

        with pytest.raises(StreamCancelled):
            await block()
        assert went_on
        assert seconds(world) == 0.0

    simulate(main)


def test_a_block_that_stops_itself_and_leaves_takes_no_cancel_along() -> None:
    """The cancel of a block that stopped itself and left does not hit what comes after it."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        async with registry.stream("s", trace_id="p1"):
            await registry.cancel("p1", "by itself")
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await asyncio.sleep(0)
        await asyncio.sleep(0.1)
        assert registry.snapshot().streams == ()

    simulate(main)


def test_no_stop_reaches_what_comes_after_the_block() -> None:
    """Under every schedule of a stop against the end of a block, the task's next await is whole."""

    async def program(world: World) -> None:
        registry = StreamRegistry()

        async def work() -> None:
            try:
                async with registry.stream("s", trace_id="p1"):
                    await world.outside("the work is done", earliest=0.1, latest=0.1)
                world.reached("finished")
            except StreamSuperseded:
                world.reached("superseded")
            task = asyncio.current_task()
            assert task is not None
            world.check(task.cancelling() == 0, "no cancel is left over")
            await asyncio.sleep(0)
            await asyncio.sleep(0.5)

        async def supersede() -> None:
            await world.outside("a newer prompt", earliest=0.1, latest=0.1)
            await enter_and_leave(registry)

        await asyncio.gather(work(), supersede())
        await turns()
        world.check(registry.snapshot().streams == (), "nothing is left")

    report = explore(program, labels=["finished", "superseded"])
    assert report.verdict == "proved", report.text


def test_entering_a_block_twice_raises() -> None:
    """One call of stream() is good for one block."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        scope = registry.stream("s", trace_id="p1")
        async with scope:
            with pytest.raises(RuntimeError, match="entered before"):
                await scope.__aenter__()
            assert states(registry) == {"p1": "ACTIVE"}
        with pytest.raises(RuntimeError, match="entered before"):
            await scope.__aenter__()

    simulate(main)


def test_blocks_without_a_trace_id_get_different_ones() -> None:
    """Streams that name no trace id do not meet each other's."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        async with registry.stream() as one, registry.stream() as other:
            assert one.trace_id != other.trace_id
            assert len(registry.snapshot().streams) == 2

    simulate(main)


@pytest.mark.parametrize("how", ["superseded", "cancelled", "closed"])
def test_a_block_that_waits_is_never_entered_once_it_is_turned_away(how: str) -> None:
    """Entering raises the reason while it waits, and leaves neither stream nor cancel behind."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p0", cleans_up_s=0.5).admitted()
        entered = asyncio.Event()
        task = asyncio.create_task(work_until_stopped(registry, entered))
        await turns()
        assert states(registry) == {"p0": "STOPPING", "p1": "WAITING"}
        stop, reason = STOPS[how]
        await stop(registry)
        with pytest.raises(reason):
            await task
        assert not entered.is_set()
        assert task.cancelling() == 0
        assert "p1" not in states(registry)

    simulate(main)


def test_emit_is_open_while_the_stream_is_active_and_shut_afterwards() -> None:
    """Content passes before the stop; after it emit raises the reason, and nothing passes."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        sent: list[str] = []

        async def send(content: str) -> None:
            sent.append(content)

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                await stream.emit(send, "before")
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(100)
                with pytest.raises(StreamCancelled) as caught:
                    await stream.emit(send, "after")
                assert caught.value is stream.stop_error
            with pytest.raises(StreamError):
                await stream.emit(send, "after the end")

        task = asyncio.create_task(work())
        await turns()
        await registry.cancel("p1")
        await task
        assert sent == ["before"]

    simulate(main)


def test_emit_is_shut_after_a_normal_end_with_a_reason_of_its_own() -> None:
    """A stream that was never stopped, but is over, cannot emit either."""

    async def main(world: World) -> None:
        async def send(content: str) -> None:
            raise AssertionError

        async with StreamRegistry().stream("s", trace_id="p1") as stream:
            pass
        with pytest.raises(StreamError, match="not active"):
            await stream.emit(send, "late")

    simulate(main)
