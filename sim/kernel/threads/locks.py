"""Stand-ins for blocking code: locks, threads, sleep and clock.

`threading.Condition`, `Event`, `Semaphore`, `Barrier`, `queue.Queue` and `Future` are made of the
locks. A stand-in has what the interpreter that runs it has, with the same signatures and errors;
the rest is refused by name (tests/sim/test_stand_ins.py compares the two).
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import functools
import operator
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, ClassVar, NoReturn, TypeVar

from sim.kernel.current import execution_of_this_thread, guards_by_thread, os_thread
from sim.kernel.errors import NotSimulated
from sim.kernel.isolation.bound_names import BoundAnew
from sim.kernel.lacking import refuse_lacking
from sim.kernel.origin import forwards, modelled
from sim.kernel.threads.foreign import real_lock, wait_for
from sim.kernel.threads.line_tracing import unwatch
from sim.kernel.threads.local_values import here
from sim.kernel.threads.needless_points import is_needless
from sim.kernel.threads.workers import LOCK, Threads, TimeLimit, Worker

C = TypeVar("C", bound=type)

# Bound here, before an exploration replaces them.
_real_rlock, _real_sleep = threading.RLock, time.sleep
_VERSION = ".".join(map(str, sys.version_info[:3]))


def stands_for(real: object) -> Callable[[C], C]:
    """Marks a class whose instances stand in for `real`, an instance of the real class.

    What this version of CPython lacks, the stand-in lacks, too, since programs test for it.
    """

    def decorate(cls: C) -> C:
        has: Any = frozenset(dir(real))
        for name in tuple(vars(cls)):
            if callable(vars(cls)[name]) and name not in has and not name.startswith("_sim_"):
                delattr(cls, name)
        kind = type(real)
        # The name of a type that is written in C includes its module.
        name = f"_thread.{kind.__name__}" if kind.__module__ == "_thread" else kind.__name__
        cls._sim_name = name  # type: ignore[attr-defined]
        # CPython's AttributeError says it.
        cls.__name__ = name
        refuse_lacking(
            cls, has, lambda _, lacked: not_simulated(f"{name}.{lacked} of CPython {_VERSION}")
        )
        return cls

    return decorate


class StandIn:
    """Refuses exactly what the real object has and it lacks."""

    _sim_name: ClassVar[str]


def not_simulated(what: str) -> NoReturn:
    """Also recorded: a program that swallows the error gets no verdict."""
    instead = "the stand-in of the simulator lacks it; do without it, or report it"
    execution = execution_of_this_thread()
    if execution is not None:
        execution.loop.refuse(what, instead)
    raise NotSimulated(f"{what} is not simulated: {instead}")


def _threads() -> Threads | None:
    execution = execution_of_this_thread()
    return None if execution is None else execution.loop.threads


def _check_timeout(blocking: bool, timeout: float) -> None:
    """Checks the arguments with a free real lock, so that the errors are the interpreter's."""
    try:
        real_lock().acquire(blocking, timeout)
    except Exception as exc:
        raise modelled(exc) from None


def _may_be_interrupted(lock: SimLock | SimRLock) -> None:
    """In the main thread, which has just taken it, a signal's handler may run."""
    threads = _threads()
    if threads is None or threads.current is not None or not threads.loop.signals_under_way:
        return
    try:
        threads.loop.take_signals()
    except BaseException:
        # As where Python's own `acquire` is interrupted, it has not been taken.
        lock.release()
        raise


