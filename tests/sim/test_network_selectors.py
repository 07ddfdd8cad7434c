"""What waits for sockets without asyncio, and loops of asyncio's own in a worker."""

from __future__ import annotations

import asyncio
import os
import select
import selectors
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, run
from tests.limits import AMPLE_S

KINDS = [
    name for name in ("SelectSelector", "PollSelector", "EpollSelector") if hasattr(selectors, name)
]


def served_by_a_selector(kind: str) -> list[str]:
    """Two clients and a server, of which one selector tells who is ready."""
    seen: list[str] = []
    with (
        getattr(selectors, kind)() as selector,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ, "listener")
        seen.append(repr(selector.select(0.01) != []))
        server, _ = listener.accept()
        selector.register(server, selectors.EVENT_READ | selectors.EVENT_WRITE, "server")
        seen.append(repr([(key.data, mask) for key, mask in selector.select(5)]))
        selector.modify(server, selectors.EVENT_READ, "reader")
        seen.append(repr(selector.select(0.01)))
        client.sendall(b"x")
        seen.append(repr([(key.data, mask) for key, mask in selector.select(5)]))
        seen.append(repr(server.recv(5)))
        client.shutdown(socket.SHUT_WR)
        seen.append(repr([(key.data, mask) for key, mask in selector.select(5)]))
        seen.append(repr(selector.unregister(server).data))
        seen.append(repr(selector.select(0)))
        for wrong in (server, -1, 5.5):
            try:
                selector.unregister(wrong)
            except (KeyError, ValueError) as error:
                seen.append(type(error).__name__)
        seen.append(repr(len(selector.get_map())))
        server.close()
    return seen


def served_by_epoll(_: str) -> list[str]:
    seen: list[str] = []
    one, other = socket.socketpair()
    with one, other, select.epoll() as epoll:
        epoll.register(one, select.EPOLLIN)
        seen.append(repr(epoll.poll(0.01)))
        other.send(b"x")
        seen.append(repr([event for _, event in epoll.poll(5)]))
        epoll.modify(one, select.EPOLLIN | select.EPOLLOUT)
        seen.append(repr([event for _, event in epoll.poll(5, 1)]))
        for wrong in (lambda: epoll.register(one), lambda: epoll.modify(other, 1)):
            try:
                wrong()
            except OSError as error:
                seen.append(type(error).__name__)
        epoll.unregister(one)
        seen.append(repr(epoll.poll(0)))
    return seen


def used_by_number(_: str) -> list[str]:
    """A descriptor, of which `os` reads and writes."""
    one, other = socket.socketpair()
    with one, other, tempfile.TemporaryFile() as file:
        file.write(b"content")
        file.flush()
        seen = [repr(os.write(one.fileno(), b"x")), repr(os.read(other.fileno(), 5))]
        seen += [repr(os.sendfile(one.fileno(), file.fileno(), 2, 3)), repr(other.recv(9))]
        file.seek(4)
        seen += [repr(os.sendfile(one.fileno(), file.fileno(), None, 9)), repr(other.recv(9))]
        seen += [repr(file.tell())]
        other.setblocking(False)
        try:
            os.read(other.fileno(), 5)
        except BlockingIOError:
            seen += ["would block"]
        os.close(one.detach())
        seen += [repr(os.read(other.fileno(), 5))]
    return seen


def connected(family: int) -> list[socket.socket]:
    if family == socket.AF_UNIX:
        return [*socket.socketpair()]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return [socket.create_connection(listener.getsockname()), listener.accept()[0]]


def polled(sock: socket.socket, events: int, timeout_ms: int = 5000) -> str:
    poll = select.poll()
    poll.register(sock, events)
    return repr([event for _, event in poll.poll(timeout_ms)])


def ends_are_polled(_: str) -> list[str]:
    """What `poll` tells of the ends of connections, whether it is asked for them or not."""
    everything = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLRDNORM
    seen = []
    for family in (socket.AF_INET, socket.AF_UNIX):
        with socket.socket(family) as fresh:
            seen.append(polled(fresh, everything))
        for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            one, other = connected(family)
            with one, other:
                one.shutdown(how)
                seen.append(polled(one, everything, 0))
                if how != socket.SHUT_RD:
                    seen.append(polled(other, select.POLLRDHUP))
                    seen.append(polled(other, everything, 0))
                    other.shutdown(socket.SHUT_WR)
                    # It hangs up, and nothing was asked for.
                    seen.append(polled(one, 0))
                    seen.append(polled(one, everything, 0))
    with socket.socket() as nobody, socket.socket() as refused:
        nobody.bind(("127.0.0.1", 0))
        refused.setblocking(False)
        refused.connect_ex(nobody.getsockname())
        seen.append(polled(refused, 0))
        seen.append(polled(refused, everything, 0))
    one, other = connected(socket.AF_INET)
    with one:
        with other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        seen.append(polled(one, 0))
        seen.append(polled(one, everything, 0))
        seen.append(repr(one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)))
        seen.append(polled(one, everything, 0))
    return seen


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize(
    ("program", "kind"),
    [
        *((served_by_a_selector, kind) for kind in KINDS),
        (served_by_epoll, ""),
        (used_by_number, ""),
        (ends_are_polled, ""),
    ],
)
@pytest.mark.parametrize("in_thread", [True, False])
def test_selectors_and_descriptors_are_as_on_linux(
    program: Callable[[str], list[str]], kind: str, in_thread: bool
) -> None:
    """In a worker, and where they block the loop's own thread."""
    simulated: list[list[str]] = []

    async def main(world: World) -> None:
        world.network.may_cut = False
        simulated.append(await asyncio.to_thread(program, kind) if in_thread else program(kind))

    found = run(main)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    assert simulated[-1] == program(kind)


