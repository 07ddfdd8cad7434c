"""Sockets of processes: they reach each other by the names of their hosts, and end with them."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from sim import DepartureBounded, World, explore, run


async def serves(world: World) -> None:
    async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            await asyncio.sleep(0.5)
            writer.write(line.upper())
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(shouts, "0.0.0.0", 80) as server:
        await server.serve_forever()


async def asks(world: World) -> list[Any]:
    """Three times, a second and more between them; what came, or why nothing did."""
    found: list[Any] = []
    for _ in range(3):
        await asyncio.sleep(0.1)
        try:
            reader, writer = await asyncio.open_connection("bank", 80)
            writer.write(b"hello\n")
            found.append(await reader.readline())
            writer.close()
        except OSError as exc:
            found.append(type(exc))
        await asyncio.sleep(1)
    return found


async def crashes_and_restarts(world: World) -> None:
    bank = world.host("bank").run(serves, world)
    client = world.host("till").run(asks, world)
    await asyncio.sleep(1.9)
    bank.crash()
    await asyncio.sleep(0.5)
    bank.restart()
    end = await client.ended()
    expected = [b"HELLO\n", b"", b"HELLO\n"]
    world.check(end.value == expected, "a crash ends its connections", str(end.value))


def test_a_crash_ends_the_connections_of_its_process_and_a_restart_serves_anew() -> None:
    """In natural order: an answer, the end of the connection, and an answer of the new process."""
    outcome = run(crashes_and_restarts)
    assert outcome.violation is None, outcome.violation
    assert outcome.error is None


async def asks_a_bank(world: World) -> None:
    world.host("bank").run(serves, world)
    end = await world.host("till").run(asks, world).ended()
    possible = {b"HELLO\n", ConnectionRefusedError}
    world.check(set(end.value) <= possible, "each request is answered, or refused", str(end.value))


def test_processes_talk_under_any_single_delay() -> None:
    """No departure leaves a request without an answer, and none is a false deadlock."""
    report = explore(asks_a_bank, strategy=DepartureBounded(1), max_executions=60)
    assert report.counterexample is None, report.text
    assert report.verdict != "error", report.text


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="the system has no such option")
def test_processes_that_share_a_port_are_each_asked() -> None:
    """As workers do that listen with `reuse_port`: who is served by whom is the kernel's to say."""

    async def program(world: World) -> None:
        async def main(name: bytes) -> None:
            async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(name)
                writer.close()

            async with await asyncio.start_server(serve, "0.0.0.0", 7000, reuse_port=True):
                await asyncio.Event().wait()

        host = world.host("server")
        host.run(main, b"a")
        host.run(main, b"b")
        await asyncio.sleep(1)
        served = b""
        for _ in range(2):
            reader, writer = await asyncio.open_connection("server", 7000)
            served += await reader.read()
            writer.close()
        world.reached(served.decode())

    report = explore(program, strategy=DepartureBounded(2), max_executions=1000)
    assert report.verdict == "proved", report.text
    assert report.labels == {"aa", "ab", "ba", "bb"}
