"""What names, addresses and ports are to `socket`, on Linux and in the simulator."""

from __future__ import annotations

import asyncio
import smtplib
import socket
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sim import Fault, World, explore, run

INET, INET6, STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM


def said(act: Callable[[], object]) -> str:
    """What it returns, or how it fails, in full."""
    try:
        return repr(act())
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"


def asked(host: Any, port: Any, **options: Any) -> str:
    """Each answer once: where the machine's hosts file has a name twice, Linux says it twice."""
    return said(lambda: list(dict.fromkeys(socket.getaddrinfo(host, port, **options))))


def looked_up() -> list[str]:
    """Of hosts, ports, families, kinds and flags what is known, and what is not."""
    return [
        asked("127.0.0.1", 80),
        asked("127.0.0.1", 80, type=STREAM),
        asked("127.0.0.1", 80, family=INET6),
        asked("::1", 80),
        asked("::1", 80, family=INET),
        asked("::1%1", 80, type=STREAM),
        asked("127.1", 80, type=STREAM),
        asked("127.0.0.1", 80, family=INET6, flags=socket.AI_V4MAPPED, type=STREAM),
        asked("127.0.0.1", 80, flags=socket.AI_CANONNAME),
        asked("127.0.0.1", 80, family=socket.AF_UNIX),
        asked("127.0.0.1", 80, family=12_345),
        asked("127.0.0.1", 80, type=99),
        asked("127.0.0.1", 80, type=STREAM, proto=socket.IPPROTO_UDP),
        asked("127.0.0.1", 80, proto=99),
        asked("localhost", 80, type=STREAM, family=INET),
        asked("LOCALHOST", 80, type=STREAM, family=INET),
        asked(b"localhost", b"80", type=STREAM, family=INET),
        asked("localhost", 80, flags=socket.AI_NUMERICHOST),
        asked("nobody.invalid", 80),
        asked("127.0.0.1", None),
        asked("127.0.0.1", "80"),
        asked("127.0.0.1", ""),
        asked("127.0.0.1", 70_000, type=STREAM),
        asked("127.0.0.1", -1, type=STREAM),
        asked("127.0.0.1", 80.5),
        asked("127.0.0.1", "http"),
        asked("127.0.0.1", "domain"),
        asked("127.0.0.1", "no such service"),
        asked("127.0.0.1", "http", flags=socket.AI_NUMERICSERV),
        asked(None, 80, type=STREAM),
        asked(None, 80, type=STREAM, flags=socket.AI_PASSIVE),
        asked(None, None),
        asked("", 80),
        asked(5, 80),
        *(
            said(lambda f=flags: socket.getnameinfo(("127.0.0.1", 80), f))
            for flags in (
                0,
                socket.NI_NUMERICHOST,
                socket.NI_NUMERICSERV,
                socket.NI_NUMERICHOST | socket.NI_NUMERICSERV,
            )
        ),
        said(lambda: socket.getnameinfo(("localhost", 80), 0)),
        said(lambda: socket.gethostbyname("localhost")),
        said(lambda: socket.gethostbyname("")),
        said(lambda: socket.gethostbyname("::1")),
        said(lambda: socket.gethostbyname_ex("127.0.0.1")),
        said(lambda: socket.gethostbyaddr("127.0.0.1")),
    ]


ADDRESSES: list[Any] = [
    ("127.0.0.1", 9),
    ("::1", 9),
    ("", 9),
    ("127.0.0.1",),
    ("127.0.0.1", "9"),
    ("127.0.0.1", 9, 0, 0),
    ("127.0.0.1", 70_000),
    ("127.0.0.1", 9.5),
    (None, 9),
    "x",
]


def connected() -> list[str]:
    """What a family makes of an address at which nobody listens, or that is none."""
    seen = []
    for family in (INET, INET6):
        for address in ADDRESSES:
            with socket.socket(family) as sock:
                seen.append(said(lambda: sock.connect(address)))  # noqa: B023 - called here
    return seen


def rebound() -> list[str]:
    """Who may bind a port while a server's connection lives, and after its end."""
    seen: list[str] = []

    def bind(*options: int, listens: bool = False) -> None:
        with socket.socket() as sock:
            for option in options:
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            seen.append(said(lambda: sock.bind(address)))
            if listens:
                seen.append(said(sock.listen))

    def bind_all() -> None:
        bind()
        bind(socket.SO_REUSEADDR)
        bind(socket.SO_REUSEADDR, listens=True)
        bind(socket.SO_REUSEPORT)

    for reuses in (False, True):
        for first in ("server", "client"):
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuses)
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            address = listener.getsockname()
            bind_all()
            client = socket.create_connection(address)
            server, _ = listener.accept()
            seen.append(repr(server.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)))
            listener.close()
            bind_all()
            ends = [server, client] if first == "server" else [client, server]
            ends[0].close()
            seen.append(said(lambda: ends[1].recv(1)))  # noqa: B023 - called here
            ends[1].close()
            bind_all()
    return seen


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")
@pytest.mark.parametrize("program", [looked_up, connected, rebound])
def test_names_and_addresses_are_as_on_linux(program: Callable[[], list[str]]) -> None:
    """The same calls return the same, or fail with the same words."""
    simulated: list[list[str]] = []

    async def main(world: World) -> None:
        simulated.append(await asyncio.to_thread(program))

    found = run(main)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    on_linux = program()
    assert [*enumerate(simulated[-1])] == [*enumerate(on_linux)]