def test_what_is_watched_is_found_by_its_object() -> None:
    """As by a selector of the system: also what is closed, and so has no number any more."""
    left: list[bool] = []

    async def program() -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair()
        waits, _peer = pair = socket.socketpair()
        loop.add_reader(one, print)
        loop.add_writer(other, print)
        loop.add_reader(waits, print)
        loop.add_writer(waits, print)
        loop.remove_reader(waits)
        one.close()
        other.close()
        left.extend([loop.remove_reader(one), loop.remove_writer(other)])
        left.append(not loop.remove_reader(waits) and loop.remove_writer(waits))
        with pytest.raises(ValueError, match="Invalid file descriptor: -1"):
            loop.remove_reader(one)
        for each in pair:
            each.close()

    async def simulated(_: World) -> None:
        await program()

    found = run(simulated)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    asyncio.run(program())
    assert left == [True] * 6


# ---- what follows for programs -----------------------------------------------------------------


async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write((await reader.readline()).upper())
    writer.close()
    await writer.wait_closed()


async def asks(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def test_a_loop_in_a_worker_is_on_the_worlds_network() -> None:
    """Its clients reach a server of the program's loop, and the other way round."""

    async def serves_one(port: int) -> str:
        served = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await shouts(reader, writer)
            served.set()

        async with await asyncio.start_server(serve, "127.0.0.1", port):
            await served.wait()
        return type(asyncio.get_running_loop()).__name__

    async def program(world: World) -> None:
        async with await asyncio.start_server(shouts, "127.0.0.1", 7000):
            answer = await asyncio.to_thread(asyncio.run, asks(7000))
            world.check(answer == b"HELLO\n", "it is a client")
        serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serves_one(8000)))
        await asyncio.sleep(1)
        world.check(await asks(8000) == b"HELLO\n", "it is a server")
        world.check("SimLoop" not in await serving, "its loop is asyncio's own")

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    report = explore(program, strategy="departures", max_executions=40)
    assert report.verdict in ("proved", "inconclusive"), report.text


def test_a_read_of_part_of_what_was_sent_is_found_behind_a_selector() -> None:
    """Who is told that a socket is ready, and takes one read for all, is refuted."""

    def reads() -> bytes:
        one, other = socket.create_server(("127.0.0.1", 7000)), socket.socket()
        with one, other, selectors.DefaultSelector() as selector:
            other.connect(("127.0.0.1", 7000))
            server, _ = one.accept()
            with server:
                server.sendall(b"abcd")
                selector.register(other, selectors.EVENT_READ)
                selector.select()
                return other.recv(100)

    async def program(world: World) -> None:
        world.check(await asyncio.to_thread(reads) == b"abcd", "one read takes all")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "come alone" in report.text


def test_a_file_is_sent_by_every_loop(tmp_path: Any) -> None:
    """loop.sendfile of a transport, sock_sendfile, and that of a loop in a worker."""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def sends(port: int, how: str) -> bytes:
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with path.open("rb") as file:
            if how == "transport":
                await loop.sendfile(writer.transport, file)
            else:
                with socket.socket() as sock:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, ("127.0.0.1", port))
                    await loop.sock_sendfile(sock, file)
                    sock.shutdown(socket.SHUT_WR)
                    writer.close()
                    return await loop.sock_recv(sock, 100)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    async def back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read())
        writer.close()

    async def program(world: World) -> None:
        async with await asyncio.start_server(back, "127.0.0.1", 7000):
            for how in ("transport", "socket"):
                world.check(await sends(7000, how) == b"content", f"by {how}")
                answer = await asyncio.to_thread(asyncio.run, sends(7000, how))
                world.check(answer == b"content", f"by {how} in a worker")

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda sock: os.dup(sock.fileno()), "os.dup of a simulated socket in "),
        (lambda sock: os.set_blocking(sock.fileno(), False), "os.set_blocking of a simulated"),
        (lambda sock: select.epoll().register(sock, select.EPOLLET), "select.epoll with EPOLLET"),
        (lambda sock: sock.recv(1, socket.MSG_OOB), "socket.recv with flags=<MsgFlag.MSG_OOB"),
    ],
)
def test_what_is_not_simulated_is_refused_with_its_place(misuse: Any, words: str) -> None:
    """The system would say that there is no such descriptor, and the program would believe it."""

    async def program(world: World) -> None:
        with socket.socket() as sock:
            misuse(sock)

    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == "error"
    assert words in report.reason and "test_network_selectors.py" in report.reason
