"""Small programs of asyncio and of `socket`, on real loopback sockets and on simulated ones.

Each notes what it sees. What it notes on stock is what some schedule leads to.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from sim import World, outcomes
from sim.schedulers import DepartureBounded
from tests.limits import HANGS_S

Note = Callable[[object], None]
Program = Callable[[Note], Coroutine[Any, Any, None]]

HOST = "127.0.0.1"
SETTLES_S = 0.02
EXECUTIONS_MAX = 300


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except OSError as exc:
        return errno.errorcode[exc.errno] if exc.errno else type(exc).__name__


def code(number: int) -> str:
    return errno.errorcode.get(number, str(number))


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


def all_closed(*sockets: socket.socket) -> ExitStack:
    stack = ExitStack()
    for each in sockets:
        stack.enter_context(each)
    return stack


def nobody() -> socket.socket:
    """At whose address nobody listens."""
    bound = socket.socket()
    bound.bind((HOST, 0))
    return bound


# ---- who asks for a connection, and asks again -------------------------------------------------


async def asks_again(note: Note) -> None:
    """The first time it is told what came of it, and only then asks anew."""
    listener = nobody()
    with listener, socket.socket() as client:
        client.setblocking(False)
        for _ in range(2):
            note(code(client.connect_ex(listener.getsockname())))
            await asyncio.sleep(SETTLES_S)
            note(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
        listener.listen()
        for _ in range(3):
            note(code(client.connect_ex(listener.getsockname())))
            await asyncio.sleep(SETTLES_S)


async def asks_again_with_a_time_limit(note: Note) -> None:
    """Python waits in the kernel's place, which is not told so."""

    def in_thread(limit_s: float | None, address: Any) -> list[object]:
        with socket.socket() as client:
            client.settimeout(limit_s)
            seen: list[object] = [code(client.connect_ex(address)) for _ in range(3)]
            return [*seen, outcome(client.getpeername) == address]

    with socket.create_server((HOST, 0)) as listener, nobody() as dead:
        for limit_s in (1.0, None):
            for where in (listener, dead):
                note(await asyncio.to_thread(in_thread, limit_s, where.getsockname()))


