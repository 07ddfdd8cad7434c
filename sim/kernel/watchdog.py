"""Looks after an execution from a thread of its own: a step that never ends, and a spent budget.

No property is checked, and no bound of virtual time reached, while one callback runs. So real time
has to find it: a thread looks every `TICK_S` whether the execution is still at the same poll of the
loop. Real time decides nothing but where to look:

- A step that had the processor for `SUSPECT_S` is counted from then on; it refutes the program once
  it has run `step_lines_max` lines more (`step_lines.py`), and goes on if it ends before.
- An execution that runs when the budget is spent is ended, a call that blocks broken off, and the
  verdict is inconclusive for the budget.

To interrupt the main thread a signal is sent to it, which ends what blocks in a system call, too.
Elsewhere an exception is raised in the thread once it runs Python. So a call that blocks there, and
a call of C that never looks for signals (`sum(itertools.count())`), cannot be ended, but with
`isolate=True`: there the parent ends the process.
"""

from __future__ import annotations

import _thread
import ctypes
import enum
import functools
import inspect
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn, TypeAlias

from sim.kernel import endings
from sim.kernel.current import Execution, executions
from sim.kernel.endless_step import NO_PREEMPTION, break_off, count, forget, note_break, refute
from sim.kernel.environment import Environment
from sim.kernel.errors import StepBrokenOff
from sim.kernel.origin import is_programs, is_simulators
from sim.kernel.running_step import where_it_stays, who_runs
from sim.kernel.step_lines import LineCounter, callers
from sim.kernel.threads.local_values import OfThisThread
from sim.kernel.uncaught import Hunt, step_of
from sim.kernel.unprotected import Unprotected

TICK_S = 0.25
VIRTUAL_TICK_S = 1.0
SUSPECT_S = 6.0
"""A step that had the processor for so long is counted from then on."""
FREED_S = 2.0
"""The same where nothing depends on it: what is freed, or cancelled after a violation was found."""
STEP_S = 120.0
"""How long a step may block or compute, where no budget ends the exploration."""
GRACE_S = 1.0
"""How long an execution may go on after the budget is spent; most end of themselves."""
INSTANT_S = 1e-6
"""Of virtual time, between two polls: less is the readings of clocks alone."""
POLLS_OF_A_LONG_ONE = 200
"""Of an execution with fewer nothing is said but that it was under way: it may be slow alone."""
INSIST_S = 0.002
INSIST_TIMES_MAX = 100
"""What swallows being broken off (a bare `except`) is asked again until that hits another line."""
HUNT_TIMES_MAX = 50
"""As many of these times it is traced until it comes to a line where it does not swallow it."""
# Bound here: a program, and the guards of an execution, put something else there.
_handle = signal.signal
_start_thread, _new_lock, _ident = (
    _thread.start_new_thread,
    _thread.allocate_lock,
    _thread.get_ident,
)
_now, _clock_of = time.perf_counter, getattr(time, "clock_gettime", None)
_main_thread = _ident()


class Asked(enum.Enum):
    """What the thread wants of the execution."""

    COUNT = enum.auto()
    BREAK_OFF = enum.auto()
    # Once more, where a function of the program's is innermost.
    INSIST = enum.auto()
    END = enum.auto()


Position: TypeAlias = tuple[int, int]
"""The number of an execution, and that of its poll."""
_BETWEEN: Position = -1, -1
"""Of what is between two executions, or behind the end of one: memory is freed."""


@dataclass(eq=False, slots=True)
class _Watched:
    """A thread in which something is executed: what is asked for it, and what watches it.

    depth: of the blocks of `watched`. limit: of the innermost of `limited`.
    """

    depth: int = 0
    watch: _Watch | None = None
    limit: float | None = None


class _OfThread(OfThisThread):
    """Of a thread of the operating system, also while a simulated one has its turn in it."""

    def __init__(self) -> None:
        self.watched = _Watched()


_here = _OfThread()


@contextmanager
def watched() -> Iterator[None]:
    """Within the block no step of an execution runs for ever."""
    here = _here.watched
    here.depth += 1
    try:
        yield
    finally:
        here.depth -= 1
        if here.depth == 0:
            forget()
            endings.forget()
            _end_watch()


@contextmanager
def limited(until: float | None) -> Iterator[None]:
    """Within the block no execution goes on for long after this reading of `perf_counter`."""
    here = _here.watched
    before, here.limit = here.limit, until
    try:
        yield
    finally:
        here.limit = before


def seconds_left() -> float:
    """Until the limit of this thread; infinity if it has none."""
    limit = _here.watched.limit
    return math.inf if limit is None else max(0.0, limit - _now())


def begin() -> None:
    """An execution begins."""
    here = _here.watched
    if here.depth and here.watch is None:
        here.watch = _Watch(here)
    elif here.watch is not None:
        here.watch.protect()


def _end_watch() -> None:
    here = _here.watched
    if here.watch is not None:
        here.watch.end()
        here.watch = None


# A thread does not survive a fork, and a process that forks had better have one only. That of
# another thread, which does not fork, goes on.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_end_watch)


