"""A thread that touches the loop without call_soon_threadsafe: it goes on waiting, as stock's.

Its documentation forbids it, and it often works all the same: what is put into the loop's queue is
found when something else ends the poll.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import Report, Stuck, World, explore, new_event_loop

RESCUED_AFTER_S = 0.2
EXECUTIONS_MAX = 1_000

Loop = asyncio.AbstractEventLoop
Prepared = tuple[Awaitable[object], Callable[[], object]]
"""What the program awaits, and what a thread calls for it."""


def sets_an_event(loop: Loop) -> Prepared:
    event = asyncio.Event()
    return event.wait(), event.set


def sets_a_result(loop: Loop) -> Prepared:
    future = loop.create_future()
    return future, lambda: future.set_result(None)


def puts_into_a_queue(loop: Loop) -> Prepared:
    queue: asyncio.Queue[int] = asyncio.Queue()
    return queue.get(), lambda: queue.put_nowait(1)


def calls_soon(loop: Loop) -> Prepared:
    event = asyncio.Event()
    return event.wait(), lambda: loop.call_soon(event.set)


def calls_later(loop: Loop) -> Prepared:
    event = asyncio.Event()
    return event.wait(), lambda: loop.call_later(0.001, event.set)


def cancels_a_task(loop: Loop) -> Prepared:
    task = loop.create_task(asyncio.Event().wait())
    return asyncio.wait([task]), task.cancel


def makes_a_task(loop: Loop) -> Prepared:
    event = asyncio.Event()

    async def sets() -> None:
        event.set()

    return event.wait(), lambda: loop.create_task(sets())


WAYS = [
    sets_an_event,
    sets_a_result,
    puts_into_a_queue,
    calls_soon,
    calls_later,
    cancels_a_task,
    makes_a_task,
]
ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


async def woken_after_s(way: Callable[[Loop], Prepared], sleeps: Callable[[], object]) -> float:
    """How long the program waits, where a timer ends the poll after RESCUED_AFTER_S.

    sleeps: returns in the thread once the loop waits.
    """
    loop = asyncio.get_running_loop()
    awaited, touch = way(loop)

    def in_thread() -> None:
        sleeps()
        touch()

    began = loop.time()
    thread = threading.Thread(target=in_thread)
    loop.call_later(RESCUED_AFTER_S, lambda: None)
    thread.start()
    await awaited
    return loop.time() - began


def waits_for_ever(
    way: Callable[[Loop], Prepared], by: Callable[[Loop, Callable[[], object]], object]
) -> Callable[[Any], Awaitable[None]]:
    async def program(world: object) -> None:
        loop = asyncio.get_running_loop()
        awaited, touch = way(loop)

        def in_thread() -> None:
            time.sleep(1)
            by(loop, touch)

        threading.Thread(target=in_thread).start()
        await awaited

    return program


def untold(loop: Loop, touch: Callable[[], object]) -> object:
    return touch()


def told(loop: Loop, touch: Callable[[], object]) -> object:
    return loop.call_soon_threadsafe(touch)


def explored(program: Callable[[World], Awaitable[object]]) -> Report:
    return explore(program, max_executions=EXECUTIONS_MAX)


class TellsWhenItWaits(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """waits: the loop has looked into its queue, and asks for what comes from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = threading.Event()

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None or timeout > 0:
            self.waits.set()
        return super().select(timeout)


@pytest.mark.socket
@ways
def test_stock_asyncio_goes_on_waiting(way: Callable[[Loop], Prepared]) -> None:
    """The poll ends with its timer, and what the thread did is found then."""
    selector = TellsWhenItWaits()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        waited = runner.run(woken_after_s(way, selector.waits.wait))
    assert waited >= RESCUED_AFTER_S


@ways
def test_so_does_the_simulated_loop(way: Callable[[Loop], Prepared]) -> None:
    """With something else to come the program goes on, too late, under every schedule."""

    async def program(world: World) -> None:
        waited = await woken_after_s(way, lambda: time.sleep(0.05))
        world.check(waited >= RESCUED_AFTER_S, "the timer ends the poll", f"{waited}")

    assert explored(program).verdict == "proved"


