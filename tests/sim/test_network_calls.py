"""What single calls of sockets return and raise, on real loopback sockets and on simulated ones."""

# ruff: noqa: B023
# Each function is called where it is written, before the loop goes on.

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, run
from tests.limits import HANGS_S

pytestmark = [
    pytest.mark.socket,
    pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's"),
]

Seen = list[object]

# On loopback an answer is there within microseconds; in the simulator this is virtual.
UNDER_WAY_S = 0.01
SHORT_S = 0.02
MORE_THAN_IT_TAKES = 600


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0) or str(exc)
    except (TypeError, ValueError, OverflowError) as exc:
        return type(exc).__name__


def arrives(*socks: socket.socket) -> None:
    for sock in socks:
        assert select.select([sock], [], [], HANGS_S)[0]


def a_connection() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def a_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def a_pair_of_datagrams() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(type=socket.SOCK_DGRAM)


PAIRS = (a_connection, a_pair, a_pair_of_datagrams)


def ready(sock: socket.socket) -> str:
    readable, writable, _ = select.select([sock], [sock], [], 0)
    return "r" * len(readable) + "w" * len(writable)


# ---- programs ----------------------------------------------------------------------------------


def flags_of_a_read() -> Seen:
    seen: Seen = []
    for pair in PAIRS:
        one, other = pair()
        with one, other:
            other.send(b"abcdef")
            arrives(one)
            for bufsize, flags in (
                (3, socket.MSG_PEEK),
                (100, socket.MSG_PEEK | socket.MSG_DONTWAIT),
                (100, socket.MSG_DONTWAIT),
                (100, socket.MSG_DONTWAIT),
                (100, socket.MSG_DONTWAIT | socket.MSG_WAITALL),
            ):
                seen.append(outcome(lambda b=bufsize, f=flags: one.recv(b, f)))  # type: ignore[misc]
            other.send(b"x")
            other.send(b"y")
            other.close()
            time.sleep(UNDER_WAY_S)
            seen.append(outcome(lambda: one.recv(9, socket.MSG_WAITALL)))
            seen.append(outcome(lambda: one.recv(9, socket.MSG_WAITALL)))
    return seen


def flags_with_a_time_limit() -> Seen:
    """It is Python that waits, before it asks the system, whatever the flags say."""
    seen: Seen = []
    for pair in PAIRS:
        one, other = pair()
        with one, other:
            one.settimeout(SHORT_S)
            seen.append(outcome(lambda: one.recv(9, socket.MSG_DONTWAIT)))
            other.send(b"abc")
            arrives(one)
            seen.append(outcome(lambda: one.recv(9, socket.MSG_WAITALL)))
    return seen


def one_that_poll_calls_ready_in_vain() -> Seen:
    """Shut for reading: only who waits in the system is told so; a time limit is waited for."""
    seen: Seen = []
    for family, address in ((socket.AF_INET, ("127.0.0.1", 0)), (socket.AF_UNIX, "\0in vain")):
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind(address)
            seen.append(outcome(lambda: sock.shutdown(socket.SHUT_RD)))
            for limit_s in (None, 0, SHORT_S):
                sock.settimeout(limit_s)
                for flags in (0, socket.MSG_DONTWAIT, socket.MSG_PEEK):
                    seen.append(outcome(lambda: sock.recv(9, flags)))
                    seen.append(outcome(lambda: sock.recvfrom(9, flags)))
            seen.append(outcome(sock.accept))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0in vain")
        listener.listen()
        listener.shutdown(socket.SHUT_RD)
        for limit_s in (None, 0, SHORT_S):
            listener.settimeout(limit_s)
            seen.append(outcome(listener.accept))
            seen.append(outcome(lambda: listener.recv(9)))
    return seen


def what_a_duplicate_sets() -> Seen:
    """O_NONBLOCK is of both, and a time limit of one: Linux waits by that, Python by this."""
    seen: Seen = []
    for pair in PAIRS:
        one, other = pair()
        with one, other, one.dup() as duplicate:
            duplicate.setblocking(False)
            seen.append(outcome(lambda: one.recv(9)))
            one.setblocking(True)
            for limit_s in (None, 0.0, SHORT_S):
                duplicate.settimeout(limit_s)
                one.setblocking(True)
                other.send(b"abc")
                arrives(one)
                seen.append(outcome(lambda: duplicate.recv(9, socket.MSG_DONTWAIT)))
                seen.append(outcome(lambda: duplicate.recv(9, socket.MSG_DONTWAIT)))
                other.send(b"abc")
                arrives(one)
                all_there_is = socket.MSG_WAITALL | socket.MSG_DONTWAIT
                seen.append(outcome(lambda: duplicate.recv(9, all_there_is)))
            duplicate.settimeout(0)
            one.setblocking(True)
            later = threading.Timer(UNDER_WAY_S, other.send, (b"abc",))
            later.start()
            seen.append(outcome(lambda: duplicate.recv(9)))
            later.join()
    return seen


