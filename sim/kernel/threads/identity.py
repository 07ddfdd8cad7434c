"""Who a simulated thread is to `threading`, over its whole life.

Workers are greenlets of one thread of the operating system. To a program each is a thread of its
own all the same: `get_ident`, `current_thread`, `enumerate` and the rest ask CPython's own table,
`threading._active`, by a number that is the worker's. A pool's thread keeps its identity, and so
its name, context and locals, from job to job.
"""

from __future__ import annotations

import _thread
import functools
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import Context
from types import CodeType
from typing import Any

from sim.kernel.current import execution_of_this_thread, executions, loop_at_rest
from sim.kernel.errors import NotSimulated
from sim.kernel.threads.foreign import wait_for
from sim.kernel.threads.local_values import here

# Idents of the system are addresses, and native ones are below the kernel's pid_max.
FIRST_IDENT = 1_000_000_000
FIRST_NATIVE_ID = 100_000_000
_IDENTS = range(FIRST_IDENT, FIRST_IDENT + 1_000_000)


class ThreadIdentity:
    """One simulated thread, from its start to its end. The n-th of its execution."""

    # What it was begun for, if that is not Python's own.
    job: CodeType | None = None

    def __init__(
        self, number: int, thread: threading.Thread, context: Context, of_its_name: int = 1
    ) -> None:
        """of_its_name: the n-th that has this name."""
        self.ident = FIRST_IDENT + number
        self.native_id = FIRST_NATIVE_ID + number
        self.thread = thread
        self.context = context
        self._of_its_name = of_its_name
        self.is_over = False
        _begin(thread, self)

    @property
    def shown(self) -> str:
        """As readers know it: by its name, and by its number where others had the name before."""
        name = self.thread.name
        return name if self._of_its_name == 1 else f"{name} ({self._of_its_name})"

    def end(self) -> None:
        """It is alive no more: to `threading`, and to who joins it."""
        self.is_over = True
        if _active.get(self.ident) is self.thread:
            del _active[self.ident]
        if here.locals is not None:
            here.locals.forget(self)

    def canonical_state(self) -> Sequence[object]:
        """What the thread finds again, also a pool's that has no job now."""
        values = [] if here.locals is None else here.locals.values_of(self)
        return self.ident, self.thread, self.context, values


_active: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]


def forget_dummies() -> None:
    """Of threads that asked who they are after their end, as code does that is broken off."""
    for ident, thread in tuple(_active.items()):
        if ident in _IDENTS and isinstance(thread, threading._DummyThread):
            _active.pop(ident, None)


def _begin(thread: Any, identity: ThreadIdentity) -> None:
    """What CPython's Thread.start and its bootstrap set, without a thread of the system."""
    thread._ident = identity.ident
    if hasattr(thread, "_native_id"):
        thread._native_id = identity.native_id
    name = next(each for each in _ENDS if hasattr(thread, each))
    setattr(thread, name, _ENDS[name](identity))
    # Not `set()`, which takes a lock: that the thread runs is nothing to be overtaken at.
    thread._started._flag = True
    _active[identity.ident] = thread


class ThreadHandle:
    """What a Thread object of 3.13 and later asks about the end of its thread."""

    def __init__(self, identity: ThreadIdentity) -> None:
        self._identity = identity

    @property
    def ident(self) -> int:
        return self._identity.ident

    def is_done(self) -> bool:
        return self._identity.is_over

    def join(self, timeout: float | None = None, /) -> None:
        if not self._identity.is_over and timeout != 0:
            execution = execution_of_this_thread()
            if execution is not None:
                execution.loop.threads.block_until("thread.join", self.is_done, timeout)
            elif executions or loop_at_rest() is not None:
                wait_for(self.is_done, -1 if timeout is None else timeout)
            else:
                raise NotSimulated(
                    f"{self._identity.thread!r} is joined, and its loop runs no more, so it "
                    f"cannot end: join it before, or close the loop, which ends it"
                )

    def _set_done(self) -> None:
        """What a forked child says of the threads that it has not."""
        self._identity.is_over = True


class EndLock:
    """The same for 3.12 and before: a lock that the interpreter holds while the thread lives."""

    def __init__(self, identity: ThreadIdentity) -> None:
        self._handle = ThreadHandle(identity)
        # In a fork it is of the main thread, which holds it.
        self._is_forked = False
        # CPython asks at once, and would take the thread for ended if the lock were held.
        self._has_just_raised = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._is_forked:
            return True
        if blocking:
            try:
                self._handle.join(timeout if timeout >= 0 else None)
            except BaseException:
                self._has_just_raised = True
                raise
        return self._handle.is_done()

    def release(self) -> None:
        """Who has got it gives it back; a fork, as it ends."""
        if self._is_forked:
            self._handle._set_done()

    def locked(self) -> bool:
        if self._has_just_raised:
            self._has_just_raised = False
            return False
        return not self._handle.is_done()

    def _at_fork_reinit(self) -> None:
        self._is_forked = True


_ENDS = {
    # Since 3.14; in 3.13; before.
    "_os_thread_handle": ThreadHandle,
    "_handle": ThreadHandle,
    "_tstate_lock": EndLock,
}


# ---- replacements -----------------------------------------------------------------------------

_real_get_ident = _thread.get_ident
_real_get_native_id = _thread.get_native_id


@functools.wraps(_real_get_ident)
def get_ident() -> int:
    identity = here.identity
    return _real_get_ident() if identity is None else identity.ident


@functools.wraps(_real_get_native_id)
def get_native_id() -> int:
    identity = here.identity
    return _real_get_native_id() if identity is None else identity.native_id


REPLACED = [
    (module, function.__name__, function)
    for module in (threading, _thread)
    for function in (get_ident, get_native_id)
]
"""By module and name, within executions."""


class _Counter:
    """Stands for the `itertools.count().__next__` by which CPython numbers what has no name."""

    def __init__(self, first: int) -> None:
        self._first = self._next = first

    def __call__(self) -> int:
        number, self._next = self._next, self._next + 1
        return number

    def restart(self) -> None:
        self._next = self._first


_THREADS, _POOLS = _Counter(1), _Counter(0)


def restart_names() -> None:
    """To be called before each execution: the names of its threads count from the first."""
    _THREADS.restart()
    _POOLS.restart()


@contextmanager
def names_counted() -> Iterator[None]:
    """In the block executions number their threads; after it the names count on as before."""
    threads: Any = threading
    pools: Any = ThreadPoolExecutor
    before = threads._counter, pools._counter
    # Set once: a class that changes with each execution would be slow in all of them.
    threads._counter, pools._counter = _THREADS, _POOLS
    try:
        yield
    finally:
        threads._counter, pools._counter = before
