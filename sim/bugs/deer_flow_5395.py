"""deer-flow#5395: cancelling a *started* to_thread opens the gate while the thread is inside.

A tool call checks a file in a thread, under the gate of its path. Cancelling the call ends the
`await` at once, not the thread: the gate is released, the next call enters, and two threads are at
one file. Any version: a misuse of asyncio.

The fixed call waits for its thread before it leaves the gate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World


class File:
    """Looked at by threads, one at a time."""

    def __init__(self, world: World) -> None:
        self.gate = asyncio.Lock()
        self._world = world
        self._inside: list[str] = []

    def probe(self, call: str) -> None:
        self._inside.append(call)
        seen = " and ".join(self._inside)
        self._world.check(len(self._inside) == 1, "one call at a time is inside the gate", seen)
        time.sleep(1)
        self._inside.remove(call)


async def tool_call(file: File, name: str) -> None:
    async with file.gate:
        await asyncio.to_thread(file.probe, name)


async def tool_call_fixed(file: File, name: str) -> None:
    async with file.gate:
        probe = asyncio.ensure_future(asyncio.to_thread(file.probe, name))
        try:
            await asyncio.shield(probe)
        finally:
            await asyncio.wait({probe})


async def program(world: World) -> None:
    await _two_calls(world, tool_call)


async def fixed(world: World) -> None:
    await _two_calls(world, tool_call_fixed)


async def _two_calls(world: World, call: Callable[[File, str], Awaitable[None]]) -> None:
    file = File(world)
    first = asyncio.ensure_future(call(file, "first"))
    await world.outside("the first call is cancelled", latest=0.5)
    if not first.done():
        world.reached("cancelled under way")
    first.cancel()
    await call(file, "second")
    await asyncio.wait({first})


BUG = HistoricalBug(
    id="deer-flow#5395",
    title="a cancel opens the gate while the thread is still inside",
    link="https://github.com/bytedance/deer-flow/pull/5395",
    program=program,
    fixed=fixed,
    labels=("cancelled under way",),
)