def messages() -> Seen:
    seen: Seen = []
    for pair in PAIRS:
        one, other = pair()
        with one, other:
            seen.append(outcome(lambda: one.sendmsg([b"ab", b"cd"])))
            arrives(other)
            seen.append(outcome(lambda: other.recvmsg(3)))
            seen.append(outcome(lambda: other.recvmsg(3, 0, socket.MSG_DONTWAIT)))
            seen.append(outcome(lambda: one.sendmsg([])))
            seen.append(outcome(lambda: one.sendmsg([b"abc"], [], 0, None)))
            time.sleep(UNDER_WAY_S)
            few, more = bytearray(2), bytearray(5)
            seen.append(outcome(lambda: other.recvmsg_into([few, more])))
            seen.append((bytes(few), bytes(more)))
            seen.append(outcome(lambda: other.recvmsg(-1)))
            seen.append(outcome(lambda: one.sendto(b"abc", 0, ("127.0.0.1", 9))))
            seen.append(outcome(lambda: one.sendto(b"abc", "\0nobody")))
    return seen


def unix_datagrams_that_nobody_reads() -> Seen:
    """As many as fit: the sender has room for some bytes, and a stranger takes eleven."""
    seen: Seen = []
    for size in (1, 200, 1000, 4000, 20_000, 60_000):
        one, other = a_pair_of_datagrams()
        with one, other:
            one.setblocking(False)
            seen.append(as_many_as_fit(lambda one=one, size=size: one.send(bytes(size))))
            seen.append(ready(one))
            other.recv(9)
            seen.append((ready(one), outcome(lambda: one.send(b"x"))))
            one.settimeout(SHORT_S)
            seen.append(outcome(lambda: [one.send(b"x") for _ in range(MORE_THAN_IT_TAKES)]))
    return seen


def unix_datagrams_to_a_stranger() -> Seen:
    seen: Seen = []
    name = f"\0stranger {os.getpid()}"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as taker,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
    ):
        taker.bind(name)
        sender.setblocking(False)
        for _ in range(2):
            seen.append(as_many_as_fit(lambda: sender.sendto(b"x", name)))
            seen.append(ready(sender))
            taker.recv(9)
            taker.recv(9)
        sender.connect(name)
        seen.append((ready(sender), as_many_as_fit(lambda: sender.send(b"x")), ready(sender)))
        sender.settimeout(SHORT_S)
        seen.append(outcome(lambda: sender.send(b"x")))
        seen.append(outcome(lambda: sender.sendto(b"x", name)))
        taker.recv(9)
        seen.append(outcome(lambda: sender.send(bytes(250_000))))
        taker.close()
        seen.append([outcome(lambda: sender.send(b"x")) for _ in range(2)])
    return seen


def as_many_as_fit(send: Callable[[], object]) -> tuple[int, str]:
    for count in range(MORE_THAN_IT_TAKES):
        if (came := outcome(send)) in ("EAGAIN", "EMSGSIZE"):
            return count, came
    return MORE_THAN_IT_TAKES, "all"


def udp() -> Seen:
    seen: Seen = []
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        for act in (
            sock.getsockname,
            sock.getpeername,
            sock.listen,
            sock.accept,
            lambda: sock.recv(9, socket.MSG_DONTWAIT),
            lambda: sock.send(b"x"),
            lambda: sock.shutdown(socket.SHUT_WR),
        ):
            seen.append(outcome(act))
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        seen.append(outcome(lambda: sock.bind(("127.0.0.1", 0))))
        sock.connect(sock.getsockname())
        for act in (
            lambda: sock.recvmsg(0)[:3],
            lambda: sock.recv(9),
            lambda: sock.recvmsg(2)[:3],
            lambda: sock.recvfrom_into(bytearray(3))[0],
        ):
            sock.send(b"abcdef")
            arrives(sock)
            seen.append(outcome(act))
        for how in (socket.SHUT_RD, socket.SHUT_WR):
            seen.append(outcome(lambda how=how: sock.shutdown(how)))  # type: ignore[misc]
        seen.append(outcome(lambda: sock.send(b"x")))
    return seen


