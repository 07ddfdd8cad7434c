"""What a network may do to connections, and what it never does."""

from __future__ import annotations

import asyncio
import random
import socket
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from sim import Fault, World, explore, run
from sim.schedulers import DepartureBounded, RandomWalk
from tests.limits import AMPLE_S

# ---- a byte stream, whatever happens -----------------------------------------------------------


def transfers(sizes: list[int], reads: list[int], buffer_bytes: int) -> Any:
    """Both ends send; each has to receive what the other has sent, however it is cut."""
    sent = [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]
    whole = b"".join(sent)

    async def program(world: World) -> None:
        world.network.buffer_bytes = buffer_bytes

        async def sends(writer: asyncio.StreamWriter) -> None:
            for data in sent:
                writer.write(data)
                await writer.drain()
            writer.write_eof()

        async def receives(reader: asyncio.StreamReader) -> bytes:
            received, turn = bytearray(), 0
            while data := await reader.read(reads[turn % len(reads)]):
                received += data
                turn += 1
            return bytes(received)

        async def both(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            sending = asyncio.create_task(sends(writer))
            world.check(await receives(reader) == whole, "what arrives is what was sent")
            await sending
            writer.close()
            await writer.wait_closed()
            ended.put_nowait(None)

        ended: asyncio.Queue[None] = asyncio.Queue()
        async with await asyncio.start_server(both, "127.0.0.1", 7000):
            await both(*await asyncio.open_connection("127.0.0.1", 7000))
            await ended.get()
            await ended.get()

    return program


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=some.lists(some.integers(1, 100), min_size=1, max_size=4),
    reads=some.lists(some.integers(1, 125), min_size=1, max_size=3),
    buffer_bytes=some.sampled_from([8, 25, 65_536]),
    seed=some.integers(0, 1000),
)
def test_a_connection_is_a_byte_stream(
    sizes: list[int], reads: list[int], buffer_bytes: int, seed: int
) -> None:
    """Under any cuts, delays and buffers nothing is lost, repeated, reordered or changed."""
    program = transfers(sizes, reads, buffer_bytes)
    report = explore(program, strategy=RandomWalk(seed), max_executions=3, budget_s=AMPLE_S)
    assert report.verdict == "inconclusive", report.text
    assert "executions" in report.reason


# ---- what is free ------------------------------------------------------------------------------


async def reads_once(world: World) -> None:
    """Takes one read for a whole message, of one write."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"message")
        writer.close()

    async with await asyncio.start_server(answers, "127.0.0.1", 7000):
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
        world.check(await reader.read(100) == b"message", "a read returns the message")
        writer.close()


def test_one_write_may_arrive_in_two_parts() -> None:
    """Found by one departure, which the counterexample has in words; not where it cannot be cut."""
    report = explore(reads_once, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    words = "of 7 bytes from 127.0.0.1:7000 reach 127.0.0.1:40000, the first 3 come alone"
    assert words in " ".join(report.text.split())

    async def whole(world: World) -> None:
        world.network.may_cut = False
        await reads_once(world)

    assert explore(whole, strategy=DepartureBounded(1), budget_s=AMPLE_S).verdict == "proved"


async def two_clients(world: World) -> None:
    """Takes the order of two connections' data for that in which they were written."""
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def hears(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(1))
        writer.close()

    async with await asyncio.start_server(hears, "127.0.0.1", 7000):
        writers = [(await asyncio.open_connection("127.0.0.1", 7000))[1] for _ in range(2)]
        for name, writer in zip((b"a", b"b"), writers, strict=True):
            writer.write(name)
        first = await heard.get()
        for writer in writers:
            writer.close()
        world.check(first == b"a", "they are heard in order")


