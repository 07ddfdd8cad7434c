"""Processes on several hosts that talk by sockets, of which some crash or stand still."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from sim import World, explore
from sim.schedulers import DepartureBounded
from tests.sim.host_programs import passes

PORT = 1000


async def echo(host: str = "0.0.0.0") -> None:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_server(one, host, PORT)
    await server.serve_forever()


async def answer(host: str, line: bytes = b"hello\n") -> bytes:
    reader, writer = await asyncio.open_connection(host, PORT)
    writer.write(line)
    answered = await reader.readline()
    writer.close()
    return answered


# ---- addresses ---------------------------------------------------------------------------------


def test_a_host_has_an_address_and_ports_of_its_own() -> None:
    """Its name stands for it; two hosts listen on one port; loopback is each one's own."""
    seen: dict[str, object] = {}

    async def client() -> None:
        seen["by name"] = await answer("one"), await answer("two")
        seen["from"] = socket.gethostname(), socket.gethostbyname("one")
        with pytest.raises(ConnectionRefusedError):
            await answer("127.0.0.1")

    async def neighbour() -> None:
        seen["by loopback"] = await answer("127.0.0.1")

    async def program(world: World) -> None:
        world.host("one").run(echo)
        world.host("two").run(echo)
        await asyncio.sleep(1)
        await world.host("client").run(client).ended()
        await world.host("one").run(neighbour).ended()
        seen["by the program"] = await answer("two")

    passes(program)
    assert seen["by name"] == (b"hello\n", b"hello\n")
    assert seen["from"] == ("client", "10.0.1.1")
    assert seen["by loopback"] == seen["by the program"] == b"hello\n"


def test_two_processes_of_a_host_cannot_have_one_port() -> None:
    """Until the one that has it ends, however it ends."""

    async def program(world: World) -> None:
        host = world.host("a")
        first = host.run(echo)
        await asyncio.sleep(1)
        second = await host.run(echo).ended()
        assert isinstance(second.raised, OSError)
        first.crash()
        third = host.run(echo)
        await asyncio.sleep(1)
        assert third.is_running
        assert await answer("a") == b"hello\n"

    passes(program)


# ---- what peers see of a process that crashes, or stands still ---------------------------------


def test_a_crash_ends_the_connections_of_a_process() -> None:
    """Peers read the end, or a reset where it had not read; its port refuses until it is back."""
    seen: list[object] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        writer.write(b"hello\n")
        seen.append(await reader.readline())
        seen.append(await reader.read())
        try:
            await answer("server")
        except ConnectionRefusedError:
            seen.append("refused")
        await asyncio.sleep(2)
        seen.append(await answer("server"))
        writer.close()

    async def program(world: World) -> None:
        server = world.host("server").run(echo)
        await asyncio.sleep(0.5)
        process = world.host("client").run(client)
        await asyncio.sleep(0.5)
        server.crash()
        await asyncio.sleep(1)
        server.restart()
        await process.ended()

    passes(program)
    assert seen == [b"hello\n", b"", "refused", b"hello\n"]


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed meanwhile"])
@pytest.mark.parametrize("has_power", [True, False], ids=["process", "host"])
def test_a_call_that_blocks_in_a_socket_ends_with_its_process(
    is_closed: bool, has_power: bool
) -> None:
    """A thread in `recv` holds the connection open, closed or not, and no longer than it lives."""
    seen: list[object] = []

    async def serve() -> None:
        with socket.create_server(("0.0.0.0", PORT)) as listener:
            connection, _ = await asyncio.to_thread(listener.accept)
            receiving = asyncio.create_task(asyncio.to_thread(connection.recv, 1))
            await asyncio.sleep(0.1)
            if is_closed:
                connection.close()
            await receiving

    async def client(world: World) -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        reading = asyncio.ensure_future(reader.read())
        done, _ = await asyncio.wait([reading], timeout=10)
        seen.append((len(done), round(world.now, 1)))
        reading.cancel()
        writer.close()

    async def program(world: World) -> None:
        server = world.host("server")
        process = server.run(serve)
        await asyncio.sleep(0.5)
        asking = world.host("client").run(client, world)
        await asyncio.sleep(0.5)
        held = len(world.loop.network.blocked)
        (process if has_power else server).crash()
        assert (held, world.loop.network.blocked) == (1, [])
        await asking.ended()

    passes(program)
    assert seen == [(1, 1.0) if has_power else (0, 10.5)]


