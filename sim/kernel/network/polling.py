"""The part of a loop that is a selector of simulated descriptors.

The transports, `sock_recv` and its like, servers and TLS are CPython's own code, of
`asyncio.selector_events`: it registers descriptors with its selector, and is told which are ready.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
import warnings
import weakref
from asyncio import selector_events, sslproto
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import cached_property
from typing import Any, NoReturn

from sim.kernel.environment import Environment
from sim.kernel.faults import Faults
from sim.kernel.network import names
from sim.kernel.network.network import Network
from sim.kernel.network.open_sockets import READABLE
from sim.kernel.network.watched import Watch
from sim.kernel.origin import forwards

REAL_DESCRIPTOR = (
    "it belongs to a socket, pipe or file of the system, of which nobody can say when it is ready; "
    "sockets that are made within the program are simulated: make it there, or put what stands "
    "behind it into a coroutine that awaits world.outside(…)"
)


class _AsItStands:
    """What the program is told of the loop's class: that of asyncio's own, as by `isinstance`."""

    if sys.platform != "win32":
        __class__ = property(lambda self: asyncio.SelectorEventLoop)


class SocketLoop(_AsItStands, selector_events.BaseSelectorEventLoop):
    """A loop that is its own selector; without sockets it has no network, and pays nothing."""

    # BaseEventLoop's own, which the type stubs leave out.
    _process_events: Callable[[Any], None]
    _network: Network | None = None
    environment: Environment
    refused: str | None
    choose: Callable[[str, Sequence[Any], Callable[[Sequence[Any]], Sequence[int]]], int]

    def __init__(self) -> None:
        # Not the selector loop's, which makes a selector and a pipe to itself.
        asyncio.BaseEventLoop.__init__(self)

    @cached_property
    def _transports(self) -> weakref.WeakValueDictionary[int, Any]:
        return weakref.WeakValueDictionary()

    # What a SimLoop brings.

    def refuse(self, what: str, instead: str) -> NoReturn:
        raise NotImplementedError

    def misuse(self, what: str) -> NoReturn:
        raise NotImplementedError

    @property
    def faults(self) -> Faults:
        raise NotImplementedError

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        raise NotImplementedError

    @property
    def network(self) -> Network:
        if self._network is None:
            self._network = Network(self)
        return self._network

    @forwards
    def close(self) -> None:
        # Not the selector loop's, which closes its selector: the loop is that.
        asyncio.BaseEventLoop.close(self)

    def _make_self_pipe(self) -> None:
        """Nothing to do: `select` never blocks."""

    def _close_self_pipe(self) -> None:
        """There is none."""

    def _write_to_self(self) -> None:
        """Nothing to do: `select` never blocks."""

    # -- what asyncio asks of its selector

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        return self.network.watches[self._number_of(fileobj)].key  # type: ignore[no-any-return]

    def _number_of(self, fileobj: Any) -> int:
        """Also of what is registered and has been closed since, as a selector finds it."""
        try:
            return _number(fileobj)
        except ValueError:
            for fd, watch in self.network.watches.items():
                if watch.loop is self and watch.key.fileobj is fileobj:
                    return fd
            raise

    def get_map(self) -> Mapping[int, selectors.SelectorKey]:
        return _Map(self)

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = _number(fileobj)
        if fd not in self.network.open_by_fd:
            what = "loop.add_reader" if events & READABLE else "loop.add_writer"
            self.refuse(f"{what} of descriptor {fd}", REAL_DESCRIPTOR)
        key = selectors.SelectorKey(fileobj, fd, events, data)
        self.network.watches[fd] = Watch(self, key)
        return key

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        fd = self._number_of(fileobj)
        key = self.network.watches[fd].key._replace(events=events, data=data)
        self.network.watches[fd] = Watch(self, key)
        return key  # type: ignore[no-any-return]

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self.network.watches.pop(self._number_of(fileobj)).key  # type: ignore[no-any-return]

    # -- paths of Unix servers, which CPython unlinks since 3.13

    @cached_property
    def _unix_server_sockets(self) -> dict[Any, int]:
        """By socket, what number its path had when the server began."""
        return {}

    def _stop_serving(self, sock: Any) -> None:
        number = vars(self).get("_unix_server_sockets", {}).pop(sock, None)
        path = sock.getsockname() if number is not None else ""
        super()._stop_serving(sock)  # type: ignore[misc]
        with suppress(FileNotFoundError):
            if path and os.stat(path).st_ino == number:
                os.unlink(path)

    def resources_unwarned(self) -> AbstractContextManager[object]:
        """While the rest is cancelled: what that leaves open, the execution's end has left open."""
        if self._network is None:
            return nullcontext()
        return warnings.catch_warnings(action="ignore", category=ResourceWarning)

    # Of its process; the program's own loop is on no host.
    host_name = ""
    # What is said before what happens in it; empty for the program's own loop.
    lane = ""
    # Another process has sent something here: see `SimLoop._has_work`.
    is_woken = False
    # Whether its process has ended.
    is_over = False

    def may_fail(self, before: str) -> None:
        """A process may, before what its peers can tell."""

    def forget_network(self) -> None:
        """After the execution: what it has left open is not asked for, and warns of nothing."""
        if self._network is None:
            return
        for transport in self._transports.values():
            transport._sock, transport._closing = None, True
            protocol = transport.get_protocol()
            if isinstance(protocol, sslproto.SSLProtocol):
                protocol._app_transport._closed = True
        if self._network.loop is self:
            self._network.let_go()

    # -- names

    @forwards
    async def getaddrinfo(
        self,
        host: Any,
        port: Any,
        *,
        family: int = 0,
        type: int = 0,
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """As asyncio's, which asks in a thread: the answer comes from outside."""
        found = names.getaddrinfo(self.network, host, port, family, type, proto, flags)
        what = f"the name {host!r} is resolved"
        await self.network.answered(what, names.seconds_for(self.network, host))
        return found

    @forwards
    async def getnameinfo(self, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
        found = names.getnameinfo(self.network, sockaddr, flags)
        await self.network.answered(f"the address {sockaddr[0]} is looked up", 0.0)
        return found


class _Map(Mapping[Any, selectors.SelectorKey]):
    """As that of a selector: what is registered is found by its number, and by its object."""

    def __init__(self, loop: SocketLoop) -> None:
        self._loop = loop

    def __getitem__(self, fileobj: Any) -> selectors.SelectorKey:
        return self._loop.get_key(fileobj)

    def __iter__(self) -> Iterator[int]:
        watches = self._loop.network.watches
        return iter([fd for fd, watch in watches.items() if watch.loop is self._loop])

    def __len__(self) -> int:
        return len(list(iter(self)))


def _number(fileobj: Any) -> int:
    """Raises as a selector does for what has no descriptor."""
    return selectors._fileobj_to_fd(fileobj)  # type: ignore[attr-defined, no-any-return]


if sys.platform != "win32":
    from asyncio import unix_events

    _OF_UNIX = (
        *("create_unix_connection", "create_unix_server"),
        *("_sock_sendfile_native", "_sock_sendfile_native_impl", "_sock_sendfile_update_filepos"),
        "_sock_add_cancellation_callback",
    )
    for _name in _OF_UNIX:
        setattr(SocketLoop, _name, getattr(unix_events._UnixSelectorEventLoop, _name))