@stands_for(_thread.allocate_lock())
class SimLock(StandIn):
    """threading.Lock, for one actor at a time of one execution."""

    _sim_locked = False

    @forwards
    def __new__(cls) -> Any:
        # For a thread that simulates nothing it is what it was.
        return object.__new__(cls) if os_thread() in guards_by_thread else real_lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if not self._sim_acquire(blocking, timeout):
            return False
        _may_be_interrupted(self)
        return True

    def _sim_acquire(self, blocking: bool, timeout: float) -> bool:
        if timeout != -1:
            _check_timeout(blocking, timeout)
        threads = _threads()
        if threads is not None:
            if threads.current is not None:
                self._sim_stand(threads, threads.current, blocking and timeout == -1)
            elif threads.workers:
                waits = blocking and timeout == -1
                taker = _taker(sys._getframe(2))
                if threads.loop_has_woken or not is_needless(taker, None, waits=waits):
                    threads.let_others_go_on()
        if self._sim_locked:
            if not blocking or timeout == 0:
                return False
            if not self._sim_wait(threads, timeout):
                return False
        # No call, in which another thread of the system could go on, since it was free.
        self._sim_locked = True
        return True

    def _sim_stand(self, threads: Threads, worker: Worker, waits: bool) -> None:
        """The switch point of a worker, unless that shows nothing."""
        if waits and self._sim_locked:
            # To find that it is taken is no step that anybody sees: who waits stands as well.
            return
        taker = _taker(sys._getframe(3))
        if worker.has_woken and taker.f_code in _TAKE_AGAIN:
            return
        if not is_needless(taker, worker.where, waits=waits):
            threads.pause(LOCK)

    def _sim_wait(self, threads: Threads | None, timeout: float) -> bool:
        """Whether it is free now; else the time is over."""
        if threads is None:
            return wait_for(lambda: not self._sim_locked, timeout)
        over = TimeLimit(threads, timeout)
        while True:
            threads.block(LOCK, lambda: not self._sim_locked or over(), over)
            if not self._sim_locked:
                if threads.current is not None:
                    threads.current.has_woken = timeout == -1
                else:
                    threads.loop_has_woken = True
                return True
            if over():
                return False
            # Another thread of the system was faster.

    def release(self) -> None:
        if not self._sim_locked:
            raise modelled(RuntimeError("release unlocked lock"))
        # No switch point: what comes after a release could as well come before it (a left mover,
        # Lipton 1975), so the switch before the next acquire shows as much.
        self._sim_locked = False

    def locked(self) -> bool:
        return self._sim_locked

    # Older names, which CPython keeps.
    acquire_lock, release_lock, locked_lock = acquire, release, locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, /, *exc_info: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        """Called by logging in a forked process, for the lock of every handler."""
        self._sim_locked = False

    def __reduce__(self) -> NoReturn:
        raise modelled(TypeError(f"cannot pickle {self._sim_name!r} object"))

    def __repr__(self) -> str:
        state = "locked" if self._sim_locked else "unlocked"
        return f"<{state} {self._sim_name} object at {id(self):#x}>"


@stands_for(threading.RLock())
class SimRLock(StandIn):
    """threading.RLock; its owner is a thread's identity, or the ident of one of the system."""

    _sim_owner: object = None
    _sim_depth = 0

    @forwards
    def __new__(cls) -> Any:
        return object.__new__(cls) if os_thread() in guards_by_thread else _real_rlock()

    def __init__(self) -> None:
        self._sim_lock = SimLock()
        self._sim_owner = _NOBODY

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout != -1:
            _check_timeout(blocking, timeout)
        actor = _actor()
        if self._sim_owner == actor:
            self._sim_depth += 1
            return True
        if not self._sim_lock._sim_acquire(blocking, timeout):
            return False
        self._sim_owner, self._sim_depth = actor, 1
        _may_be_interrupted(self)
        return True

    def release(self) -> None:
        if self._sim_owner != _actor():
            raise modelled(RuntimeError("cannot release un-acquired lock"))
        self._sim_depth -= 1
        if self._sim_depth == 0:
            self._sim_owner = _NOBODY
            self._sim_lock.release()

    def locked(self) -> bool:
        """Since 3.14."""
        return self._sim_depth > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, /, *exc_info: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        """Called by logging in a forked process, for the lock of every handler."""
        self._sim_lock._at_fork_reinit()
        self._sim_owner, self._sim_depth = _NOBODY, 0

    # Called by threading.Condition on its lock, and by multiprocessing's resource tracker.

    def _is_owned(self) -> bool:
        return self._sim_owner == _actor()

    def _recursion_count(self) -> int:
        return self._sim_depth if self._is_owned() else 0

    def _release_save(self) -> int:
        if self._sim_depth == 0:
            raise modelled(RuntimeError("cannot release un-acquired lock"))
        depth, self._sim_depth = self._sim_depth, 1
        self.release()
        return depth

    def _acquire_restore(self, state: int, /) -> None:
        self.acquire()
        self._sim_depth = state

    def __reduce__(self) -> NoReturn:
        raise modelled(TypeError(f"cannot pickle {self._sim_name!r} object"))

    def __repr__(self) -> str:
        state = "locked" if self._sim_depth else "unlocked"
        owner = (
            0 if self._sim_owner is _NOBODY else getattr(self._sim_owner, "ident", self._sim_owner)
        )
        held = f"owner={owner} count={self._sim_depth}"
        return f"<{state} {self._sim_name} object {held} at {id(self):#x}>"


class _NoSwitchPoint(SimLock):
    """A lock for which nobody waits, since no thread stands still while it has it."""

    def _sim_acquire(self, blocking: bool, timeout: float) -> bool:
        self._sim_locked = True
        return True


