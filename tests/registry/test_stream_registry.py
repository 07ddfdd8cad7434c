"""StreamRegistry, the asyncio shell: what callers see, in virtual time and with real threads."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from registry import (
    Snapshot,
    Stream,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamRegistry,
    StreamSuperseded,
    TraceIdKnown,
    is_stream_cancelled,
)
from registry.stop_signal import STOP_SIGNALS
from sim import World, explore
from sim.execution import run_execution
from sim.exploration import guarded
from sim.schedule import Bounds
from sim.schedulers import DepartureBounded, NaturalOrder

GRACE_S = 2.0
Main = Callable[[World], Awaitable[None]]


@pytest.fixture(autouse=True)
def _no_flags_are_left_to_the_next_test() -> Iterator[None]:
    yield
    STOP_SIGNALS._signals.clear()


def simulate(main: Main) -> None:
    """Runs `main` once, in virtual time; what it raises comes out here."""
    raised: list[BaseException] = []

    async def program(world: World) -> None:
        try:
            await main(world)
        except BaseException as exc:
            raised.append(exc)
            raise

    with guarded():
        outcome = run_execution(program, NaturalOrder(), Bounds())
    if raised:
        raise raised[0]
    assert outcome.error is None
    assert outcome.violation is None, outcome.violation


def states(registry: StreamRegistry) -> dict[str, str]:
    return {stream.trace_id: stream.state.name for stream in registry.snapshot().streams}


def seconds(world: World) -> float:
    """The virtual time, to the millisecond."""
    return round(world.now, 3)


async def turns(count: int = 3) -> None:
    """Lets the loop run so many iterations: a task's end is told by callbacks."""
    for _ in range(count):
        await asyncio.sleep(0)


class Producer:
    """A stream's task behind a gate, and its register in another task, as a server has them."""

    def __init__(
        self,
        registry: StreamRegistry,
        name: str,
        *,
        session_id: str | None = "s",
        cleans_up_s: float = 0.0,
        swallows: bool = False,
    ) -> None:
        self.registry = registry
        self.name = name
        self.cleans_up_s = cleans_up_s
        self.swallows = swallows
        self.was_cancelled = False
        self.released = asyncio.Event()
        self.gate = asyncio.Event()
        self.task = asyncio.create_task(self.work(), name=name)
        entry = {"trace_id": name, "session_id": session_id, "task": self.task}
        self.register = asyncio.create_task(registry.register(entry), name=f"{name} register")

    async def work(self) -> None:
        try:
            while not self.released.is_set():
                try:
                    await self.released.wait()
                except asyncio.CancelledError:
                    self.was_cancelled = True
                    if not self.swallows:
                        raise
        finally:
            if self.cleans_up_s:
                await asyncio.sleep(self.cleans_up_s)
            await self.registry.pop(self.name)

    async def admitted(self) -> Stream:
        return await self.register

    async def turned_away(self) -> StreamError:
        """The error with which its register ended; its task is the caller's to end."""
        with pytest.raises(StreamError) as caught:
            await self.register
        self.released.set()
        await self.task
        return caught.value


# ---- register --------------------------------------------------------------------------------


def test_register_on_a_free_session_is_answered_at_once() -> None:
    """A register on a free session returns the stream's handle in the same instant."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        stream = await first.admitted()
        assert seconds(world) == 0.0
        assert (stream.trace_id, stream.session_id, stream.task) == ("p1", "s", first.task)
        assert stream.fencing_token == 1
        assert stream.is_active
        assert states(registry) == {"p1": "ACTIVE"}
        first.released.set()
        await first.task
        await turns()
        assert not stream.is_active
        assert registry.snapshot().streams == ()

    simulate(main)


def test_register_waits_until_the_older_stream_has_cleaned_up() -> None:
    """A second register is answered in the instant in which the first stream has ended."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        second = Producer(registry, "p2")
        await turns()
        assert states(registry) == {"p1": "STOPPING", "p2": "WAITING"}
        await second.admitted()
        assert seconds(world) == 0.5
        assert first.task.done()
        assert states(registry) == {"p2": "ACTIVE"}

    simulate(main)


