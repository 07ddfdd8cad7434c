"""State of a module that outlives an execution: it is said what it is, and decides no verdict."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable

from sim import World
from tests.sim.reported.base import OnStock, Reported
from tests.sim.surviving_programs import counts_executions, semaphore_that_leaks

NUMBERS = itertools.count(1)
LOCK = asyncio.Lock()
CACHE: dict[str, str] = {}


async def names_carry_a_counter(world: World) -> None:
    """f02: psycopg_pool numbers its tasks; the violation is told all the same."""

    async def work() -> None:
        await asyncio.sleep(1e-4)

    await asyncio.create_task(work(), name=f"worker-{next(NUMBERS)}")
    world.check(False, "the bug")


async def lock_of_a_module(world: World) -> None:
    """f13: bound to the loop of the execution that first waited for it."""

    async def work(name: str) -> None:
        async with LOCK:
            await world.outside(name, latest=1)

    await asyncio.gather(work("1"), work("2"))


async def cache_of_a_module(world: World) -> None:
    """f13: the second execution asks nothing."""
    if "row" not in CACHE:
        await world.outside("the database answers", latest=1)
        CACHE["row"] = "it"
    await world.outside("more", latest=1)


def _both(
    name: str, program: Callable[[World], Awaitable[None]], alone: str, isolated: str
) -> list[Reported]:
    """With each execution in a fork of its own, and then, when it leaves something, as it is."""
    report = "f02" if program is names_carry_a_counter else "f13"
    own = f"{name}, isolated"
    module = program.__module__.rpartition(".")[2]
    told = ("state survived", f"{module}.") if alone == "inconclusive" else ()
    return [
        Reported(report, own, program, isolated, OnStock.NOT_RUN, options=_ISOLATED),
        Reported(report, name, program, alone, OnStock.NOT_RUN, told),
    ]


_ISOLATED = {"isolate": True}
PROGRAMS = [
    *_both("names with a counter", names_carry_a_counter, "refuted", "refuted"),
    *_both("a module's lock", lock_of_a_module, "inconclusive", "proved"),
    *_both("a module's cache", cache_of_a_module, "inconclusive", "proved"),
    *_both("a semaphore left taken", semaphore_that_leaks, "refuted", "refuted"),
    *_both("a module's counter", counts_executions, "inconclusive", "proved"),
]
