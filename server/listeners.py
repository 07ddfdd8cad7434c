"""Where the server listens: had before anything else has begun, or refused in a sentence."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from server.security import StartRefused

PORT_MAX = 65535
# Until the server takes it over, which has a backlog of its own.
_BACKLOG = 128
_SHOWN_CHARS = 80
# Ports that are free on one address of a name are rarely taken on another.
_TRIES = 20
# What is to be done about it.
_WHY_NOT = {
    errno.EADDRINUSE: "that port is taken, its address already in use; end the program that "
    "listens there (`ss -ltnp` names it), or take another --port",
    errno.EACCES: "this user may not have that port, as those below 1024 are root's; take a --port "
    "from 1024 on, with a proxy in front of it if need be",
    errno.EADDRNOTAVAIL: "this machine has no such address; `ip address` lists those that it has, "
    "and with 0.0.0.0 as --host it listens on all of them",
}


@contextmanager
def listening(host: str, port: int) -> Iterator[list[socket.socket]]:
    """A socket for each address of the host, all of one port, closed in the end.

    They listen, and are not only bound, which a second server could do as well: the one that comes
    later learns it here. Who connects before the server has started waits for it.
    Raises StartRefused for an address on which nobody can listen, or somebody does already.
    """
    if not 0 <= port <= PORT_MAX:
        raise StartRefused(
            f"will not listen on port {port}: ports are 0 (any free one) to {PORT_MAX}"
        )
    places = _places(host, port)
    with ExitStack() as exits:
        for _ in range(_TRIES if port == 0 else 1):
            exits.close()
            found, errors = _had(places, port, exits)
            # Somebody may have the first one's port on another address.
            if not any(number == errno.EADDRINUSE for _, number in errors):
                break
        # Of a name one address may be missing, as ::1 of localhost where there is no IPv6.
        final = [error for error in errors if error[1] in (errno.EADDRINUSE, errno.EACCES)]
        if final or not found:
            address, number = (final or errors)[0]
            why = _WHY_NOT.get(number, os.strerror(number))
            raise StartRefused(f"cannot listen on {address} at port {port}: {why}")
        yield found


def _had(
    places: list[Any], port: int, exits: ExitStack
) -> tuple[list[socket.socket], list[tuple[str, int]]]:
    """Those that are had, and of the others the address and the error's number."""
    found: list[socket.socket] = []
    errors: list[tuple[str, int]] = []
    for family, kind, protocol, _, (address, _, *more) in places:
        try:
            listener = exits.enter_context(socket.socket(family, kind, protocol))
            _listen(listener, (address, port, *more))
        except OSError as exc:
            errors.append((str(address), exc.errno or errno.EINVAL))
        else:
            found.append(listener)
            # The port that the first has got is that of all: one URL names the server.
            port = listener.getsockname()[1]
    return found, errors


def url_of(listener: socket.socket) -> str:
    """With the port that it has got, where any was asked for."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _places(host: str, port: int) -> list[Any]:
    """Raises StartRefused for a host that is none."""
    try:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as exc:
        raise StartRefused(
            f"cannot listen on {host[:_SHOWN_CHARS]!a}: that is no address and no name of one "
            f"({exc}); write 127.0.0.1, ::1 or a name as --host, and the port as --port"
        ) from None
    return list(dict.fromkeys(found))


def _listen(listener: socket.socket, place: tuple[Any, ...]) -> None:
    if os.name == "posix":
        # A server that has just ended is in nobody's way. On Windows it would be another meaning.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if listener.family == socket.AF_INET6:
        # Else it would be every address of both kinds.
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind(place)
    listener.listen(_BACKLOG)
