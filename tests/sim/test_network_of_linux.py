"""What Linux does with the ends of connections, on real loopback sockets and on simulated ones."""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import Fault, World, explore, run
from sim.schedulers import DepartureBounded
from tests.limits import HANGS_S

Seen = list[str]
Ends = Callable[[socket.socket, socket.socket], Seen]

# On loopback an answer is there within microseconds; in the simulator this is virtual.
UNDER_WAY_S = 0.01
RESETS = struct.pack("ii", 1, 0)


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]


def arrives(sock: socket.socket) -> None:
    assert select.select([sock], [], [], HANGS_S)[0]


def all_that_may_be_done(sock: socket.socket) -> Seen:
    """Reads and writes, twice each, and the end of what is sent."""
    return [
        outcome(lambda: sock.recv(9)),
        outcome(lambda: sock.recv(9)),
        outcome(lambda: sock.send(b"y")),
        outcome(lambda: sock.send(b"y")),
        outcome(lambda: sock.shutdown(socket.SHUT_WR)),
    ]


def data_that_nobody_has_read(client: socket.socket, server: socket.socket) -> Seen:
    client.send(b"x")
    arrives(server)
    server.close()
    arrives(client)
    return all_that_may_be_done(client)


def reset_at_close(client: socket.socket, server: socket.socket) -> Seen:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    server.close()
    arrives(client)
    return all_that_may_be_done(client)


def writes_first(client: socket.socket, server: socket.socket) -> Seen:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    server.close()
    arrives(client)
    return [outcome(lambda: client.send(b"y")), *all_that_may_be_done(client)]


def data_before_the_reset(client: socket.socket, server: socket.socket) -> Seen:
    server.send(b"data")
    arrives(client)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    server.close()
    time.sleep(UNDER_WAY_S)
    return all_that_may_be_done(client)


def reset_behind_the_end(client: socket.socket, server: socket.socket) -> Seen:
    server.close()
    arrives(client)
    seen = [outcome(lambda: client.recv(9)), outcome(lambda: client.send(b"y"))]
    time.sleep(UNDER_WAY_S)
    return [*seen, *all_that_may_be_done(client)]


def both_have_ended(client: socket.socket, server: socket.socket) -> Seen:
    client.shutdown(socket.SHUT_WR)
    server.close()
    arrives(client)
    time.sleep(UNDER_WAY_S)
    return [outcome(lambda: client.shutdown(socket.SHUT_WR)), outcome(lambda: client.recv(9))]


PROGRAMS: list[Ends] = [
    data_that_nobody_has_read,
    reset_at_close,
    writes_first,
    data_before_the_reset,
    reset_behind_the_end,
    both_have_ended,
]


def between_two_ends(program: Ends) -> Seen:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
        with client, server:
            return program(client, server)


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("program", PROGRAMS)
def test_connections_end_as_on_linux(program: Ends) -> None:
    """The same calls return the same, and raise errors of the same number."""
    on_linux = between_two_ends(program)
    simulated: list[Seen] = []

    async def main(world: World) -> None:
        simulated.append(await asyncio.to_thread(between_two_ends, program))

    found = run(main)
    assert found.violation is None, found.violation
    assert simulated[-1] == on_linux


def written_at_once(client: socket.socket, server: socket.socket) -> Seen:
    """To an end that is closed, without a pause in which the answer could come."""
    server.close()
    time.sleep(UNDER_WAY_S)
    return [outcome(lambda: client.send(b"x")) for _ in range(3)]


def ended_at_once(client: socket.socket, server: socket.socket) -> Seen:
    server.close()
    time.sleep(UNDER_WAY_S)
    return [
        outcome(lambda: client.send(b"x")),
        outcome(lambda: client.shutdown(socket.SHUT_WR)),
        outcome(lambda: client.recv(9)),
    ]


