"""What happens to tasks in a traced execution: rows of a counterexample's chart.

A row says which timer fired, which task went on, was cancelled or ended, with the program's line.
It is recorded where an execution is replayed for its text, never in a search.
"""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from sim.kernel.diagnosis import (
    RUNS_CALLBACKS,
    blocking_call,
    frames_of,
    programs_frame,
    short_place,
)
from sim.kernel.errors import StepBrokenOff
from sim.kernel.hashing import SimTask
from sim.kernel.isolation.as_it_is import name_of, owner_of
from sim.kernel.origin import forwards, is_of_kernel, is_own_code
from sim.kernel.raised import short_words_of_exception

if TYPE_CHECKING:
    from sim.kernel.loop import SimLoop
    from sim.kernel.threads.workers import Worker

_ASYNCIO = str(Path(asyncio.__file__).parent) + "/"
# What a timer is for, by the function of asyncio or anyio that it calls when it fires.
_PURPOSES = {
    "Timeout._on_timeout": "timeout",
    "_set_result_unless_cancelled": "sleep",
    "CancelScope._timeout": "cancel scope",
}
# Who cancels, by the file of asyncio's or anyio's whose function called `cancel`.
_CANCELLERS = {
    "asyncio/timeouts.py": "its timeout",
    "asyncio/taskgroups.py": "its TaskGroup",
    "anyio/_backends/_asyncio.py": "its cancel scope",
}


class Weight(Enum):
    """How much a row says. Ordinary: a task goes on or ends, as one does at nearly every step.

    Inner: it goes on in an installed package, whose lines the reader has not written.
    """

    INNER = auto()
    ORDINARY = auto()
    NOTABLE = auto()
    FAILURE = auto()


@dataclass(frozen=True, slots=True)
class TaskRow:
    """after: how many lines the trace had before it."""

    at: float
    actor: str
    text: str
    after: int
    weight: Weight


@dataclass(frozen=True, slots=True)
class _Timer:
    """handle: keeps its id from being another's. fires: what to say then."""

    handle: asyncio.TimerHandle
    owner: str
    name: str
    fires: str


