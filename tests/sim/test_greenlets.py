"""Programs that make greenlets of their own, as SQLAlchemy does for what it awaits.

The simulator's threads are greenlets, too: each goes on where it stood, and gives the loop back to
where that was.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import greenlet
import pytest

from sim import World, explore


async def spawned(function: Callable[[], Any]) -> Any:
    """Calls the function in a greenlet, and awaits what that gives back: SQLAlchemy's way."""
    inner = greenlet.greenlet(function)
    result = inner.switch()
    while not inner.dead:
        result = inner.switch(await result)
    return result


def awaited(coroutine: Coroutine[Any, Any, Any]) -> Any:
    parent = greenlet.getcurrent().parent
    assert parent is not None
    return parent.switch(coroutine)


async def loop_waits_in_a_greenlet() -> None:
    """In it the loop's thread takes a lock, so that the other thread may go on there."""
    lock, seen = threading.Lock(), []

    def counts() -> None:
        for number in range(2):
            with lock:
                seen.append(number)

    def asks() -> Any:
        with lock:
            seen.append(3)
        answer = awaited(asyncio.sleep(0, "an answer"))
        with lock:
            seen.append(4)
        return answer

    thread = threading.Thread(target=counts)
    thread.start()
    assert await spawned(asks) == "an answer"
    thread.join()
    assert sorted(seen) == [0, 1, 3, 4]


async def thread_waits_in_a_greenlet() -> None:
    """A thread takes a lock in a greenlet of its own."""
    lock, seen = threading.Lock(), []

    def counts() -> str:
        with lock:
            seen.append(1)
        return "counted"

    def begins() -> None:
        seen.append(greenlet.greenlet(counts).switch())

    thread = threading.Thread(target=begins)
    thread.start()
    with lock:
        seen.append(2)
    await asyncio.to_thread(begins)
    thread.join()
    assert (seen.count("counted"), seen.count(1), len(seen)) == (2, 2, 5), seen


PROGRAMS = [loop_waits_in_a_greenlet, thread_waits_in_a_greenlet]


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_holds_on_stock_is_proved(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Whichever greenlet takes a turn, another thread goes on and comes back to that one."""
    asyncio.run(program())

    async def in_world(world: World) -> None:
        await program()

    report = explore(in_world, strategy="depth-first")
    assert report.verdict == "proved", report.text


def test_a_thread_that_stands_in_one_is_ended_there() -> None:
    """It waits for ever when the program returns, and what it has begun is left in order."""
    ends = []

    def waits() -> None:
        try:
            threading.Event().wait()
        finally:
            ends.append("the greenlet's")

    def begins() -> None:
        try:
            greenlet.greenlet(waits).switch()
        finally:
            ends.append("the thread's")

    async def program(world: World) -> None:
        ends.clear()
        threading.Thread(target=begins, daemon=True).start()
        await world.outside("anything", earliest=1.0)

    report = explore(program, max_executions=5)
    assert report.verdict in ("proved", "inconclusive"), report.text
    assert ends == ["the greenlet's", "the thread's"]
