"""A loop of asyncio's own within an execution: `asyncio.run` in a worker, say.

Its code is CPython's, its clock is the virtual one, and where it would sleep in its selector the
worker blocks in virtual time, until somebody calls it by `call_soon_threadsafe`, a timer is due or
a socket of the execution's network is ready. So does any selector of the program's own. One that
waits for a descriptor of the system waits for the world outside, where time is real: refused.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.network.selecting import is_simulated, selected
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards

_KINDS = ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector", "KqueueSelector")
_EPOLL: Any = getattr(selectors, "EpollSelector", ())
WAITS_OUTSIDE = (
    "it waits for the world outside, where time is real; a selector may wait for sockets that the "
    "program makes, which are simulated, and a loop of its own in a worker thread for timers and "
    "call_soon_threadsafe as well; put what stands behind a pipe or a process into the program, as "
    "a coroutine that awaits world.outside(…)"
)


def _selecting(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def select(self: Any, timeout: float | None = None) -> Any:
        execution = execution_of_this_thread()
        if execution is None:
            return real(self, timeout)
        threads = execution.loop.threads
        keys = self._fd_to_key.values()
        simulated = [key for key in keys if is_simulated(key)]
        waits = timeout is None or timeout > 0
        is_only_woken = threads.current is not None and _is_woken_by_threads_alone(self)
        if waits and not is_only_woken and (len(simulated) < len(keys) or not simulated):
            execution.loop.refuse(f"{type(self).__name__}.select", WAITS_OUTSIDE)
        if not waits and is_only_woken:
            threads.pause("select")
        if simulated:
            wait_s = timeout if waits else 0
            holds = not isinstance(self, _EPOLL)
            return selected(execution, simulated, lambda: list(real(self, 0)), wait_s, holds)
        if waits:
            threads.block_until("select", lambda: bool(real(self, 0)), timeout)
        return real(self, 0)

    return select


def _keeping(real: Callable[..., Any], base: Callable[..., Any]) -> Callable[..., Any]:
    """`register` and its like: of a simulated socket the system's own part is not told."""

    @functools.wraps(real)
    @forwards
    def keep(self: Any, fileobj: Any, *args: Any, **options: Any) -> Any:
        execution = execution_of_this_thread()
        if execution is None or self._fileobj_lookup(fileobj) < FIRST_FD:
            return real(self, fileobj, *args, **options)
        return base(self, fileobj, *args, **options)

    return keep


def _is_woken_by_threads_alone(selector: Any) -> bool:
    """Whether it is the running loop's, which reads of the system nothing but its own pipe."""
    loop: Any = asyncio._get_running_loop()
    wakes = getattr(loop, "_ssock", None)
    if wakes is None or loop._selector is not selector:
        return False
    return {fd for fd in selector.get_map() if fd < FIRST_FD} == {wakes.fileno()}


@contextmanager
def second_loops_simulated() -> Iterator[None]:
    """Within the block, no selector of an execution waits in real time."""
    kinds: list[Any] = [getattr(selectors, name) for name in _KINDS if hasattr(selectors, name)]
    base: Any = selectors._BaseSelectorImpl
    before = []
    for name in ("select", "register", "unregister", "modify"):
        # PollSelector has most of a class that it shares with others.
        holders = dict.fromkeys(next(c for c in k.__mro__ if name in vars(c)) for k in kinds)
        before += [(holder, name, vars(holder)[name]) for holder in holders if holder is not base]
    for holder, name, real in before:
        is_select = name == "select"
        stand_in = _selecting(real) if is_select else _keeping(real, getattr(base, name))
        setattr(holder, name, stand_in)
    try:
        yield
    finally:
        for holder, name, real in before:
            setattr(holder, name, real)
