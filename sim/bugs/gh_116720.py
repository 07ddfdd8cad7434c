"""gh-116720: a nested TaskGroup swallows the cancel of the group around it.

An inner group stands in the body of an outer one, and the inner group's errors are caught. A child
of each fails in one iteration. The outer group cancels its body, as it must; the inner group takes
that cancel for the one that it has asked for itself, and raises its own errors instead. They are
caught, and the body of the outer group goes on, in a group that has failed.

Fixed in 3.13.0 ("What's New" names the report): a TaskGroup keeps the count of cancels, and
cancels again what was cancelled from outside.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World


class InnerError(Exception):
    pass


class OuterError(Exception):
    pass


async def program(world: World) -> None:
    async def fail(error: Exception) -> None:
        await world.outside(f"{type(error).__name__} comes", latest=0.1)
        raise error

    async def body(outer: asyncio.TaskGroup) -> None:
        try:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(fail(InnerError()))
                outer.create_task(fail(OuterError()))
        except* InnerError:
            world.reached("the inner group has failed")
        await asyncio.sleep(50)

    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as outer:
            await body(outer)
    world.check(
        world.now < 1, "the body of a group ends when a child has failed", f"at {world.now:.3f} s"
    )


BUG = HistoricalBug(
    id="gh-116720",
    title="a nested TaskGroup swallows the outer cancel",
    link="https://github.com/python/cpython/issues/116720",
    program=program,
    fixed_in=((3, 13, 0),),
    labels=("the inner group has failed",),
)