class TaskRows:
    """Called by the recording, which is told by the loop; `rows` is the result."""

    def __init__(self, loop: SimLoop, trace: list[Any], rows: list[TaskRow]) -> None:
        self.rows = rows
        self.is_over = False
        # Whether a task of the loop was put into a set.
        self.hashes_tasks = False
        self._loop = loop
        self._trace = trace
        self._timers: dict[int, _Timer] = {}
        self._program: asyncio.Task[Any] | None = None
        # What the loop runs now, and the tasks that may have ended in it.
        self._running: asyncio.Handle | None = None
        self._stepped: list[asyncio.Task[Any]] = []
        # Whose cancel is going on: it cancels what the task awaits.
        self._cancelling: list[str] = []

    def end(self) -> None:
        self.is_over = True
        self._timers.clear()
        self._running = self._program = None
        self._stepped.clear()

    # -- what the loop reports

    def armed(self, timer: asyncio.TimerHandle) -> None:
        if self.is_over:
            return
        delay_s = timer.when() - self._loop.environment.now
        frames = list(_calling())
        name, does = _purpose(timer, frames)
        fires = f"{name} of {delay_s:.6g} s{_at(frames)} {does}"
        self._timers[id(timer)] = _Timer(timer, self._current() or "loop", name, fires)

    def runs(self, handle: asyncio.Handle) -> None:
        self.settle()
        if self.is_over:
            return
        self._running = handle
        timer = self._timers.get(id(handle))
        if timer is not None:
            self._add(timer.owner, timer.fires)
        callback: Any = handle._callback  # type: ignore[attr-defined]
        task = owner_of(callback)
        if isinstance(task, asyncio.Task) and _is_step(callback) and not task.done():
            self._stepped.append(task)
            self._goes_on(task, handle)

    def settle(self) -> None:
        """The callback that ran last is over: which tasks did it end?"""
        if self._running is not None:
            self._timers.pop(id(self._running), None)
            self._running = None
        for task in self._stepped:
            if task.done() and not self.is_over:
                self._ended(task)
        self._stepped.clear()

    # -- threads

    def thread_goes_on(self, worker: Worker) -> None:
        """Left out where it was the last that did something."""
        name = worker.identity.shown
        if self.is_over or (self.rows and self.rows[-1].actor == name):
            return
        frame = programs_frame(worker.greenlet.gr_frame)
        if frame is not None:
            where = short_place(frame.f_code, frame.f_lineno)
            self._add(name, f"goes on in {where}", _weight_in(frame.f_code))
        elif worker.greenlet.gr_frame is None:
            job = worker.identity.job
            is_shown = job is not None and is_own_code(job.co_filename)
            where = f" in {short_place(job, job.co_firstlineno)}" if job and is_shown else ""
            self._add(name, f"begins{where}", Weight.ORDINARY)

    def thread_stands(self, worker: Worker) -> None:
        name = worker.identity.shown
        if self.is_over:
            return
        if worker.greenlet.dead:
            if not (self.rows and self.rows[-1].weight is Weight.FAILURE):
                self._add(name, "ends", Weight.ORDINARY)
        elif worker.waits_for is not None:
            frame = programs_frame(worker.greenlet.gr_frame)
            what = blocking_call(worker.greenlet.gr_frame, worker.where, has_text=False)
            weight = Weight.ORDINARY if frame is None else _weight_in(frame.f_code)
            self._add(name, f"waits in {what}", weight)

    def thread_fails(self, name: str, raised: BaseException) -> None:
        if not self.is_over:
            self._add(name, f"ends with {short_words_of_exception(raised)}", Weight.FAILURE)

    # -- tasks

    def made(self, task: asyncio.Task[Any]) -> None:
        """The first one is the program itself."""
        if self._program is None and not self.is_over:
            self._program = task

    def _goes_on(self, task: asyncio.Task[Any], handle: asyncio.Handle) -> None:
        if _is_not_begun(task):
            if task is not self._program:
                made_in = "" if _is_in_own(task) else getattr(task, "made_in", "")
                self._add(task.get_name(), f"begins{_in_own(task)}{made_in}", Weight.ORDINARY)
            return
        text = f"goes on{_in_own(task)}"
        weight = Weight.ORDINARY if _is_in_own(task) else Weight.INNER
        awaited = next(iter(handle._args), None)
        raised: BaseException | None = None
        if task._must_cancel:  # type: ignore[attr-defined]
            raised = asyncio.CancelledError()
        elif isinstance(awaited, asyncio.Future) and awaited.done():
            is_cancelled = awaited.cancelled()
            raised = asyncio.CancelledError() if is_cancelled else awaited._exception
        if raised is not None:
            text += f" with {type(raised).__name__}"
            weight = Weight.ORDINARY
        self._add(task.get_name(), text, weight)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        raised = task._exception
        if task is self._program or isinstance(raised, StepBrokenOff):
            # The violation is about that.
            pass
        elif raised is not None:
            self._add(
                task.get_name(), f"ends with {short_words_of_exception(raised)}", Weight.FAILURE
            )
        elif task.cancelled():
            self._add(task.get_name(), "ends, cancelled", Weight.ORDINARY)
        elif task.cancelling():
            self._add(task.get_name(), "ends normally, although it was cancelled")
        else:
            self._add(task.get_name(), "ends", Weight.ORDINARY)

    def begin_cancel(self, task: asyncio.Task[Any]) -> None:
        """Before the task is cancelled; `end_cancel` follows."""
        name = task.get_name()
        if not (task.done() or self.is_over):
            who = self._who_cancels(task)
            self._add(name, f"is cancelled by {who}{self._stood(task)}")
        self._cancelling.append(name)

    def end_cancel(self) -> None:
        self._cancelling.pop()

    def _who_cancels(self, task: asyncio.Task[Any]) -> str:
        if self._cancelling:
            return f"the cancel of {self._cancelling[-1]}, which awaits it"
        frames = list(_calling())
        means = _means(frames)
        current = self._current()
        if current is not None:
            who = "itself" if current == task.get_name() else current
            return means or f"{who}{_at(frames)}"
        timer = self._timers.get(id(self._running)) if self._running is not None else None
        if timer is not None:
            return f"{'this' if means is None else 'its'} {timer.name}"
        own = _own(frames)
        return means or (f"the callback {short_place(*own)}" if own else "a callback")

    def _stood(self, task: asyncio.Task[Any]) -> str:
        if asyncio.current_task(self._loop) is task:
            return ""
        if _is_not_begun(task):
            return ", before its first step"
        awaited = task._fut_waiter  # type: ignore[attr-defined]
        if awaited is not None and awaited.done():
            return f", its await{_in_own(task)} already done"
        return f", awaiting{_in_own(task)}"

    def _current(self) -> str | None:
        worker = self._loop.threads.current
        if worker is not None:
            return worker.identity.shown
        task = asyncio.current_task(self._loop)
        return task.get_name() if task is not None else None

    def _add(self, actor: str, text: str, weight: Weight = Weight.NOTABLE) -> None:
        now, lane = self._loop.environment.lasted_s, self._loop.lane
        if lane:
            # A process has one column, whatever it does in it.
            actor, text = lane.removesuffix(": "), f"{actor} {text}"
        self.rows.append(TaskRow(now, actor, text, len(self._trace), weight))