def test_register_waits_no_longer_than_the_grace() -> None:
    """A stream that swallows its cancel is detached when its grace is over, and not waited for."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        stream = await first.admitted()
        second = Producer(registry, "p2")
        await second.admitted()
        assert seconds(world) == GRACE_S
        assert states(registry) == {"p1": "DETACHED", "p2": "ACTIVE"}
        assert first.was_cancelled
        assert not stream.is_active
        first.released.set()
        await first.task
        await turns()
        assert states(registry) == {"p2": "ACTIVE"}

    simulate(main)


def test_a_third_register_overtakes_the_second_within_the_same_grace() -> None:
    """The second register raises superseded at once, and the third waits for what is left."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        await asyncio.sleep(1.5)
        third = Producer(registry, "p3")
        error = await second.turned_away()
        assert isinstance(error, StreamSuperseded)
        assert error.trace_id == "p2"
        assert not second.was_cancelled
        assert seconds(world) == 1.5
        await third.admitted()
        assert seconds(world) == GRACE_S
        first.released.set()

    simulate(main)


def test_registers_of_other_sessions_and_of_none_do_not_wait() -> None:
    """While one session is stopping, another session and streams without one are answered."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", swallows=True).admitted()
        Producer(registry, "p2")
        for name, session_id in (("q1", "t"), ("n1", None), ("n2", None), ("n3", "")):
            await Producer(registry, name, session_id=session_id).admitted()
        await Producer(registry, "n4", session_id="").admitted()
        assert seconds(world) == 0.0
        assert registry.snapshot().sessions_kept == 2
        await registry.close()

    simulate(lambda world: released_at_the_end(main, world))


async def released_at_the_end(main: Main, world: World) -> None:
    """Runs `main`, then lets every producer end, so that none has to be drained."""
    producers: list[Producer] = []
    make = Producer.__init__

    def remember(self: Producer, *args: object, **options: object) -> None:
        make(self, *args, **options)
        producers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Producer, "__init__", remember)
        await main(world)
    for producer in producers:
        producer.released.set()


def test_register_refuses_what_is_not_a_task() -> None:
    """An entry without a task of asyncio raises TypeError, and nothing is kept of it."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError, match=r"entry\['task'\] of stream 'p1'"):
            await registry.register({"trace_id": "p1", "session_id": "s", "task": coroutine})
        coroutine.close()
        assert registry.snapshot().streams == ()
        assert not is_stream_cancelled("p1")

    simulate(main)


def test_a_known_trace_id_leaves_the_first_stream_alone() -> None:
    """The second register raises; the first stream keeps its state, its task and its signal."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        stream = await first.admitted()
        other = asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(TraceIdKnown, match="'p1'"):
            await registry.register({"trace_id": "p1", "session_id": "t", "task": other})
        await other
        await turns()
        assert states(registry) == {"p1": "ACTIVE"}
        assert not first.was_cancelled
        assert not stream.stop_signal.is_set()
        await registry.cancel("p1")
        assert stream.stop_signal.is_set()

    simulate(main)


def test_a_task_that_is_over_before_its_register_leaves_nothing() -> None:
    """Registering a finished task is answered, and the stream ends at once."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        assert registry.snapshot().streams == ()

    simulate(main)


def test_a_task_that_ends_while_its_register_waits_withdraws_it() -> None:
    """If the waiting stream's task is over, its register raises cancelled and nothing is kept."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        task = asyncio.create_task(asyncio.sleep(0.1))
        with pytest.raises(StreamCancelled):
            await registry.register({"trace_id": "p2", "session_id": "s", "task": task})
        assert seconds(world) == 0.1
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)


def test_a_caller_that_leaves_while_it_waits_withdraws_its_stream() -> None:
    """A cancelled register stays a CancelledError; the holder's grace goes on."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        await asyncio.sleep(0.5)
        second.register.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second.register
        assert states(registry) == {"p1": "STOPPING"}
        third = Producer(registry, "p3")
        await third.admitted()
        assert seconds(world) == GRACE_S
        for producer in (first, second, third):
            producer.released.set()

    simulate(main)


def test_a_caller_that_leaves_just_as_it_is_admitted_leaks_nothing() -> None:
    """Cancelled in the step in which it becomes ACTIVE, a stream is stopped and then forgotten."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        await first.admitted()
        second = Producer(registry, "p2")
        await turns()
        left = 0
        # The step in which p2 becomes ACTIVE, before its caller has had its turn.
        while registry.snapshot().streams[0].trace_id == "p1" and left < 20:
            await asyncio.sleep(0)
            left += 1
        assert states(registry) == {"p2": "ACTIVE"}
        assert not second.register.done()
        second.register.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second.register
        assert states(registry) == {"p2": "STOPPING"}
        await turns()
        assert second.was_cancelled
        assert registry.snapshot().streams == ()
        assert registry.snapshot().sessions_kept == 0

    simulate(main)


def test_a_register_that_times_out_leaves_nothing() -> None:
    """asyncio.timeout around a waiting register raises TimeoutError, and the stream is gone."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", cleans_up_s=1.0).admitted()
        task = asyncio.create_task(asyncio.sleep(5))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await registry.register({"trace_id": "p2", "session_id": "s", "task": task})
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)


