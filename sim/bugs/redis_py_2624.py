"""redis-py#2624: after a cancel, a client of Redis gets the answer to somebody else's command.

A command is sent on a connection, then its answer is read. Answers carry no number: they come in
the order of the commands. A task that is cancelled between the two gives the connection back with
an answer still to come, and the next command reads that one; from then on each reads the answer of
the one before. In March 2023 this showed users of ChatGPT titles of other users' conversations. The
report is about redis-py 4.5.1; any version of Python: a misuse.

The client below has redis-py's shape (a lock, send, read) on an `asyncio.StreamReader`; the fixed
one drops the connection when it leaves with an answer unread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World

VALUES = {"alice": b"of alice", "bob": b"of bob"}


class Connection:
    """To a server that answers each command in its turn."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._reader = asyncio.StreamReader()
        self._answered = asyncio.Lock()
        self._answers: list[asyncio.Task[None]] = []

    def send(self, key: str) -> None:
        self._answers.append(asyncio.create_task(self._answer(key), name="server"))

    async def _answer(self, key: str) -> None:
        async with self._answered:
            await self._world.outside(f"the answer to GET {key} comes", latest=1)
            self._reader.feed_data(VALUES[key] + b"\r\n")

    async def read(self) -> bytes:
        return (await self._reader.readline()).rstrip()


class Client:
    """As redis.asyncio.Redis with one connection."""

    def __init__(self, world: World) -> None:
        self.lock = asyncio.Lock()
        self._world = world
        self.connection = Connection(world)

    def disconnect(self) -> None:
        self.connection = Connection(self._world)


async def get(client: Client, key: str) -> bytes:
    async with client.lock:
        client.connection.send(key)
        return await client.connection.read()


async def get_fixed(client: Client, key: str) -> bytes:
    async with client.lock:
        client.connection.send(key)
        try:
            return await client.connection.read()
        except BaseException:
            client.disconnect()
            raise


async def program(world: World) -> None:
    await _two_users(world, get)


async def fixed(world: World) -> None:
    await _two_users(world, get_fixed)


async def _two_users(world: World, getting: Callable[[Client, str], Awaitable[bytes]]) -> None:
    client = Client(world)
    alice = asyncio.ensure_future(getting(client, "alice"))
    await world.outside("alice leaves", latest=1)
    if alice.cancel():
        world.reached("cancelled under way")
    bob = await getting(client, "bob")
    world.check(bob == VALUES["bob"], "who asks for bob's value gets it", f"bob gets {bob!r}")


BUG = HistoricalBug(
    id="redis-py#2624",
    title="after a cancel, the next command gets the answer of the last",
    link="https://github.com/redis/redis-py/issues/2624",
    program=program,
    fixed=fixed,
    labels=("cancelled under way",),
)
