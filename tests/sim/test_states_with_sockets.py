"""States with sockets: matching them loses no end that plain search comes to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from contextlib import closing, suppress
from typing import Any

import pytest
import uvicorn

from sim import Fault, World
from sim.bench.harness.log_capture import silenced
from sim.exploration.runs import outcomes
from sim.schedulers import DepartureBounded, Scheduler, StateMatching
from sim.schedulers.states import matching as matching_module

EXECUTIONS_MAX = 4_000

Program = Callable[[World], Coroutine[Any, Any, None]]


async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data.upper())
            await writer.drain()
    writer.close()


async def one_read_for_all(world: World) -> None:
    """Refuted: data comes in two parts."""
    server = await asyncio.start_server(shouts, "127.0.0.1", 7000)
    reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
    writer.write(b"ab")
    world.reached(f"got {(await reader.read(100)).decode()}")
    writer.close()
    server.close()


async def two_clients(world: World) -> None:
    """Who is served first is free."""
    world.network.at_once = lambda receiver: receiver.port != 7000
    order: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        order.append((await reader.read(1)).decode())
        writer.close()

    async def ask(name: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
        writer.write(name.encode())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 7000)
    await asyncio.gather(ask("a"), ask("b"))
    server.close()
    world.reached("".join(order))


async def asks_again(world: World) -> None:
    """Refuted: what a reset has broken was done already."""
    world.network.may_fail(Fault.RESET, Fault.REFUSED)
    balance = 2

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal balance
        with suppress(ConnectionError):
            while await reader.read(1):
                balance -= 1
                writer.write(b"d")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 7000)
    for _ in range(2):
        with suppress(ConnectionError):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            try:
                writer.write(b"w")
                if await reader.read(1):
                    break
            finally:
                writer.close()
        world.reached("asked again")
    server.close()
    world.check(balance >= 1, "it is withdrawn once")


async def full_buffers(world: World) -> None:
    """A writer that waits for a slow reader, and a time limit that meets both."""
    world.network.buffer_bytes = 2
    one, other = socket.socketpair()
    listener = socket.create_server(("127.0.0.1", 7000))
    for each in (one, other, listener):
        each.setblocking(False)
    loop = asyncio.get_running_loop()

    async def reads(sock: socket.socket, most: int) -> bytes:
        data = b""
        while len(data) < most:
            data += await loop.sock_recv(sock, 1)
            await asyncio.sleep(0.1)
        return data

    with one, other, listener, socket.socket() as client:
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", 7000))
        server, _ = await loop.sock_accept(listener)
        with server:
            server.setblocking(False)
            try:
                async with asyncio.timeout(0.25):
                    await asyncio.gather(
                        loop.sock_sendall(client, b"abcd"),
                        loop.sock_sendall(one, b"abcd"),
                        reads(server, 4),
                        reads(other, 4),
                    )
            except TimeoutError:
                world.reached("too late")


async def datagrams(world: World) -> None:
    """Lost, and in any order."""
    world.network.may_fail(Fault.LOST)
    loop, heard = asyncio.get_running_loop(), []
    with (
        socket.socket(type=socket.SOCK_DGRAM) as to,
        socket.socket(type=socket.SOCK_DGRAM) as sender,
    ):
        to.setblocking(False)
        to.bind(("127.0.0.1", 7000))
        for data in (b"a", b"b"):
            sender.sendto(data, ("127.0.0.1", 7000))
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                for _ in range(2):
                    heard.append((await loop.sock_recv(to, 9)).decode())
    world.reached("".join(heard))


async def far_and_cut_off(world: World) -> None:
    """Latency, a cut that heals, and a time limit beside it."""
    network = world.network
    far = network.machine("far", "10.0.0.2")
    network.link("localhost", "far", latency_s=0.1)
    with network.on(far):
        server = await asyncio.start_server(shouts, "10.0.0.2", 7000)
    reader, writer = await asyncio.open_connection("far", 7000)
    network.cut("localhost", "far")
    writer.write(b"x")
    elsewhere = asyncio.ensure_future(world.outside("elsewhere"))
    asyncio.get_running_loop().call_later(1, network.heal, "localhost", "far")
    try:
        async with asyncio.timeout(1.2):
            world.reached(f"got {(await reader.read(9)).decode()}")
    except TimeoutError:
        world.reached("too late")
    await elsewhere
    writer.close()
    server.close()


async def processes_that_talk(world: World) -> None:
    """Each with a loop of its own; one may crash."""

    async def serves() -> None:
        server = await asyncio.start_server(shouts, "0.0.0.0", 7000)
        async with server:
            await asyncio.Event().wait()

    process = world.host("far").run(serves)
    process.may_crash()
    await asyncio.sleep(1)
    with suppress(ConnectionError):
        reader, writer = await asyncio.open_connection("far", 7000)
        writer.write(b"x")
        world.reached(f"got {(await reader.read(9)).decode()}")
        writer.close()
        return
    world.reached("refused or reset")


async def served_by_uvicorn(world: World) -> None:
    """Its connections are in a set, its settings behind a cache that it makes for itself."""
    config = uvicorn.Config(answers_ok, port=7000, http="h11", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server._serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
        await asyncio.sleep(0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
    writer.write(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    world.reached((await reader.read()).splitlines()[0].decode())
    writer.close()
    server.should_exit = True
    await serving


async def answers_ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


PROGRAMS: list[Any] = [
    (served_by_uvicorn, 1),
    (one_read_for_all, 2),
    (two_clients, 1),
    (asks_again, 2),
    (full_buffers, 1),
    (datagrams, 2),
    (far_and_cut_off, 1),
    pytest.param(far_and_cut_off, 2, marks=pytest.mark.thorough),
    (processes_that_talk, 1),
]


def ends_of(program: Program, scheduler: Scheduler) -> set[tuple[str | None, tuple[str, ...]]]:
    """Every end that the search comes to, by what is violated and the labels."""
    ends = set()
    with silenced(), closing(outcomes(program, scheduler)) as found:
        for number, outcome in enumerate(found):
            assert number < EXECUTIONS_MAX and outcome.error is None, outcome.error
            violated = None if outcome.violation is None else outcome.violation.property
            if not getattr(scheduler, "is_cut", False):
                ends.add((violated, tuple(sorted(outcome.labels))))
    return ends


@pytest.mark.parametrize(("program", "departures"), PROGRAMS)
def test_states_with_sockets_lead_to_the_same_ends(
    program: Program, departures: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each meeting of two paths is audited: the same choices lead to the same from both."""
    monkeypatch.setattr(matching_module, "AUDIT_PROBABILITY", 1.0)
    states = StateMatching(with_labels=True, departures_max=departures)
    assert ends_of(program, states) == ends_of(program, DepartureBounded(departures))
    assert states.met_again > 0
    assert states.opaque == set()
