"""Timers of one instant: they come apart, and meet in another order, where on stock they may.

Stock here is asyncio's own loop, on a clock that stalls between any two readings and oversleeps by
chance: what it does hangs on a seed, and not on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import Any

import anyio
import pytest

from sim import World, explore, outcomes
from sim.export.sources import NotExportable
from sim.kernel.schedule import Bounds
from sim.schedulers import DepthFirst

Log = list[str]
Program = Callable[[Log], Awaitable[None]]
Limit = Callable[[float], AbstractAsyncContextManager[Any]]
"""Of a deadline, for the block."""


class StallingClock(selectors.SelectSelector):
    """A selector and a clock in one: the loop sleeps in no time, and wakes late."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)
        self._now = 100.0
        self._stalls = self._random.choice((0.0, 0.1, 0.5))
        self._oversleeps_s = self._random.choice((1e-6, 1e-4, 1e-3, 4e-3))

    def time(self) -> float:
        self._now += 1e-6
        if self._random.random() < self._stalls:
            self._now += self._random.choice((1e-5, 1e-3, 5e-3))
        return self._now

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self._now += timeout + self._random.random() * self._oversleeps_s
        return super().select(0)


def on_stock(program: Program, seeds: int) -> set[str]:
    return {_one_on_stock(program, seed) for seed in range(seeds)}


def _one_on_stock(program: Program, seed: int) -> str:
    clock, log = StallingClock(seed), Log()
    loop = asyncio.SelectorEventLoop(clock)
    loop.time = clock.time  # type: ignore[method-assign]
    try:
        loop.run_until_complete(program(log))
    finally:
        loop.close()
    return " ".join(log)


def simulated(program: Program, *, apart: bool) -> set[str]:
    seen = set()

    async def main(world: World) -> None:
        log = Log()
        await program(log)
        seen.add(" ".join(log))

    for outcome in outcomes(main, DepthFirst(), bounds=Bounds(timers_apart=apart)):
        assert outcome.violation is None, outcome.violation
    return seen


async def actor(log: Log, name: str, *delays: float) -> None:
    for delay in delays:
        await asyncio.sleep(delay)
    for step in range(2):
        log.append(f"{name}{step}")
        await asyncio.sleep(0)


def actors(**delays: tuple[float, ...]) -> Program:
    async def program(log: Log) -> None:
        await asyncio.gather(*(actor(log, name, *each) for name, each in delays.items()))

    return program


def limited(*, limit_first: bool) -> Program:
    """A time limit of 0.2 s around two sleeps of 0.1 s, which begin before it or after."""

    async def program(log: Log) -> None:
        sleeps = asyncio.ensure_future(actor(log, "a", 0.1, 0.1))
        if not limit_first:
            await asyncio.sleep(0)
        try:
            async with asyncio.timeout(0.2):
                await sleeps
        except TimeoutError:
            log.append("too late")

    return program


