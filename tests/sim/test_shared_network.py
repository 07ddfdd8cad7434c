"""Simulated loops that stand alone share the network of their process, in whichever thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from sim import Stuck, new_event_loop
from tests.limits import HANGS_S

ADDRESS = ("127.0.0.1", 7000)
SLOW_S = 300.0


def run(main: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


async def answers_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        await asyncio.sleep(SLOW_S)
        writer.write(b"re: " + line)
    writer.close()


async def asks(*lines: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection(*ADDRESS)
    answers = []
    try:
        for line in lines:
            writer.write(line + b"\n")
            answers.append((await reader.readline()).rstrip())
    finally:
        writer.close()
        await writer.wait_closed()
    return answers


@contextlib.contextmanager
def served(serve: Callable[..., Any]) -> Iterator[None]:
    """By a loop of its own, in a real thread."""
    is_ready, end = threading.Event(), []

    async def main() -> None:
        is_over = asyncio.Event()
        loop = asyncio.get_running_loop()
        end.append(lambda: loop.call_soon_threadsafe(is_over.set))
        async with await asyncio.start_server(serve, *ADDRESS):
            is_ready.set()
            await is_over.wait()

    thread = threading.Thread(target=run, args=(main(),), daemon=True)
    thread.start()
    assert is_ready.wait(HANGS_S)
    try:
        yield
    finally:
        end[0]()
        thread.join(HANGS_S)
        assert not thread.is_alive()


def test_loops_in_real_threads_reach_one_another() -> None:
    """A server in a thread, as suites have it, and clients in another: hours of sleep take none."""
    with served(answers_slowly):
        for _ in range(2):
            assert run(asks(b"a", b"b")) == [b"re: a", b"re: b"]


def test_many_clients_of_a_loop_in_another_thread_are_all_answered() -> None:
    """Nothing is lost between the loops, with much on its way in both directions."""

    async def echoes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1000):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def sends_much(number: int) -> bytes:
        reader, writer = await asyncio.open_connection(*ADDRESS)
        writer.write(b"%d" % number * 200_000)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer

    async def all_of_them() -> list[bytes]:
        return await asyncio.gather(*map(sends_much, range(5)))

    with served(echoes):
        assert run(all_of_them()) == [b"%d" % number * 200_000 for number in range(5)]


def test_a_loop_that_waits_for_one_in_another_thread_is_not_stuck() -> None:
    """Until the other one is, too: then one is told, and gives up, and neither hangs."""

    is_ready, told = threading.Event(), []

    async def hears_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # As the run is given up: up to 3.11 asyncio asks a task that was cancelled for its error.
        with contextlib.suppress(asyncio.CancelledError):
            await reader.read()
        writer.close()

    async def serves() -> None:
        async with await asyncio.start_server(hears_nothing, *ADDRESS) as server:
            is_ready.set()
            await server.serve_forever()

    def gets_stuck(main: Coroutine[Any, Any, Any]) -> None:
        try:
            run(main)
        except Stuck as exc:
            told.append(str(exc))

    thread = threading.Thread(target=gets_stuck, args=(serves(),), daemon=True)
    thread.start()
    assert is_ready.wait(HANGS_S)
    gets_stuck(asks(b"a"))
    thread.join(HANGS_S)
    assert not thread.is_alive()
    assert "the loop waits for data from 127.0.0.1:" in told[0]


def test_a_socket_goes_from_one_loop_to_the_next() -> None:
    """A listener that one run has made serves in another, whose loop is another."""

    async def listens() -> socket.socket:
        listener = socket.create_server(ADDRESS)
        listener.setblocking(False)
        return listener

    async def asks_itself(listener: socket.socket) -> list[bytes]:
        async with await asyncio.start_server(answers_slowly, sock=listener):
            return await asks(b"a")

    assert run(asks_itself(run(listens()))) == [b"re: a"]


def test_what_was_sent_as_a_run_ended_is_read_in_the_next() -> None:
    """A connection of two runs of one loop."""
    loop = new_event_loop()
    try:
        listener = loop.run_until_complete(_made(lambda: socket.create_server(ADDRESS)))
        client = loop.run_until_complete(_made(lambda: socket.socket()))
        for sock in (listener, client):
            sock.setblocking(False)

        async def connects() -> socket.socket:
            _, (accepted, _) = await asyncio.gather(
                loop.sock_connect(client, ADDRESS), loop.sock_accept(listener)
            )
            accepted.setblocking(False)
            await loop.sock_sendall(client, b"x")
            return accepted

        accepted = loop.run_until_complete(connects())

        async def reads() -> bytes:
            return await loop.sock_recv(accepted, 9)

        with listener, client, accepted:
            assert loop.run_until_complete(reads()) == b"x"
    finally:
        loop.close()


async def _made(make: Callable[[], socket.socket]) -> socket.socket:
    return make()


def test_an_address_is_free_once_its_loop_is_closed() -> None:
    """Connections that a loop has ended keep no port from the next one, whose clock is earlier."""

    async def ends_first(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def once() -> bytes:
        listener = socket.socket()
        listener.bind(ADDRESS)
        async with await asyncio.start_server(ends_first, sock=listener):
            reader, writer = await asyncio.open_connection(*ADDRESS)
            got = await reader.read()
            writer.close()
            return got

    for _ in range(2):
        assert run(once()) == b""


def test_who_blocks_where_nobody_sees_it_does_not_stop_the_others() -> None:
    """A step that waits for another thread's loop in a lock of C, which no stand-in replaces."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(b"re: " + line)
        writer.close()

    waits = threading.Lock().__class__.acquire
    is_answered = threading.Lock()
    is_answered.acquire()

    def asks_and_tells() -> None:
        assert run(asks(b"a")) == [b"re: a"]
        is_answered.release()

    async def blocks() -> bool:
        return bool(waits(is_answered, True, HANGS_S))

    with served(answers):
        thread = threading.Thread(target=asks_and_tells, daemon=True)
        thread.start()
        assert run(blocks())
        thread.join(HANGS_S)