# ---- cancel and pop --------------------------------------------------------------------------


def test_cancel_answers_true_once() -> None:
    """The first cancel of a stream stops it and says so; a later one, and one of nobody, do not."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        stream = await first.admitted()
        assert await registry.cancel("p1", "user_pressed_stop") is True
        assert states(registry) == {"p1": "STOPPING"}
        assert stream.stop_signal.is_set()
        assert await registry.cancel("p1") is False
        assert await registry.cancel("unknown") is False
        await asyncio.sleep(0.6)
        assert first.was_cancelled
        assert await registry.cancel("p1") is False
        assert states(registry) == {}

    simulate(main)


def test_cancel_of_a_waiting_stream_ends_its_register() -> None:
    """The register of a stream that is cancelled while it waits raises StreamCancelled at once."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", cleans_up_s=0.5).admitted()
        second = Producer(registry, "p2")
        await turns()
        assert await registry.cancel("p2", "user_pressed_stop") is True
        error = await second.turned_away()
        assert isinstance(error, StreamCancelled)
        assert "user_pressed_stop" in str(error)
        assert seconds(world) == 0.0
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)


def test_a_stop_is_told_once() -> None:
    """A stopped stream's task is cancelled once, whatever else is said about it afterwards."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        cancels = 0

        async def work() -> None:
            nonlocal cancels
            while True:
                try:
                    await asyncio.sleep(1.0)
                    return
                except asyncio.CancelledError:
                    cancels += 1

        task = asyncio.create_task(work())
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        await registry.cancel("p1")
        await registry.cancel("p1")
        await registry.pop("p1")
        second = Producer(registry, "p2")
        await second.admitted()
        assert cancels == 1
        second.released.set()

    simulate(main)


def test_pop_is_not_yet_the_end() -> None:
    """The stream holds its session after its own pop, until its task is over."""

    async def main(world: World) -> None:
        registry = StreamRegistry()

        async def work() -> None:
            await registry.pop("p1")
            await asyncio.sleep(0.5)

        task = asyncio.create_task(work())
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        assert states(registry) == {"p1": "ACTIVE"}
        await task
        await turns()
        assert states(registry) == {}

    simulate(main)


def test_pop_of_a_finished_task_ends_the_stream_at_once() -> None:
    """Whoever pops after the task is over need not wait for a callback."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        task = asyncio.create_task(asyncio.sleep(0.5))
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await asyncio.wait({task})
        await registry.pop("p1")
        assert states(registry) == {}
        await registry.pop("p1")
        await registry.pop("unknown")

    simulate(main)


def test_pop_by_another_task_stops_the_stream() -> None:
    """A pop before the task is over is a stop, and the session stays held until its end."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        await registry.pop("p1")
        assert states(registry) == {"p1": "STOPPING"}
        await asyncio.wait({first.task})
        assert first.was_cancelled

    simulate(main)


# ---- the block -------------------------------------------------------------------------------


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


# ---- the emit gate ---------------------------------------------------------------------------


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


# ---- close -----------------------------------------------------------------------------------


def test_close_refuses_stops_and_waits_as_long_as_it_must() -> None:
    """Close refuses what waits, stops what is active, and returns when all of it has ended."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        second = Producer(registry, "p2")
        other = Producer(registry, "q1", session_id="t", cleans_up_s=0.7)
        await turns()
        await registry.close()
        assert seconds(world) == 0.7
        assert isinstance(await second.turned_away(), StreamRefused)
        assert first.task.done()
        assert other.was_cancelled
        assert registry.snapshot().streams == ()
        assert registry.snapshot().closed
        late = Producer(registry, "p3")
        assert isinstance(await late.turned_away(), StreamRefused)

    simulate(main)


def test_close_waits_no_longer_than_the_grace() -> None:
    """What does not end within the grace is left behind, detached, and close returns."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        await asyncio.gather(registry.close(), registry.close())
        assert seconds(world) == GRACE_S
        await turns()
        assert states(registry) == {"p1": "DETACHED"}
        first.released.set()
        await registry.close()
        assert registry.snapshot().streams == ()

    simulate(main)


def test_close_of_a_quiet_registry_returns_at_once() -> None:
    """With no stream there is nothing to wait for, the first time and any other."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await registry.close()
        await registry.close()
        assert seconds(world) == 0.0

    simulate(main)


