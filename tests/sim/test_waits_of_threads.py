"""Waits of threads that have a time limit: it ends while the loop is busy, too."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable

import pytest

from sim import World, explore, run
from sim.schedulers import DepartureBounded

MS = 0.001


def _never_notified(seconds: float) -> bool:
    condition = threading.Condition()
    with condition:
        return condition.wait(seconds)


def _never_put(seconds: float) -> bool:
    try:
        queue.Queue[int]().get(timeout=seconds)
    except queue.Empty:
        return False
    return True


def _never_released(seconds: float) -> bool:
    lock = threading.Lock()
    lock.acquire()
    return lock.acquire(timeout=seconds)


def _never_ends(seconds: float) -> bool:
    thread = threading.Thread(target=threading.Event().wait, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


WAITS: dict[str, Callable[[float], object]] = {
    "sleep": lambda seconds: time.sleep(seconds),
    "Event.wait": lambda seconds: threading.Event().wait(seconds),
    "Condition.wait": _never_notified,
    "Semaphore.acquire": lambda seconds: threading.Semaphore(0).acquire(timeout=seconds),
    "Queue.get": _never_put,
    "Lock.acquire": _never_released,
    "Thread.join": _never_ends,
}


def test_two_waits_may_end_between_two_callbacks() -> None:
    """The loop's thread may have no turn for a while, in which another one waits more than once.

    A run on stock asyncio, with a loop that was late by 3 ms, had it; no schedule did.
    """

    async def program(world: World) -> None:
        has_waited: list[bool] = []

        def job() -> None:
            time.sleep(MS)
            time.sleep(2 * MS)
            has_waited.append(True)

        thread = threading.Thread(target=job)
        thread.start()
        await asyncio.sleep(0)
        world.reached("twice" if has_waited else "not yet")
        thread.join()

    report = explore(program, strategy=DepartureBounded(5), thread_lines=False)
    assert report.verdict == "proved"
    assert report.labels == {"twice", "not yet"}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_may_end_while_the_loop_is_busy(wait: Callable[[float], object]) -> None:
    """A step of the loop takes time on a real machine, so the thread may be there first, or not."""

    async def program(world: World) -> None:
        ended: list[int] = []

        def job() -> None:
            wait(MS)
            ended.append(1)

        task = asyncio.create_task(asyncio.to_thread(job))
        for _ in range(6):
            await asyncio.sleep(0)
        world.reached("it has waited" if ended else "it waits")
        await task

    report = explore(program, strategy=DepartureBounded(2), max_executions=2000)
    assert report.counterexample is None, report.text
    assert report.labels == {"it has waited", "it waits"}


@pytest.mark.parametrize("seconds", [MS, 5.0])
def test_a_loop_that_spins_until_a_thread_has_slept_is_no_livelock(seconds: float) -> None:
    """However long the thread sleeps, and whenever it goes on then."""

    async def program(world: World) -> None:
        slept: list[int] = []

        def job() -> None:
            time.sleep(seconds)
            slept.append(1)

        task = asyncio.create_task(asyncio.to_thread(job))
        while not slept:  # noqa: ASYNC110 - it spins
            await asyncio.sleep(0)
        await task

    report = explore(program, strategy="depth-first", max_executions=200, spin_max=5)
    assert report.counterexample is None, report.text


def _two_that_sleep(wait: str) -> Callable[[World], object]:
    async def program(world: World) -> None:
        log: list[int] = []

        def job(number: int) -> None:
            time.sleep(number * MS)
            log.append(number)

        threads = [threading.Thread(target=job, args=(number,)) for number in (1, 2, 50)]
        for thread in threads:
            thread.start()
        if wait == "in a thread":
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        else:
            for thread in threads:
                thread.join()
        world.reached(str(log))

    return program


@pytest.mark.parametrize("wait", ["in a thread", "in the loop's thread"])
def test_a_thread_that_wakes_up_may_be_overtaken_by_the_next(wait: str) -> None:
    """The system lets it wait for `lateness_s` at most, and it does not matter who waits for it."""
    program = _two_that_sleep(wait)
    report = explore(program, strategy=DepartureBounded(1), max_executions=500)  # type: ignore[arg-type]
    assert report.counterexample is None, report.text
    assert report.labels == {"[1, 2, 50]", "[2, 1, 50]"}


def test_a_late_thread_loses_against_a_time_limit() -> None:
    """Who joins a thread for 2 ms may find it alive, though it sleeps for 1 ms only."""

    async def program(world: World) -> None:
        thread = threading.Thread(target=time.sleep, args=(MS,))
        thread.start()
        thread.join(2 * MS)
        world.reached("late" if thread.is_alive() else "in time")
        thread.join()

    report = explore(program, strategy="depth-first", max_executions=500)
    assert report.labels == {"late", "in time"}


def test_what_happens_often_beside_a_spin_is_no_livelock() -> None:
    """Each event gives the program iterations anew: hundreds come before the queue is empty."""

    async def program(world: World) -> None:
        seen: list[int] = []

        async def hears() -> None:
            for _ in range(150):
                await world.outside("it comes")
            for _ in range(20):
                await asyncio.sleep(0)
            seen.append(1)

        task = asyncio.create_task(hears())
        while not seen:  # noqa: ASYNC110 - it spins
            await asyncio.sleep(0)
        await task

    assert run(program).violation is None


def test_a_thread_and_a_loop_that_spin_for_each_other_are_a_livelock() -> None:
    """No count of what happens begins anew for ever."""

    async def program(world: World) -> None:
        over: list[int] = []

        def job() -> None:
            while not over:
                time.sleep(0)

        task = asyncio.create_task(asyncio.to_thread(job))
        while not task.done():  # noqa: ASYNC110 - it spins
            await asyncio.sleep(0)

    violation = run(program).violation
    assert violation is not None
    assert violation.property == "no livelock: nothing spins while virtual time stands still"
