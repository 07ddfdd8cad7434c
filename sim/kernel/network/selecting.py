"""`select.poll` and `select.select` of simulated sockets: HTTP clients ask so for idle ones."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.network.network import FIRST_FD, Network
from sim.kernel.network.open_sockets import READABLE, WRITABLE
from sim.kernel.origin import forwards

POLLIN, POLLOUT = getattr(select, "POLLIN", 1), getattr(select, "POLLOUT", 4)
POLLNVAL = getattr(select, "POLLNVAL", 32)
REAL = (
    "it waits for the world outside, where time is real; let the program await world.outside(…), "
    "asyncio.sleep or an asyncio.Event in its place, or wait for sockets that it makes itself, "
    "which are simulated"
)


class SimPoll:
    """select.poll, of simulated descriptors alone."""

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
            execution, network, lambda: self._found(network), self._reads(), timeout_s
        )
        return found

    def _reads(self) -> list[int]:
        return [fd for fd, events in self._events.items() if events & POLLIN]

    def _found(self, network: Network) -> list[tuple[int, int]]:
        found = []
        for fd, events in self._events.items():
            opened = network.open_by_fd.get(fd)
            ready = 0 if opened is None else opened.readiness()
            mask = POLLNVAL if opened is None else 0
            mask |= POLLIN * bool(ready & READABLE and events & POLLIN)
            mask |= POLLOUT * bool(ready & WRITABLE and events & POLLOUT)
            if mask:
                found.append((fd, mask))
        return found


def poll(real: Callable[..., Any]) -> Callable[..., Any]:
    @forwards
    def make(*args: Any) -> Any:
        return real(*args) if execution_of_this_thread() is None else SimPoll()

    return make


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
        reads = [_number(each) for each in lists[0]]

        def found() -> tuple[list[Any], list[Any], list[Any]] | None:
            both = [
                [each for each in some if _readiness(network, each) & mask]
                for some, mask in zip(lists, (READABLE, WRITABLE), strict=False)
            ]
            return (both[0], both[1], []) if any(both) else None

        return _waited(execution, network, found, reads, timeout) or ([], [], [])

    return ask


def _waited(
    execution: Execution,
    network: Network,
    found: Callable[[], Any],
    reads: Iterable[int],
    timeout_s: float | None,
) -> Any:
    """What is found at once, or within the time limit."""
    for fd in reads:
        opened = network.open_by_fd.get(fd)
        if opened is not None and not opened.readiness() & READABLE:
            network.arrives_already(opened)
    if not found() and timeout_s != 0:
        execution.loop.threads.block_until("select", lambda: bool(found()), timeout_s)
    return found()


def _readiness(network: Network, fileobj: Any) -> int:
    return network.opened(_number(fileobj)).readiness()


def _number(fileobj: Any) -> int:
    return fileobj if isinstance(fileobj, int) else int(fileobj.fileno())


def _refuse(execution: Execution, what: str) -> NoReturn:
    execution.loop.refuse(what, REAL)