# ---- timers, limits, log ---------------------------------------------------------------------


def test_nothing_is_left_on_the_loop_when_streams_have_ended() -> None:
    """Ended in time, a stopped stream leaves no grace timer behind."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1").admitted()
        second = Producer(registry, "p2")
        await second.admitted()
        second.released.set()
        await second.task
        await turns()
        assert [timer for timer in world.loop._scheduled if not timer.cancelled()] == []
        assert registry.snapshot() == Snapshot((), 0, 2, False, 4, 64, 8)

    simulate(main)


def test_limits_are_those_that_were_given() -> None:
    """The limits of the constructor are those by which streams are detached."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=0.5, detached_per_session_max=0, detached_max=7)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        assert isinstance(await second.turned_away(), StreamRefused)
        assert seconds(world) == 0.5
        assert registry.snapshot().streams[0].overdue
        assert registry.snapshot().detached_max == 7
        first.released.set()

    simulate(main)


def test_the_log_of_a_clean_finish_is_the_notes(caplog: pytest.LogCaptureFixture) -> None:
    """Superseded, finished in time: the lines of the note, in its order, at level INFO."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "abc", session_id="sess-1", cleans_up_s=0.15).admitted()
        await Producer(registry, "def", session_id="sess-1").admitted()

    with caplog.at_level(logging.INFO, "onestream.registry"):
        simulate(lambda world: released_at_the_end(main, world))
    assert [record.getMessage() for record in caplog.records][:5] == [
        "stream_start trace=abc trace_id=abc session=sess-1",
        "stream_cancelled trace=abc reason=new_stream_registered",
        "prev_stream_finished_cleanly session=sess-1 trace=abc",
        "stream_end trace=abc stream_id=abc session=sess-1 duration_ms=150",
        "stream_start trace=def trace_id=def session=sess-1",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_log_of_a_timeout_is_the_notes(caplog: pytest.LogCaptureFixture) -> None:
    """Superseded, not finished in time: the lines of the note; the timeout is a warning."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "abc", session_id="sess-1", swallows=True).admitted()
        await Producer(registry, "def", session_id="sess-1").admitted()

    with caplog.at_level(logging.INFO, "onestream.registry"):
        simulate(lambda world: released_at_the_end(main, world))
    assert [(record.levelname, record.getMessage()) for record in caplog.records][1:4] == [
        ("INFO", "stream_cancelled trace=abc reason=new_stream_registered"),
        ("WARNING", "prev_stream_timeout_on_cancel session=sess-1 trace=abc"),
        ("INFO", "stream_start trace=def trace_id=def session=sess-1"),
    ]


# ---- worker threads --------------------------------------------------------------------------


def test_run_in_thread_without_an_executor_raises() -> None:
    """Blocking work needs an executor that was given; the error says how to give one."""

    async def main(world: World) -> None:
        async with StreamRegistry().stream("s") as stream:
            with pytest.raises(RuntimeError, match="StreamRegistry\\(executor="):
                await stream.run_in_thread(len, "abc")

    simulate(main)


def test_run_in_thread_of_a_stopped_stream_raises_and_runs_nothing() -> None:
    """A stopped stream starts no further thread."""

    async def main(world: World) -> None:
        registry = StreamRegistry(executor=world.executor())
        ran: list[str] = []

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(100)
                with pytest.raises(StreamCancelled):
                    await stream.run_in_thread(ran.append, "thread")
                assert stream.workers == 0

        task = asyncio.create_task(work())
        await turns()
        await registry.cancel("p1")
        await task
        assert ran == []

    simulate(main)


def test_a_stream_outlasts_its_thread_whatever_the_threads_order() -> None:
    """With up to two departures, no successor is admitted while a stopped thread is at work."""

    async def program(world: World) -> None:
        registry = StreamRegistry(executor=world.executor(threads_max=1))
        at_work: set[str] = set()

        def blocking(name: str, stop: threading.Event) -> None:
            at_work.add(name)
            stop.wait()
            at_work.discard(name)

        async def work(name: str) -> None:
            with suppress(StreamError):
                async with registry.stream("s", trace_id=name) as stream:
                    world.check(not at_work, "one thread of a session at a time", f"{at_work}")
                    stop = threading.Event()
                    if name == "p2":
                        stop.set()
                    with stream.stop_signal.waking(stop.set):
                        await stream.run_in_thread(blocking, name, stop)
                    world.reached(f"{name} finished")

        first = asyncio.create_task(work("p1"))
        await world.outside("p2 arrives", latest=0.1)
        await asyncio.gather(first, work("p2"))
        # The last thread may have delivered its result and still be about to report its end.
        await registry.close()
        world.check(registry.snapshot().streams == (), "nothing is left")

    report = explore(program, strategy=DepartureBounded(2), labels=["p2 finished"])
    assert report.verdict == "proved", report.text
    assert report.executions > 100