async def uses_a_refused_one(note: Note) -> None:
    for is_asked in (True, False):
        with nobody() as dead, socket.socket() as client:
            client.setblocking(False)
            client.connect_ex(dead.getsockname())
            await asyncio.sleep(SETTLES_S)
            if is_asked:
                note(client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            note([outcome(lambda: client.recv(1)) for _ in range(2)])
            note(outcome(lambda: client.send(b"x")))
            note(outcome(lambda: client.shutdown(socket.SHUT_WR)))


async def uses_one_without_a_connection(note: Note) -> None:
    with socket.socket() as sock:
        sock.setblocking(False)
        note(outcome(lambda: sock.shutdown(socket.SHUT_WR)))
        note(outcome(lambda: sock.send(b"x")))
        note(outcome(lambda: sock.recv(1)))
        note(outcome(sock.accept))
        sock.listen()
        note(outcome(lambda: sock.connect((HOST, 1))))


# ---- who listens -------------------------------------------------------------------------------


async def shuts_a_listener(note: Note) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for family, how in [
            (family, how)
            for family in (socket.AF_INET, socket.AF_UNIX)
            for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR)
        ]:
            path = os.path.join(directory, str(how))
            listener = socket.socket(family)
            listener.bind((HOST, 0) if family == socket.AF_INET else path)
            listener.listen()
            listener.setblocking(False)
            with listener, socket.socket(family) as first, socket.socket(family) as second:
                await asyncio.to_thread(first.connect, listener.getsockname())
                note(outcome(lambda: listener.shutdown(how)))  # noqa: B023
                note(listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
                note(outcome(lambda: listener.accept()[0].close()))  # noqa: B023
                note(outcome(lambda: listener.accept()[0].close()))  # noqa: B023
                note(outcome(lambda: listener.shutdown(how)))  # noqa: B023
                await asyncio.sleep(SETTLES_S)
                note(outcome(lambda: first.recv(1)))
                asked = asyncio.to_thread(second.connect_ex, listener.getsockname())
                note(code(await asked))


async def shuts_a_listener_that_is_waited_for(note: Note) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for address in ((HOST, 0), os.path.join(directory, "s")):
            family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
            with socket.socket(family) as listener:
                listener.bind(address)
                listener.listen()
                waits = asyncio.create_task(asyncio.to_thread(outcome, listener.accept))
                await asyncio.sleep(SETTLES_S)
                listener.shutdown(socket.SHUT_RDWR)
                note(await waits)


async def shares_a_port(note: Note) -> None:
    """Two listeners, and as many clients: the kernel spreads them."""
    listeners = [socket.socket() for _ in range(2)]
    with all_closed(*listeners):
        address: Any = (HOST, 0)
        for each in listeners:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(address)
            each.listen()
            each.setblocking(False)
            address = each.getsockname()
        with socket.socket() as other:
            note(outcome(lambda: other.bind(address)))
        clients = [await asyncio.open_connection(*address) for _ in range(2)]
        await asyncio.sleep(SETTLES_S)
        for each in listeners:
            accepted = 0
            while not isinstance(outcome(lambda: each.accept()[0].close()), str):  # noqa: B023
                accepted += 1
            note(accepted)
        for _, writer in clients:
            writer.close()


async def shares_a_port_of_datagrams(note: Note) -> None:
    """By SO_REUSEADDR the last has all; by SO_REUSEPORT one, and always the same."""
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        sockets = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
        with all_closed(*sockets):
            *receivers, sender = sockets
            address: Any = (HOST, 0)
            for each in receivers:
                each.setblocking(False)
                each.setsockopt(socket.SOL_SOCKET, option, 1)
                each.bind(address)
                address = each.getsockname()
            for data in (b"a", b"b"):
                sender.sendto(data, address)
                await asyncio.sleep(SETTLES_S)
            note([outcome(lambda: each.recv(1)) for each in receivers for _ in "ab"])  # noqa: B023


async def renames_a_path(note: Note) -> None:
    """To another, over a file, and a file over it."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        writer.close()

    async def asked(path: Path) -> object:
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError as exc:
            return code(exc.errno or 0)
        data = await reader.read()
        writer.close()
        return data

    with tempfile.TemporaryDirectory() as directory:
        one, other, file = (Path(directory, name) for name in ("one", "other", "file"))
        server = await asyncio.start_unix_server(serve, one)
        one.rename(other)
        note([await asked(one), await asked(other), one.exists(), os.access(other, os.R_OK)])
        file.write_text("")
        other.replace(file)
        note([await asked(other), await asked(file), file.is_socket()])
        other.write_text("text")
        other.replace(file)
        note([await asked(file), file.is_socket(), file.read_text()])
        server.close()


# ---- reading and writing -----------------------------------------------------------------------


async def receives_in_other_ways(note: Note) -> None:
    one, other = socket.socketpair()
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with all_closed(one, other, *pair):
        one.sendall(b"hello")
        buffers = [bytearray(2), bytearray(9)]
        note(other.recvmsg(1))
        note((other.recvmsg_into(buffers), buffers))
        one.sendall(b"xy")
        note((other.recv_into(buffer=buffers[1], nbytes=3), buffers[1]))
        pair[0].send(b"abc")
        pair[0].send(b"de")
        note(pair[1].recvmsg(2)[:3])
        note((pair[1].recvfrom_into(buffer=buffers[1], nbytes=4), buffers[1]))


async def waits_for_all(note: Note) -> None:
    one, other = socket.socketpair()
    with all_closed(one, other):
        waits = asyncio.create_task(asyncio.to_thread(other.recv, 4, socket.MSG_WAITALL))
        for data in (b"12", b"34"):
            await asyncio.sleep(SETTLES_S)
            one.send(data)
        note(await waits)
        note(outcome(lambda: other.recv(1, socket.MSG_DONTWAIT)))
        one.send(b"5")
        one.close()
        note(await asyncio.to_thread(other.recv, 4, socket.MSG_WAITALL))


async def sends_a_file(note: Note) -> None:
    """What stands behind the position of the file is sent, or what an offset says, as natively."""
    sizes: asyncio.Queue[int] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await sizes.put(len(await reader.read()))
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    loop = asyncio.get_running_loop()
    one, other = socket.socketpair()
    with tempfile.TemporaryFile() as file, all_closed(one, other):
        file.write(b"0123456789" * 2_000)
        file.seek(7)
        _, writer = await asyncio.open_connection(HOST, port_of(server))
        note((await loop.sendfile(writer.transport, file, 5, 1_000), file.tell()))
        note((await loop.sendfile(writer.transport, file), file.tell()))
        writer.close()
        note(await sizes.get())
        one.setblocking(False)
        note((await loop.sock_sendfile(one, file, 3, 50), file.tell(), len(other.recv(99))))
        one.setblocking(True)
        note((await asyncio.to_thread(one.sendfile, file, 0, 60), file.tell()))
        one.setblocking(False)
        note(str(await asyncio.to_thread(_error_of, one.sendfile, file)))
    server.close()


def _error_of(act: Callable[..., object], *args: Any) -> Exception | None:
    try:
        act(*args)
    except Exception as exc:
        return exc
    return None


async def meets_high_water(note: Note) -> None:
    class Writes(asyncio.Protocol):
        def pause_writing(self) -> None:
            note("pauses")

        def resume_writing(self) -> None:
            note("goes on")

    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(SETTLES_S)
        total = 0
        while data := await reader.read(1 << 16):
            total += len(data)
        note(total)
        writer.close()
        over.set()

    server = await asyncio.start_server(serve, HOST, 0)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(Writes, HOST, port_of(server))
    transport.set_write_buffer_limits(high=1_000, low=10)
    transport.write(b"x" * 20_000_000)
    transport.write_eof()
    note(transport.get_write_buffer_size() > 0)
    await over.wait()
    transport.close()
    server.close()


async def closes_its_server(note: Note) -> None:
    """While a connection is open, on which `wait_closed` waits since 3.12."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        note(await reader.read())
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    port = port_of(server)
    _, writer = await asyncio.open_connection(HOST, port)
    writer.write(b"a")
    await asyncio.sleep(SETTLES_S)
    server.close()
    note(await asyncio.to_thread(outcome, lambda: socket.create_connection((HOST, port))))
    _, pending = await asyncio.wait([asyncio.ensure_future(server.wait_closed())], timeout=0.1)
    note(len(pending))
    writer.close()
    await server.wait_closed()
    await asyncio.wait(pending or [asyncio.ensure_future(asyncio.sleep(0))])
    await asyncio.sleep(SETTLES_S)


PROGRAMS: tuple[Program, ...] = (
    asks_again,
    asks_again_with_a_time_limit,
    uses_a_refused_one,
    uses_one_without_a_connection,
    shuts_a_listener,
    shuts_a_listener_that_is_waited_for,
    shares_a_port,
    shares_a_port_of_datagrams,
    renames_a_path,
    receives_in_other_ways,
    waits_for_all,
    sends_a_file,
    meets_high_water,
    closes_its_server,
)


def on_stock(program: Program) -> list[str]:
    seen: list[str] = []

    async def main() -> None:
        async with asyncio.timeout(HANGS_S):
            await program(lambda what: seen.append(repr(what)))

    asyncio.run(main())
    return seen


def is_simulated(program: Program, wanted: list[str]) -> tuple[bool, list[str]]:
    """Whether some schedule leads to it, and what natural order leads to."""
    seen: list[str] = []
    natural: list[str] = []

    async def main(world: World) -> None:
        seen.clear()
        await program(lambda what: seen.append(repr(what)))

    for found in islice(outcomes(main, DepartureBounded(2)), EXECUTIONS_MAX):
        assert found.error is None, found.error
        natural = natural or [*seen, *filter(None, [found.violation and str(found.violation)])]
        if seen == wanted and found.violation is None:
            return True, natural
    return False, natural


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_a_program_sees_on_stock_it_sees_simulated(program: Program) -> None:
    """Its notes on real sockets are those of natural order, or of few departures."""
    for _ in range(2):
        wanted = on_stock(program)
        is_so, natural = is_simulated(program, wanted)
        assert is_so, f"on stock {wanted}\nin natural order {natural}"
