"""Signal handlers of a simulated loop, and signals as outside events.

As in CPython's Lib/asyncio/unix_events.py, except that no signal of the system is caught: a handler
is run by `World.signal`, or by `os.kill` and `signal.raise_signal` on the process itself. So is one
of `signal.signal`, which the program finds in `signal.getsignal` and nobody else does. Only a loop
that stands alone catches those of others (`sim.runner`), so that none ends a suite's process.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import inspect
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import simpy

from sim.kernel.current import execution_of_this_thread
from sim.kernel.environment import Arrival, Environment
from sim.kernel.origin import forwards, modelled
from sim.kernel.schedule import Option, one_natural
from sim.kernel.threads.local_values import here

# Bound here: within executions others stand there.
_getsignal = signal.getsignal
_VALID = signal.valid_signals()
_CANNOT_BE_CAUGHT = {signal.SIGKILL, signal.SIGSTOP}
# Ignored by the system by default.
_IGNORED = {signal.SIGCHLD, signal.SIGURG, signal.SIGWINCH, signal.SIGCONT}
_WOULD_END = (
    "nothing handles it, so it would end this process and the exploration with it; give the loop a "
    "handler, or let world.signal(…) send it, which calls that a violation"
)


def _nothing(sig: int, frame: object) -> None:
    """What asyncio leaves in `signal.getsignal` for a signal of which the loop has a handler."""


class SignalHandlers(asyncio.BaseEventLoop):
    """The part of a loop that knows which callback a signal has.

    python_handlers: those of `signal.signal`. Of both, made with the first one: most executions
    have none. raised_by_handler: what one of Python's raised last; in a poll it ends the loop.
    """

    _ready: Any
    environment: Environment
    choose: Callable[[str, Sequence[Any], Callable[[Sequence[Any]], Sequence[int]]], int]
    _signal_handlers: dict[int, asyncio.Handle] | None = None
    python_handlers: dict[int, Any] | None = None
    raised_by_handler: BaseException | None = None
    # Signals that were sent, with their arrivals; None while the program has sent none.
    signals_under_way: list[tuple[int, Arrival]] | None = None
    # What `asyncio.run` would run, and how many SIGINTs it has had for it.
    main_task: asyncio.Task[Any] | None = None
    interrupts = 0

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
        self.set_python_handler(sig, _nothing)

    def remove_signal_handler(self, sig: int) -> bool:
        _check_signal(sig)
        if (self._signal_handlers or {}).pop(sig, None) is None:
            return False
        is_interrupt = sig == signal.SIGINT
        self.set_python_handler(sig, signal.default_int_handler if is_interrupt else signal.SIG_DFL)
        return True

    def set_python_handler(self, sig: int, handler: Any) -> Any:
        """Returns the one before."""
        before = self.python_handler(sig)
        if self.python_handlers is None:
            self.python_handlers = {}
        self.python_handlers[sig] = handler
        return before

    def python_handler(self, sig: int) -> Any:
        """Where the program has set none, what the process around the execution has."""
        own = self.python_handlers or {}
        return own[sig] if sig in own else _getsignal(sig)

    def _is_in_other_thread(self) -> bool:
        """The one in which an execution began is its main thread."""
        return here.identity is not None

    def deliver_signal(self, sig: int) -> bool:
        """The system delivers the signal; False if that would have ended the process.

        In asyncio a signal writes a byte to a pipe of the loop, whose reader is a callback that
        puts the handler into the ready queue: two steps, as here. One of `signal.signal` runs
        between two instructions of the main thread, and so at once.
        """
        if not self.handles(sig):
            return self.interrupt(sig) or sig in _IGNORED
        self.run_python_handler(sig)
        self.find_in_pipe(sig)
        return True

    def handles(self, sig: int, *, with_pythons: bool = True) -> bool:
        """Whether it has a handler, or ignores the signal."""
        pythons = (self.python_handlers or {}) if with_pythons else {}
        is_own = pythons.get(sig, signal.SIG_DFL) is not signal.SIG_DFL
        return is_own or sig in (self._signal_handlers or {})

    def is_ended_by(self, sig: int) -> bool:
        """Whether its process ends where it lands; SIGINT is another matter."""
        return not self.handles(sig) and sig not in _IGNORED and sig != signal.SIGINT

    def interrupt(self, sig: int) -> bool:
        """What `asyncio.run` does on SIGINT where the program has set nothing for it.

        The first one cancels the main task, the next raises KeyboardInterrupt. False for another
        signal.
        """
        main = self.main_task
        if sig != signal.SIGINT or main is None or sig in (self.python_handlers or {}):
            return False
        self.interrupts += 1
        if self.interrupts > 1 or main.done():
            self.raised_by_handler = KeyboardInterrupt()
            raise self.raised_by_handler
        main.cancel()
        return True

    def runs_at_once(self, sig: int) -> bool:
        """Whether `signal.signal` has given it a handler, which needs no poll."""
        handler = (self.python_handlers or {}).get(sig)
        return callable(handler) and handler is not _nothing

    def ends_by_interrupt(self) -> bool:
        """Whether its main task, which is cancelled, was so by SIGINT alone."""
        main = self.main_task
        return bool(self.interrupts) and main is not None and main.cancelling() <= 1

    def run_python_handler(self, sig: int) -> None:
        handler = (self.python_handlers or {}).get(sig)
        if not callable(handler):
            return
        try:
            handler(sig, sys._getframe())
        except BaseException as exc:
            self.raised_by_handler = exc
            raise

    def take_signals(self, where: str = "while a lock is held") -> None:
        """What is due may land here, where Python runs handlers: the main thread has taken a lock.

        Only one of `signal.signal` runs at once; the loop's are callbacks, as at a poll.
        """
        environment = self.environment
        for sig, arrival in tuple(self.signals_under_way or ()):
            is_due = arrival in environment.pending and arrival.earliest <= environment.now
            if not is_due or not self.runs_at_once(sig):
                continue
            options = [Option("goes on"), Option(f"{arrival.name} lands {where}")]
            if self.choose("thread", options, one_natural):
                environment.land(arrival)

    def find_in_pipe(self, sig: int) -> None:
        if sig in (self._signal_handlers or {}):
            self.call_soon(self._handle_signal, sig)

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
    # The handler of SIGINT is here that of who explores, whom it would interrupt.
    if sig in _CANNOT_BE_CAUGHT or sig == signal.SIGINT:
        return True
    if sig in _IGNORED or sig not in _VALID:
        return False
    return _getsignal(sig) is signal.SIG_DFL


def _interrupts(loop: SignalHandlers, sig: int) -> bool:
    """Whether it is a SIGINT to the own process, as `asyncio.run` has it; in its main thread."""
    if here.identity is None:
        return loop.interrupt(sig)
    main = loop.main_task
    if sig != signal.SIGINT or main is None or sig in (loop.python_handlers or {}):
        return False

    def is_seen(_: object) -> None:
        loop.interrupt(sig)

    later = simpy.Timeout(loop.environment, 0.0)
    assert later.callbacks is not None
    later.callbacks.append(is_seen)
    return True


def _check_signal(sig: int) -> None:
    if not isinstance(sig, int):
        raise modelled(TypeError(f"sig must be an int, not {sig!r}"))
    if sig not in _VALID:
        raise modelled(ValueError(f"invalid signal number {sig}"))


@contextmanager
def own_signals_simulated() -> Iterator[None]:
    """In the block, signals that the process sends to itself go to the running loop's handlers."""
    kill, raise_signal = os.kill, signal.raise_signal
    handle, handler_of = signal.signal, signal.getsignal

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
        loop = _loop_of_handlers()
        return handle(sig, handler) if loop is None else _set_in_main_thread(loop, sig, handler)

    @functools.wraps(handler_of)
    @forwards
    def simulated_getsignal(sig: Any, /) -> Any:
        loop = _loop_of_handlers()
        return handler_of(sig) if loop is None else loop.python_handler(sig)

    os.kill, signal.raise_signal = simulated_kill, simulated_raise_signal
    signal.signal, signal.getsignal = simulated_signal, simulated_getsignal  # type: ignore[assignment]
    try:
        yield
    finally:
        os.kill, signal.raise_signal = kill, raise_signal
        signal.signal, signal.getsignal = handle, handler_of