@ways
def test_with_nothing_else_to_come_it_is_a_deadlock(way: Callable[[Loop], Prepared]) -> None:
    """The sentence names the thread, its line, and what to call; a loop that stands alone says it.

    With call_soon_threadsafe the same program is proved.
    """
    program = waits_for_ever(way, untold)
    report = explored(program)
    assert report.verdict == "refuted", report.text
    text = " ".join(report.text.split())
    assert "no deadlock" in report.reason
    assert "thread Thread-1 (in_thread) gave the loop something to do in " in text
    assert "test_untold_loop.py:" in text
    assert "without waking it: use loop.call_soon_threadsafe(…) there" in text
    assert "program waits in program (tests/sim/test_untold_loop.py:" in text
    with (
        pytest.raises(Stuck, match=r"use loop\.call_soon_threadsafe"),
        asyncio.Runner(loop_factory=new_event_loop) as runner,
    ):
        runner.run(program(None))  # type: ignore[arg-type]
    assert explored(waits_for_ever(way, told)).verdict == "proved"


def test_within_one_instant_the_loop_may_look_before_or_after() -> None:
    """A thread that acts at once is seen where it comes before the loop's look into its queue."""

    async def program(world: World) -> None:
        event = asyncio.Event()
        world.loop.call_later(1, lambda: None)
        threading.Thread(target=event.set).start()
        await event.wait()
        world.reached("in time" if world.now < 0.5 else "too late")

    report = explore(program, max_executions=EXECUTIONS_MAX, labels=["in time", "too late"])
    assert report.verdict == "proved", report.text


def test_debug_mode_raises_in_the_thread() -> None:
    """As on stock the thread hears of it, and the loop does not wake, which is a deadlock."""

    async def program(world: World) -> None:
        event = asyncio.Event()
        world.loop.set_debug(True)
        heard: list[str] = []

        def in_thread() -> None:
            time.sleep(1)
            try:
                event.set()
            except RuntimeError as exc:
                heard.append(str(exc))

        threading.Thread(target=in_thread).start()
        waiting = asyncio.create_task(event.wait())
        await asyncio.sleep(2)
        world.check(heard and heard[0].startswith("Non-thread-safe operation"), "it raises")
        await waiting

    report = explored(program)
    assert report.counterexample is not None, report.text
    assert report.counterexample.property.startswith("no deadlock")


def test_a_loop_in_a_thread_is_told_likewise() -> None:
    """A loop of asyncio's own in a worker, and one of ours as a guest, wait until they are told."""

    def loops(factory: Any, by: Callable[[Loop, Callable[[], object]], object]) -> Any:
        async def program(world: World) -> None:
            ready, box = threading.Event(), []

            async def inner() -> None:
                event = asyncio.Event()
                box.extend([asyncio.get_running_loop(), event.set])
                ready.set()
                await event.wait()

            def run() -> None:
                with asyncio.Runner(loop_factory=factory) as runner:
                    runner.run(inner())

            thread = threading.Thread(target=run)
            thread.start()
            await asyncio.to_thread(ready.wait)
            await asyncio.sleep(1)
            by(*box)
            await asyncio.to_thread(thread.join)

        return program

    for factory in (None, new_event_loop):
        assert explored(loops(factory, untold)).verdict == "refuted"
        report = explore(loops(factory, told), strategy="departures", max_executions=200)
        assert report.counterexample is None, report.text


def test_a_claim_leaves_out_the_lines_of_asyncio_where_a_thread_uses_it() -> None:
    """Stock's loop may be in the middle of the same Event, and `set` then raises RuntimeError."""

    async def sets(world: World) -> None:
        event = asyncio.Event()
        job = asyncio.create_task(asyncio.to_thread(event.set))
        async with asyncio.timeout(RESCUED_AFTER_S):
            await event.wait()
        await job

    async def tells(world: World) -> None:
        event, loop = asyncio.Event(), asyncio.get_running_loop()
        job = asyncio.create_task(asyncio.to_thread(loop.call_soon_threadsafe, event.set))
        await event.wait()
        await job

    report = explore(sets)
    assert report.verdict == "proved", report.text
    left_out = "not between the lines of asyncio, which is not made for threads"
    assert f"{left_out} (let a thread call loop.call_soon_threadsafe)" in report.claim
    assert "asyncio" not in explore(tells).claim