def test_a_stop_takes_out_queued_jobs_that_other_tasks_wait_for() -> None:
    """A queued job of a stopped stream never runs, also if the stream's task is not its waiter."""

    async def main(world: World) -> None:
        executor = world.executor(threads_max=1)
        registry = StreamRegistry(executor=executor)
        ran: list[str] = []
        release = threading.Event()
        busy = asyncio.get_running_loop().run_in_executor(executor, release.wait)

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                helper = asyncio.create_task(stream.run_in_thread(ran.append, "the queued one"))
                helpers.append(helper)
                await asyncio.sleep(100)

        helpers: list[asyncio.Task[None]] = []
        task = asyncio.create_task(work())
        await turns()
        await registry.cancel("p1")
        with pytest.raises(StreamCancelled):
            await task
        await turns()
        assert registry.snapshot().streams == ()
        assert helpers[0].cancelled()
        release.set()
        await busy
        assert ran == []

    simulate(main)


@pytest.mark.socket
def test_a_stream_has_not_ended_before_its_thread_has() -> None:
    """The await ends with the stop; the session is free only when the real thread is over."""
    begun, release = threading.Event(), threading.Event()
    order: list[str] = []

    def blocking() -> None:
        begun.set()
        release.wait(10)
        order.append("the thread is over")

    async def work(registry: StreamRegistry) -> None:
        async with registry.stream("s", trace_id="p1") as stream:
            await stream.run_in_thread(blocking)

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(grace_s=20.0, executor=executor)
        first = asyncio.create_task(work(registry))
        await asyncio.to_thread(begun.wait, 10)

        async def second() -> None:
            async with registry.stream("s", trace_id="p2"):
                order.append("p2 is admitted")

        successor = asyncio.create_task(second())
        with pytest.raises(StreamSuperseded):
            await first
        await turns()
        assert states(registry) == {"p1": "STOPPING", "p2": "WAITING"}
        release.set()
        await successor
        assert order == ["the thread is over", "p2 is admitted"]
        assert registry.snapshot().streams == ()

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))


@pytest.mark.socket
def test_a_queued_job_of_a_stopped_stream_never_runs() -> None:
    """A stop takes the queued job out, and the stream ends without waiting for the busy thread."""
    begun, release = threading.Event(), threading.Event()
    ran: list[str] = []

    def blocking() -> None:
        begun.set()
        release.wait(10)
        ran.append("the busy one")

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(executor=executor)
        busy = executor.submit(blocking)
        await asyncio.to_thread(begun.wait, 10)

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                await stream.run_in_thread(ran.append, "the queued one")

        task = asyncio.create_task(work())
        await turns()
        assert states(registry) == {"p1": "ACTIVE"}
        await registry.cancel("p1")
        with pytest.raises(StreamCancelled):
            await task
        await turns()
        assert registry.snapshot().streams == ()
        assert not busy.done()
        release.set()

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))
    assert ran == ["the busy one"]


@pytest.mark.socket
def test_a_thread_sees_the_callers_context_and_returns_its_result_or_raises() -> None:
    """run_in_thread carries context variables, results and exceptions, like to_thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def main(executor: ThreadPoolExecutor) -> None:
        async with StreamRegistry(executor=executor).stream("s") as stream:
            variable.set("seen")
            assert await stream.run_in_thread(variable.get) == "seen"
            assert await stream.run_in_thread(divmod, 7, 2) == (3, 1)
            with pytest.raises(ZeroDivisionError):
                await stream.run_in_thread(divmod, 7, 0)
            assert stream.workers == 0 or not stream.is_over

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))


@pytest.mark.socket
def test_a_thread_may_outlive_its_loop(caplog: pytest.LogCaptureFixture) -> None:
    """A thread that ends after the loop was closed reports to nobody, and nothing is logged."""
    begun, release = threading.Event(), threading.Event()

    def blocking() -> None:
        begun.set()
        release.wait(10)

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(executor=executor, grace_s=0.0)

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                await stream.run_in_thread(blocking)

        task = asyncio.create_task(work())
        await asyncio.to_thread(begun.wait, 10)
        await registry.cancel("p1")
        with pytest.raises(StreamCancelled):
            await task

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))
        release.set()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