def _processor_clock(thread: int) -> Callable[[], float]:
    """A clock of the seconds that this thread had the processor."""
    if not hasattr(time, "pthread_getcpuclockid") or _clock_of is None:
        return time.process_time
    return functools.partial(_clock_of, time.pthread_getcpuclockid(thread))


class _Watch:
    """The thread, and what it asks for. It watches the thread that makes it."""

    def __init__(self, watched: _Watched) -> None:
        self._watched = watched
        self._thread = _ident()
        self._is_main = self._thread == _main_thread and hasattr(signal, "pthread_kill")
        self._cpu_s = _processor_clock(self._thread)
        self._asked: tuple[Position, Asked] | None = None
        # Where INSIST was asked, how often, and what looks for a line there since.
        self._hunted: tuple[Position | None, int] = None, 0
        self._hunts = Hunt(None, _break_off)
        self._unprotected = Unprotected()
        # What was seen last: the position, and since when, in real and in processor seconds.
        self._seen: tuple[Position | None, float, float] = None, 0.0, 0.0
        # Taken until the thread is to end, and until it has.
        self._goes_on, self._runs = _new_lock(), _new_lock()
        self._goes_on.acquire()
        self._runs.acquire()
        if self._is_main:
            self._handled_before = _handle(signal.SIGVTALRM, self._on_signal)
            # For a call of C that keeps other threads from running, and looks for signals.
            self._timer_before = signal.setitimer(
                signal.ITIMER_VIRTUAL, VIRTUAL_TICK_S, VIRTUAL_TICK_S
            )
        _start_thread(self._run, ())

    def end(self) -> None:
        self._goes_on.release()
        self._runs.acquire()
        self._unprotected.give_back()
        if self._is_main:
            # Not with our handler and its timer, nor with its handler and ours.
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            # Drops a signal that is on its way, and would end the process by default: it is blocked
            # where the process forks, or another thread's to take.
            _handle(signal.SIGVTALRM, signal.SIG_IGN)
            _handle(signal.SIGVTALRM, self._handled_before)
            signal.setitimer(signal.ITIMER_VIRTUAL, *self._timer_before)

    def protect(self) -> None:
        """The step is over in which nothing was to be caught."""
        self._unprotected.give_back()

    def _execution(self) -> Execution | None:
        """The innermost of the thread, if it is to be watched."""
        of_thread = (each for each in reversed(executions) if each.os_thread == self._thread)
        execution = next(of_thread, None)
        return execution if execution is not None and execution.is_watched else None

    def _position(self) -> Position:
        execution = self._execution()
        if execution is None:
            return _BETWEEN
        return execution.serial, execution.loop.environment.polls

    # -- in its own thread

    def _run(self) -> None:
        try:
            self._look_until_the_end()
        finally:
            self._runs.release()

    def _look_until_the_end(self) -> None:
        while not self._goes_on.acquire(timeout=TICK_S):
            self._look()

    def _look(self) -> None:
        position = self._position()
        at, since, cpu_since = self._seen
        if position != at:
            self._unprotected.give_back()
            self._seen = position, _now(), self._cpu_s()
            limit = self._watched.limit
            if limit is not None and since > limit + GRACE_S and at and position != _BETWEEN:
                self._stop_polling(is_same=at[0] == position[0])
        else:
            self._look_at(position, _now() - since, self._cpu_s() - cpu_since)

    def _look_at(self, position: Position, lasts_s: float, cpu_s: float) -> None:
        """The execution has been at this position for so long."""
        execution = self._execution()
        if execution is None:
            if cpu_s >= FREED_S:
                self._insist(position)
            return
        limit = self._watched.limit
        is_limited = limit is not None and lasts_s > STEP_S
        is_spent = limit is not None and _now() > limit + GRACE_S
        if execution.broken_off and execution.broken_off[0] == position:
            # It was broken off, and has swallowed that, or cleans up for ever.
            if _now() - execution.broken_off[1] > GRACE_S:
                self._insist(position)
        elif execution.is_violated and cpu_s >= FREED_S:
            note_break(execution)
            self._insist(position)
        elif is_limited or (is_spent and lasts_s > GRACE_S):
            self._ask(position, Asked.END)
        elif cpu_s >= SUSPECT_S and not (execution.counter and execution.counter.is_counting):
            self._ask(position, Asked.COUNT)

    def _stop_polling(self, *, is_same: bool) -> None:
        """Since the budget is spent it has polled, so it ends where it is told to."""
        execution = self._execution()
        if execution is not None and is_same:
            _spend(execution, _goes_on(execution.loop.environment, execution.loop.bounds.horizon_s))
            execution.loop.end_execution()

    def _insist(self, position: Position) -> None:
        self._ask(position, Asked.INSIST)
        if _ident() == self._thread:
            return
        for _ in range(INSIST_TIMES_MAX):
            if self._goes_on.acquire(timeout=INSIST_S):
                self._goes_on.release()
                return
            if self._position() != position:
                return
            self._ask(position, Asked.INSIST)

    def _ask(self, position: Position, asked: Asked) -> None:
        if self._is_main:
            self._asked = position, asked
            signal.pthread_kill(self._thread, signal.SIGVTALRM)
            return
        execution, frame = self._execution(), sys._current_frames().get(self._thread)
        if self._position() != position:
            return
        if asked is Asked.INSIST:
            if _is_in_program(frame, is_closed=execution is None):
                self._count_hunts(position)
                self._unprotect(frame)
                self._raise_there()
            return
        if execution is None:
            return
        if asked is Asked.END:
            _spend(execution, _in_a_step(execution, frame))
        elif asked is Asked.COUNT:
            # No other thread's lines can be counted from here: see `run_execution`.
            refute(execution, "it had the processor for seconds, and was not counted")
        note_break(execution)
        self._raise_there()

    def _raise_there(self) -> None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(
            ctypes.c_ulong(self._thread), ctypes.py_object(StepBrokenOff)
        )

    # -- in the thread that is watched

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked is None:
            self._look()
        asked, self._asked = self._asked, None
        execution = self._execution()
        if asked is None or asked[0] != self._position():
            return
        if asked[1] is Asked.INSIST:
            if _is_in_program(frame, is_closed=execution is None):
                self._hunt(asked[0], frame)
            return
        if execution is None:
            return
        if asked[1] is Asked.COUNT:
            if execution.counter is not None and execution.counter.is_counting:
                # Both the thread and a signal have asked: a second counter would hide the first.
                return
            lines_max = execution.loop.bounds.step_lines_max
            is_over = functools.partial(break_off, execution)
            count(execution, LineCounter(lines_max, is_over, is_for_one=True), frame)
            return
        if asked[1] is Asked.END:
            _spend(execution, _in_a_step(execution, frame))
        note_break(execution)
        raise StepBrokenOff("broken off by the watchdog")

    def _hunt(self, position: Position, frame: FrameType | None) -> None:
        """Looks for an instant at which nobody catches it; if there is none, anywhere."""
        self._count_hunts(position)
        if self._unprotect(frame):
            self._hunts.end()
            _break_off()
        times = self._hunted[1] % INSIST_TIMES_MAX
        if times in (1, HUNT_TIMES_MAX // 2):
            self._hunts.end()
            self._hunts = Hunt(frame, _break_off, through_with=times > 1)
            self._hunts.begin()
        elif times == HUNT_TIMES_MAX:
            self._hunts.end()
        elif times > HUNT_TIMES_MAX or times == 0:
            _break_off()

    def _count_hunts(self, position: Position) -> None:
        hunted, times = self._hunted
        self._hunted = position, times + 1 if hunted == position else 1

    def _unprotect(self, frame: FrameType | None) -> bool:
        """Whether it swallows whatever is raised in it, so that nothing in it catches any more."""
        times = self._hunted[1]
        if times <= INSIST_TIMES_MAX:
            return False
        is_last = times > 2 * INSIST_TIMES_MAX
        # What a library does is left whole where that is enough: it may hold locks of the system.
        self._unprotected.take(each for each in step_of(frame) if is_last or is_programs(each))
        return True


def _break_off() -> NoReturn:
    raise StepBrokenOff(_STILL_THERE)


_STILL_THERE = (
    "broken off by the watchdog: it goes on and on as it is cancelled or freed, and where no loop "
    "runs each `await` of asyncio's raises, which `except:` takes for another failure"
)


def _is_in_program(frame: FrameType | None, *, is_closed: bool) -> bool:
    """Whether the program's code runs, and what it calls in turn is none of the simulator's.

    is_closed: it has to be a coroutine or generator that is closed, and not a function of the
    program's that a search calls between executions.
    """
    outermost = None
    while frame is not None and not is_simulators(frame):
        if is_programs(frame):
            outermost = frame
        frame = frame.f_back
    if outermost is None:
        return False
    return not is_closed or bool(outermost.f_code.co_flags & _MAY_BE_CLOSED)


_MAY_BE_CLOSED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR


def _spend(execution: Execution, seen: str) -> None:
    if execution.broken_off is None:
        execution.spent = seen


def _in_a_step(execution: Execution, frame: FrameType | None) -> str:
    frames = callers(frame)
    where = where_it_stays([(each, each.f_lineno) for each in frames])
    seen = f"{who_runs(execution.loop, frames)} has not given the loop back in {where}"
    return seen if execution.loop.threads.current is None else f"{seen}; {NO_PREEMPTION}"


def _goes_on(environment: Environment, horizon_s: float) -> str:
    """What is said of an execution that still polls when the budget is spent."""
    polls, name = environment.polls, environment.landed
    if polls < POLLS_OF_A_LONG_ONE:
        return f"in the middle of an execution, at its poll {polls}"
    seen = f"one execution goes on and on: it has polled {polls:,} times"
    if name is None or environment.lasted_s > polls * INSTANT_S:
        return (
            f"{seen}, and {environment.lasted_s:,.0f} s of virtual time have passed; if it should "
            f"be over by then, a horizon_s below {horizon_s:g} lets that refute it"
        )
    return (
        f"{seen}, and hardly any virtual time has passed, as «{name}» lands at once whenever it is "
        "awaited: if it needs time, give it some (earliest=0.01)"
    )
