"""The options of sockets, on Linux and in the simulator."""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys

import pytest

from sim import World, run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is Linux's")

SOCKET, TCP = socket.SOL_SOCKET, socket.IPPROTO_TCP
KINDS = {
    "TCP": (socket.AF_INET, socket.SOCK_STREAM),
    "TCP over IPv6": (socket.AF_INET6, socket.SOCK_STREAM),
    "UDP": (socket.AF_INET, socket.SOCK_DGRAM),
    "Unix": (socket.AF_UNIX, socket.SOCK_STREAM),
}
TOLD = [
    *("SO_REUSEADDR", "SO_REUSEPORT", "SO_KEEPALIVE", "SO_BROADCAST", "SO_OOBINLINE", "SO_TYPE"),
    *("SO_ERROR", "SO_ACCEPTCONN", "SO_DOMAIN", "SO_PROTOCOL", "SO_RCVLOWAT", "SO_LINGER"),
]
SET = ["SO_REUSEADDR", "SO_KEEPALIVE", "SO_BROADCAST", "SO_OOBINLINE", "SO_SNDBUF", "SO_RCVBUF"]
OF_TCP = [
    *("TCP_NODELAY", "TCP_CORK", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT"),
    *("TCP_USER_TIMEOUT", "TCP_SYNCNT", "TCP_QUICKACK"),
]
VALUES = (0, 5, 60_000, struct.pack("i", 3), b"", b"x", True)


def outcome(sock: socket.socket, level: int, name: int, *value: object) -> str:
    """Of getting it, or of setting it and getting it then."""
    try:
        if value:
            sock.setsockopt(level, name, value[0])  # type: ignore[arg-type]
        return repr((sock.getsockopt(level, name), sock.getsockopt(level, name, 8)))
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0) or str(exc)


def options(kind: str) -> list[str]:
    seen = []
    with socket.socket(*KINDS[kind]) as sock:
        for name in TOLD:
            seen.append(f"{name} {outcome(sock, SOCKET, getattr(socket, name))}")
        for name in OF_TCP:
            seen.append(f"{name} {outcome(sock, TCP, getattr(socket, name))}")
        for name in SET:
            for value in VALUES:
                told = outcome(sock, SOCKET, getattr(socket, name), value)
                seen.append(f"{name} {value!r} {told}")
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


def test_a_time_limit_of_the_system_is_refused() -> None:
    """A blocking read would not end by it; Python's own is named."""

    async def program(world: World) -> None:
        with socket.socket() as sock:
            sock.setsockopt(SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 1, 0))

    found = run(program)
    assert found.error is not None and "there is settimeout" in found.error
