"""A loop of asyncio's own within an execution: `asyncio.run` in a worker, say.

Its code is CPython's, its clock is the virtual one, and where it would sleep in its selector the
worker blocks in virtual time, until somebody calls it by `call_soon_threadsafe` or a timer is due.
A selector that waits for anything else, a socket or a pipe, waits for the world outside, where
time is real, and is refused.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.network.network import FIRST_FD
from sim.kernel.origin import forwards

_KINDS = ("SelectSelector", "PollSelector", "EpollSelector", "DevpollSelector", "KqueueSelector")
WAITS_OUTSIDE = (
    "it waits for the world outside, where time is real; a loop of its own may wait in a worker "
    "thread, for timers and for call_soon_threadsafe; put what stands behind a socket or a process "
    "into the program, as a coroutine that awaits world.outside(…)"
)

NO_SYSTEMS_SELECTOR = (
    "a selector of the system cannot wait for a simulated socket; let asyncio wait for it in the "
    "program's own loop, or block in its recv or accept in a worker thread, or put what stands "
    "behind it into a coroutine that awaits world.outside(…)"
)


def _selecting(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def select(self: Any, timeout: float | None = None) -> Any:
        execution = execution_of_this_thread()
        if execution is None:
            return real(self, timeout)
        threads = execution.loop.threads
        waits = timeout is None or timeout > 0
        if threads.current is None or not _is_woken_by_threads_alone(self):
            if waits:
                execution.loop.refuse(f"{type(self).__name__}.select", WAITS_OUTSIDE)
        elif waits:
            threads.block_until("select", lambda: bool(real(self, 0)), timeout)
        else:
            threads.pause("select")
        return real(self, 0)

    return select


def _registering(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def register(self: Any, fileobj: Any, events: int, data: Any = None) -> Any:
        execution = execution_of_this_thread()
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        if execution is not None and fd >= FIRST_FD:
            execution.loop.refuse(f"{type(self).__name__}.register", NO_SYSTEMS_SELECTOR)
        return real(self, fileobj, events, data)

    return register


def _is_woken_by_threads_alone(selector: Any) -> bool:
    """Whether it is that of the running loop, which reads from nothing but its own pipe."""
    loop: Any = asyncio._get_running_loop()
    wakes = getattr(loop, "_ssock", None)
    if wakes is None or loop._selector is not selector:
        return False
    return {*selector.get_map()} == {wakes.fileno()}


@contextmanager
def second_loops_simulated() -> Iterator[None]:
    """Within the block, no selector of an execution waits in real time."""
    kinds: list[Any] = [getattr(selectors, name) for name in _KINDS if hasattr(selectors, name)]
    base: Any = selectors._BaseSelectorImpl
    # The others' `register` calls it first.
    before = [(base, "register", base.register)]
    # PollSelector has it of a class that it shares with others.
    holders = dict.fromkeys(next(c for c in k.__mro__ if "select" in vars(c)) for k in kinds)
    before += [(holder, "select", holder.select) for holder in holders]
    for kind, name, real in before:
        setattr(kind, name, _registering(real) if kind is base else _selecting(real))
    try:
        yield
    finally:
        for kind, name, real in before:
            setattr(kind, name, real)
