"""`threading.Thread`, and what derives from it, as workers of the execution that starts them.

What a Thread object knows of itself is CPython's own code: only where it would begin a thread of
the system, and wait for its end, stand our own (`identity.ThreadHandle`). At the program's
end its threads are ended where they stand, daemons or not: nobody waits for them.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import greenlet

from sim.kernel.current import (
    Execution,
    execution_of_this_thread,
    guards_by_thread,
    os_thread,
)
from sim.kernel.errors import CheckFailed, NotSimulated, StepBrokenOff
from sim.kernel.hashing import Numbers, in_set_order
from sim.kernel.origin import fault_of_simulator, forwards
from sim.kernel.raised import short_words_of_exception
from sim.kernel.threads import identity as identities
from sim.kernel.threads import local_values
from sim.kernel.threads.identity import ThreadIdentity, names_counted
from sim.kernel.threads.locks import new_context

_NO_EXECUTION = (
    "no execution is running that it could be a part of; a thread of the operating system runs in "
    "no order that could be replayed: start it within the program"
)


def _start(real: Callable[[threading.Thread], None]) -> Callable[[threading.Thread], None]:
    @functools.wraps(real)
    @forwards
    def start(self: Any) -> None:
        execution = execution_of_this_thread()
        if not self._initialized or self._started.is_set():
            # Its errors are CPython's.
            real(self)
        elif execution is not None:
            _begin(execution, self)
        elif os_thread() in guards_by_thread:
            raise NotSimulated(f"{self!r} is not simulated: {_NO_EXECUTION}")
        else:
            # Another thread of the system, which simulates nothing.
            real(self)

    return start


def _begin(execution: Execution, thread: Any) -> None:
    # Since 3.14 a thread may be given its context.
    context = getattr(thread, "_context", None)
    threads = execution.loop.threads
    job = threads.begins(_called_in(thread))
    identity = threads.new_identity(thread, new_context() if context is None else context)
    identity.job = job
    threads.start(partial(_work, execution, thread, identity), identity)


def _called_in(thread: Any) -> Any:
    target = getattr(thread, "_target", None)
    if callable(target):
        return partial(target, *thread._args, **thread._kwargs)
    return target or thread.run


@forwards
def _work(execution: Execution, thread: Any, identity: ThreadIdentity) -> None:
    """The whole life of one thread, in its greenlet."""
    try:
        thread.run()
    except greenlet.GreenletExit:
        raise
    except BaseException as exc:
        # Ended where it stands, it may find that what it holds is not as it left it.
        if not execution.loop.threads.is_draining:
            _tell(execution, thread, exc)
    finally:
        identity.end()


def _tell(execution: Execution, thread: Any, raised: BaseException) -> None:
    """Of an exception that ends a thread, as `threading.excepthook` is told of it."""
    loop = execution.loop
    fault = fault_of_simulator(raised)
    if fault is not None:
        loop.refused = loop.refused or fault
        loop.end_execution()
    if fault is not None or isinstance(raised, CheckFailed | StepBrokenOff):
        return
    worker = loop.threads.current
    shown = thread.name if worker is None else worker.identity.shown
    if not isinstance(raised, SystemExit):
        loop.environment.observer.thread_fails(shown, raised)
    if _only_prints(threading.excepthook):
        if not isinstance(raised, SystemExit):
            words = short_words_of_exception(raised)
            loop.leaves_behind(f"thread {shown} ends with {words}")
    else:
        thread._invoke_excepthook(thread)


def _only_prints(hook: Any) -> bool:
    """CPython's default, and pytest's, which would say the same for each execution."""
    function = hook.func if isinstance(hook, partial) else hook
    module = str(getattr(function, "__module__", ""))
    return hook is threading.__excepthook__ or module.startswith("_pytest.")


def _init(real: Callable[..., None]) -> Callable[..., None]:
    """`Thread.__init__`: a set has the threads of an execution in the order of their making.

    So does anyio. Those of before hash as they did, or no table of before would find them.
    """

    @functools.wraps(real)
    @forwards
    def init(self: Any, *args: Any, **named: Any) -> None:
        execution = execution_of_this_thread()
        if execution is not None:
            NUMBERS_OF_THREADS.give(self, in_set_order(execution.loop.threads.next_thread()))
        real(self, *args, **named)

    return init


def _hash_of_thread(thread: Any) -> int:
    known = NUMBERS_OF_THREADS.of(thread)
    return object.__hash__(thread) if known is None else known


NUMBERS_OF_THREADS = Numbers()


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name: who a thread is, and its locals."""
    return [*identities.REPLACED, *local_values.REPLACED]


@contextmanager
def plain_threads_simulated() -> Iterator[None]:
    """Within the block, a thread that an execution starts is one of its workers."""
    start, init = threading.Thread.start, threading.Thread.__init__
    threading.Thread.__init__ = _init(init)  # type: ignore[method-assign]
    threading.Thread.start = _start(start)  # type: ignore[method-assign,assignment]
    threading.Thread.__hash__ = _hash_of_thread  # type: ignore[method-assign,assignment]
    try:
        with names_counted(), local_values.classes_patched_with_first_worker():
            yield
    finally:
        threading.Thread.__init__ = init  # type: ignore[method-assign]
        threading.Thread.start = start  # type: ignore[method-assign]
        del threading.Thread.__hash__