def lock_without_switch_points() -> SimRLock:
    """In a thread of the system that simulates nothing it is a real one, as each lock there."""
    lock = SimRLock()
    if type(lock) is SimRLock:
        lock._sim_lock = _NoSwitchPoint()
    return lock


_TAKE_AGAIN = {
    SimRLock._acquire_restore.__code__,
    threading.Condition._acquire_restore.__code__,  # type: ignore[attr-defined]
}
_ENTER = {SimLock.__enter__.__code__, SimRLock.__enter__.__code__}


def _taker(frame: FrameType) -> FrameType:
    """Who has called `acquire`, or has a `with` block."""
    return frame.f_back or frame if frame.f_code in _ENTER else frame


_NOBODY = object()


def _actor() -> object:
    """Who runs, over its whole life: a pool's thread keeps a lock from job to job."""
    identity = here.identity
    return os_thread() if identity is None else identity


def new_context() -> contextvars.Context:
    """The context of a new thread: empty, or since 3.14, by a flag, a copy of the current one."""
    if getattr(sys.flags, "thread_inherit_context", False):
        return contextvars.copy_context()
    return contextvars.Context()


def sleep(seconds: float, /) -> None:
    """time.sleep. In the loop's thread it stops the loop, and the clock moves on."""
    try:
        seconds = seconds if isinstance(seconds, float) else operator.index(seconds)
        if not seconds >= 0:
            # It refuses these at once, in its own words.
            _real_sleep(seconds)
    except (TypeError, ValueError) as exc:
        raise modelled(exc) from None
    threads = _threads()
    if threads is None:
        _real_sleep(seconds)
        return
    if threads.current is None:
        running = asyncio._get_running_loop()
        sleeps = getattr(running, "sleep", None)
        if sleeps is not None:
            sleeps(seconds)
        return
    if seconds == 0:
        # It only lets others go first.
        threads.pause("time.sleep")
    over = TimeLimit(threads, seconds)
    threads.block("time.sleep", over, over)


def monotonic() -> float:
    """time.monotonic, for code that counts down its own time limit; virtual in an execution."""
    threads = _threads()
    if threads is None:
        return time.monotonic()  # noqa: TID251 - nothing is simulated here
    return threads.loop.environment.now


_bound_anew = BoundAnew()


@contextmanager
def patched(others: Sequence[tuple[Any, str, Any]] = ()) -> Iterator[None]:
    """`threading`, `time.sleep` and the clock of time limits are the simulated ones in the block.

    Condition, Event, Semaphore, Barrier, queue.Queue and Future are made of these locks. What waits
    is found by modules that had bound it before, too: `from threading import Lock`. So are the
    others, by module and name.
    """
    waiting: list[tuple[Any, str, Any]] = [
        (threading, "Lock", SimLock),
        (threading, "RLock", SimRLock),
        # The one written in C does not use the locks above.
        (queue, "SimpleQueue", queue._PySimpleQueue),  # type: ignore[attr-defined]
        *others,
    ]
    replaced = [
        *waiting,
        (threading, "_allocate_lock", SimLock),
        # Of cached_property, before 3.12.
        *([(functools, "RLock", SimRLock)] if sys.version_info < (3, 12) else []),
        (threading, "_time", monotonic),
        (queue, "time", monotonic),
    ]
    # What a class inherits is not its own: `__hash__ = object.__hash__` stands in many others.
    by_real = [
        (getattr(module, name), stand_in)
        for module, name, stand_in in waiting
        if name in vars(module)
    ]
    # As a module has them by `type(threading.Lock())`, to tell locks by.
    by_real += [(_KIND, SimLock), (_REENTRANT_KIND, SimRLock)]
    # What a test has put there instead, it wants to be called; what that calls in turn is ours.
    by_real.append((_real_sleep, sleep))
    wrappers: list[object] = []
    if time.sleep is _real_sleep:
        replaced.append((time, "sleep", sleep))
    else:
        wrappers.append(time.sleep)
    if "sched" in sys.modules:
        # Of the standard library it alone holds it, as a default.
        wrappers.append(sys.modules["sched"].scheduler.__init__)
    before = [
        (module, name, getattr(module, name) if name in vars(module) else _INHERITED)
        for module, name, _ in replaced
    ]
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        with _bound_anew.within(by_real, wrappers):
            yield
    finally:
        unwatch()
        for module, name, value in before:
            if value is _INHERITED:
                delattr(module, name)
            else:
                setattr(module, name, value)


_INHERITED = object()
_KIND, _REENTRANT_KIND = type(_thread.allocate_lock()), _thread.RLock
