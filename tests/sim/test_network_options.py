"""The options of sockets, on Linux and in the simulator."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from sim import World, run
from sim.kernel.network.options import BUFFER_BYTES_ASKED_MAX

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")

SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
KINDS = {
    "TCP": (socket.AF_INET, socket.SOCK_STREAM),
    "TCP over IPv6": (socket.AF_INET6, socket.SOCK_STREAM),
    "UDP": (socket.AF_INET, socket.SOCK_DGRAM),
    "UDP over IPv6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "Unix": (socket.AF_UNIX, socket.SOCK_STREAM),
    "Unix datagrams": (socket.AF_UNIX, socket.SOCK_DGRAM),
}
TOLD = [
    *("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST", "SO_OOBINLINE", "SO_TYPE"),
    *("SO_ERROR", "SO_ACCEPTCONN", "SO_DOMAIN", "SO_PROTOCOL", "SO_RCVLOWAT", "SO_LINGER"),
    *("SO_SNDLOWAT", "SO_INCOMING_CPU", "SO_PRIORITY", "SO_DONTROUTE"),
]
SET = [
    *("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST", "SO_OOBINLINE"),
    *("SO_SNDBUF", "SO_RCVBUF", "SO_ERROR", "SO_TYPE", "SO_ACCEPTCONN", "SO_DOMAIN"),
    *("SO_PROTOCOL", "SO_SNDLOWAT", "SO_INCOMING_CPU", "SO_DONTROUTE"),
]
OF_TCP = [
    *("TCP_NODELAY", "TCP_CORK", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"),
    *("TCP_USER_TIMEOUT", "TCP_SYNCNT", "TCP_QUICKACK", "TCP_LINGER2", "TCP_MAXSEG"),
]
OF_IP = ["IP_TTL", "IP_TOS"]
OF_IPV6 = ["IPV6_V6ONLY", "IPV6_UNICAST_HOPS", "IPV6_TCLASS"]
BY_LEVEL = {
    SOCKET: SET,
    TCP: OF_TCP,
    socket.IPPROTO_IP: OF_IP,
    socket.IPPROTO_IPV6: OF_IPV6,
}
VALUES = (0, 1, 5, 200, 60_000, struct.pack("i", 3), b"x", b"xy", True)
BELOW_ZERO = (-1, -5)


def outcome(sock: socket.socket, level: int, name: int, *value: object) -> str:
    """Of getting it, or of setting it and getting it then."""
    try:
        if value:
            sock.setsockopt(level, name, value[0])  # type: ignore[arg-type]
        return repr((sock.getsockopt(level, name), sock.getsockopt(level, name, 8)))
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0) or str(exc)
    except TypeError as exc:
        return str(exc)


def options(kind: str) -> list[str]:
    seen = []
    with socket.socket(*KINDS[kind]) as sock:
        for name in TOLD:
            seen.append(f"{name} {outcome(sock, SOCKET, getattr(socket, name))}")
        for name in OF_TCP:
            seen.append(f"{name} {outcome(sock, TCP, getattr(socket, name))}")
        for level, names in BY_LEVEL.items():
            for name in names:
                values = VALUES if name in ("SO_SNDBUF", "SO_RCVBUF") else VALUES + BELOW_ZERO
                for value in values:
                    told = outcome(sock, level, getattr(socket, name), value)
                    seen.append(f"{name} {value!r} {told}")
        seen.append(outcome(sock, SOCKET, socket.SO_REUSEADDR, None))
        for linger in ((0, 0), (3, 7), (1, 0)):
            value = struct.pack("ii", *linger)
            seen.append(f"{linger} {outcome(sock, SOCKET, socket.SO_LINGER, value)}")
        seen.append(outcome(sock, SOCKET, socket.SO_LINGER, 1))
        for bytes_max in (1, -1, 2000):
            try:
                seen.append(repr(sock.getsockopt(SOCKET, socket.SO_TYPE, bytes_max)))
            except OSError as exc:
                seen.append(str(exc))
        for timeout in (None, 0.0, 3.0):
            sock.settimeout(timeout)
            seen.append(repr(os.get_blocking(sock.fileno())))
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_options_are_as_on_linux(kind: str) -> None:
    """What they are at first, what is kept of a value, and which are no option of the kind."""
    simulated: list[list[str]] = []

    async def program(world: World) -> None:
        simulated.append(options(kind))

    found = run(program)
    assert found.error is None and found.violation is None, (found.error, found.violation)
    assert simulated[-1] == options(kind)


def largest_buffers() -> list[int]:
    """What a system keeps of a size that it takes for more than a user may have."""
    found = []
    for name in ("SO_SNDBUF", "SO_RCVBUF"):
        for size in (-5, 2**31 - 1):
            with socket.socket() as sock:
                sock.setsockopt(SOCKET, getattr(socket, name), size)
                found.append(sock.getsockopt(SOCKET, getattr(socket, name)))
    return found


def test_a_buffer_is_as_large_as_a_user_may_have() -> None:
    """A negative size has no sign for Linux; how much a user may have, a system is told."""
    simulated: list[int] = []

    async def program(world: World) -> None:
        simulated.extend(largest_buffers())

    found = run(program)
    assert found.error is None, found.error
    may_have = [
        int(Path(f"/proc/sys/net/core/{direction}mem_max").read_text())
        for direction in ("w", "w", "r", "r")
    ]
    assert largest_buffers() == [2 * size for size in may_have]
    assert set(simulated) == {2 * BUFFER_BYTES_ASKED_MAX}


REFUSED = [
    (SOCKET, "SO_RCVTIMEO", struct.pack("qq", 1, 0), "limit the time by settimeout"),
    (SOCKET, "SO_RCVLOWAT", 9, "read with MSG_WAITALL"),
    (SOCKET, "SO_BINDTODEVICE", b"eth0", "Leave it out where the program is explored"),
    (TCP, "TCP_DEFER_ACCEPT", 5, "Leave it out where the program is explored"),
    (socket.IPPROTO_IP, "IP_ADD_MEMBERSHIP", bytes(8), "a coroutine that awaits world.outside"),
]


@pytest.mark.parametrize(("level", "name", "value", "instead"), REFUSED)
def test_an_option_that_would_have_no_effect_is_refused(
    level: int, name: str, value: object, instead: str
) -> None:
    """Its name, its value and its place are told, and what to do in its place."""

    async def program(world: World) -> None:
        kind = socket.SOCK_STREAM if level == TCP else socket.SOCK_DGRAM
        with socket.socket(type=kind) as sock, suppress(OSError):
            sock.setsockopt(level, getattr(socket, name), value)  # type: ignore[arg-type]

    found = run(program)
    assert found.error is not None
    assert (
        f"socket.setsockopt of {name} to {value!r} in program (tests/sim/test_network_opt"
        in found.error
    )
    assert instead in found.error
