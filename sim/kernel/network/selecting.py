"""`select` and `selectors` of simulated sockets.

HTTP clients ask so for idle ones, servers in threads for the next connection, and a loop of
asyncio's own in a worker for all that it waits for.
"""

from __future__ import annotations

import errno
import functools
import select
import selectors
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NoReturn

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.network.errors import os_error
from sim.kernel.network.network import Network
from sim.kernel.network.open_sockets import READABLE, WRITABLE, Ends, OpenSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards, modelled

POLLIN, POLLOUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
POLLNVAL = getattr(select, "POLLNVAL", 32)
# By other names, what can be read or written.
_READS = POLLIN | getattr(select, "POLLRDNORM", 0)
_WRITES = POLLOUT | getattr(select, "POLLWRNORM", 0)
_ENDED = getattr(select, "POLLRDHUP", 0)
_TOLD_UNASKED = (
    (Ends.FAILED, getattr(select, "POLLERR", 8)),
    (Ends.HUNG_UP, getattr(select, "POLLHUP", 16)),
)
# Of an epoll: with these it tells of what has changed alone, or once.
_EDGES = getattr(select, "EPOLLET", 0) | getattr(select, "EPOLLONESHOT", 0)
ByFd = Mapping[int, OpenSocket]
REAL = (
    "it waits for the world outside, where time is real; let the program await world.outside(…), "
    "asyncio.sleep or an asyncio.Event in its place, or wait for sockets that it makes itself, "
    "which are simulated"
)
TRIO = "Trio's loop asks for this, and is not simulated: give anyio.run its asyncio backend"


class SimPoll:
    """select.poll, of simulated descriptors alone."""

    # Whether what it waits for stays open while it does.
    _holds = True

    def __init__(self) -> None:
        self._events: dict[int, int] = {}

    @forwards
    def register(self, fd: Any, eventmask: int = POLLIN | POLLOUT, /) -> None:
        self._events[_number(fd)] = eventmask

    @forwards
    def modify(self, fd: Any, eventmask: int, /) -> None:
        self._events[_number(fd)]
        self._events[_number(fd)] = eventmask

    @forwards
    def unregister(self, fd: Any, /) -> None:
        del self._events[_number(fd)]

    @forwards
    def poll(self, timeout: float | None = None, /) -> list[tuple[int, int]]:
        execution = execution_of_this_thread()
        assert execution is not None
        if not all(fd >= FIRST_FD for fd in self._events):
            _refuse(execution, "select.poll")
        timeout_s = None if timeout is None or timeout < 0 else timeout / 1000
        network: Network = execution.loop.network
        found: list[tuple[int, int]] = _waited(
            execution, network, self._found, self._events, self._reads(), timeout_s, self._holds
        )
        return found

    def _reads(self) -> list[int]:
        return [fd for fd, events in self._events.items() if events & _READS]

    def _found(self, by_fd: ByFd) -> list[tuple[int, int]]:
        found = []
        for fd, events in self._events.items():
            opened = by_fd.get(fd)
            mask = POLLNVAL if opened is None else _told(opened, events)
            if mask:
                found.append((fd, mask))
        return found


def _told(opened: OpenSocket, events: int) -> int:
    """What `poll` tells of it to who asks for these events."""
    ready, ends = opened.readiness(), opened.ends()
    # `select` calls readable what has hung up, and `poll` what has an end to be read.
    is_broken = ends & (Ends.HUNG_UP | Ends.FAILED) and not ends & Ends.ENDED
    has_nothing = is_broken and not opened.holds_data()
    mask = events & _READS if ready & READABLE and not has_nothing else 0
    mask |= events & _WRITES if ready & WRITABLE else 0
    mask |= events & _ENDED if ends & Ends.ENDED else 0
    for end, told in _TOLD_UNASKED:
        mask |= told if ends & end else 0
    return mask


class SimEpoll(SimPoll):
    """select.epoll, of simulated descriptors alone."""

    closed = False
    _holds = False

    @forwards
    def __init__(self, sizehint: int = -1, flags: int = 0) -> None:
        super().__init__()

    @forwards
    def register(self, fd: Any, eventmask: int = POLLIN | POLLOUT) -> None:
        execution = execution_of_this_thread()
        assert execution is not None
        if eventmask & _EDGES:
            edges = "select.epoll with EPOLLET or EPOLLONESHOT"
            execution.loop.refuse(edges, f"register without these, which is simulated. {TRIO}")
        number = _number(fd)
        if number in self._events:
            raise os_error(errno.EEXIST)
        self._events[number] = eventmask

    @forwards
    def modify(self, fd: Any, eventmask: int) -> None:
        self._require(fd)
        self._events[_number(fd)] = eventmask

    @forwards
    def unregister(self, fd: Any) -> None:
        self._require(fd)
        del self._events[_number(fd)]

    def _require(self, fd: Any) -> None:
        if _number(fd) not in self._events:
            raise os_error(errno.ENOENT)

    @forwards
    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        if self.closed:
            raise modelled(ValueError("I/O operation on closed epoll object"))
        found = super().poll(None if timeout is None else timeout * 1000)
        return found[: maxevents if maxevents > 0 else None]

    def _found(self, by_fd: ByFd) -> list[tuple[int, int]]:
        # What is closed is not in it any more.
        return [each for each in super()._found(by_fd) if each[1] != POLLNVAL]

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> SimEpoll:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def made(real: Callable[..., Any], simulated: Callable[..., Any]) -> Callable[..., Any]:
    """What makes a simulated one within an execution."""

    @forwards
    def make(*args: Any, **options: Any) -> Any:
        which = real if execution_of_this_thread() is None else simulated
        return which(*args, **options)

    # Also of a class, whose other names are asked for.
    functools.update_wrapper(make, real, updated=())
    for each in dir(real) if isinstance(real, type) else ():
        if not each.startswith("__"):
            setattr(make, each, getattr(real, each))
    return make