def reset_at_once(client: socket.socket, server: socket.socket) -> Seen:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    server.close()
    return [outcome(lambda: client.send(b"x")) for _ in range(3)]


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("program", [written_at_once, ended_at_once, reset_at_once])
def test_what_is_broken_at_once_on_loopback_may_be(program: Ends) -> None:
    """In natural order it is later, as between machines; a departure shows the other."""
    on_linux = between_two_ends(program)
    simulated: list[Seen] = []

    async def main(world: World) -> None:
        simulated.append(await asyncio.to_thread(between_two_ends, program))

    report = explore(main, strategy=DepartureBounded(1))
    assert report.counterexample is None, report.text
    assert on_linux in simulated
    assert ["1", "1", "1"] in simulated or program is ended_at_once


def test_who_writes_the_end_behind_data_that_nobody_reads_is_refuted() -> None:
    """asyncio's write_eof raises what the kernel says to a connection that is gone."""

    async def program(world: World) -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 7000):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            await reader.read()
            writer.write(b"x")
            writer.write_eof()
            writer.close()

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "Transport endpoint is not connected" in report.text


# ---- what follows for programs -----------------------------------------------------------------


def test_who_expects_a_broken_pipe_is_refuted() -> None:
    """A server that aborts resets its connection: who reads gets ConnectionResetError."""

    async def program(world: World) -> None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.transport.abort()

        async with await asyncio.start_server(serve, "127.0.0.1", 7000):
            reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
            writer.write(b"x")
            try:
                await reader.read()
            except BrokenPipeError:
                pass
            finally:
                writer.transport.abort()

    report = explore(program)
    assert report.verdict == "refuted"
    assert "ConnectionResetError" in report.text


def test_a_thread_that_reads_may_see_a_part() -> None:
    """As a coroutine that reads: what one write has sent may arrive in two parts."""

    def reads() -> bytes:
        with socket.create_server(("127.0.0.1", 7000)) as listener:
            client = socket.create_connection(("127.0.0.1", 7000))
            server, _ = listener.accept()
            with client, server:
                server.sendall(b"abcd")
                return client.recv(100)

    async def program(world: World) -> None:
        world.check(await asyncio.to_thread(reads) == b"abcd", "one read takes all")

    report = explore(program)
    assert report.verdict == "refuted"
    assert "come alone" in report.text


