"""Three programs with a planted bug in how they use connections, each broken and mended.

asyncio's streams with lines that are too long, websockets with a message that is lost, and
redis-py, which sends a command again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from redis.asyncio import Redis
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidMessage

from sim import Fault, World

# ---- asyncio's streams: what is left of a line that is too long ---------------------------------


class Table:
    """Takes lines of commands, and leaves out those that are too long."""

    def __init__(self) -> None:
        self.rows = {7}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                try:
                    line = await reader.readuntil(b"\n")
                except asyncio.LimitOverrunError as exc:
                    await self.leave_out(reader, exc)
                else:
                    self.does(line)
        # The client has ended what it sends, and reads the answer.
        writer.write(b"%d rows\n" % len(self.rows))
        writer.close()

    async def leave_out(self, reader: asyncio.StreamReader, exc: asyncio.LimitOverrunError) -> None:
        """So much there was before the end of the line. Or no end of it was there yet."""
        await reader.readexactly(exc.consumed + 1)

    def does(self, line: bytes) -> None:
        command, _, number = line.decode().rstrip().partition(" ")
        if command == "delete":
            self.rows.discard(int(number))


class MendedTable(Table):
    async def leave_out(
        self, reader: asyncio.StreamReader, exc: asyncio.LimitOverrunError | None
    ) -> None:
        while exc is not None:
            await reader.readexactly(exc.consumed)
            try:
                await reader.readuntil(b"\n")
                exc = None
            except asyncio.LimitOverrunError as again:
                exc = again


def of_long_lines(table_class: type[Table]) -> Any:
    async def program(world: World) -> None:
        async with await asyncio.start_server(table_class().serve, "127.0.0.1", 7000, limit=8):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            writer.write(b"note that delete 7\n")
            writer.write_eof()
            answer = await reader.readline()
            writer.close()
        world.check(answer == b"1 rows\n", "a line that is too long does nothing")

    return program


# ---- websockets: an order that was sent, and whose connection was closed in order ----------------


class Kitchen:
    def __init__(self) -> None:
        self.orders: dict[str, str] = {}

    async def handle(self, connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                number, _, dish = str(text).partition(" ")
                self.orders[number] = dish
                await connection.send(number)


async def sends(number: str, dish: str) -> None:
    """Who sends is told of no error, and who closes the connection neither."""
    async with connect("ws://127.0.0.1:7000", proxy=None, **PLAIN) as waiter:
        await waiter.send(f"{number} {dish}")


async def sends_until_it_is_told(number: str, dish: str) -> None:
    told = None
    while told != number:
        with contextlib.suppress(ConnectionClosed):
            async with connect("ws://127.0.0.1:7000", proxy=None, **PLAIN) as waiter:
                await waiter.send(f"{number} {dish}")
                told = await waiter.recv()


# Pings and compression would only be more data to come late.
PLAIN: dict[str, Any] = {"ping_interval": None, "compression": None}


def of_websockets(orders: Callable[[str, str], Any]) -> Any:
    async def program(world: World) -> None:
        kitchen = Kitchen()
        async with serve(kitchen.handle, "127.0.0.1", 7000, **PLAIN):
            world.network.may_fail(Fault.RESET)
            try:
                await orders("1", "soup")
            except (InvalidMessage, OSError):
                world.reached("there was no connection")
                return
        world.check(kitchen.orders == {"1": "soup"}, "who is told of no error gets the soup")

    return program


# ---- redis-py: a command that is sent again -----------------------------------------------------


class Store:
    """As much of a Redis as the clients of this program ask: it speaks RESP, in memory."""

    def __init__(self) -> None:
        self.sold: set[bytes] = set()
        self.count = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                writer.write(self.does(*await self._command(reader)))
                await writer.drain()
        writer.close()

    async def _command(self, reader: asyncio.StreamReader) -> list[bytes]:
        parts = []
        for _ in range(int((await reader.readuntil(b"\r\n"))[1:])):
            size = int((await reader.readuntil(b"\r\n"))[1:])
            parts.append((await reader.readexactly(size + 2))[:-2])
        return parts

    def does(self, command: bytes, *arguments: bytes) -> bytes:
        if command == b"INCRBY":
            self.count += 1
            return b":%d\r\n" % self.count
        if command == b"SADD":
            self.sold.add(arguments[1])
            return b":1\r\n"
        if command == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        return b"+OK\r\n"


async def counts(client: Redis) -> None:
    await client.incr("sold")


async def notes_each(client: Redis) -> None:
    await client.sadd("sold", "ticket 1")  # type: ignore[misc]


def of_redis(sells: Callable[[Redis], Any]) -> Any:
    async def program(world: World) -> None:
        store = Store()
        async with await asyncio.start_server(store.serve, "127.0.0.1", 6379):
            world.network.may_fail(Fault.RESET)
            client = Redis(host="127.0.0.1", port=6379)
            await sells(client)
            await client.aclose()
        world.check(store.count + len(store.sold) == 1, "a ticket is sold once")

    return program
