"""What the programs about streaming responses share: the slots of a server, and its `send`."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sim.kernel.world import World


class Slots:
    """How many streams a server carries at once."""

    def __init__(self) -> None:
        self.taken = 0

    def take(self) -> None:
        self.taken += 1

    def free(self) -> None:
        self.taken -= 1


class Response:
    """As Starlette's StreamingResponse: first the head is sent, then the body is iterated."""

    def __init__(self, world: World, body: AsyncIterator[str]) -> None:
        self.body = body
        self._world = world

    async def send(self, what: str) -> None:
        await self._world.outside(f"the socket takes {what}", latest=1)

    async def stream(self) -> None:
        await self.send("the head")
        async for chunk in self.body:
            await self.send(chunk)