def port_zero() -> Seen:
    """A datagram socket is connected to it and has no peer; a connection is refused."""
    seen: Seen = []
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with (
            socket.socket(family, socket.SOCK_DGRAM) as sock,
            socket.socket(family) as client,
        ):
            seen.append(outcome(lambda: sock.connect((host, 0))))
            seen.append(outcome(sock.getpeername))
            seen.append(outcome(lambda: sock.sendto(b"x", (host, 0))))
            seen.append(outcome(lambda: client.connect((host, 0))))
    return seen


def shutdown() -> Seen:
    seen: Seen = []
    for how in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR, 7):
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for family in (socket.AF_INET, socket.AF_UNIX):
                with socket.socket(family, kind) as sock:
                    seen.append(outcome(lambda: sock.shutdown(how)))
        with socket.socket() as sock:
            seen.append(outcome(lambda: sock.shutdown(how)))
            seen.append(outcome(lambda: sock.recv(1, socket.MSG_DONTWAIT)))
            seen.append(outcome(lambda: sock.send(b"x")))
        # Who has shut a socket without a connection, and connects it then.
        with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as sock:
            seen.append(outcome(lambda: sock.shutdown(how)))
            sock.connect(listener.getsockname())
            with listener.accept()[0] as other:
                seen.append(outcome(lambda: sock.recv(1, socket.MSG_DONTWAIT)))
                seen.append(outcome(lambda: sock.send(b"x")))
                other.send(b"yz")
                arrives(sock)
                time.sleep(UNDER_WAY_S)
                seen.append(outcome(lambda: sock.recv(9)))
    one, other = a_connection()
    with one, other:
        for act in (
            lambda: one.shutdown(9),
            lambda: one.shutdown(socket.SHUT_RDWR),
            lambda: one.shutdown(socket.SHUT_RDWR),
            lambda: one.recv(9),
        ):
            seen.append(outcome(act))
    return seen


def a_thread_that_waits_for_a_datagram() -> Seen:
    """Who shuts its socket wakes it, also where that has no peer and says so."""
    seen: Seen = []
    for connects in (False, True):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            sock.bind(("127.0.0.1", 0))
            if connects:
                sock.connect(("127.0.0.1", 9))
            seen.append(outcome(lambda: sock.shutdown(socket.SHUT_RDWR)))
            seen.append(outcome(lambda: sock.recv(9)))
    return seen


def both_families() -> Seen:
    """Whether an IPv6 socket takes IPv4 is decided before it is bound."""
    seen: Seen = []
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        for only in (None, 0, 1):
            for ipv4, ipv6 in (
                ("0.0.0.0", "::"),
                ("127.0.0.1", "::"),
                ("0.0.0.0", "::1"),
                ("127.0.0.1", "::1"),
            ):
                for is_ipv6_first in (True, False):
                    seen.append(bound_where_it_is_free(kind, only, ipv4, ipv6, is_ipv6_first))
    return seen


def bound_where_it_is_free(*arguments: Any) -> Any:
    """A port that is free for the first family may be another process's in the second."""
    bound: Any = None
    for _ in range(8):
        bound = bound_one_after_the_other(*arguments)
        if bound[0] != "EADDRINUSE":
            break
    return bound


def bound_one_after_the_other(
    kind: int, only: int | None, ipv4: str, ipv6: str, is_ipv6_first: bool
) -> object:
    with (
        socket.socket(socket.AF_INET6, kind) as six,
        socket.socket(socket.AF_INET, kind) as four,
        socket.socket(socket.AF_INET, kind) as client,
    ):
        if only is not None:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        binds = [(six, ipv6), (four, ipv4)]
        (first, host), (second, other) = binds if is_ipv6_first else binds[::-1]
        first.bind((host, 0))
        port = first.getsockname()[1]
        if kind == socket.SOCK_STREAM:
            first.listen()
        return (
            outcome(lambda: second.bind((other, port))),
            outcome(lambda: six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)),
            outcome(lambda: client.connect(("127.0.0.1", port))),
        )


