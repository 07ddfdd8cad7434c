"""What `os` does with a descriptor, where that is a simulated socket's."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.isolation import outside
from sim.kernel.network.network import Network
from sim.kernel.network.sockets import SimSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards

try:
    import fcntl
except ImportError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

_USE_THE_SOCKET = (
    "a simulated socket has no descriptor of the system; call what the socket has of its own, as "
    "recv, send, dup, setblocking and getsockopt"
)


@contextmanager
def _socket_of(network: Network, fd: int) -> Iterator[SimSocket]:
    """For one call: it blocks as the one does whose descriptor it is."""
    opened = network.opened(fd)
    sock = SimSocket(opened.family, opened.kind, 0, fd)
    sock._sim_timeout = None if opened.blocks else 0.0
    try:
        yield sock
    finally:
        sock.detach()


def _close(network: Network, fd: int) -> None:
    network.opened(fd)
    network.close(fd)


def _read(network: Network, fd: int, length: int) -> bytes:
    with _socket_of(network, fd) as sock:
        return sock.recv(length)


def _write(network: Network, fd: int, data: Any) -> int:
    with _socket_of(network, fd) as sock:
        return sock.send(data)


def _sendfile(network: Network, fd: int, in_fd: int, offset: int | None, count: int) -> int:
    """What is not taken stays in the file."""
    at = os.lseek(in_fd, 0, os.SEEK_CUR) if offset is None else offset
    data = os.pread(in_fd, count, at)
    sent = _write(network, fd, data) if data else 0
    if offset is None:
        os.lseek(in_fd, at + sent, os.SEEK_SET)
    return sent


def _get_blocking(network: Network, fd: int) -> bool:
    return network.opened(fd).blocks


_SIMULATED: dict[str, Callable[..., Any]] = {
    "close": _close,
    "get_blocking": _get_blocking,
    "read": _read,
    "write": _write,
    "sendfile": _sendfile,
}
_REFUSED = ("dup", "dup2", "fstat", "readv", "writev", "set_blocking")


def _of_simulated(
    real: Callable[..., Any], act: Callable[..., Any] | None, what: str
) -> Callable[..., Any]:
    """Without an act it is refused."""

    @functools.wraps(real)
    @forwards
    def call(fd: Any, *args: Any, **options: Any) -> Any:
        execution = execution_of_this_thread() if isinstance(fd, int) and fd >= FIRST_FD else None
        if execution is None:
            return real(fd, *args, **options)
        if act is None:
            execution.loop.refuse(f"{what} of a simulated socket", _USE_THE_SOCKET)
        return act(execution.loop.network, fd, *args, **options)

    return call


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of what within an exploration."""
    named: list[tuple[ModuleType, str]] = [(os, name) for name in (*_SIMULATED, *_REFUSED)]
    if fcntl is not None:
        named += [(fcntl, "fcntl"), (fcntl, "ioctl")]
    return [
        (
            module,
            name,
            _of_simulated(
                outside.beneath(module, name), _SIMULATED.get(name), f"{module.__name__}.{name}"
            ),
        )
        for module, name in named
        if hasattr(module, name)
    ]
