"""Simulated sockets below CPython's own transports."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from typing import Any

import pytest

from sim import EventLoopPolicy, World, explore, new_event_loop, run
from sim.export.sources import NotExportable
from sim.kernel.network.sockets import RealSocket
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A server's handler: each line comes back in capitals."""
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.close()
    await writer.wait_closed()


async def asks(port: int, line: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def echo(world: World) -> None:
    server = await asyncio.start_server(shouts, "127.0.0.1", 7000)
    async with server:
        answer = await asks(7000, b"hello\n")
        world.check(answer == b"HELLO\n", "the answer is the line in capitals")


def test_a_server_and_a_client_are_proved() -> None:
    """start_server and open_connection run as they are, under every order of what arrives."""
    report = explore(echo, strategy=DepartureBounded(2), budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text
    # More than natural order.
    assert report.executions > 100


async def read_before_it_all(world: World) -> None:
    """Takes what a first read returns for all that was written."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"one ")
        await asyncio.sleep(0)
        writer.write(b"two")
        writer.close()

    async with await asyncio.start_server(answers, "127.0.0.1", 7000):
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
        await asyncio.sleep(1)
        world.check(await reader.read(100) == b"one two", "a read returns all")
        writer.close()


def test_data_that_arrives_late_is_found_with_a_chart_that_names_both_ends() -> None:
    """A read returns what has arrived; what reaches an end of a connection is in its column."""
    report = explore(read_before_it_all)
    assert report.verdict == "refuted", report.text
    text = report.text
    assert "a read returns all" in text
    assert "127.0.0.1:7000" in text
    head, asked, answered = text[text.index("what happened") :].splitlines()[1:4]
    assert head.split() == [":7000", ":40000", "program"]
    assert asked.index("127.0.0.1:40000 asks 127.0.0.1:7000 for") == head.index(":7000")
    assert answered.index("127.0.0.1:7000 answers") == head.index(":40000")
    assert "bytes from 127.0.0.1:7000 reach 127.0.0.1:40000" in text
    assert report.counterexample is not None
    again = report.counterexample.replay(read_before_it_all)
    assert again.violation is not None
    with pytest.raises(NotExportable, match="the program uses sockets, and no selector"):
        report.counterexample.export(read_before_it_all)


async def nobody_listens(world: World) -> None:
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", 9)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("localhost", 9)


def test_a_connection_to_an_own_address_where_nobody_listens_is_refused() -> None:
    """By the simulated kernel, as by a real one: the program goes on."""
    assert explore(nobody_listens, strategy="departures").verdict == "proved"


async def waits_for_ever(world: World) -> None:
    kept: list[Streams] = []

    def keeps(*streams: Any) -> None:
        kept.append(streams)

    async with await asyncio.start_server(keeps, "127.0.0.1", 7000):
        reader, _ = await asyncio.open_connection("127.0.0.1", 7000)
        await reader.read()


def test_a_deadlock_says_who_waits_on_which_socket() -> None:
    """By address: the listener for a connection, the client for data."""
    report = explore(waits_for_ever, max_executions=1)
    assert report.verdict == "refuted"
    assert "for a connection to 127.0.0.1:7000" in report.text
    assert "for data from 127.0.0.1:7000 at 127.0.0.1:40000" in " ".join(report.text.split())


def test_the_module_is_as_before_afterwards() -> None:
    """Within an execution `socket.socket` is another class; afterwards it is what it was."""
    seen: list[type] = []

    async def program(world: World) -> None:
        seen.append(socket.socket)
        with socket.socket() as made:
            world.check(isinstance(made, RealSocket), "it passes for a socket")

    before = socket.socket, socket.socketpair, socket.getaddrinfo
    assert run(program).violation is None
    assert seen[0] is not RealSocket
    assert (socket.socket, socket.socketpair, socket.getaddrinfo) == before
    assert before[0] is RealSocket


def test_a_loop_that_stands_alone_has_sockets() -> None:
    """The loop factory's and the policy's loops serve and connect, in virtual time."""

    async def main() -> bytes:
        async with await asyncio.start_server(shouts, "127.0.0.1", 0) as server:
            await asyncio.sleep(3600)
            port: int = server.sockets[0].getsockname()[1]
            return await asks(port, b"alone\n")

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(main()) == b"ALONE\n"
    loop = EventLoopPolicy().new_event_loop()
    assert loop.run_until_complete(main()) == b"ALONE\n"
    loop.close()


def test_a_large_transfer_waits_for_its_reader() -> None:
    """Two megabytes through buffers of 64 KiB: the writer is paused, and all arrives in order."""
    sent = bytes(range(256)) * 8192

    async def program(world: World) -> None:
        received = bytearray()

        async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(50_000):
                received.extend(data)
                await asyncio.sleep(0.001)
            writer.close()

        async with await asyncio.start_server(slow, "127.0.0.1", 7000):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            for at in range(0, len(sent), 100_000):
                writer.write(sent[at : at + 100_000])
                await writer.drain()
            writer.write_eof()
            await reader.read()
            writer.close()
        world.check(received == sent, "all arrives in order")

    assert run(program).violation is None
    report = explore(program, strategy=DepartureBounded(1), max_executions=20)
    assert report.counterexample is None, report.text


async def is_reset_after_the_end(world: World) -> None:
    def talk() -> None:
        with socket.create_server(("127.0.0.1", 7000)) as listens:
            one = socket.create_connection(("127.0.0.1", 7000))
            other = listens.accept()[0]
        with one:
            other.shutdown(socket.SHUT_WR)
            world.check(one.recv(1) == b"", "the end")
            one.send(b"nobody reads this")
            select.select([other], [], [])
            other.close()
            # Beyond the time in which the reset arrives.
            time.sleep(1)
            world.check(one.recv(1) == b"", "the end again")
            with pytest.raises(BrokenPipeError):
                one.send(b"x")

    await asyncio.to_thread(talk)


def test_who_has_read_the_end_reads_it_again_after_a_reset() -> None:
    """As on Linux: a read is told of the end, and a write of the broken pipe."""
    outcome = run(is_reset_after_the_end)
    assert (outcome.violation, outcome.error) == (None, None)


async def reads_more_than_there_is_room(world: World) -> None:
    one, other = socket.socketpair()
    room = bytearray(3)
    for read in (one.recv_into, one.recvfrom_into):
        for nbytes in (4, -1):
            with pytest.raises(ValueError, match="buffer"):
                read(room, nbytes)
    for refuses in (one.recv, one.recvfrom):
        with pytest.raises(ValueError, match="negative buffersize"):
            refuses(-1)
    one.close()
    other.close()


def test_a_read_beyond_its_buffer_is_refused() -> None:
    """As by CPython's socket, by number of bytes."""
    outcome = run(reads_more_than_there_is_room)
    assert (outcome.violation, outcome.error) == (None, None)
