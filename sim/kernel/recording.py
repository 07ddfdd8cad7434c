"""The recording of a traced execution: what happened, and what replays it on stock asyncio.

An execution is determined by what each poll of the loop finds and by how late it is when it
returns, and by the answers of `World.choose`; the rest is CPython's own code in both loops.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from weakref import ref

from sim.kernel.diagnosis import lock_holders
from sim.kernel.environment import Arrival
from sim.kernel.hashing import SimFuture
from sim.kernel.isolation.as_it_is import name_of, owner_of
from sim.kernel.loop import SimLoop
from sim.kernel.notices import Special
from sim.kernel.observer import Observer
from sim.kernel.origin import forwards
from sim.kernel.schedule import GOES_ON, ChoicePoint, Named
from sim.kernel.task_rows import RecordedTask, TaskRow, TaskRows
from sim.kernel.threads.workers import Worker
from sim.kernel.violation import Kind
from sim.kernel.world import VIOLATED, TraceLine, World

Found = float | tuple[int, str] | None
"""The clock jumps to a reading; the n-th announced outside event, of this name, lands; or, None,
nothing more comes before the horizon."""

_OBSTACLES = {
    Special.SIGNAL: "a signal is sent by world.signal",
    Special.TASK_FACTORY: "the program sets a task factory, and the file needs its own",
    Special.WORKER_THREADS: "worker threads run in it (of the program, or of a library that calls "
    "run_in_executor), and no selector decides on their steps",
    Special.PROCESSES: "it has hosts with processes, and the file would be one",
    Special.SIMPY_PROCESSES: "it has SimPy processes of its own, which land without a poll",
    Special.SOCKETS: "the program uses sockets, and no selector of the system can be made to find "
    "them ready as these were",
    Special.TIMERS_APART: "timers of one instant fire apart in it, and in the file together",
    Special.EQUAL_READINGS: "two readings of the clock are equal in it, and in the file none",
    Special.SLOW_STEP: "a step takes until a time limit ends, before it reads a clock, and in the "
    "file none takes any time",
    Special.COLLECTIONS: "the garbage collector frees something in it, and runs when it likes in "
    "the file",
    Special.SETS_OF_COROUTINES: "asyncio.as_completed begins its coroutines in the order of their "
    "addresses, which is another in the file (make tasks of them before)",
    Special.ENDLESS_STEP: "a step never ends, and would not end there, either",
}


@dataclass(frozen=True, slots=True)
class EventName:
    """An option's name; number: it is the n-th outside event of this name, or 0 if it is none.

    thread: of a thread that goes on, the name that the program knows it by.
    """

    name: str
    number: int = 0
    thread: str = ""

    @property
    def shown(self) -> str:
        """A thread is called in words as it is in its rows, and not by its number."""
        if not self.thread:
            return self.name
        return f"{self.thread}{GOES_ON}{self.name.partition(GOES_ON)[2]}"


@dataclass(frozen=True, slots=True)
class Departure:
    """A choice that is not the natural one, with the words for it.

    cost: 0 where it continues or ends a wait that an earlier one has begun, else 1. passed_over:
    the options before it, the natural one first.
    """

    index: int
    option: int
    kind: str
    at: float
    chosen: EventName
    passed_over: tuple[EventName, ...]
    cost: int


@dataclass(eq=False)
class Recording(Observer):
    """trace: what the actors did. steps: a line for each callback that joined the ready queue.
    departures: the choices that are not natural. options: how many each choice point had.
    announced_names: how many outside events were announced by each name. landings: which event the
    line of the trace is about that has this index, where it is about one. task_rows: what became of
    tasks and timers.

    polls: what the polls found, in order, by the number of the poll from 1 on, where they found
    anything. polls_count: how many there were. choices: the answers of `World.choose`, as option
    and its index. obstacles: why it cannot be forced on a stock loop.
    """

    trace: list[TraceLine] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    options: list[int] = field(default_factory=list)
    announced_names: Counter[str] = field(default_factory=Counter)
    landings: dict[int, EventName] = field(default_factory=dict)
    task_rows: list[TaskRow] = field(default_factory=list)
    polls: dict[int, list[Found]] = field(default_factory=dict)
    polls_count: int = 0
    choices: list[tuple[str, int]] = field(default_factory=list)
    # How many callbacks had joined the ready queue when the execution was over.
    steps_count: int = 0
    hashes_futures: bool = False
    # Whether tasks were hashed, by what else than asyncio's own set of all tasks.
    hashes_tasks: bool = False
    obstacles: list[str] = field(default_factory=list)
    _is_polling: bool = False
    # The draining after the end is not part of it.
    _is_over: bool = False
    # Whose the last step is, when and where it was noted, and what it calls.
    _last_step: tuple[ref[asyncio.Task[Any]], str, str] | None = None

    def begin(self, loop: SimLoop, world: World) -> None:
        self._loop = loop
        self._rows = TaskRows(loop, self.trace, self.task_rows)
        self._rows_of = {loop: self._rows}
        # So that `runs` is called.
        loop.watch_steps()
        self._world = world
        # The n-th outside event that was announced.
        self._serials: dict[Arrival, int] = {}
        # Which it is of those of its name.
        self._numbers: dict[Arrival, int] = {}
        world.trace = self.trace

    def __getstate__(self) -> dict[str, Any]:
        """What it has recorded, as plain data, for another process."""
        own = {"_loop", "_world", "_serials", "_numbers", "_rows", "_rows_of"}
        return {name: value for name, value in vars(self).items() if name not in own}

    def end(self) -> None:
        self._world.trace = None
        for rows in self._rows_of.values():
            rows.settle()
            rows.end()
            self.hashes_tasks = self.hashes_tasks or rows.hashes_tasks
        self._name_last_step()
        self.steps_count = len(self.steps)
        self._is_over = True
        self._serials.clear()
        self._numbers.clear()

    def forget_draining(self) -> None:
        del self.steps[self.steps_count :]

    def patched(self) -> AbstractContextManager[None]:
        return lock_holders()

    def new_future(self, loop: SimLoop) -> asyncio.Future[Any]:
        future = RecordedFuture(loop=loop)
        future.recording = self
        return future

    @forwards
    def new_task(
        self, loop: SimLoop, coro: Coroutine[Any, Any, Any], **options: Any
    ) -> asyncio.Task[Any]:
        task = RecordedTask(self._rows, coro, loop=loop, **options)
        self._rows.made(task)
        return task

    def turns_to(self, loop: SimLoop) -> None:
        """What follows happens in that loop: a process's, or the program's own again."""
        if self._is_over:
            return
        if loop not in self._rows_of:
            self._rows_of[loop] = TaskRows(loop, self.trace, self.task_rows)
            loop.watch_steps()
        self._loop, self._rows = loop, self._rows_of[loop]

    def runs(self, handle: asyncio.Handle) -> None:
        self._rows.runs(handle)

    def armed(self, timer: asyncio.TimerHandle) -> None:
        self._rows.armed(timer)

    def thread_goes_on(self, worker: Worker) -> None:
        self._rows.thread_goes_on(worker)

    def thread_stands(self, worker: Worker) -> None:
        self._rows.thread_stands(worker)

    def poll_begins(self) -> None:
        self._rows.settle()
        if not self._is_over:
            self.polls_count += 1
            self._is_polling = True

    def poll_ends(self) -> None:
        if self._loop.stuck is not None and self._loop.stuck[0] is Kind.NO_END:
            self._find(None)
        self._is_polling = False

    def scheduled(self, callback: Any) -> None:
        self._name_last_step()
        owner = owner_of(callback)
        now = self._loop.environment.lasted_s
        when, what = f"{now:.9f} {self._loop.lane}", name_of(callback)
        is_task = isinstance(owner, asyncio.Task)
        if is_task and not self._is_over:
            self._last_step = ref(owner), when, what
        self.steps.append(f"{when}{owner.get_name() if is_task else 'loop'} {what}")

    def _name_last_step(self) -> None:
        """As its task is called now: one of a factory is named after its first step was noted.

        Until then asyncio may count it among the tasks of the process.
        """
        if self._last_step is None:
            return
        owner, when, what = self._last_step
        self._last_step = None
        task = owner()
        if task is not None:
            self.steps[-1] = f"{when}{task.get_name()} {what}"

    def announced(self, arrival: Arrival) -> None:
        if not self._is_over:
            self._serials[arrival] = len(self._serials) + 1
            self.announced_names[arrival.name] += 1
            self._numbers[arrival] = self.announced_names[arrival.name]

    def _name(self, option: Named) -> EventName:
        if isinstance(option, Worker):
            return EventName(option.name, thread=option.identity.shown)
        return EventName(option.name, self._numbers[option] if isinstance(option, Arrival) else 0)

    def lands(self, arrival: Arrival) -> None:
        if not self._is_over:
            self.landings[len(self.trace)] = self._name(arrival)
            self._find((self._serials[arrival], arrival.name))

    def advances(self, to: float) -> None:
        if to > self._loop.environment.now:
            self._find(to)

    def _find(self, found: Found) -> None:
        if not self._is_polling:
            self._obstruct("the loop's own thread sleeps between two polls")
        elif not self._is_over:
            self.polls.setdefault(self.polls_count, []).append(found)

    def chose(self, point: ChoicePoint, option: int) -> None:
        self.options.append(len(point.options))
        if option:
            names = [self._name(each) for each in point.options[: option + 1]]
            what = names[option], tuple(names[:option])
            where = point.index, option, point.kind, point.at
            self.departures.append(Departure(*where, *what, point.costs[option]))
        if point.kind == "program":
            self.choices.append((point.options[option].name, option))
        elif point.kind == "cancel" and option:
            self._obstruct("a task is cancelled between two callbacks, by offer_cancels")

    def tells(self, what: str, *, actor: str, is_chatter: bool = False) -> None:
        self._world.record(what, actor=actor, is_chatter=is_chatter)

    def thread_fails(self, name: str, raised: BaseException) -> None:
        self._rows.thread_fails(name, raised)

    def violated_at_end(self, at: float) -> None:
        """By what is known once everything has ended."""
        self.trace.append(TraceLine(at, "loop", VIOLATED))
        self.obstacles.append("what nobody retrieves is judged by the simulator, not by the file")

    def meets(self, special: Special) -> None:
        if special in _OBSTACLES:
            self._obstruct(_OBSTACLES[special])

    def _obstruct(self, obstacle: str) -> None:
        if not self._is_over and obstacle not in self.obstacles:
            self.obstacles.append(obstacle)


class RecordedFuture(SimFuture):
    """Records whether it was ever hashed, so that the order of a set may depend on it."""

    recording: Recording

    def __hash__(self) -> int:
        self.recording.hashes_futures = True
        return super().__hash__()


# As SimTask and SimFuture are: the program sees asyncio's name, whatever follows it.
RecordedFuture.__name__ = "Future"