def test_the_kernel_of_a_paused_process_takes_connections_and_data() -> None:
    """The process answers when it goes on; a frozen host's kernel stands still as well."""
    seen: list[tuple[str, float]] = []

    async def client(world: World) -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        seen.append(("connected", round(world.now, 3)))
        writer.write(b"hello\n")
        await reader.readline()
        seen.append(("answered", round(world.now, 3)))
        writer.close()

    async def program(world: World) -> None:
        server = world.host("server").run(echo)
        await asyncio.sleep(1)
        server.pause()
        world.host("client").run(client, world)
        await asyncio.sleep(1)
        server.resume()
        await asyncio.sleep(1)
        server.host.freeze()
        world.host("client").run(client, world)
        await asyncio.sleep(1)
        server.host.thaw()
        await asyncio.sleep(1)

    passes(program)
    assert seen == [("connected", 1), ("answered", 2), ("connected", 4), ("answered", 4)]


def test_what_is_under_way_to_a_process_that_crashes_is_answered_with_a_reset() -> None:
    """In no schedule does a peer wait for ever for an answer of a kernel that is alive."""

    async def client(world: World) -> None:
        try:
            reader, writer = await asyncio.open_connection("server", PORT)
            writer.write(b"hello\n")
            await reader.readline()
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            world.reached("no answer")
        else:
            world.reached("an answer, or the end")

    async def program(world: World) -> None:
        server = world.host("server").run(echo)
        server.may_crash()
        await world.host("client").run(client, world).ended()

    labels = ["no answer", "an answer, or the end"]
    report = explore(program, strategy=DepartureBounded(1), labels=labels)
    assert report.verdict == "proved", report.text


def test_hosts_that_are_cut_off_from_one_another_hear_nothing() -> None:
    """Neither end is told; what connections have sent meanwhile arrives once that is over."""
    seen: list[object] = []

    async def client() -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        await asyncio.sleep(1)
        writer.write(b"hello\n")
        reading = asyncio.ensure_future(reader.readline())
        await asyncio.wait([reading], timeout=5)
        seen.append(reading.done())
        seen.append(await reading)
        writer.close()

    async def program(world: World) -> None:
        world.host("server").run(echo)
        await asyncio.sleep(1)
        process = world.host("client").run(client)
        await asyncio.sleep(0.5)
        world.network.cut("client", "server")
        await asyncio.sleep(10)
        world.network.heal("client", "server")
        await process.ended()

    passes(program)
    assert seen == [False, b"hello\n"]


def test_blocking_sockets_in_the_threads_of_a_process() -> None:
    """A worker thread that waits in recv holds up neither its loop nor another process."""
    log: list[str] = []

    def ask() -> bytes:
        with socket.create_connection(("server", PORT)) as connection:
            connection.sendall(b"hello\n")
            return connection.recv(100)

    async def client() -> None:
        asked = asyncio.get_running_loop().run_in_executor(None, ask)
        await asyncio.sleep(0.5)
        log.append("the loop goes on")
        log.append((await asked).decode())

    async def program(world: World) -> None:
        server = world.host("server").run(echo)
        await asyncio.sleep(1)
        server.pause()
        process = world.host("client").run(client)
        await asyncio.sleep(2)
        log.append("the server goes on")
        server.resume()
        await process.ended()

    passes(program)
    assert log == ["the loop goes on", "the server goes on", "hello\n"]


