"""KiroCrew#7809: cancelling a *queued* job of an executor drops the clean-up that it was to do.

The executor is busy, so the clean-up waits in its queue. A cancel of the task that awaits it
cancels the wrapped future, which cancels the job: it never runs, without an error. Any version: a
misuse of asyncio.

The fixed clean-up is submitted to the executor itself, so that no cancelled await can cancel it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World

Job = Callable[[], None]


async def clean_up(pool: Executor, remove: Job) -> None:
    await asyncio.get_running_loop().run_in_executor(pool, remove)


async def clean_up_fixed(pool: Executor, remove: Job) -> None:
    await asyncio.shield(asyncio.wrap_future(pool.submit(remove)))


async def program(world: World) -> None:
    await _run(world, clean_up)


async def fixed(world: World) -> None:
    await _run(world, clean_up_fixed)


async def _run(world: World, cleaning_up: Callable[[Executor, Job], Awaitable[None]]) -> None:
    pool = world.executor(threads_max=1)
    left = {"the run's files"}
    pool.submit(time.sleep, 1)
    task = asyncio.ensure_future(cleaning_up(pool, left.clear))
    await world.outside("the run is cancelled", latest=0.5)
    if left:
        world.reached("cancelled before the clean-up")
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(2)
    world.check(not left, "a run that is over has left nothing")


BUG = HistoricalBug(
    id="KiroCrew#7809",
    title="a cancel drops the clean-up that waits in the executor's queue",
    link="https://github.com/kirodotdev/KiroCrew/issues/7809",
    program=program,
    fixed=fixed,
    labels=("cancelled before the clean-up",),
)
