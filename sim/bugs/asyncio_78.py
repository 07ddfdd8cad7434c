"""asyncio#78: a server stops serving for ever once it has had no descriptor left for a client.

What accepts connections takes any error of `accept` for the end, and closes the listener. At the
limit of descriptors (`ulimit -n`) that is one client too many: who comes later is refused,
though all the others have left and a thousand descriptors are free.

asyncio itself did so until 2013. Since then it waits for a second (ACCEPT_RETRY_DELAY) and accepts
again, as the fixed program does; servers that accept by themselves, with `loop.sock_accept` or in a
thread, are left to find out.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sim.bugs.base import HistoricalBug
from sim.kernel.network.fates import Fault
from sim.kernel.world import World

ADDRESS = ("127.0.0.1", 7000)
RETRY_S = 1.0
SERVED = "who comes once descriptors are free is served"
NONE_LEFT = "no descriptor was left"

Accept = Callable[[socket.socket], Awaitable[socket.socket]]


async def accept_as_reported(listener: socket.socket) -> socket.socket:
    try:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
    except OSError:
        listener.close()
        raise
    return client


async def accept_again(listener: socket.socket) -> socket.socket:
    while True:
        try:
            client, _ = await asyncio.get_running_loop().sock_accept(listener)
        except OSError as exc:
            if exc.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            await asyncio.sleep(RETRY_S)
        else:
            return client


async def program(world: World) -> None:
    await _serve_two(world, accept_as_reported)


async def fixed(world: World) -> None:
    await _serve_two(world, accept_again)


async def _serve_two(world: World, accept: Accept) -> None:
    world.network.may_fail(Fault.NO_DESCRIPTOR, port=ADDRESS[1])
    # What the two say to one another is there at once: this is about who gets a connection.
    world.network.at_once = lambda receiver: True
    served: list[str] = []

    async def serve(listener: socket.socket) -> None:
        while True:
            with await accept(listener) as client:
                name = await asyncio.get_running_loop().sock_recv(client, 10)
                served.append(name.decode())

    with socket.create_server(ADDRESS) as listener:
        listener.setblocking(False)
        serving = asyncio.create_task(serve(listener))
        for name in ("first", "second"):
            with suppress(ConnectionError):
                await _ask(name)
        if world.faults.taken:
            world.reached(NONE_LEFT)
        world.check("second" in served, SERVED)
        serving.cancel()


async def _ask(name: str) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket() as asking:
        asking.setblocking(False)
        await loop.sock_connect(asking, ADDRESS)
        await loop.sock_sendall(asking, name.encode())
        await loop.sock_recv(asking, 10)


BUG = HistoricalBug(
    id="asyncio#78",
    title="a server that once had no descriptor left serves nobody any more",
    link="https://github.com/python/asyncio/issues/78",
    program=program,
    fixed=fixed,
    labels=(NONE_LEFT,),
)