def test_connections_have_no_order_among_each_other() -> None:
    """What the later one has written may be read first."""
    report = explore(two_clients, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert report.counterexample.property == "they are heard in order"


async def counts_connections(world: World) -> None:
    """Takes a connection that is made for one that was accepted."""
    loop, accepted = asyncio.get_running_loop(), []
    with socket.create_server(("127.0.0.1", 7000)) as listener, socket.socket() as client:
        loop.add_reader(listener, lambda: accepted.append(listener.accept()[0].close()))
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", 7000))
        world.check(accepted, "who has a connection was accepted")
        loop.remove_reader(listener)


def test_a_connection_may_be_made_before_it_is_accepted() -> None:
    """As on loopback, where it nearly always is: found by one departure, and the text says it."""
    assert run(counts_connections).violation is None
    report = explore(counts_connections, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    words = "127.0.0.1:40000 learns first of the connection"
    assert words in " ".join(report.text.split())


# ---- faults ------------------------------------------------------------------------------------


def withdraws(most: int, *kinds: Fault) -> Any:
    """A client that asks again when its connection ends without an answer."""

    async def program(world: World) -> None:
        world.faults.faults_max = most
        world.network.may_fail(*kinds)
        world.network.may_cut = False
        balance = 100

        async def serves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal balance
            try:
                if await reader.readline():
                    balance -= 10
                    writer.write(b"done\n")
                    await writer.drain()
            except ConnectionError:
                pass
            writer.close()

        async def asks() -> bool:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            except ConnectionRefusedError:
                world.reached("refused")
                return False
            writer.write(b"withdraw\n")
            try:
                return await reader.readline() == b"done\n"
            except ConnectionResetError:
                world.reached("reset")
                return False
            finally:
                writer.close()

        async with await asyncio.start_server(serves, "127.0.0.1", 7000):
            is_done = await asks() or await asks()
        world.check(is_done, "the second request is answered")
        world.check(balance == 90, "it is withdrawn once")

    return program


def test_a_reset_after_the_act_and_before_the_answer_is_found() -> None:
    """Without faults it is proved for one departure; with one it is withdrawn twice."""
    within = DepartureBounded(1)
    assert explore(withdraws(0, Fault.RESET), strategy=within, budget_s=AMPLE_S).verdict == "proved"
    report = explore(withdraws(1, Fault.RESET), strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    text = " ".join(report.text.split())
    assert "in place of «5 bytes from 127.0.0.1:7000 reach 127.0.0.1:40000»" in text
    assert "the connection is reset" in text
    assert report.counterexample is not None
    assert report.counterexample.replay(withdraws(1, Fault.RESET)).violation is not None


def test_a_refused_connection_is_a_fault_that_loses_nothing() -> None:
    """It is met, and the client asks again."""
    report = explore(
        withdraws(1, Fault.REFUSED),
        strategy=DepartureBounded(1),
        labels=["refused"],
        budget_s=AMPLE_S,
    )
    assert report.verdict == "proved", report.text


def test_a_silent_connection_is_a_deadlock_without_a_time_limit() -> None:
    """Nobody is told that nothing arrives any more."""
    report = explore(withdraws(1, Fault.SILENT), strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert "no deadlock" in report.text


async def accepts_with_few_descriptors(world: World) -> None:
    world.network.may_fail(Fault.NO_DESCRIPTOR)
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 7000)
    world.reached("listens")
    async with server:
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
        await reader.read()
        writer.close()


def test_a_limit_of_descriptors_is_met_where_one_is_opened() -> None:
    """asyncio's create_server takes it for a family that is not supported, and listens nowhere."""
    report = explore(accepts_with_few_descriptors, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert "no descriptor is left" in report.text


def asks_and_is_answered(*, at_once: bool) -> Any:
    async def program(world: World) -> None:
        async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(4))
            writer.close()

        async with await asyncio.start_server(answers, "127.0.0.1", 7000):
            if at_once:
                world.network.at_once = lambda receiver: receiver.port != 7000
                world.network.may_cut = lambda receiver: receiver.port == 7000
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            writer.write(b"ping")
            assert await reader.read() == b"ping"
            writer.close()

    return program


def test_what_is_sent_to_sockets_that_hear_at_once_is_no_choice() -> None:
    """The other direction stays free: its delays and parts are explored as before."""
    free, fixed = (
        explore(asks_and_is_answered(at_once=each), strategy=DepartureBounded(1), budget_s=AMPLE_S)
        for each in (False, True)
    )
    assert free.verdict == fixed.verdict == "proved", (free.text, fixed.text)
    assert 1 < fixed.executions < free.executions / 2, (fixed.executions, free.executions)


async def accepts_again_with_few_descriptors(world: World) -> None:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), port=7000):
        world.network.may_fail(Fault.NO_DESCRIPTOR, port=7000)
        reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
        # asyncio complains, and tries again.
        await reader.read()
        writer.close()


def test_a_limit_of_descriptors_can_be_that_of_one_listener() -> None:
    """Declared with a port, no descriptor is left where a connection to it is accepted alone."""
    program = accepts_again_with_few_descriptors
    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "proved" and "Too many open files" in report.text, report.text


async def looks_a_name_up_slowly(world: World) -> None:
    world.network.look_up_s = 3.0
    loop = asyncio.get_running_loop()

    async def in_loop(host: str) -> float:
        begun = world.now
        await loop.getaddrinfo(host, 80)
        return world.now - begun

    def in_thread(host: str) -> float:
        begun = loop.time()
        socket.getaddrinfo(host, 80)
        return loop.time() - begun

    for host, lasts_s in (("localhost", 3.0), ("127.0.0.1", 0.0)):
        assert round(await in_loop(host), 3) == lasts_s
        assert round(await asyncio.to_thread(in_thread, host), 3) == lasts_s


def test_a_look_up_of_a_name_takes_as_long_as_declared() -> None:
    """In the loop and in a thread, which it blocks; an address as it is takes no time."""
    assert run(looks_a_name_up_slowly).violation is None


async def talks_across_a_cut(world: World) -> None:
    network = world.network
    far = network.machine("far", "10.0.0.2")
    network.link("localhost", "far", latency_s=0.1)

    async def shouts(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line.upper())
        writer.close()

    with network.on(far):
        listening = socket.create_server(("10.0.0.2", 80))
    async with await asyncio.start_server(shouts, sock=listening):
        begun = world.now
        reader, writer = await asyncio.open_connection("far", 80)
        world.check(0.19 < world.now - begun < 0.21, "a connection takes a round trip")
        network.cut("localhost", "far")
        writer.write(b"hello\n")
        await asyncio.sleep(100)
        world.check(not reader._buffer, "nothing has arrived")  # type: ignore[attr-defined]
        network.heal("localhost", "far")
        world.check(await reader.readline() == b"HELLO\n", "what was sent arrives")
        writer.close()


def test_a_cut_holds_what_is_sent_until_it_is_healed() -> None:
    """A connection between two machines survives; what it has sent meanwhile arrives afterwards."""
    outcome = run(talks_across_a_cut)
    assert outcome.violation is None, outcome.violation
    assert outcome.error is None


# ---- datagrams ---------------------------------------------------------------------------------


def datagrams(*faults: Fault) -> Any:
    async def program(world: World) -> None:
        world.network.may_fail(*(faults or (Fault.RESET,)))
        heard: list[bytes] = []

        class Hears(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: Any) -> None:
                heard.append(data)

        loop = asyncio.get_running_loop()
        hears, _ = await loop.create_datagram_endpoint(Hears, local_addr=("127.0.0.1", 7000))
        tells, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=("127.0.0.1", 7000)
        )
        for data in b"a", b"b":
            tells.sendto(data)
        await asyncio.sleep(1)
        hears.close()
        tells.close()
        await asyncio.sleep(1)
        world.check(heard != [b"b", b"a"], "they arrive in order")
        world.check(b"a" in heard or Fault.LOST not in faults, "both arrive")

    return program