def test_what_is_on_its_way_to_a_process_that_ends_takes_its_time() -> None:
    """Its system answers when the data arrives, and a reset takes as long to come back."""
    seen: list[tuple[str, float]] = []

    async def holds(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(100)
        writer.close()

    async def server() -> None:
        await (await asyncio.start_server(holds, "0.0.0.0", PORT)).serve_forever()

    async def client(world: World) -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        await asyncio.sleep(1)
        begun = world.now
        writer.write(b"hello\n")
        try:
            assert await reader.read() == b""
            seen.append(("the end", round(world.now - begun, 3)))
            await asyncio.sleep(0.65)
            writer.write(b"?")
            await writer.drain()
        except ConnectionError as exc:
            seen.append((type(exc).__name__, round(world.now - begun, 3)))

    async def program(world: World) -> None:
        world.network.latency_s = 0.5
        process = world.host("server").run(server)
        await asyncio.sleep(1)
        other = world.host("client").run(client, world)
        await asyncio.sleep(2.25)
        process.crash()
        await other.ended()

    passes(program)
    # It crashes after 0.25 s; what was sent arrives after 0.5 s, and the reset after 1 s.
    assert seen == [("the end", 0.75), ("ConnectionResetError", 1.4)]


def test_a_latency_is_the_worlds_whatever_the_clock_of_a_host() -> None:
    """Neither its rate nor a freeze makes the way longer."""
    seen: list[float] = []

    async def client(world: World) -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        for _ in range(2):
            begun = world.now
            writer.write(b"hello\n")
            await reader.readline()
            seen.append(round(world.now - begun, 3))
        writer.close()

    async def program(world: World) -> None:
        world.network.latency_s = 0.5
        server = world.host("server", clock_rate=10.0)
        server.run(echo)
        await asyncio.sleep(1)
        process = world.host("client", clock_rate=0.1).run(client, world)
        await asyncio.sleep(1.2 + 0.9)
        server.freeze()
        await asyncio.sleep(0.7)
        server.thaw()
        await process.ended()

    passes(program)
    # Sent at 2.0 s it comes at 2.5 s, and is found when the host goes on, at 2.8 s.
    assert seen == [1.0, 1.3]


def test_nobody_hears_of_a_host_that_loses_its_power() -> None:
    """No end and no reset; what is sent to it is sent again, and answered when it is back."""
    seen: list[tuple[str, float]] = []

    async def client(world: World) -> None:
        reader, writer = await asyncio.open_connection("server", PORT)
        writer.write(b"hello\n")
        assert await reader.readline() == b"hello\n"
        await asyncio.sleep(2)
        reading = asyncio.ensure_future(reader.read())
        done, _ = await asyncio.wait([reading], timeout=3)
        seen.append((f"{len(done)} heard", round(world.now, 1)))
        writer.write(b"again\n")
        try:
            await reading
        except ConnectionResetError:
            seen.append(("reset", round(world.now, 1)))

    async def asks(world: World) -> None:
        with pytest.raises(ConnectionRefusedError):
            await answer("server")
        seen.append(("refused", round(world.now, 1)))

    async def program(world: World) -> None:
        server = world.host("server")
        server.run(echo)
        await asyncio.sleep(1)
        first = world.host("client").run(client, world)
        await asyncio.sleep(1)
        server.crash()
        await asyncio.sleep(1)
        second = world.host("client").run(asks, world)
        await asyncio.sleep(7)
        server.restart()
        await asyncio.sleep(1)
        await first.ended()
        await asyncio.sleep(1)
        await second.ended()
        assert await answer("server") == b"hello\n"

    passes(program)
    # The system is back before the process listens.
    assert sorted(seen) == [("0 heard", 6.0), ("refused", 10.0), ("reset", 10.0)]


# ---- as between real processes -----------------------------------------------------------------

SERVER = """
import asyncio
async def main():
    async def one(reader, writer):
        while line := await reader.readline():
            writer.write(line)
        writer.close()
    server = await asyncio.start_server(one, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


@pytest.mark.socket
def test_a_killed_and_a_stopped_process_look_as_real_ones_do() -> None:
    """What a client of a process of the system sees is what it sees of a simulated one."""

    async def client(host: str, port: int, send: Callable[[int], None]) -> list[object]:
        seen: list[object] = []
        reader, writer = await asyncio.open_connection(host, port)
        send(signal.SIGSTOP)
        other_reader, other = await asyncio.open_connection(host, port)
        seen.append("connected")
        other.write(b"stopped\n")
        writer.write(b"stopped\n")
        done, _ = await asyncio.wait([asyncio.ensure_future(reader.readline())], timeout=0.3)
        seen.append(len(done))
        send(signal.SIGCONT)
        seen.append(await other_reader.readline())
        send(signal.SIGKILL)
        seen.append(await other_reader.read())
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(host, port)
        seen.append("refused")
        writer.close()
        other.close()
        return seen

    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:

        def send(sig: int) -> None:
            process.send_signal(sig)
            if sig == signal.SIGKILL:
                # Its port is refused once it is gone.
                process.wait()

        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            real = asyncio.run(client("127.0.0.1", port, send))
        finally:
            process.kill()
    simulated: list[object] = []

    async def program(world: World) -> None:
        server = world.host("server").run(echo)
        await asyncio.sleep(1)
        assert server.pid is not None
        pid = server.pid
        simulated.extend(await client("server", PORT, lambda sig: os.kill(pid, sig)))

    passes(program)
    assert simulated == real
    assert real == ["connected", 0, b"stopped\n", b"", "refused"]
