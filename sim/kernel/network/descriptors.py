"""What `os`, `fcntl` and others do with a descriptor, where that is a simulated socket's.

The system would say that there is no such descriptor, and the program would believe it: so each
function that takes one is simulated or refused.
"""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, NoReturn

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.isolation import outside
from sim.kernel.network.network import Network
from sim.kernel.network.selecting import TRIO
from sim.kernel.network.sockets import SimSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards

try:
    import fcntl
    import termios
except ImportError:  # as on Windows
    fcntl = termios = None  # type: ignore[assignment]

_USE_THE_SOCKET = (
    "a simulated socket has no descriptor of the system; call what the socket has of its own, as "
    "recv, send, makefile, dup, setblocking and getsockopt"
)
_USE_A_HANDLER = (
    "no signal of the system comes within an execution, so that none would be written to it; use "
    f"loop.add_signal_handler or signal.signal, which are simulated. {TRIO}"
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


def _get_inheritable(network: Network, fd: int) -> bool:
    return fd in network.opened(fd).inheritable


def _set_inheritable(network: Network, fd: int, inheritable: int) -> None:
    network.opened(fd).set_inheritable(fd, bool(inheritable))


_SIMULATED: dict[str, Callable[..., Any]] = {
    "close": _close,
    "get_blocking": _get_blocking,
    "get_inheritable": _get_inheritable,
    "read": _read,
    "sendfile": _sendfile,
    "set_inheritable": _set_inheritable,
    "write": _write,
}
_REFUSED: list[tuple[ModuleType | None, str]] = [
    (os, "copy_file_range dup dup2 fchdir fchmod fchown fdatasync fpathconf fstat fstatvfs fsync"),
    (
        os,
        "ftruncate get_terminal_size lockf login_tty lseek pathconf posix_fadvise posix_fallocate",
    ),
    (os, "pread preadv pwrite pwritev readv set_blocking splice stat statvfs tcgetpgrp tcsetpgrp"),
    (os, "ttyname writev"),
    (fcntl, "fcntl flock ioctl lockf"),
    (signal, "set_wakeup_fd"),
    (termios, "tcdrain tcflow tcflush tcgetattr tcgetwinsize tcsendbreak tcsetattr tcsetwinsize"),
]


def _number(fd: Any, is_of_os: bool) -> int:
    """-1 for what is none; all but `os` take an object with `fileno` as well."""
    if not isinstance(fd, int) and not is_of_os and callable(getattr(fd, "fileno", None)):
        fd = fd.fileno()
    return fd if isinstance(fd, int) else -1


def _refuse(execution: Execution, what: str) -> NoReturn:
    instead = _USE_A_HANDLER if what == "signal.set_wakeup_fd" else _USE_THE_SOCKET
    execution.loop.refuse(f"{what} of a simulated socket", instead)


def _refused_as_path(what: str) -> Callable[..., None]:
    def hears(execution: Execution, path: Any, *args: Any) -> None:
        if isinstance(path, int) and path >= FIRST_FD:
            _refuse(execution, what)

    return hears


# Where a path may stand as well as a descriptor; `open` is of `os.fdopen` and `io.FileIO`, too.
_OF_PATHS = "open os.chdir os.chmod os.chown os.listdir os.scandir os.truncate os.utime"
_OF_NAMED_VALUES = "os.getxattr os.listxattr os.removexattr os.setxattr"
_HEARD = f"{_OF_PATHS} {_OF_NAMED_VALUES} mmap.__new__"
outside.hearers.update({event: _refused_as_path(event) for event in _HEARD.split()})


def _of_simulated(
    real: Callable[..., Any], act: Callable[..., Any] | None, what: str
) -> Callable[..., Any]:
    """Without an act it is refused."""
    is_of_os = what.startswith("os.")

    @functools.wraps(real)
    @forwards
    def call(fd: Any, *args: Any, **options: Any) -> Any:
        number = _number(fd, is_of_os)
        execution = execution_of_this_thread() if number >= FIRST_FD else None
        if execution is None:
            return real(fd, *args, **options)
        if act is None:
            _refuse(execution, what)
        return act(execution.loop.network, number, *args, **options)

    return call


def _of_a_range(real: Callable[..., Any]) -> Callable[..., Any]:
    """Refused where a simulated socket is in it, which would stay open."""

    @functools.wraps(real)
    @forwards
    def closerange(low: int, high: int, /) -> None:
        execution = execution_of_this_thread() if high > FIRST_FD else None
        if execution is not None and _has_open(execution, range(low, high)):
            _refuse(execution, "os.closerange")
        real(low, high)

    return closerange


def _has_open(execution: Execution, fds: range) -> bool:
    return execution.loop.has_network and any(
        map(fds.__contains__, execution.loop.network.open_by_fd)
    )


def replacements(of_paths: list[tuple[Any, str, Any]]) -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of what within an exploration.

    of_paths: the same for what takes a path; where that may be a descriptor as well, as of
    `os.stat`, these stand in front of those.
    """
    behind = {(module, name): stand_in for module, name, stand_in in of_paths}
    named: list[tuple[ModuleType | None, str]] = [(os, name) for name in _SIMULATED]
    named += [(module, name) for module, names in _REFUSED for name in names.split()]
    closerange = _of_a_range(outside.beneath(os, "closerange"))
    return [
        (os, "closerange", closerange),
        *(
            (
                module,
                name,
                _of_simulated(
                    behind.get((module, name)) or outside.beneath(module, name),
                    _SIMULATED.get(name),
                    f"{module.__name__}.{name}",
                ),
            )
            for module, name in named
            if module is not None and hasattr(module, name)
        ),
    ]