def _loop_of_handlers() -> SignalHandlers | None:
    """Whose handlers `signal.signal` sets here; None where it sets real ones."""
    execution = execution_of_this_thread()
    if execution is None or execution.is_alone or not isinstance(execution.loop, SignalHandlers):
        return None
    return execution.loop


def _set_in_main_thread(loop: SignalHandlers, sig: int, handler: Any) -> Any:
    """As `signal.signal`, and with what that raises."""
    if here.identity is not None:
        only = "signal only works in main thread of the main interpreter"
        raise modelled(ValueError(only))
    _check_signal(sig)
    if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
        only = "signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object"
        raise modelled(TypeError(only))
    if sig in _CANNOT_BE_CAUGHT:
        raise modelled(OSError(errno.EINVAL, os.strerror(errno.EINVAL)))
    return loop.set_python_handler(sig, handler)


def _is_for_a_process(pid: int, sig: int) -> bool:
    """Whether it is for a process of the execution's hosts, which has got it then.

    What the main thread of a process sends to itself, and handles, it handles before it goes on.
    """
    execution = execution_of_this_thread()
    hub = None if execution is None else execution.loop.processes
    loop = None if execution is None else execution.loop
    if loop is None or hub is None:
        return False
    is_for_itself = pid == loop.pid and here.identity is None
    if is_for_itself and sig and isinstance(loop, SignalHandlers) and loop.handles(sig):
        return False
    return hub.kill(pid, sig)


def _is_for_handler(sig: int) -> bool:
    """Whether the execution has seen to it. In a worker, too: a signal is the whole process's."""
    execution = execution_of_this_thread()
    if execution is None or execution.is_alone:
        # A loop that stands alone has the system's.
        return False
    loop = execution.loop
    if not isinstance(loop, SignalHandlers):
        return False
    if not loop.handles(sig):
        if _interrupts(loop, sig):
            return True
        if _ends_process(sig):
            execution.loop.refuse(f"{name_of(sig)} to the own process", _WOULD_END)
        return False
    handlers = loop
    is_main = here.identity is None
    if is_main:
        # Between two instructions of the main thread: now.
        handlers.run_python_handler(sig)
        if not handlers.handles(sig, with_pythons=False):
            return True

    def found(_: object) -> None:
        if is_main:
            handlers.find_in_pipe(sig)
        else:
            handlers.deliver_signal(sig)

    # The byte is in the pipe at once, and the next poll finds it.
    in_pipe = simpy.Timeout(loop.environment, 0.0)
    assert in_pipe.callbacks is not None
    in_pipe.callbacks.append(found)
    return True
