"""What holds while executions run: what is replaced, and put back, for the whole process."""

from __future__ import annotations

import _thread
import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

from sim.kernel import completed, direct, watchdog
from sim.kernel.current import executions, guards_by_thread, os_thread
from sim.kernel.hashing import hashes_of_connections
from sim.kernel.hosts.replacements import replacements as processes
from sim.kernel.interrupts import interrupts_noted
from sim.kernel.isolation import collector, file_times, machine, outside
from sim.kernel.isolation.entropy import held_clocks_virtual, virtualised
from sim.kernel.network import replaced as sockets
from sim.kernel.signals import own_signals_simulated
from sim.kernel.threads import sqlite
from sim.kernel.threads.earlier_locks import earlier_locks_simulated
from sim.kernel.threads.local_values import here
from sim.kernel.threads.locks import patched as threads_patched
from sim.kernel.threads.plain import plain_threads_simulated, replacements
from sim.kernel.threads.pools import pools_simulated
from sim.kernel.threads.second_loops import second_loops_simulated
from sim.kernel.unretrieved import unawaited_noted

# Two threads may each run a loop of ours. Real, also where it is made while another is simulated.
_guards_lock = _thread.allocate_lock()
_taken_down = ExitStack()
# The threads each of whose executions runs in a fork of its own, and the one that explores.
_isolating: set[int] = set()
_explorer: int | None = None


def is_isolating() -> bool:
    """Whether each execution runs in a fork of its own."""
    return os_thread() in _isolating


def end_isolating() -> None:
    """In such a fork: what this one executes is not forked again."""
    _isolating.discard(os_thread())


@contextmanager
def guarded(*, isolate: bool = False, beside_others: bool = False) -> Iterator[None]:
    """Within the block: no garbage collection, no thread of the system, no real clock, no outside.

    When garbage is collected is not part of a schedule, but closes generators; so it is done
    between executions. Blocks may be nested, and other threads may be in one: the first sets up,
    and the last takes down.
    isolate: each execution within the block runs in a fork, so that what it changes is gone.
    beside_others: threads of the system may use what the modules hold; without it one thread of the
    process may be in a block, and in another RuntimeError is raised.
    """
    this = os_thread()
    was_isolating = is_isolating()
    if isolate:
        _isolating.add(this)
    depth = guards_by_thread.get(this, 0)
    _enter(this, depth)
    try:
        if depth:
            yield
        else:
            modules = nullcontext() if beside_others else _modules_simulated()
            with watchdog.watched(), interrupts_noted(), modules:
                yield
                # Where what is freed does not end, as it is closed, that is broken off in here.
                gc.collect(1)
    finally:
        _leave(this, depth)
        if isolate and not was_isolating:
            _isolating.discard(this)


def look_ahead() -> None:
    """What a block looks for in all that is imported is found now, and known in forks."""
    with guarded():
        """Nothing is run."""


@contextmanager
def _modules_simulated() -> Iterator[None]:
    """What modules hold is replaced for all threads, so that two would simulate with one lock."""
    global _explorer
    with _guards_lock:
        if _explorer is not None:
            raise RuntimeError(
                "another thread of this process explores already, and what modules hold is "
                "replaced for both: explore one after the other, or in processes of their own"
            )
        _explorer = os_thread()
    try:
        with earlier_locks_simulated():
            yield
    finally:
        _explorer = None


def _enter(thread: int, depth: int) -> None:
    with _guards_lock:
        if not guards_by_thread:
            _taken_down.enter_context(_guards_up())
        guards_by_thread[thread] = depth + 1


def _leave(thread: int, depth: int) -> None:
    with _guards_lock:
        if depth:
            guards_by_thread[thread] = depth
            return
        del guards_by_thread[thread]
        if not guards_by_thread:
            _taken_down.close()


def _replacements() -> list[tuple[Any, str, Any]]:
    own = [*replacements(), *processes(), *outside.replacements(), *sqlite.replacements()]
    own += [*machine.replacements(), *collector.replacements(), *direct.replacements()]
    own += completed.replacements()
    return [*own, *sockets.replacements(), *hashes_of_connections()]


def _leave_in_fork() -> None:
    """A fork has one thread, that which called it: if a worker did, no loop to go on in is there.

    One that waited would go on in the greenlet of the loop, as a second process that runs a suite.
    """
    if here.identity is not None and guards_by_thread:
        executions.clear()
        guards_by_thread.clear()
        _taken_down.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_in_fork)


@contextmanager
def _guards_up() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    file_times.begin()
    try:
        with (
            held_clocks_virtual(),
            unawaited_noted(),
            threads_patched(_replacements()),
            plain_threads_simulated(),
            second_loops_simulated(),
            pools_simulated(),
            own_signals_simulated(),
            outside.the_outside_refused(),
            virtualised(),
        ):
            yield
    finally:
        if was_enabled:
            gc.enable()