# ---- what follows for programs -----------------------------------------------------------------


async def closes(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def test_a_connection_tries_one_address_after_the_other() -> None:
    """With happy eyeballs too: the second answers where nobody listens at the first."""

    async def program(world: World) -> None:
        far = world.network.machine("far", "fd00::2", "10.0.0.2")
        with world.network.on(far):
            server = await asyncio.start_server(closes, "10.0.0.2", 7000)
        async with server:
            for options in ({}, {"happy_eyeballs_delay": 0.25}):
                _, writer = await asyncio.open_connection("far", 7000, **options)
                world.check(writer.get_extra_info("peername") == ("10.0.0.2", 7000), "reached")
                writer.close()

    found = run(program)
    assert found.violation is None and found.error is None, (found.violation, found.error)


def test_a_host_of_one_family_has_no_address_of_the_other() -> None:
    """It is an error of the name, which the program handles, and none of the simulator."""

    async def program(world: World) -> None:
        world.network.machine("far", "10.0.0.2")
        with pytest.raises(socket.gaierror, match="Name or service not known"):
            await asyncio.open_connection("far", 7000, family=INET6)
        with (
            socket.socket(INET6) as sock,
            pytest.raises(socket.gaierror, match="Name or service not known"),
        ):
            sock.connect(("far", 7000))

    found = run(program)
    assert found.violation is None and found.error is None, (found.violation, found.error)


def test_a_refusal_is_on_its_way_as_any_answer() -> None:
    """Who is refused knows it after the way there and the way back."""

    async def program(world: World) -> None:
        world.network.latency_s = 0.5
        began = asyncio.get_running_loop().time()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", 7000)
        took = asyncio.get_running_loop().time() - began
        world.check(1.0 <= took < 1.1, "a refusal takes two latencies")

    found = run(program)
    assert found.violation is None and found.error is None, (found.violation, found.error)


@pytest.mark.parametrize("why", ["cut", "cut meanwhile", "silent", "full"])
def test_who_is_not_answered_gives_up_after_two_minutes(why: str) -> None:
    """As on Linux: ETIMEDOUT, whatever has kept the answer away; it is no deadlock."""

    async def program(world: World) -> None:
        network, loop = world.network, asyncio.get_running_loop()
        far = network.machine("far", "10.0.0.2")
        if why == "silent":
            network.may_fail(Fault.SILENT)
        if why == "cut meanwhile":
            network.latency_s = 1.0
            loop.call_later(0.5, network.cut, "localhost", "far")
        with network.on(far):
            listener = socket.create_server(("10.0.0.2", 7000), backlog=0)
        if why == "cut":
            network.cut("localhost", "far")
        waits = socket.socket()
        waits.setblocking(False)
        if why == "full":
            with socket.socket() as first:
                first.setblocking(False)
                await loop.sock_connect(first, ("10.0.0.2", 7000))
                await connects(world, waits)
        else:
            await connects(world, waits)
        listener.close()

    async def connects(world: World, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            await loop.sock_connect(sock, ("10.0.0.2", 7000))
        except TimeoutError:
            world.reached("gives up")
            world.check(126 < loop.time() - began < 128, "after 127 s")
        sock.close()

    report = explore(program, strategy="departures", max_executions=30)
    assert "gives up" in report.labels, report.text
    assert report.verdict in ("proved", "inconclusive"), report.text


def test_a_name_that_no_host_has_is_refused_with_those_that_there_are() -> None:
    """It is mostly one that was misspelt."""

    async def program(world: World) -> None:
        world.host("database")
        await asyncio.open_connection("databse", 80)

    report = explore(program)
    assert report.verdict == "error"
    assert report.reason.startswith("the name 'databse' (the world has 'database') in program (")


def sends_mail(port: int) -> object:
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as mail:
        return mail.sendmail("a@here", ["b@there"], "Subject: x\n\nhello\n")


def test_the_name_of_its_own_machine_is_known() -> None:
    """`smtplib` greets with it, and looks it up first."""
    answers = {b"ehlo": b"250 here\r\n", b"data": b"354 go on\r\n", b"quit": b"221 bye\r\n"}

    async def takes_mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 here\r\n")
        while line := await reader.readline():
            word = line[:4].lower()
            if word == b"data":
                writer.write(answers[word])
                await reader.readuntil(b"\r\n.\r\n")
            writer.write(b"250 ok\r\n" if word == b"data" else answers.get(word, b"250 ok\r\n"))
        writer.close()

    async def program(world: World) -> None:
        world.check(socket.gethostbyname(socket.gethostname()) == "127.0.0.1", "its address")
        async with await asyncio.start_server(takes_mail, "127.0.0.1", 7000):
            world.check(await asyncio.to_thread(sends_mail, 7000) == {}, "all are told")

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)