def test_a_second_declaration_of_faults_leaves_the_first() -> None:
    """Each port's connection may be refused, as it was declared for each."""

    async def answers(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def program(world: World) -> None:
        world.network.may_fail(Fault.REFUSED, port=7000)
        world.network.may_fail(Fault.REFUSED, port=8000)
        for port in (7000, 8000):
            async with await asyncio.start_server(answers, "127.0.0.1", port):
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    # Not before it is accepted, lest the server closes meanwhile.
                    await reader.read()
                    writer.close()
                except ConnectionRefusedError:
                    world.reached(f"{port} was refused")

    report = explore(program, strategy=DepartureBounded(1))
    assert {"7000 was refused", "8000 was refused"} <= report.labels


LISTENER_AND_ASKED = [
    ((socket.AF_INET6, "::"), (socket.AF_INET, "127.0.0.1")),
    ((socket.AF_INET6, "::"), (socket.AF_INET6, "::ffff:127.0.0.1")),
    ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::ffff:127.0.0.1")),
    ((socket.AF_INET6, "::"), (socket.AF_INET6, "::1")),
]
Where = tuple[int, str]


def hosts_of_a_connection(listens: Where, asks: Where) -> Seen:
    """As each end of it has them, its own and the other's; then who has sent a datagram."""
    seen = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        server, client = socket.socket(listens[0], kind), socket.socket(asks[0], kind)
        with server, client:
            if listens[0] == socket.AF_INET6:
                server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            server.bind((listens[1], 0))
            port = server.getsockname()[1]
            if kind == socket.SOCK_DGRAM:
                client.sendto(b"x", (asks[1], port))
                seen.append(server.recvfrom(9)[1])
                continue
            server.listen()
            client.connect((asks[1], port))
            accepted, _ = server.accept()
            with accepted:
                ends = (client, accepted)
                seen += [name() for end in ends for name in (end.getsockname, end.getpeername)]
    return [repr((host, *more)) for host, _, *more in seen]


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize(("listens", "asks"), LISTENER_AND_ASKED)
def test_ipv4_reaches_ipv6_and_back_as_on_linux(listens: Where, asks: Where) -> None:
    """Sockets of IPv6 have the addresses of IPv4 as mapped ones, both ends of a connection."""
    on_linux = hosts_of_a_connection(listens, asks)

    async def program(world: World) -> None:
        seen = await asyncio.to_thread(hosts_of_a_connection, listens, asks)
        world.check(seen == on_linux, "as on Linux", f"{seen}, there {on_linux}")

    assert run(program).violation is None


def sources_of_datagrams(bound: str | None, connected: str | None) -> Seen:
    """Of a socket of IPv6, which sends to one of IPv4 and to one of IPv6."""
    with (
        socket.socket(type=socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sender,
    ):
        four.bind(("127.0.0.1", 0))
        six.bind(("::1", 0))
        seen = [] if bound is None else [outcome(lambda: sender.bind((bound, 0)))]
        port = six.getsockname()[1]
        if connected is not None:
            seen.append(outcome(lambda: sender.connect((connected, port))))
        for taker, to in (
            (four, ("::ffff:127.0.0.1", four.getsockname()[1])),
            (six, ("::1", port)),
        ):
            sent = outcome(lambda to=to: sender.sendto(b"x", to))  # type: ignore[misc]
            seen += [sent, sender.getsockname()[0]]
            if sent == "1":
                arrives(taker)
                seen.append(taker.recvfrom(9)[1][0])
        return seen


@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize(
    "bound", [None, "::", "::1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"], ids=str
)
@pytest.mark.parametrize("connected", [None, "::", "::1", "::ffff:127.0.0.1"], ids=str)
def test_datagrams_come_from_where_they_do_on_linux(
    bound: str | None, connected: str | None
) -> None:
    """What `connect` gave a socket in IPv6 is no address for what it sends to IPv4."""
    on_linux = sources_of_datagrams(bound, connected)

    async def program(world: World) -> None:
        seen = await asyncio.to_thread(sources_of_datagrams, bound, connected)
        world.check(seen == on_linux, "as on Linux", f"{seen}, there {on_linux}")

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)


@pytest.mark.parametrize(
    ("misuse", "words"),
    [
        (lambda network: network.may_fail(Fault.RESET, 1), "needs kinds of Fault"),
        (lambda network: network.may_fail(port=80), "needs kinds of Fault"),
        (lambda network: network.faults(1, Fault.RESET), "is now two calls"),
        (lambda network: network.may_part("localhost", "far", 1), "'far' is no machine"),
        (lambda network: network.may_part("localhost", "localhost", 1), "is not cut off from it"),
        (lambda network: network.cut("loclhost", "far"), "'loclhost' is no machine"),
        (lambda network: network.link("localhost", "far", latency_s=1), "'far' is no machine"),
        (lambda network: setattr(network, "latency_s", -1), "latency_s = -1 is no finite number"),
        (lambda network: setattr(network, "late_max_s", -1), "late_max_s = -1 is no finite number"),
        (lambda network: setattr(network, "buffer_bytes", 0), "buffer_bytes = 0 is no number"),
    ],
)
def test_a_declaration_without_sense_is_an_error(misuse: Any, words: str) -> None:
    """Also where the program catches it: what it was to show would not be shown."""

    async def program(world: World) -> None:
        try:
            misuse(world.network)
        except Exception:
            return

    report = explore(program)
    assert report.verdict == "error"
    assert words in report.reason and "test_network_of_linux.py" in report.reason