def names_without_a_file() -> Seen:
    name = f"\0name {os.getpid()}"
    seen: Seen = []
    with (
        socket.socket(socket.AF_UNIX) as listener,
        socket.socket(socket.AF_UNIX) as client,
        socket.socket(socket.AF_UNIX) as other,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagrams,
    ):
        listener.bind(name)
        for act in (
            lambda: listener.bind(name),
            lambda: other.bind(name),
            lambda: client.connect(name),
            listener.listen,
            lambda: client.connect(name.encode()),
            lambda: client.getpeername() == name.encode(),
            client.getsockname,
            lambda: datagrams.sendto(b"x", name),
            lambda: other.bind(3),  # type: ignore[arg-type]
            lambda: other.bind("\0" + "x" * 107),
            lambda: len(other.getsockname()),
            lambda: datagrams.bind("x" * 108),
        ):
            seen.append(outcome(act))
    return seen


def what_python_refuses() -> Seen:
    one, other = a_connection()
    seen: Seen = []
    reuse = (socket.SOL_SOCKET, socket.SO_REUSEADDR)
    calls: list[Callable[[], Any]] = [
        lambda: one.recv(-1),
        lambda: one.recv("x"),  # type: ignore[arg-type]
        lambda: one.recv_into(bytearray(3), 9),
        lambda: one.recv_into(b"abc"),  # type: ignore[arg-type]
        lambda: one.send("x"),  # type: ignore[arg-type]
        lambda: one.sendall(memoryview(b"abcd")[::1]),
        lambda: one.sendto(b"x"),  # type: ignore[call-overload]
        lambda: one.sendto(b"x", 0, ("127.0.0.1", 9), 3),  # type: ignore[call-overload]
        lambda: one.setblocking("x"),  # type: ignore[arg-type]
        lambda: one.settimeout(float("nan")),
        lambda: one.settimeout("x"),  # type: ignore[arg-type]
        lambda: one.settimeout(-1),
        lambda: one.settimeout(1e300),
        lambda: one.setsockopt(*reuse, 2**40),
        lambda: one.setsockopt(*reuse, None),  # type: ignore[call-overload]
        lambda: one.setsockopt(*reuse, "x"),  # type: ignore[call-overload]
        lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_UDP),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_TCP),
        lambda: socket.socket(fileno=-1),
        lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM, socket.IPPROTO_TCP),
        lambda: socket.socketpair(socket.AF_INET),
        lambda: socket.socketpair(socket.AF_INET6, socket.SOCK_DGRAM),
    ]
    with one, other:
        for act in calls:
            seen.append(outcome(act))
    return seen


PROGRAMS: list[Callable[[], Seen]] = [
    flags_of_a_read,
    flags_with_a_time_limit,
    one_that_poll_calls_ready_in_vain,
    what_a_duplicate_sets,
    messages,
    unix_datagrams_that_nobody_reads,
    unix_datagrams_to_a_stranger,
    udp,
    port_zero,
    shutdown,
    a_thread_that_waits_for_a_datagram,
    both_families,
    names_without_a_file,
    what_python_refuses,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_calls_are_as_on_linux(program: Callable[[], Seen]) -> None:
    """The same calls return the same, and raise errors of the same number."""
    simulated: list[Seen] = []

    async def main(world: World) -> None:
        simulated.append(await asyncio.to_thread(program))

    found = run(main)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    assert simulated[-1] == program()


def test_unix_datagrams_wait_for_who_reads_them() -> None:
    """A coroutine that sends more than fits goes on once they are read, and none is lost."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        one, other = socket.socketpair(type=socket.SOCK_DGRAM)
        with one, other:
            one.setblocking(False)
            other.setblocking(False)

            async def sends() -> None:
                for number in range(MORE_THAN_IT_TAKES):
                    await loop.sock_sendall(one, b"%d" % number)

            sending = asyncio.create_task(sends())
            got = [await loop.sock_recv(other, 9) for _ in range(MORE_THAN_IT_TAKES)]
            await sending
        assert got == [b"%d" % number for number in range(MORE_THAN_IT_TAKES)]

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)


def test_a_socket_that_connects_to_itself_is_refused() -> None:
    """Linux makes a connection of it; the refusal says what to do."""

    async def program(world: World) -> None:
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(("127.0.0.1", 7000))
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", 7000))

    found = run(program)
    assert found.error is not None
    assert "a connection from 127.0.0.1:7000 to itself" in found.error
    assert "connect to another port" in found.error
