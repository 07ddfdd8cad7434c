"""gh-111358: asyncio.run hangs after Ctrl-C, since a worker thread is blocked.

A coroutine awaits `to_thread` of a call that blocks. On Ctrl-C its task is cancelled, which only
detaches it from the thread: that one goes on waiting. `asyncio.run` then shuts the default executor
down, and waits for its threads. Before 3.12 there is no time limit to that. From 3.12 on there is
one of 300 s, which 3.12.1 does not keep and 3.13.0 does, so that the loop ends after five minutes
(and the process waits again, where it joins its threads at exit). So every version shows it.

The fixed program wakes its own thread on the way out. In place of `asyncio.run`, which cannot run
inside another loop, stands what `asyncio.Runner` does at its end; the shutdown of the executor is
BaseEventLoop's own.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from asyncio import constants
from collections.abc import Awaitable, Callable

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World

PATIENCE_S = 10.0


async def listen(silence: threading.Lock) -> None:
    await asyncio.to_thread(silence.acquire)


async def listen_fixed(silence: threading.Lock) -> None:
    try:
        await asyncio.to_thread(silence.acquire)
    finally:
        silence.release()


async def program(world: World) -> None:
    await _run(world, listen)


async def fixed(world: World) -> None:
    await _run(world, listen_fixed)


async def _run(world: World, main: Callable[[threading.Lock], Awaitable[None]]) -> None:
    silence = threading.Lock()
    silence.acquire()
    task = asyncio.ensure_future(main(silence))
    await world.outside("Ctrl-C", earliest=1, latest=1)
    world.reached("Ctrl-C")
    pressed_at = world.now
    await _close_as_run_does(task)
    world.check(
        world.now - pressed_at < PATIENCE_S,
        f"asyncio.run ends within {PATIENCE_S:g} s of Ctrl-C",
        f"it took {world.now - pressed_at:.0f} s",
    )


async def _close_as_run_does(task: asyncio.Future[None]) -> None:
    loop = asyncio.get_running_loop()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await loop.shutdown_asyncgens()
    limit_s = getattr(constants, "THREAD_JOIN_TIMEOUT", None)
    with warnings.catch_warnings():
        # 3.13 warns that the executor did not end.
        warnings.simplefilter("ignore", RuntimeWarning)
        await loop.shutdown_default_executor(*([] if limit_s is None else [limit_s]))


BUG = HistoricalBug(
    id="gh-111358",
    title="asyncio.run hangs after Ctrl-C on a blocked worker",
    link="https://github.com/python/cpython/issues/111358",
    program=program,
    fixed=fixed,
    labels=("Ctrl-C",),
)
