"""sse-starlette#156: a slot that is taken in the handler, and freed in a generator, is lost.

The handler takes a slot and answers with a generator whose `finally` frees it. The client leaves
before the first chunk is asked for: a generator that was never started has no `finally` to run, and
closing it, or collecting it as garbage, changes nothing. After enough such clients the server is
full without any client. (The same in detail: stemdeckapp/stemdeck#513.) Any version: a misuse of
asynchronous generators. The window is the time that the head of the response takes.

The fixed slot belongs to the request: the handler that took it frees it, however the body ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from sim.bugs.base import HistoricalBug
from sim.bugs.streaming import Response, Slots
from sim.kernel.world import World


async def request(world: World, slots: Slots) -> None:
    slots.take()

    async def events() -> AsyncIterator[str]:
        try:
            yield "event 1"
        finally:
            slots.free()

    async with aclosing(events()) as body:  # type: ignore[type-var]
        await Response(world, body).stream()


async def request_fixed(world: World, slots: Slots) -> None:
    slots.take()

    async def events() -> AsyncIterator[str]:
        yield "event 1"

    try:
        async with aclosing(events()) as body:  # type: ignore[type-var]
            await Response(world, body).stream()
    finally:
        slots.free()


async def program(world: World) -> None:
    await _serve(world, request)


async def fixed(world: World) -> None:
    await _serve(world, request_fixed)


async def _serve(world: World, handler: Callable[[World, Slots], Awaitable[None]]) -> None:
    slots = Slots()
    task = asyncio.ensure_future(handler(world, slots))
    await world.outside("the client leaves", latest=1)
    world.reached("left before the end" if not task.done() else "left after the end")
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(1)
    world.check(slots.taken == 0, "a request that is over holds no slot", f"{slots.taken} taken")


BUG = HistoricalBug(
    id="sse-starlette#156",
    title="a slot is lost with a generator that never starts",
    link="https://github.com/sysid/sse-starlette/issues/156",
    program=program,
    fixed=fixed,
    labels=("left before the end", "left after the end"),
)
