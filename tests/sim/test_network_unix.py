"""Unix sockets, on Linux and in the simulator."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sim import World, explore, new_event_loop, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")

STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def unix(kind: int = STREAM, timeout: float = 5.0) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.settimeout(timeout)
    return sock


def connects(path: str, kind: int = STREAM) -> str:
    with unix(kind) as sock:
        return outcome(lambda: sock.connect(path))


def binds(path: str, kind: int = STREAM) -> str:
    with unix(kind) as sock:
        return outcome(lambda: sock.bind(path))


def all_that_may_be_done(sock: socket.socket) -> list[str]:
    return [
        outcome(lambda: sock.send(b"y")),
        outcome(lambda: sock.recv(9)),
        outcome(lambda: sock.recv(9)),
        outcome(lambda: sock.send(b"y")),
        outcome(lambda: sock.shutdown(socket.SHUT_RDWR)),
        outcome(sock.getpeername),
    ]


def ends(folder: str) -> list[str]:
    """Of a connection, in each way in which the other end leaves."""
    seen = []
    for leaves in ("closes", "leaves data unread", "writes and closes", "reads no more", "ends"):
        path = f"{folder}/{len(seen)}"
        with unix() as listener, unix() as client:
            listener.bind(path)
            listener.listen()
            client.connect(path)
            server, address = listener.accept()
            with server:
                seen += [repr(address), repr(server.getsockname()), repr(client.getsockname())]
                if leaves == "leaves data unread":
                    client.send(b"x")
                if leaves == "writes and closes":
                    server.send(b"data")
                if leaves == "reads no more":
                    client.send(b"x")
                    server.shutdown(socket.SHUT_RD)
                    seen += [outcome(lambda: client.send(b"y"))]
                    seen += [outcome(lambda: server.recv(9))]  # noqa: B023 - called here
                    seen += [outcome(lambda: server.recv(9))]  # noqa: B023 - called here
                if leaves == "ends":
                    server.shutdown(socket.SHUT_WR)
                    seen += [outcome(lambda: client.send(b"y"))]
                server.close()
                seen += all_that_may_be_done(client)
    with unix() as listener, unix() as client, unix() as other:
        listener.bind(f"{folder}/backlog")
        listener.listen()
        client.connect(f"{folder}/backlog")
        other.connect(f"{folder}/backlog")
        client.send(b"early")
        listener.close()
        seen += [*all_that_may_be_done(client), *all_that_may_be_done(other)]
    with unix() as alone:
        seen += [outcome(lambda: alone.send(b"x")), outcome(lambda: alone.recv(1))]
        seen += [outcome(alone.listen), outcome(alone.getpeername)]
    return seen


def paths(folder: str) -> list[str]:
    """What is bound, unlinked, bound again, and connected to."""
    path, file = f"{folder}/socket", f"{folder}/file"
    Path(file).touch()
    seen = [connects(path), connects(f"{folder}/no/socket"), binds(f"{folder}/no/socket")]
    seen += [connects(file), binds(file), binds(f"{file}/x"), connects("")]
    with unix() as sock:
        seen += [outcome(lambda: sock.bind(path)), outcome(lambda: sock.bind(path))]
        seen += [connects(path), binds(path), repr(os.path.exists(path))]
        sock.listen()
        seen += [connects(path), connects(path, DATAGRAM)]
    seen += [connects(path), binds(path), repr(Path(path).is_socket())]
    Path(path).chmod(0o600)
    seen += [oct(os.stat(path).st_mode)]
    os.unlink(path)
    seen += [connects(path), repr(os.path.exists(path))]
    with unix() as sock:
        sock.bind(path)
        sock.listen()
        os.remove(path)
        seen += [connects(path), outcome(lambda: os.unlink(path)), binds(path)]
    return seen


def abstract_names(folder: str) -> list[str]:
    """They are gone with their sockets."""
    name = f"\0{folder}"
    seen = [connects(name)]
    with unix() as sock:
        seen += [outcome(lambda: sock.bind(name)), repr(sock.getsockname() == name.encode())]
        seen += [binds(name), connects(name)]
        sock.listen()
        with unix() as client:
            client.connect(name)
            seen += [repr(client.getpeername() == name.encode())]
    seen += [connects(name), binds(name)]
    with unix() as sock:
        sock.bind("")
        seen += [repr(sock.getsockname()[:1])]
    return seen


def datagrams(folder: str) -> list[str]:
    path = f"{folder}/datagrams"
    seen = []
    with unix(DATAGRAM) as sock, unix(DATAGRAM) as sender:
        seen += [outcome(lambda: sender.sendto(b"x", path))]
        sock.bind(path)
        seen += [outcome(lambda: sender.sendto(b"x", path)), outcome(lambda: sock.recvfrom(9))]
        sender.connect(path)
        sender.bind(f"{folder}/sender")
        seen += [
            outcome(lambda: sender.send(b"y")),
            repr(sock.recvfrom(9)[1] == f"{folder}/sender"),
        ]
        sock.close()
        seen += [outcome(lambda: sender.send(b"z")), outcome(lambda: sender.send(b"z"))]
        seen += [outcome(lambda: sender.sendto(b"z", path)), binds(path, DATAGRAM)]
    return seen


def pairs(folder: str) -> list[str]:
    seen = []
    for kind in (STREAM, DATAGRAM):
        one, other = socket.socketpair(type=kind)
        with one:
            other.close()
            seen += [outcome(lambda: one.send(b"x")), outcome(lambda: one.send(b"x"))]  # noqa: B023
    seen += [outcome(lambda: socket.socketpair(socket.AF_INET))]
    return seen


@pytest.mark.socket
@pytest.mark.parametrize("program", [ends, paths, abstract_names, datagrams, pairs])
def test_unix_sockets_are_as_on_linux(program: Callable[[str], list[str]]) -> None:
    """The same calls return the same, and raise errors of the same number."""
    simulated: list[Any] = []

    async def main(world: World) -> None:
        with tempfile.TemporaryDirectory() as folder:
            seen = await asyncio.to_thread(program, folder)
            simulated.append([each.replace(folder, "") for each in seen])

    found = run(main)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    with tempfile.TemporaryDirectory() as folder:
        on_linux = [each.replace(folder, "") for each in program(folder)]
    assert [*enumerate(simulated[-1])] == [*enumerate(on_linux)]


# ---- what follows for programs -----------------------------------------------------------------


async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def test_a_server_takes_the_place_of_one_that_has_ended(tmp_path: Path) -> None:
    """asyncio unlinks the socket that it finds; a file that is none it leaves alone."""
    path, file = str(tmp_path / "socket"), tmp_path / "file"
    file.touch()

    async def program(world: World) -> None:
        for _ in range(2):
            async with await asyncio.start_unix_server(closes, path):
                reader, writer = await asyncio.open_unix_connection(path)
                assert await reader.read() == b""
                writer.close()
        with pytest.raises(OSError, match="already in use"):
            await asyncio.start_unix_server(closes, file)
        # CPython unlinks it from 3.13 on.
        expected = FileNotFoundError if sys.version_info >= (3, 13) else ConnectionRefusedError
        with pytest.raises(expected):
            await asyncio.open_unix_connection(path)

    report = explore(program, strategy="departures", max_executions=20)
    assert report.verdict in ("proved", "inconclusive"), report.text
    assert not os.path.exists(path)


def test_who_writes_to_a_closed_end_is_told_at_once() -> None:
    """On Linux the first write already is a broken pipe, and not only the second."""

    async def program(world: World) -> None:
        one, other = socket.socketpair()
        other.close()
        with one:
            try:
                one.send(b"x")
            except BrokenPipeError:
                world.reached("told at once")
                return
        world.fail("a write to nobody succeeds")

    assert explore(program, labels=["told at once"]).verdict == "proved"


def test_who_finds_the_backlog_full_waits_in_a_thread(tmp_path: Path) -> None:
    """A blocking connect goes on once the server has accepted; one that may not block fails."""
    path = str(tmp_path / "socket")

    def asks() -> str:
        with unix() as sock:
            sock.connect(path)
            return "connected"

    async def program(world: World) -> None:
        with unix() as listener, unix() as first, unix(timeout=0) as second:
            listener.bind(path)
            listener.listen(0)
            first.connect(path)
            with pytest.raises(BlockingIOError):
                second.connect(path)
            asking = asyncio.create_task(asyncio.to_thread(asks))
            await asyncio.sleep(1)
            world.check(not asking.done(), "it waits")
            listener.accept()[0].close()
            world.check(await asking == "connected", "it is connected")

    found = run(program)
    assert found.violation is None and found.error is None, (found.violation, found.error)


async def asks_for_access(path: str) -> list[bool]:
    server = await asyncio.start_unix_server(lambda reader, writer: writer.close(), path)
    seen = []
    for mode in (0o755, 0o600, 0o000, 0o400, 0o001):
        os.chmod(path, mode)
        seen += [os.access(path, each) for each in (os.F_OK, os.R_OK, os.W_OK, os.X_OK)]
    server.close()
    await server.wait_closed()
    if os.path.lexists(path):  # noqa: ASYNC240
        os.unlink(path)
    return seen


@pytest.mark.socket
def test_access_to_a_path_is_by_its_mode(tmp_path: Path) -> None:
    """What its mode lets nobody do is denied, as the system does."""
    path = str(tmp_path / "s")
    on_stock = asyncio.run(asks_for_access(path))

    async def program(world: World) -> None:
        assert await asks_for_access(path) == on_stock

    report = explore(program)
    assert report.verdict == "proved", report.text


def _blocks(*_: object) -> None:
    raise AssertionError("a call of the system's files")


def test_a_path_is_bound_without_a_call_of_os(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a system: a suite that refuses calls of `os` which may block sees none."""
    path = str(tmp_path / "s")

    async def talks() -> bytes:
        with unix() as listener, unix() as client:
            with monkeypatch.context() as refusing:
                for name in ("stat", "lstat", "getcwd", "readlink"):
                    refusing.setattr(os, name, _blocks)
                for name in ("abspath", "lexists", "isdir"):
                    refusing.setattr(os.path, name, _blocks)
                listener.bind(path)
                listener.listen()
                client.connect(path)
            accepted, _ = listener.accept()
            with accepted:
                client.send(b"x")
                return accepted.recv(9)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(talks()) == b"x"
