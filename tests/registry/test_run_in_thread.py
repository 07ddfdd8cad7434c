"""Stream.run_in_thread: blocking work of a stream, in virtual time and with real threads."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from registry import StreamCancelled, StreamError, StreamRegistry, StreamSuperseded
from sim import World, explore
from sim.schedulers import DepartureBounded
from tests.limits import HANGS_S
from tests.registry.producers import simulate, states, turns


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


@pytest.mark.parametrize("departures", [1, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_stream_outlasts_its_thread_whatever_the_threads_order(departures: int) -> None:
    """With up to so many departures, no successor is admitted while a stopped thread is at work."""

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

    report = explore(program, strategy=DepartureBounded(departures), labels=["p2 finished"])
    assert report.verdict == "proved", report.text
    # With none of the threads' switch points left out there are hundreds.
    assert report.executions > 40


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
        release.wait(HANGS_S)
        order.append("the thread is over")

    async def work(registry: StreamRegistry) -> None:
        async with registry.stream("s", trace_id="p1") as stream:
            await stream.run_in_thread(blocking)

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(grace_s=20.0, executor=executor)
        first = asyncio.create_task(work(registry))
        await asyncio.to_thread(begun.wait, HANGS_S)

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
        release.wait(HANGS_S)
        ran.append("the busy one")

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(executor=executor)
        busy = executor.submit(blocking)
        await asyncio.to_thread(begun.wait, HANGS_S)

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
        release.wait(HANGS_S)

    async def main(executor: ThreadPoolExecutor) -> None:
        registry = StreamRegistry(executor=executor, grace_s=0.0)

        async def work() -> None:
            async with registry.stream("s", trace_id="p1") as stream:
                await stream.run_in_thread(blocking)

        task = asyncio.create_task(work())
        await asyncio.to_thread(begun.wait, HANGS_S)
        await registry.cancel("p1")
        with pytest.raises(StreamCancelled):
            await task

    with ThreadPoolExecutor(1) as executor:
        asyncio.run(main(executor))
        release.set()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
