"""A lock service with leases, whose client is paused beyond its lease.

A client acquires the lock for LEASE_S, and writes to a storage. It looks at its clock before it
writes, and is paused between the look and the write: by the system, by a collector, by a virtual
machine that moves. The lease is over, the next client has acquired the lock and written, and then
the first goes on and overwrites it. No clock of the client's can prevent that.

Fixed, each lease has a number that only grows, a *fencing token*, and the storage refuses a write
with a smaller one than it has seen (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import asyncio

from sim.examples.lines import ask, serve
from sim.kernel.execution import Program
from sim.kernel.world import World

LOCKS, STORAGE = ("locks", 1000), ("storage", 1000)
LEASE_S = 3.0
PAUSE_S = 10.0
NEXT_TRY_S = LEASE_S


class Locks:
    """One lock. The token counts its leases."""

    def __init__(self) -> None:
        self.token = 0
        self.held_until = 0.0

    def answer(self, request: list[str]) -> str:
        now = asyncio.get_running_loop().time()
        if now < self.held_until:
            return "held"
        self.token, self.held_until = self.token + 1, now + LEASE_S
        return f"token {self.token}"


class Storage:
    """One value, with the token under which it was written."""

    def __init__(self, world: World, *, is_fenced: bool) -> None:
        self._world = world
        self._is_fenced = is_fenced
        self._token = 0

    def answer(self, request: list[str]) -> str:
        token = int(request[1])
        if self._is_fenced and token < self._token:
            self._world.reached("a late write is refused")
            return "refused"
        self._world.record(f"is written under token {token}")
        self._world.check(token >= self._token, "nobody overwrites what a later holder wrote")
        self._token = token
        return "written"


async def client(world: World) -> None:
    """Acquires the lock, and writes once."""
    token = await acquired()
    world.record(f"holds the lock, token {token}")
    await ask(*STORAGE, f"write {token}")


async def acquired() -> str:
    """The token of a lease that is not over."""
    loop = asyncio.get_running_loop()
    while True:
        asked = loop.time()
        word, *token = (await ask(*LOCKS, "acquire")).split()
        if word == "token" and loop.time() < asked + LEASE_S:
            return token[0]
        await asyncio.sleep(NEXT_TRY_S)


def paused_lease(*, is_fenced: bool) -> Program:
    async def program(world: World) -> None:
        world.host("locks").run(serve, LOCKS[1], Locks().answer)
        world.host("storage").run(serve, STORAGE[1], Storage(world, is_fenced=is_fenced).answer)
        first = world.host("first").run(client, world)
        first.may_pause(for_s=PAUSE_S)
        second = world.host("second").run(client, world)
        await second.ended()
        await first.ended()
        world.reached("both have written, or were refused")

    return program


LABELS = ("a late write is refused", "both have written, or were refused")

broken = paused_lease(is_fenced=False)
fixed = paused_lease(is_fenced=True)
