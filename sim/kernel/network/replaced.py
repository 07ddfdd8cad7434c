"""What of the modules `socket`, `select` and `ssl` is replaced within executions."""

from __future__ import annotations

import _socket
import errno
import functools
import select
import socket
import ssl
import sys
from asyncio import selector_events
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.isolation import outside
from sim.kernel.network import descriptors, names, paths, selecting, tls
from sim.kernel.network.errors import os_error
from sim.kernel.network.network import Network
from sim.kernel.network.sockets import AF_UNIX, RealSocket, SimSocket, network_here
from sim.kernel.origin import forwards

_SELF_PIPE = selector_events.BaseSelectorEventLoop._make_self_pipe.__code__  # type: ignore[attr-defined]


def _simulated(real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
    """Within an execution the one, which is called with its network; elsewhere the other."""

    @functools.wraps(real)
    @forwards
    def call(*args: Any, **options: Any) -> Any:
        network = network_here()
        if network is None:
            return real(*args, **options)
        return simulated(network, *args, **options)

    return call


def _looked_up(find: Callable[..., Any]) -> Callable[..., Any]:
    """The answer of the resolver, for which its thread waits."""

    def look_up(network: Network, host: Any, *args: Any, **options: Any) -> Any:
        found = find(network, host, *args, **options)
        if lasts_s := names.seconds_for(network, host):
            threads = network.loop_here().threads
            threads.block_until(f"the look-up of {host!r}", lambda: False, lasts_s)
        return found

    return look_up


@functools.wraps(socket.socketpair)
@forwards
def socketpair(family: Any = None, type: int = socket.SOCK_STREAM, proto: int = 0) -> Any:
    if execution_of_this_thread() is None:
        return _real_socketpair(family, type, proto)
    if sys._getframe(1).f_code is _SELF_PIPE:
        # Of a loop of asyncio's own in a worker, which waits for it in a selector of the system.
        pair = _socket.socketpair()
        return tuple(RealSocket(fileno=each.detach()) for each in pair)
    family = family if family is not None else AF_UNIX or socket.AF_INET
    if family != AF_UNIX and AF_UNIX is not None:
        raise os_error(errno.EOPNOTSUPP)
    one, other = SimSocket(family, type, proto), SimSocket(family, type, proto)
    one._sim_open.pair_with(other._sim_open)
    return one, other


@forwards
def _fromfd(network: Any, fd: int, family: int, type: int, proto: int = 0) -> Any:
    return SimSocket(family, type, proto, fileno=_dup(network, fd))


def _dup(network: Any, fd: int) -> int:
    return network.new_fd(network.opened(fd))  # type: ignore[no-any-return]


def _gethostname(network: Any) -> str:
    """That of the machine on which it runs; as on stock where there is but one."""
    return network.machine_here().name if len(network.machines) > 1 else _real_gethostname()


_real_socketpair, _real_gethostname = socket.socketpair, socket.gethostname

_SIMULATED: dict[str, Callable[..., Any]] = {
    "getaddrinfo": _looked_up(names.getaddrinfo),
    "getnameinfo": names.getnameinfo,
    "gethostbyname": _looked_up(names.gethostbyname),
    "gethostbyname_ex": _looked_up(names.gethostbyname_ex),
    "gethostbyaddr": names.gethostbyaddr,
    "gethostname": _gethostname,
    "fromfd": _fromfd,
    "dup": _dup,
    "close": lambda network, fd: network.close(fd),
}


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of what within an exploration."""
    return _REPLACEMENTS


_OF_PATHS = paths.replacements()
_REPLACEMENTS: list[tuple[Any, str, Any]] = [
    (socket, "socket", SimSocket),
    (socket, "socketpair", socketpair),
    (ssl.SSLContext, "wrap_socket", tls.wrap_socket),
    *_OF_PATHS,
    *descriptors.replacements(_OF_PATHS),
    (select, "select", selecting.select_simulated(outside.beneath(select, "select"))),
    *(
        (select, name, selecting.made(getattr(select, name), simulated))
        for name, simulated in (("poll", selecting.SimPoll), ("epoll", selecting.SimEpoll))
        if hasattr(select, name)
    ),
    *(
        (socket, name, _simulated(getattr(socket, name), simulated))
        for name, simulated in _SIMULATED.items()
        if hasattr(socket, name)
    ),
]