async def of_one_reading(log: Log) -> None:
    """The same deadline for both, as far as a float tells."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    for name, delay in (("a", 0.3), ("b", 0.1 + 0.2), ("c", 0.3)):
        loop.call_at(now + delay, log.append, name)
    await asyncio.sleep(1)
    log.sort()


async def known_deadlines(log: Log) -> None:
    """The program reads the clock itself, and what is due earlier fires no later."""
    loop, due = asyncio.get_running_loop(), {}

    async def chain() -> None:
        await asyncio.sleep(0.1)
        due["chain"] = loop.time() + 0.1
        loop.call_at(due["chain"], log.append, "chain")

    task = asyncio.ensure_future(chain())
    await asyncio.sleep(0)
    due["one"] = loop.time() + 0.2
    loop.call_at(due["one"], log.append, "one")
    await task
    await asyncio.sleep(0.2)
    assert log == sorted(log, key=lambda name: due[name])
    log[:] = ["in order"]


def beside_deadline(limit: Limit, *, deadline_first: bool = False) -> Program:
    """A second sleep of 0.1 s beside what is left until a deadline of 0.2 s."""

    async def program(log: Log) -> None:
        deadline = asyncio.get_running_loop().time() + 0.2
        await asyncio.sleep(0.1)
        both = [actor(log, "a", 0.1), until_limit(log, limit(deadline))]
        await asyncio.gather(*(reversed(both) if deadline_first else both))

    return program


async def until_limit(log: Log, limit: AbstractAsyncContextManager[Any]) -> None:
    try:
        async with limit:
            await asyncio.Event().wait()
    except TimeoutError:
        log.append("too late")


@asynccontextmanager
async def rescheduled(deadline: float) -> AsyncIterator[None]:
    async with asyncio.timeout(None) as limit:
        limit.reschedule(deadline)
        yield


@asynccontextmanager
async def called_at(deadline: float) -> AsyncIterator[None]:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_at(deadline, task.cancel)
    try:
        yield
    except asyncio.CancelledError:
        raise TimeoutError from None


@asynccontextmanager
async def scope_of_anyio(deadline: float) -> AsyncIterator[None]:
    with anyio.CancelScope(deadline=deadline):
        yield
    raise TimeoutError


async def armed_later(log: Log) -> None:
    """A deadline computed behind a sleep of as long, and armed after a wait: it is later."""
    wait = asyncio.ensure_future(asyncio.sleep(0.1))
    await asyncio.sleep(0)
    sleep = asyncio.ensure_future(actor(log, "a", 0.3))
    await asyncio.sleep(0)
    deadline = asyncio.get_running_loop().time() + 0.3
    await wait
    await until_limit(log, asyncio.timeout_at(deadline))
    await sleep


async def entered_later(log: Log) -> None:
    """The same with `asyncio.timeout`, made there and entered after the wait."""
    wait = asyncio.ensure_future(asyncio.sleep(0.1))
    await asyncio.sleep(0)
    sleep = asyncio.ensure_future(actor(log, "a", 0.3))
    await asyncio.sleep(0)
    limit = asyncio.timeout(0.3)
    await wait
    await until_limit(log, limit)
    await sleep


PROGRAMS: dict[str, Program] = {
    "two of one delay": actors(a=(0.2,), b=(0.2,)),
    "three of one delay": actors(a=(0.2,), b=(0.2,), c=(0.2,)),
    "a chain after one": actors(a=(0.2,), b=(0.1, 0.1)),
    "a chain before one": actors(b=(0.1, 0.1), a=(0.2,)),
    "two chains": actors(a=(0.05, 0.15), b=(0.1, 0.1)),
    "four before one": actors(b=(0.05,) * 4, a=(0.2,)),
    "a chain and its end": actors(b=(0.1, 0.1), a=(0.05, 0.15)),
    "a limit, then a chain": limited(limit_first=True),
    "a chain, then a limit": limited(limit_first=False),
    "known deadlines": known_deadlines,
    "timeout_at": beside_deadline(asyncio.timeout_at),
    "timeout_at, armed first": beside_deadline(asyncio.timeout_at, deadline_first=True),
    "reschedule": beside_deadline(rescheduled),
    "call_at": beside_deadline(called_at),
    "a scope of anyio": beside_deadline(scope_of_anyio),
    "a deadline armed later": armed_later,
    "a limit entered later": entered_later,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_timers_meet_as_on_stock(program: Program) -> None:
    """Each outcome of stock is one of some schedule, and no schedule has another."""
    assert simulated(program, apart=True) == on_stock(program, 800)


async def the_chain_ends_last(world: World) -> None:
    log = Log()
    await PROGRAMS["a chain before one"](log)
    world.check(log.index("a1") < log.index("b1"), "the single sleep ends first")


async def the_later_chain_ends_last(world: World) -> None:
    log = Log()
    await PROGRAMS["a chain after one"](log)
    world.check(log.index("a1") < log.index("b1"), "the single sleep ends first")


@pytest.mark.parametrize("strategy", ["staged", "depth-first"])
def test_another_order_refutes(strategy: str) -> None:
    """A search finds it beside its schedules; it is replayed by its text, and not exported."""
    report = explore(the_chain_ends_last, strategy=strategy)
    assert report.counterexample is not None, report.text
    assert report.verdict == "refuted", report.text
    assert report.found_by == "timers apart"
    assert "the timer of Task-" in report.counterexample.text
    assert "timers_apart=True" in report.counterexample.schedule
    assert report.counterexample.replay(the_chain_ends_last).violation is not None
    with pytest.raises(NotExportable, match="timers of one instant fire apart"):
        report.counterexample.export(the_chain_ends_last)


def test_an_order_that_stock_cannot_show_is_not_looked_for() -> None:
    """What is armed first by the same delay is proved to fire first, and the claim tells of it."""
    report = explore(the_later_chain_ends_last)
    assert report.verdict == "proved", report.text
    assert report.executions == 1
    assert "with timers of one instant together" in report.claim
    assert "timers_apart" in report.bounds_hit


@pytest.mark.parametrize("strategy", ["states", "departures"])
def test_what_comes_apart_is_not_the_searchs_own(strategy: str) -> None:
    """Executions beside it change neither how many it has nor what it proves."""
    report = explore(the_later_chain_ends_last, strategy=strategy)
    assert report.verdict == "proved", report.text
    assert report.executions == 1


def test_timers_of_one_reading_stay_together() -> None:
    """Deadlines that differ by the rounding of a float are one moment, as on stock."""

    async def main(world: World) -> None:
        log = Log()
        await of_one_reading(log)

    report = explore(main)
    assert report.verdict == "proved", report.text
    assert "timers" not in report.claim
    assert simulated(of_one_reading, apart=True) == on_stock(of_one_reading, 50)
