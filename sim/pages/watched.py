"""A replay that is looked at closely: for each row of its chart, how things stood then."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from sim.counterexamples.line_values import LineValues
from sim.counterexamples.lined import LinedRecording, Rows
from sim.counterexamples.program_lines import actor_of
from sim.kernel.diagnosis import RUNS_CALLBACKS, frames_of, programs_frame, short_place, waits_for
from sim.kernel.environment import Arrival
from sim.kernel.isolation.as_it_is import code_of, name_of, owner_of
from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.origin import forwards, is_of_kernel, is_own_code
from sim.kernel.schedule import ChoicePoint
from sim.kernel.threads.workers import Worker
from sim.kernel.world import TraceLine, World
from sim.pages.names import Made
from sim.pages.values import Values, text_of, values_of
from sim.schedulers import Replay

# The most tasks, callbacks or timers that a page shows of a moment: it is to be read.
LISTED_MAX = 12
_ASYNCIO = str(Path(asyncio.__file__).parent) + "/"
_CREATED = inspect.CORO_CREATED
_OUTSIDE = World.outside.__code__


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the program's; file: its path, function: the name of what stands there."""

    file: str
    line: int
    function: str

    @classmethod
    def of(cls, code: CodeType, line: int) -> Place:
        return cls(code.co_filename, line, code.co_name)


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice point: its options, the natural one first; taken: the index of that which was."""

    index: int
    kind: str
    at: float
    options: tuple[str, ...]
    taken: int
    cost: int


@dataclass(slots=True)
class Moment:
    """When a row was written.

    place: of the program, or None; of an outside event, who waits for it. library: which one the
    program waits in, or which one's task it is. turn: as lines that ran have it as their step.
    step: which callback of the loop, or which landing, it belongs to. cause: the number of the
    moment that put this step into the ready queue; of a task that is cancelled, the one before.
    whose: of an outside event, who announced it. held: who has what, as the program shows it.
    values: what it shows, or its variables. choices, labels: those since the moment before; a label
    as often as it is reached. tasks: each that is not done, with what it waits for. ready, timers:
    what the loop would run next, and later.
    """

    place: Place | None = None
    library: str = ""
    turn: int = 0
    step: int = 0
    cause: int | None = None
    whose: str = ""
    choices: list[Choice] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    tasks: list[tuple[str, str]] = field(default_factory=list)
    ready: list[str] = field(default_factory=list)
    timers: list[str] = field(default_factory=list)
    held: Mapping[str, str] = field(default_factory=dict)
    values: Values = field(default_factory=dict)


class Reached(set[str]):
    """The labels of a world; tells of each as often as it is reached."""

    def __init__(self, labels: Iterable[str], reaches: Callable[[str], None]) -> None:
        super().__init__(labels)
        self._reaches = reaches

    def add(self, label: str) -> None:
        super().add(label)
        self._reaches(label)


class Watched(LinedRecording):
    """Of each row of the trace, and of the tasks' rows, the moment; both in one order."""

    def __init__(self, *, reads_variables: bool = True) -> None:
        """reads_variables: before 3.13 what is read of a frame's variables may stay in it, and what
        the program drops lives longer."""
        super().__init__()
        self._reads_variables = reads_variables
        if reads_variables:
            self.lines.values = LineValues(text_of)
        self.moments: list[Moment] = []
        self.made: list[Made] = []
        # Which moment a row of the trace, or a row of the tasks, has.
        self.of_trace: list[int] = []
        self.of_tasks: list[int] = []
        self.task_rows = Rows(lambda row: self._note(self.of_tasks))
        # Who had what at the last moment.
        self._held: Mapping[str, str] = {}
        self._values: Values = {}
        # Since the last moment.
        self._choices: list[Choice] = []
        self._labels: list[str] = []
        # Where the task stands that goes on next.
        self._stands: Place | None = None
        # By which moment a callback was scheduled, in the order in which it was.
        self._scheduled_by: dict[int, list[int | None]] = {}
        # Of the step that runs: its number, what put it there, and its last moment.
        self._step = 0
        self._library = ""
        self._cause: int | None = None
        self._last: int | None = None
        self._announced_at: dict[Arrival, tuple[Place | None, str]] = {}
        self._whose = ""

    @forwards
    def new_task(
        self, loop: SimLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = super().new_task(loop, coro, **options)
        name = getattr(coro, "__qualname__", type(coro).__qualname__)
        own = programs_frame(sys._getframe(1))
        where = "" if own is None else f"{Path(own.f_code.co_filename).name}:{own.f_lineno}"
        self.made.append(Made(task.get_name(), name.rpartition(".")[2], where))
        return task

    def begin(self, loop: SimLoop, world: World) -> None:
        super().begin(loop, world)
        world.labels = Reached(world.labels, self._labels.append)

    def _joins(self, row: TraceLine) -> None:
        self._note(self.of_trace)
        super()._joins(row)

    def _note(self, of_rows: list[int]) -> None:
        number = len(self.moments)
        of_rows.append(number)
        is_anothers = of_rows is self.of_tasks and self._last is not None
        cause = self._last if is_anothers else self._cause
        of_step = self._turn, self._step, cause, self._whose
        moment = Moment(self._place(), self._library, *of_step, self._choices)
        self._last = number
        self._choices = []
        moment.labels = list(dict.fromkeys(self._labels))
        self._labels.clear()
        loops = self._world.loops
        live = [task for loop in loops for task in loop.tasks if not task.done()]
        moment.tasks = [(each.get_name(), what_it_does(each)) for each in live[:LISTED_MAX]]
        moment.ready = _some(_words_of(each) for loop in loops for each in loop._ready)
        moment.timers = _some(_words_of_timer(each) for loop in loops for each in _timers(loop))
        self._look()
        moment.held, moment.values = self._held, self._values
        self.moments.append(moment)

    def _look(self) -> None:
        """To ask is no step of anybody's; in a thread's turn it would count as one."""
        shown: Mapping[str, str] | None = None
        if self._loop.threads.current is None:
            was_paused = self.lines.pauses(self._loop, True)
            try:
                self._held, shown = self._world.held, self._world.values
            finally:
                self.lines.pauses(self._loop, was_paused)
        if self._world.values_are_variables:
            if self._reads_variables:
                self._values = values_of(self._world.loops, programs_frame(sys._getframe(1)))
        elif shown is not None:
            self._values = {("", name): text for name, text in shown.items()}

    def _place(self) -> Place | None:
        """Of what the program does now; else where this step stood last."""
        place, self._stands = self._stands, None
        place = place or self._running_place()
        if place is None and self._last is not None:
            return self.moments[self._last].place
        return place

    def _running_place(self) -> Place | None:
        """None between the callbacks, where who runs the loop stands on the stack."""
        frame: FrameType | None = sys._getframe(1)
        own = programs_frame(frame)
        while frame is not None and frame.f_code is not RUNS_CALLBACKS:
            frame = frame.f_back
        if own is None or (frame is None and self._loop.threads.current is None):
            return None
        return Place.of(own.f_code, own.f_lineno)

    def _begin_step(self, cause: int | None, stands: Place | None = None) -> None:
        self._step += 1
        self._cause, self._last, self._stands = cause, None, stands
        self._library = self._whose = ""

    # -- who causes what

    def scheduled(self, callback: Any) -> None:
        super().scheduled(callback)
        self._scheduled_by.setdefault(id(callback), []).append(self._now)

    def runs(self, handle: asyncio.Handle) -> None:
        callback: Any = handle._callback  # type: ignore[attr-defined]
        # What ended in the step before is a row of that step's.
        self._rows.settle()
        causes = self._scheduled_by.get(id(callback), [])
        cause = causes.pop(0) if causes else None
        if not causes:
            self._scheduled_by.pop(id(callback), None)
        task = owner_of(callback)
        self._begin_step(cause, _place_of_task(task) if isinstance(task, asyncio.Task) else None)
        self._library = _library_of_handle(callback, task)
        super().runs(handle)
        self._stands = None

    @property
    def _now(self) -> int | None:
        """The last moment of this step, or what caused it, if it has none."""
        return self._cause if self._last is None else self._last

    def announced(self, arrival: Arrival) -> None:
        super().announced(arrival)
        self._announced_at[arrival] = self._running_place(), actor_of(self._loop)

    def lands(self, arrival: Arrival) -> None:
        place, whose = self._announced_at.pop(arrival, (None, ""))
        self._begin_step(None, place)
        self._whose = whose
        super().lands(arrival)

    def poll_begins(self) -> None:
        super().poll_begins()
        self._begin_step(None)

    def thread_goes_on(self, worker: Worker) -> None:
        self._begin_step(None, _place_of_thread(worker))
        super().thread_goes_on(worker)

    def thread_stands(self, worker: Worker) -> None:
        self._stands = _place_of_thread(worker)
        if self._stands is None and self._last is not None:
            self._stands = self.moments[self._last].place
        super().thread_stands(worker)
        self._stands = None

    # -- choices

    def chose(self, point: ChoicePoint, option: int) -> None:
        super().chose(point, option)
        names = tuple(self._name(each).shown for each in point.options)
        cost = point.costs[option] if option else 0
        self._choices.append(Choice(point.index, point.kind, point.at, names, option, cost))


class WatchedReplay(Replay):
    """Replays a schedule under the eyes of a `Watched`."""

    def __init__(
        self,
        departures: Iterable[tuple[int, int]],
        *,
        strict: bool = True,
        reads_variables: bool = True,
    ) -> None:
        super().__init__(departures, strict=strict)
        self.watched = Watched(reads_variables=reads_variables)

    def observer(self) -> Observer:
        return self.watched


def _some(sentences: Iterable[str]) -> list[str]:
    listed = list(sentences)
    if len(listed) <= LISTED_MAX:
        return listed
    return [*listed[: LISTED_MAX - 1], f"… and {len(listed) - LISTED_MAX + 1} more"]


def _place_of_task(task: asyncio.Task[Any]) -> Place | None:
    own = own_frame(frames_of(task.get_coro()))
    return None if own is None else Place.of(own.f_code, own.f_lineno)


def own_frame(frames: Sequence[FrameType]) -> FrameType | None:
    """Of frames with the outermost first: the innermost of the program's own.

    Of a program that is a library, or the simulator's bench, its innermost one.
    """
    own = (each for each in reversed(frames) if is_own_code(each.f_code.co_filename))
    others = (each for each in reversed(frames) if not _is_inner(each.f_code.co_filename))
    return next(own, None) or next(others, None)


def _is_inner(file: str) -> bool:
    return file.startswith(_ASYNCIO) or is_of_kernel(file)


def library_of(file: str) -> str:
    """The installed package, or the module of Python's own, that a file belongs to; else nothing"""
    for folder in ("/site-packages/", "/dist-packages/"):
        if folder in file:
            return Path(file.rpartition(folder)[2]).parts[0].removesuffix(".py")
    return "asyncio" if file.startswith(_ASYNCIO) else ""


def _library_of_handle(callback: Any, task: object) -> str:
    """Of a step: the library that the program's own code has called, or whose own the task is."""
    if not isinstance(task, asyncio.Task):
        code = code_of(callback)
        return "" if code is None else library_of(code.co_filename)
    found = ""
    for frame in frames_of(task.get_coro()):
        if is_own_code(frame.f_code.co_filename):
            found = ""
        else:
            found = found or library_of(frame.f_code.co_filename)
    return found


def what_it_does(task: asyncio.Task[Any]) -> str:
    """Of a task that is not done: whether it runs, or what it waits for, and where."""
    coroutine: Any = task.get_coro()
    frames = frames_of(coroutine)
    if not frames or getattr(coroutine, "cr_running", False):
        return "runs"
    if inspect.iscoroutine(coroutine) and inspect.getcoroutinestate(coroutine) == _CREATED:
        return "has not begun"
    own = own_frame(frames) or frames[-1]
    awaited = task._fut_waiter  # type: ignore[attr-defined]
    verb = "waits" if awaited is not None and not awaited.done() else "goes on next"
    return f"{verb} in {short_place(own.f_code, own.f_lineno)}{_awaited(task, frames)}"


def _awaited(task: asyncio.Task[Any], frames: list[FrameType]) -> str:
    event = next((each for each in frames if each.f_code is _OUTSIDE), None)
    return f" for «{event.f_locals['name']}»" if event is not None else waits_for(task, frames)


def _place_of_thread(worker: Worker) -> Place | None:
    """Where it stands; of one that has not begun, what it is to run."""
    frame = worker.greenlet.gr_frame
    if frame is None:
        job = None if worker.greenlet.dead else worker.identity.job
        return None if job is None else Place.of(job, job.co_firstlineno)
    own = programs_frame(frame)
    return None if own is None else Place.of(own.f_code, own.f_lineno)


def _timers(loop: SimLoop) -> list[asyncio.TimerHandle]:
    live = (each for each in loop._scheduled if not each.cancelled())
    return sorted(live, key=asyncio.TimerHandle.when)


def _words_of(handle: asyncio.Handle) -> str:
    callback: Any = handle._callback  # type: ignore[attr-defined]
    task = owner_of(callback)
    if isinstance(task, asyncio.Task):
        return f"a step of {task.get_name()}"
    return _name_of(callback)


def _words_of_timer(timer: asyncio.TimerHandle) -> str:
    return f"{timer.when():.3f} s: {_name_of(timer._callback)}"  # type: ignore[attr-defined]


def _name_of(callback: Any) -> str:
    return name_of(callback).rpartition("<locals>.")[2]
