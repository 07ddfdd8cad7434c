"""gh-86296: asyncio.wait_for swallows a cancel.

A task waits in `asyncio.wait_for(inner(), timeout)`. In one iteration of the loop the inner task
finishes and the outer one is cancelled. Before 3.12 `wait_for` ran `inner` in a task of its own,
and when it was cancelled it asked whether that one was done: if so, it returned the result and the
CancelledError was lost. `cancel()` returned True, and the task goes on as if nothing had happened.

Fixed in 3.12.0, where `wait_for` became `async with timeout(…): return await fut`.
"""

from __future__ import annotations

import asyncio

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World


async def program(world: World) -> None:
    async def request() -> None:
        await world.outside("the answer comes")

    async def client() -> None:
        await asyncio.wait_for(request(), timeout=100)
        await asyncio.sleep(1)

    task = asyncio.create_task(client(), name="client")
    await world.outside("the client is to stop")
    is_requested = task.cancel()
    await asyncio.wait({task})
    if is_requested:
        world.reached("cancelled under way")
        world.check(task.cancelled(), "a task that is cancelled, and does not catch it, ends")


BUG = HistoricalBug(
    id="gh-86296",
    title="wait_for swallows a cancel",
    link="https://github.com/python/cpython/issues/86296",
    program=program,
    fixed_in=((3, 12, 0),),
    labels=("cancelled under way",),
)
