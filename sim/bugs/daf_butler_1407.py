"""daf_butler#1407: the sender is cancelled while its generator stands at a `yield`.

A response streams the rows of a query; the generator's `finally` gives the user's query slot back.
The client leaves while a row is being sent, so the cancel meets the sender and not the generator:
that one stays suspended at its `yield`, with the slot, until somebody collects the garbage. Here,
as in the report, something else still holds the response. Any version: a misuse of asynchronous
generators; `async for` does not close what it has not finished.

The fixed response closes its generator when it is left.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from sim.bugs.base import HistoricalBug
from sim.bugs.streaming import Response, Slots
from sim.kernel.world import World


async def rows(slots: Slots) -> AsyncIterator[str]:
    slots.take()
    try:
        yield "row 1"
        yield "row 2"
    finally:
        slots.free()


async def respond(response: Response) -> None:
    await response.stream()


async def respond_fixed(response: Response) -> None:
    async with aclosing(response.body):  # type: ignore[type-var]
        await response.stream()


async def program(world: World) -> None:
    await _serve(world, respond)


async def fixed(world: World) -> None:
    await _serve(world, respond_fixed)


async def _serve(world: World, responding: Callable[[Response], Awaitable[None]]) -> None:
    slots = Slots()
    response = Response(world, rows(slots))
    task = asyncio.ensure_future(responding(response))
    await world.outside("the client leaves", latest=2)
    if slots.taken:
        world.reached("left while a row is sent")
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(1)
    world.check(slots.taken == 0, "a request that is over holds no slot", f"{slots.taken} taken")


BUG = HistoricalBug(
    id="daf_butler#1407",
    title="a slot is held by a generator that nobody closes",
    link="https://github.com/lsst/daf_butler/pull/1407",
    program=program,
    fixed=fixed,
    labels=("left while a row is sent",),
)
