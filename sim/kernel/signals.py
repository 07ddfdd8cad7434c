"""Signal handlers of a simulated loop, and signals as outside events.

As in CPython's Lib/asyncio/unix_events.py, except that no signal of the system is caught: a handler
is run by `World.signal`, or by `os.kill` and `signal.raise_signal` on the process itself. Only a
loop that stands alone catches those of others (`sim.runner`), so that none ends a suite's process.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import simpy

from sim.kernel.current import execution_of_this_thread
from sim.kernel.environment import Environment
from sim.kernel.origin import forwards, modelled
from sim.kernel.threads.local_values import here

_CANNOT_BE_CAUGHT = {signal.SIGKILL, signal.SIGSTOP}
# Ignored by the system by default.
_IGNORED = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
_WOULD_END = (
    "nothing handles it, so it would end this process and the exploration with it; give the loop a "
    "handler, or let world.signal(…) send it, which calls that a violation"
)


class SignalHandlers(asyncio.BaseEventLoop):
    """The part of a loop that knows which callback a signal has."""

    _ready: Any
    environment: Environment
    # Made with the first handler: most executions have none.
    _signal_handlers: dict[int, asyncio.Handle] | None = None

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        """Raises as asyncio does: TypeError, ValueError, and RuntimeError for SIGKILL."""
        if inspect.iscoroutine(callback) or inspect.iscoroutinefunction(callback):
            raise modelled(TypeError("coroutines cannot be used with add_signal_handler()"))
        _check_signal(sig)
        if self.is_closed():
            raise modelled(RuntimeError("Event loop is closed"))
        if self._is_in_other_thread():
            only = "set_wakeup_fd only works in main thread of the main interpreter"
            raise modelled(RuntimeError(only))
        if sig in _CANNOT_BE_CAUGHT:
            raise modelled(RuntimeError(f"sig {sig} cannot be caught"))
        if self._signal_handlers is None:
            self._signal_handlers = {}
        self._signal_handlers[sig] = asyncio.Handle(callback, args, self, None)

    def remove_signal_handler(self, sig: int) -> bool:
        _check_signal(sig)
        return (self._signal_handlers or {}).pop(sig, None) is not None

    def _is_in_other_thread(self) -> bool:
        """The one in which an execution began is its main thread."""
        return here.identity is not None

    def deliver_signal(self, sig: int) -> bool:
        """The system delivers the signal; False if that would have ended the process.

        In asyncio a signal writes a byte to a pipe of the loop, whose reader is a callback that
        puts the handler into the ready queue: two steps, as here.
        """
        if sig in (self._signal_handlers or {}):
            self.call_soon(self._handle_signal, sig)
            return True
        return sig in _IGNORED

    def _handle_signal(self, sig: int) -> None:
        handle = (self._signal_handlers or {}).get(sig)
        if handle is not None and not handle.cancelled():
            self._ready.append(handle)


def name_of(sig: int) -> str:
    """`SIGTERM` for 15. Raises TypeError or ValueError for what is not a signal."""
    _check_signal(sig)
    try:
        return signal.Signals(sig).name
    except ValueError:
        return f"signal {sig}"


def _ends_process(sig: int) -> bool:
    if sig in _CANNOT_BE_CAUGHT:
        return True
    if sig in _IGNORED or sig not in signal.valid_signals():
        return False
    return signal.getsignal(sig) is signal.SIG_DFL


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise modelled(TypeError(f"sig must be an int, not {sig!r}"))
    if sig not in signal.valid_signals():
        raise modelled(ValueError(f"invalid signal number {sig}"))


@contextmanager
def own_signals_simulated() -> Iterator[None]:
    """In the block, signals that the process sends to itself go to the running loop's handlers."""
    kill, raise_signal, handle = os.kill, signal.raise_signal, signal.signal

    @functools.wraps(kill)
    @forwards
    def simulated_kill(pid: int, sig: int, /) -> None:
        if _is_for_a_process(pid, sig):
            return
        if pid != os.getpid() or not _is_for_handler(sig):
            kill(pid, sig)

    @functools.wraps(raise_signal)
    @forwards
    def simulated_raise_signal(sig: int, /) -> None:
        execution = execution_of_this_thread()
        own = None if execution is None else execution.loop.pid
        if own is not None and _is_for_a_process(own, sig):
            return
        if not _is_for_handler(sig):
            raise_signal(sig)

    @functools.wraps(handle)
    @forwards
    def simulated_signal(sig: Any, handler: Any, /) -> Any:
        execution = execution_of_this_thread()
        if execution is not None and execution.loop.threads.current is not None:
            only = "signal only works in main thread of the main interpreter"
            raise modelled(ValueError(only))
        return handle(sig, handler)

    os.kill, signal.raise_signal = simulated_kill, simulated_raise_signal
    signal.signal = simulated_signal  # type: ignore[assignment]
    try:
        yield
    finally:
        os.kill, signal.raise_signal, signal.signal = kill, raise_signal, handle


def _is_for_a_process(pid: int, sig: int) -> bool:
    """Whether it is for a process of the execution's hosts, which has got it then."""
    execution = execution_of_this_thread()
    hub = None if execution is None else execution.loop.processes
    return hub is not None and hub.kill(pid, sig)


def _is_for_handler(sig: int) -> bool:
    """Whether the execution has seen to it. In a worker, too: a signal is the whole process's."""
    execution = execution_of_this_thread()
    loop = None if execution is None else execution.loop
    if execution is None or not isinstance(loop, SignalHandlers):
        return False
    if sig not in (loop._signal_handlers or {}):
        if not execution.is_alone and _ends_process(sig):
            execution.loop.refuse(f"{name_of(sig)} to the own process", _WOULD_END)
        return False
    handlers = loop

    def found(_: object) -> None:
        handlers.deliver_signal(sig)

    # The byte is in the pipe at once, and the next poll finds it.
    in_pipe = simpy.Timeout(loop.environment, 0.0)
    assert in_pipe.callbacks is not None
    in_pipe.callbacks.append(found)
    return True
