"""What reaches the outside is refused, with what to use instead, and never a proof: r3.

Sockets do not any more: what uses them runs on simulated ones.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor

from sim import World
from sim.kernel.execution import Program
from tests.sim.reported.base import OnStock, Reported


async def a_server(world: World) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    await asyncio.start_server(serve, "127.0.0.1", 0)


async def a_client(world: World) -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def a_protocols_server(world: World) -> None:
    await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)


async def streams_on_a_socketpair(world: World) -> None:
    one, other = socket.socketpair()
    with one, other:
        _, writer = await asyncio.open_connection(sock=one)
        writer.close()
        await writer.wait_closed()


async def sock_recv(world: World) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        await asyncio.get_running_loop().sock_recv(one, 10)


async def a_unix_server(world: World) -> None:
    await asyncio.start_unix_server(lambda reader, writer: None, "data")


async def a_process(world: World) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)")
    await process.communicate()


async def a_process_that_blocks(world: World) -> None:
    subprocess.run([sys.executable, "-c", "pass"], check=False)  # noqa: ASYNC221


async def getaddrinfo(world: World) -> None:
    await asyncio.get_running_loop().getaddrinfo("localhost", 80)


async def a_name_of_somebody_else(world: World) -> None:
    await asyncio.get_running_loop().getaddrinfo("example.org", 80)


async def a_connection_that_blocks(world: World) -> None:
    socket.create_connection(("127.0.0.1", 9))


async def a_pipe(world: World) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as one, os.fdopen(writing, "w"):
        await asyncio.get_running_loop().connect_read_pipe(asyncio.Protocol, one)


async def a_process_pool(world: World) -> None:
    with ProcessPoolExecutor(1) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, abs, -1)


async def a_thread(world: World) -> None:
    """Threads run: they are simulated."""
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()


async def a_stream_reader(world: World) -> None:
    """Streams without a socket run."""
    reader = asyncio.StreamReader()

    async def feed() -> None:
        await world.outside("a line", latest=1)
        reader.feed_data(b"hello\n")

    feeding = asyncio.create_task(feed())
    world.check(await reader.readline() == b"hello\n", "it is read")
    await feeding


def _refused(program: Program) -> Reported:
    name = program.__name__.replace("_", " ")
    words = (f" in {program.__name__} (tests/sim/reported/outside.py:", "is not simulated")
    return Reported("r3", name, program, "error", OnStock.NOT_RUN, words)


def _runs(program: Program) -> Reported:
    return Reported("r3", program.__name__.replace("_", " "), program, "proved", OnStock.NOT_RUN)


def _finds_nobody(program: Program) -> Reported:
    name = program.__name__.replace("_", " ")
    return Reported("r3", name, program, "refuted", OnStock.NOT_RUN, ("ConnectionRefusedError",))


PROGRAMS = [
    *map(
        _refused,
        (
            a_process,
            a_process_that_blocks,
            a_name_of_somebody_else,
            a_pipe,
            a_process_pool,
        ),
    ),
    *map(
        _runs, (a_server, a_protocols_server, streams_on_a_socketpair, a_unix_server, getaddrinfo)
    ),
    *map(_finds_nobody, (a_client, a_connection_that_blocks)),
    Reported("r3", "sock recv", sock_recv, "refuted", OnStock.NOT_RUN, ("no deadlock", "for data")),
    Reported("r3", "a thread", a_thread, "proved", OnStock.HOLDS),
    Reported("r3", "a stream reader", a_stream_reader, "proved", OnStock.HOLDS),
]
