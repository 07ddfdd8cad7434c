"""gh-112202: a notify of asyncio.Condition is lost.

Two workers wait for a piece of data. `notify(1)` wakes the first; before that one runs, it is
cancelled. It leaves with CancelledError, has consumed the notify, and passes it on to nobody: the
second worker never wakes, although a piece of data lies there for it.

Fixed in 3.13.0: `Condition.wait` notifies another waiter when it leaves with an exception. The
issue links one pull request, gh-112201, which was not carried back to 3.12.
"""

from __future__ import annotations

import asyncio

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World


async def program(world: World) -> None:
    condition = asyncio.Condition()
    data: list[str] = []

    async def work() -> str:
        async with condition:
            await condition.wait_for(lambda: data)
            return data.pop()

    first = asyncio.create_task(work(), name="first")
    second = asyncio.create_task(work(), name="second")
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    async def produce() -> None:
        await world.outside("data comes")
        async with condition:
            data.append("a piece")
            condition.notify(1)

    async def cancel() -> None:
        await world.outside("the first is cancelled")
        first.cancel()

    await asyncio.gather(produce(), cancel())
    await asyncio.wait({first})
    if first.cancelled():
        world.reached("the first is cancelled")
        await second
    else:
        world.reached("the first has the data")
        second.cancel()


BUG = HistoricalBug(
    id="gh-112202",
    title="a notify is lost with the cancel of whom it woke",
    link="https://github.com/python/cpython/issues/112202",
    program=program,
    fixed_in=((3, 13, 0),),
    labels=("the first is cancelled", "the first has the data"),
)