def is_simulated(key: selectors.SelectorKey) -> bool:
    return key.fd >= FIRST_FD


def selected(
    execution: Execution,
    keys: Iterable[selectors.SelectorKey],
    others: Callable[[], list[Any]],
    timeout_s: float | None,
    holds: bool,
) -> list[tuple[selectors.SelectorKey, int]]:
    """Which of these are ready, as a selector tells it; others: those of its real descriptors.

    holds: as `_waited` has it.
    """
    network: Network = execution.loop.network
    watched = list(keys)
    at_first = dict(network.open_by_fd)

    def found(by_fd: ByFd) -> list[Any]:
        ready = []
        for key in watched:
            opened = by_fd.get(key.fd)
            if opened is not None:
                mask = opened.readiness() & key.events
            else:
                mask = key.events if holds and key.fd in at_first else 0
            if mask:
                ready.append((key, mask))
        return ready + others()

    fds = [key.fd for key in watched]
    reads = [key.fd for key in watched if key.events & READABLE]
    return _waited(  # type: ignore[no-any-return]
        execution, network, found, fds, reads, timeout_s, holds
    )


def select_simulated(real: Callable[..., Any]) -> Callable[..., Any]:
    """real: what is called where nothing simulated is asked for."""

    @forwards
    def ask(rlist: Any, wlist: Any, xlist: Any, timeout: float | None = None, /) -> Any:
        execution = execution_of_this_thread()
        lists = [list(each) for each in (rlist, wlist, xlist)]
        numbers = {_number(each) for some in lists for each in some}
        if execution is None or not any(each >= FIRST_FD for each in numbers):
            return real(*lists, timeout)
        if not all(each >= FIRST_FD for each in numbers):
            _refuse(execution, "select.select")
        network: Network = execution.loop.network
        fds = {id(each): _number(each) for some in lists for each in some}
        for fd in fds.values():
            network.opened(fd)

        def found(by_fd: ByFd) -> tuple[list[Any], list[Any], list[Any]] | None:
            both = [
                [each for each in some if _readiness(by_fd, fds[id(each)]) & mask]
                for some, mask in zip(lists, (READABLE, WRITABLE), strict=False)
            ]
            return (both[0], both[1], []) if any(both) else None

        reads = [fds[id(each)] for each in lists[0]]
        found_at_last = _waited(execution, network, found, fds.values(), reads, timeout, True)
        return found_at_last or ([], [], [])

    return ask


def _waited(
    execution: Execution,
    network: Network,
    found: Callable[[ByFd], Any],
    fds: Iterable[int],
    reads: Iterable[int],
    timeout_s: float | None,
    holds: bool,
) -> Any:
    """What is found at once, or within the time limit.

    holds: as Linux has it for all but epoll, what is closed meanwhile stays open so long, wakes
    nobody by that, and is found closed at the end.
    """
    opened_at_first = {fd: network.open_by_fd[fd] for fd in fds if fd in network.open_by_fd}
    while_blocked = opened_at_first if holds else network.open_by_fd
    watched = [opened for fd in reads if (opened := network.open_by_fd.get(fd)) is not None]
    for opened in watched:
        if not opened.readiness() & READABLE:
            network.arrives_already(opened)
    if found(network.open_by_fd) or timeout_s == 0:
        return found(network.open_by_fd)
    with ExitStack() as stack:
        for opened in opened_at_first.values() if holds else ():
            stack.enter_context(network.held(opened))
        for opened in watched:
            opened.blocked_readers += 1
        try:
            execution.loop.threads.block_until(
                "select", lambda: bool(found(while_blocked)), timeout_s
            )
        finally:
            for opened in watched:
                opened.blocked_readers -= 1
        return found(network.open_by_fd)


def _readiness(by_fd: ByFd, fd: int) -> int:
    """`select` calls ready what was closed while it waited."""
    opened = by_fd.get(fd)
    return READABLE | WRITABLE if opened is None else opened.readiness()


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _refuse(execution: Execution, what: str) -> NoReturn:
    execution.loop.refuse(what, REAL)