@pytest.mark.parametrize(
    ("faults", "property"), [((Fault.RESET,), "in order"), ((Fault.LOST,), "both arrive")]
)
def test_datagrams_have_no_order_and_may_be_lost(faults: tuple[Fault], property: str) -> None:
    """Another order is a departure, and a loss a fault."""
    report = explore(datagrams(*faults), strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert property in report.counterexample.property, report.text


def test_a_cut_holds_a_datagram_that_is_under_way() -> None:
    """Nothing arrives between two machines from the cut on, also what was sent before it."""

    async def program(world: World) -> None:
        far = world.network.machine("far", "10.0.0.2")
        world.network.latency_s = 1.0
        with world.network.on(far):
            receives = socket.socket(type=socket.SOCK_DGRAM)
            receives.bind(("10.0.0.2", 7000))
        with receives, socket.socket(type=socket.SOCK_DGRAM) as sends:
            receives.setblocking(False)
            sends.sendto(b"x", ("10.0.0.2", 7000))
            world.network.cut("localhost", "far")
            await asyncio.sleep(5)
            try:
                world.check(receives.recv(9) == b"", "nothing arrives")
            except BlockingIOError:
                world.reached("nothing has arrived")

    report = explore(program, labels=["nothing has arrived"])
    assert report.verdict == "proved", report.text


async def both_write_at_once(world: World) -> None:
    heard: set[str] = set()

    async def hears(reader: asyncio.StreamReader, name: str) -> None:
        with suppress(TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(1):
                await reader.readexactly(1)
                heard.add(name)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"y")
        await hears(reader, "server")
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 7000)
    reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
    world.network.may_fail(Fault.SILENT)
    writer.write(b"1")
    world.network.latency_s = 0.1
    writer.write(b"2")
    await hears(reader, "client")
    await asyncio.sleep(2)
    writer.transport.abort()
    server.close()
    if world.faults.taken and "server" not in heard:
        world.reached("silent")
        world.check("client" not in heard, "who is silent hears nothing either")


def test_what_is_on_its_way_when_a_connection_falls_silent_is_lost_both_ways() -> None:
    """Also what its other end had sent before."""
    report = explore(both_write_at_once, strategy=DepartureBounded(1), labels=["silent"])
    assert report.verdict == "proved", report.text


def test_a_process_may_crash_between_two_datagrams() -> None:
    """Before each of them, as before each write to a connection: peers can tell."""

    async def program(world: World) -> None:
        host, heard = world.host("far"), []

        async def main() -> None:
            with socket.socket(type=socket.SOCK_DGRAM) as sock:
                for data in (b"a", b"b"):
                    sock.sendto(data, ("localhost", 7000))

        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("0.0.0.0", 7000))
            sock.setblocking(False)
            host.run(main).may_crash()
            loop = asyncio.get_running_loop()
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for _ in range(2):
                        heard.append(await loop.sock_recv(sock, 9))
        world.reached(f"heard {len(heard)}")

    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert {"heard 0", "heard 1", "heard 2"} <= report.labels, report.text