_OF_WEAK_SETS = {each.__code__ for each in vars(WeakSet).values() if isinstance(each, FunctionType)}
# Before 3.14: all tasks. Programs see it as the set that `all_tasks` makes of it.
_OWN_OF_ASYNCIO = [each for each in vars(asyncio.tasks).values() if isinstance(each, WeakSet)]


def _is_orderless(frame: FrameType) -> bool:
    """Whether a task is hashed there for asyncio's own set of all tasks, or gather's dictionary."""
    if frame.f_code in _OF_WEAK_SETS:
        return any(frame.f_locals.get("self") is each for each in _OWN_OF_ASYNCIO)
    return frame.f_code is asyncio.gather.__code__


class RecordedTask(SimTask):
    """Reports who cancels it, and whether it is put into a set.

    made_in: where the program's own code had it made, in words; empty if it had not.
    """

    @forwards
    def __init__(self, rows: TaskRows, *args: Any, **options: Any) -> None:
        self._rows = rows
        own = next((each for each in _calling() if is_own_code(each[0].f_code.co_filename)), None)
        self.made_in = "" if own is None else f", made in {short_place(own[0].f_code, own[1])}"
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        if not self._rows.hashes_tasks and not _is_orderless(sys._getframe(1)):
            self._rows.hashes_tasks = True
        return super().__hash__()

    @forwards
    def cancel(self, msg: Any = None) -> bool:
        self._rows.begin_cancel(self)
        try:
            return super().cancel(msg)
        finally:
            self._rows.end_cancel()


# As SimTask and SimFuture are: the program sees asyncio's name, whatever follows it.
RecordedTask.__name__ = "Task"


def _is_step(callback: Any) -> bool:
    """Of a task: its first step, one after a bare yield, or one after what it awaited."""
    name = name_of(callback).rpartition(".")[2]
    return type(callback).__name__ == "TaskStepMethWrapper" or name == "task_wakeup"


def _is_not_begun(task: asyncio.Task[Any]) -> bool:
    coroutine: Any = task.get_coro()
    is_coroutine = inspect.iscoroutine(coroutine)
    return is_coroutine and inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED


def _in_own(task: asyncio.Task[Any]) -> str:
    """Where it stands: the innermost line of the program's own code."""
    frames = frames_of(task.get_coro())
    own = _own([(each, each.f_lineno) for each in reversed(frames)])
    return f" in {short_place(*own)}" if own else ""


def _weight_in(code: CodeType) -> Weight:
    return Weight.ORDINARY if is_own_code(code.co_filename) else Weight.INNER


def _is_in_own(task: asyncio.Task[Any]) -> bool:
    """Whether the program's own code is somewhere in it, or only asyncio's."""
    files = [each.f_code.co_filename for each in frames_of(task.get_coro())]
    return any(map(is_own_code, files)) or all(map(_is_inner, files))


def _calling() -> Iterator[tuple[FrameType, int]]:
    """The frames that led here from the loop, innermost first, without the kernel's."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not RUNS_CALLBACKS:
        if not is_of_kernel(frame.f_code.co_filename):
            yield frame, frame.f_lineno
        frame = frame.f_back


def _own(frames: list[tuple[FrameType, int]]) -> tuple[CodeType, int] | None:
    """Of frames with the innermost first. Of a program that is a library, its innermost line."""
    lines = [(frame.f_code, line) for frame, line in frames]
    own = (each for each in lines if is_own_code(each[0].co_filename))
    others = (each for each in lines if not _is_inner(each[0].co_filename))
    return next(own, None) or next(others, None)


def _is_inner(file: str) -> bool:
    return file.startswith(_ASYNCIO) or is_of_kernel(file)


def _at(frames: list[tuple[FrameType, int]]) -> str:
    own = _own(frames)
    return f" ({own[0].co_filename.rpartition('/')[2]}:{own[1]})" if own else ""


def _purpose(timer: asyncio.TimerHandle, frames: list[tuple[FrameType, int]]) -> tuple[str, str]:
    """What the timer is, and what it does when it fires."""
    callback: Any = timer._callback  # type: ignore[attr-defined]
    name = name_of(callback)
    if name == "_release_waiter":
        # Of wait_for, before 3.12, and of wait.
        return frames[0][0].f_code.co_name.removeprefix("_"), "is over"
    if name in _PURPOSES:
        return _PURPOSES[name], "is over"
    return "call_later", f"calls {name.rpartition('<locals>.')[2]}"


def _means(frames: list[tuple[FrameType, int]]) -> str | None:
    file = frames[0][0].f_code.co_filename if frames else ""
    return next((who for end, who in _CANCELLERS.items() if file.endswith(end)), None)
