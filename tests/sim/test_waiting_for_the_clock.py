"""A program that reads a clock until it shows enough: time passes, though nothing waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, new_event_loop
from sim.kernel import entropy

CLOCKS: dict[str, Callable[[], float]] = {
    "time": lambda: time.time(),
    "monotonic": lambda: time.monotonic(),
    "perf_counter": lambda: time.perf_counter(),
    "loop.time": lambda: asyncio.get_running_loop().time(),
}


async def polls_until(clock: Callable[[], float], seconds: float) -> float:
    """How much later than asked for it ends."""
    end = clock() + seconds
    while clock() < end:  # noqa: ASYNC110 - the very thing
        await asyncio.sleep(0)
    return clock() - end


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_polling_for_a_clock_ends(clock: Callable[[], float]) -> None:
    """As on stock, in an exploration and on a loop that stands alone, and hardly too late."""

    async def program(world: World) -> None:
        late = await polls_until(clock, 0.1)
        world.check(late <= 2 * world.lateness_s, "it ends in time")

    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(polls_until(clock, 0.1)) <= 0.02


def test_a_timer_is_not_leapt_to() -> None:
    """A deadline that is far away does not pass while the program waits for less."""

    async def program(world: World) -> None:
        async with asyncio.timeout(5):
            await polls_until(asyncio.get_running_loop().time, 0.1)

    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text


def test_one_who_reads_the_clock_for_ever_never_ends() -> None:
    """No time is late enough for it: the horizon refutes it."""

    async def program(world: World) -> None:
        while True:
            asyncio.get_running_loop().time()
            await asyncio.sleep(0)

    report = explore(program, max_executions=1, horizon_s=0.05)
    assert "the execution ends" in report.reason


def test_one_who_reads_no_clock_spins() -> None:
    """The loop's own readings of its clock are nobody's wait."""

    async def program(world: World) -> None:
        while True:  # noqa: ASYNC110 - the very thing
            await asyncio.sleep(0)

    report = explore(program, max_executions=1)
    assert "nothing spins" in report.reason


@pytest.mark.parametrize("where", ["task", "thread"])
def test_a_busy_wait_ends(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`while time.time() < end: pass`, in the loop's thread and in a worker."""

    # As many in a row are a wait; with a thousand, as they are, it takes ten times as long.
    monkeypatch.setattr(entropy, "BUSY_READINGS", 100)

    def wait() -> None:
        end = time.time() + 0.1
        while time.time() < end:
            pass

    async def program(world: World) -> None:
        pending: Any = asyncio.to_thread(wait) if where == "thread" else None
        if pending is None:
            wait()
        else:
            await pending

    assert explore(program, max_executions=50).verdict == "proved"
