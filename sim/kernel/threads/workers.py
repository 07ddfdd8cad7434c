"""Worker threads as actors of the same schedule.

A worker runs its blocking function in a greenlet, so that it can stand still anywhere while the
loop goes on. Where a worker may be overtaken are its *switch points*: before it acquires a lock,
before it blocks, before each `call_soon_threadsafe`, and before each line of the files that are
declared, since with fewer a check and the act after it would be one step. In the loop's thread
workers may go on between any two callbacks, before a lock is acquired, and, where that is asked
for, before each declared line.

By default a worker runs, at a poll, until it blocks or ends. To pause it instead, or to let it run
between two callbacks of the loop, is a departure.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context
from types import CodeType
from typing import Any, NoReturn, Protocol, cast

import greenlet
import simpy

from sim.kernel.current import execution_of_this_thread
from sim.kernel.diagnosis import blocking_call, programs_frame
from sim.kernel.environment import Environment
from sim.kernel.errors import StepBrokenOff
from sim.kernel.isolation.as_it_is import attribute_of, code_of, is_a, owner_of
from sim.kernel.isolation.bound_names import functions_behind
from sim.kernel.origin import is_own_code, is_programs_code
from sim.kernel.schedule import GOES_ON, Bounds
from sim.kernel.threads.handing_over import hands_over_before
from sim.kernel.threads.identity import ThreadIdentity, forget_dummies
from sim.kernel.threads.line_tracing import (
    resumed,
    set_trace,
    trace_callers,
    trace_function,
    watch,
)
from sim.kernel.threads.local_values import a_worker_begins, here
from sim.kernel.threads.untold import WITHIN_STEPS

LOCK = "lock.acquire"
"""The switch point before a lock is taken."""

TURNS_MAX = 1000
"""How often threads go on at the instant at which a loop that stands alone stops."""


class Worker:
    """A thread that has something to do. As an option of a choice point, it is its next step."""

    def __init__(
        self, threads: Threads, number: int, run: Callable[[], None], identity: ThreadIdentity
    ) -> None:
        self.number = number
        self.identity = identity
        self.where = "start"
        # What it waits for; None while it is not blocked. limit: until when, if not for ever.
        self.waits_for: Callable[[], bool] | None = None
        self.limit: TimeLimit | None = None
        # While it stands: what it handles in an `except`, which its frames need not have.
        self.handles: BaseException | None = None
        # Whether it has waited for a lock, without a limit, and taken no step since that was free.
        self.has_woken = False
        # Whether it is paused although it could go on.
        self.was_kept = False
        self.passes = 0
        self.greenlet = greenlet.greenlet(run, parent=threads.hub)
        self.greenlet.gr_context = identity.context
        # In which it stands: in its own, or in one that the program has made in it, as SQLAlchemy
        # does for what it awaits.
        self.stands_in = self.greenlet
        # The event loop that runs in this thread, if one does, and its current task.
        self.inner: tuple[Any, Any] = (None, None)
        # What sys.set_asyncgen_hooks has set in it, as such a loop does.
        self.asyncgen_hooks: Any = (None, None)
        # Where the program started it, or gave its pool what it began with.
        self.started_at: tuple[CodeType, dict[str, Any], int] | None = None

    @property
    def name(self) -> str:
        return f"worker {self.number}{GOES_ON}{self.where}"

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, while it stands."""
        frame: object = self.greenlet.gr_frame
        if frame is None:
            frame = getattr(self.greenlet, "run", None)
        who = self.number, self.identity, self.greenlet.gr_context
        waits = self.where, self.waits_for, self.limit
        hooks = tuple(self.asyncgen_hooks)
        return who, waits, self.inner, hooks, frame, self.handles

    @property
    def is_runnable(self) -> bool:
        return self.waits_for is None or self.waits_for()


class LoopOfThreads(Protocol):
    """What threads use of the loop in whose execution they run."""

    environment: Environment
    bounds: Bounds
    bounds_hit: set[str]

    def interleave(self, threads: Threads) -> None: ...

    def between_steps(self) -> None: ...

    def must_go_on(self, worker: Worker) -> bool: ...

    def choose_worker(self, runnable: Sequence[Worker]) -> Worker | None: ...

    def deadlock(self, seen: str) -> None: ...

    signals_under_way: Any

    def take_signals(self, where: str = ...) -> None: ...

    def others_come(self, is_so: Callable[[], bool], until: float) -> bool: ...

    def lands_while_blocked(self, until: float) -> bool: ...

    def refuse(self, what: str, instead: str) -> NoReturn: ...


class Threads:
    """All threads of one execution."""

    def __init__(self, loop: LoopOfThreads) -> None:
        self.loop = loop
        # Twice: greenlet takes the last reference to an ended thread's own greenlet, if it finds
        # nobody who has it, for its own, and drops it. What another thread's collector is at work
        # on it does not find, nor what a suspended greenlet has: the next look at it crashes.
        self._hub = (greenlet.getcurrent(),) * 2
        # Begun and not ended: the one that ran last first, the others in the order of their begin.
        self.workers: list[Worker] = []
        self.current: Worker | None = None
        # How often they went on in this poll, and the maximum so far; while the poll is blocked and
        # one of them goes on: the next deadline, the callbacks in the queue, and where the loop was
        # stopped, before.
        self.turns = self.turns_seen = 0
        # How often one of them has gone on so far.
        self.switches = 0
        self.before_step: tuple[float, int, str | None] | None = None
        # Whether the loop's thread has waited for a lock, and no other could go on since: once that
        # is free it takes it at once, while any other first has to be chosen.
        self.loop_has_woken = False
        # Files whose every line is a switch point.
        self.declared: frozenset[str] = frozenset()
        # Whether they are switch points also where the loop's own thread runs them.
        self.traces_loop = False
        # Between whose lines a signal's handler may run in the loop's thread.
        self._interruptible: frozenset[str] = frozenset()
        self._trace: Any = None
        self._numbers = 0
        # Whose threads have begun and not ended, with those of pools that have no job.
        self._identities: list[ThreadIdentity] = []
        self._identities_made = 0
        self._names: Counter[str] = Counter()
        self._futures_hashed = self._threads_hashed = 0
        # The files of the program's own that it runs, and that are not declared.
        self.undeclared: set[str] = set()
        # What runs, whose own module is declared with the first thread, if a bound says so.
        self.program: Any = None
        self._declares_own = False
        # Its workers are being ended where they stand.
        self.is_draining = False
        # What must always hold is asked, which nobody asks on stock, and so at one instant.
        self.is_one_instant = False

    WITHOUT_INFLUENCE = frozenset(
        # Identities without a worker are read where their pools keep them.
        {"loop", "_hub", "current", "_trace", "is_draining", "is_one_instant", "_identities"}
        | {"switches", "before_step"}
        # Compared only where they may reach their limits: see `state_reader`.
        | {"turns", "turns_seen"}
        # Read where the execution ends, or for words alone.
        | {"_names"}
        | {"undeclared", "program", "_declares_own"}
        # No search by states has signals between lines.
        | {"_interruptible"}
    )
    """Fields that do not decide what happens next, for the state reader; a test checks all."""

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next, at a poll."""
        hashed = self._futures_hashed, self._threads_hashed
        counts = self._numbers, self._identities_made, *hashed
        loop = self.traces_loop, self.loop_has_woken
        return sorted(self.declared), loop, counts, [*self.workers]

    @property
    def hub(self) -> greenlet.greenlet:
        """The greenlet in which the loop runs."""
        return self._hub[0]

    @hub.setter
    def hub(self, hub: greenlet.greenlet) -> None:
        self._hub = (hub, hub)

    def declare(self, files: Iterable[str], *, in_loop: bool) -> None:
        self.declared = frozenset(files)
        self.traces_loop = in_loop
        self._watch_lines()

    @property
    def own_file(self) -> str | None:
        """Of the program, where it is neither Python's, nor an installed package's, nor ours."""
        return None if self.program is None else own_file_of(self.program)

    def may_be_interrupted(self) -> None:
        """From now on handlers of signals run between the lines of the program's module, too."""
        own = self.own_file
        if own is not None and own not in self._interruptible:
            self._interruptible = frozenset({own})
            self._watch_lines()
            trace_callers(self._trace)

    def _watch_lines(self) -> None:
        files = self.declared | self._interruptible
        self._trace = trace_function(files, self._on_line)
        watch(files, _on_watched_line)

    def begins(self, job: Any) -> CodeType | None:
        """A thread is to call this. Its code, if it is not Python's own."""
        code = code_of_job(job)
        if self.loop.bounds.own_lines:
            self._declare_own(code)
        if code is not None and code.co_filename not in self.declared:
            self.undeclared.add(code.co_filename)
        if not self.traces_loop and may_share(job):
            self.undeclared.add(WITHIN_STEPS)
        return code

    def _declare_own(self, code: CodeType | None) -> None:
        """The program's module, and that of what the thread calls, unless it says itself which."""
        if self.program is not None:
            own, self.program = own_file_of(self.program), None
            self._declares_own = not self.declared
            if own is not None:
                self.declare(self.declared or {own}, in_loop=True)
        file = None if code is None else code.co_filename
        is_new = file is not None and file not in self.declared and is_own_code(file)
        if self._declares_own and file is not None and is_new:
            self.declare({*self.declared, file}, in_loop=True)

    @property
    def has_had_identities(self) -> bool:
        """Whether any thread was begun, or kept by a pool."""
        return self._identities_made > 0

    def next_future(self) -> int:
        """The hash of the next concurrent.futures.Future that is asked for one."""
        self._futures_hashed += 1
        return self._futures_hashed

    def next_thread(self) -> int:
        """The same of the next threading.Thread."""
        self._threads_hashed += 1
        return self._threads_hashed

    def new_identity(self, thread: threading.Thread, context: Context) -> ThreadIdentity:
        """Of a thread that begins now; it is alive until its `end`, or the execution's."""
        self._identities_made += 1
        self._names[thread.name] += 1
        of_its_name = self._names[thread.name]
        identity = ThreadIdentity(self._identities_made, thread, context, of_its_name)
        self._identities = [each for each in self._identities if not each.is_over]
        self._identities.append(identity)
        return identity

    def start(self, run: Callable[[], None], identity: ThreadIdentity) -> Worker:
        """The thread has something to do; `run` must raise nothing."""
        a_worker_begins()
        self._numbers += 1
        worker = Worker(self, self._numbers, run, identity)
        starter = programs_frame(sys._getframe(1))
        if starter is not None:
            worker.started_at = starter.f_code, starter.f_globals, starter.f_lineno
        self.workers.append(worker)
        self.loop.interleave(self)
        return worker

    def take_back(self, worker: Worker) -> None:
        """It has not begun, and has nothing to do any more."""
        self.workers.remove(worker)

    # -- what the loop calls

    def runnable(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_runnable]

    def wake_ups(self) -> list[float]:
        """When the time is over of those that wait with a limit, and could not go on by now."""
        limits = (worker.limit for worker in self.workers if not worker.is_runnable)
        return [limit.at for limit in limits if limit is not None]

    def next_wake_up(self) -> float:
        """The first of them; infinite without one."""
        return min(self.wake_ups(), default=math.inf) if self.workers else math.inf

    def spinning(self) -> str:
        """Those that could go on where nothing else is to come, in words: they had many turns."""
        runnable = self.runnable()
        return "".join(
            f"thread {each.identity.shown} spins, at "
            f"{blocking_call(each.greenlet.gr_frame, each.where)};\n"
            for each in runnable
        )

    def step(self, worker: Worker) -> None:
        """The worker goes on to its next switch point, or to its end."""
        if worker is not self.workers[0]:
            # The worker that runs is the natural choice until it blocks or ends.
            self.workers.remove(worker)
            self.workers.insert(0, worker)
        worker.was_kept = False
        worker.waits_for = worker.limit = None
        self.current = worker
        self.switches += 1
        # Where it ends, and where it waits: in whichever the loop's own thread is now.
        worker.greenlet.parent = greenlet.getcurrent()
        before = sys.gettrace()
        # Without declared files, what traces the suite traces its threads, too.
        set_trace(self._trace or before)
        try:
            _in_thread_of(worker, worker.stands_in.switch)
        finally:
            set_trace(before)
            self.current = None
        if worker.greenlet.dead:
            self.workers.remove(worker)

    def drain(self) -> None:
        """Ends every worker where it stands."""
        self.is_draining = True
        for worker in tuple(self.workers):
            self.current = worker
            worker.greenlet.parent = greenlet.getcurrent()
            _in_thread_of(worker, worker.stands_in.throw)
            if not worker.greenlet.dead:
                _in_thread_of(worker, worker.greenlet.throw)
            self.current = None
        self.workers.clear()
        for identity in self._identities:
            identity.end()
        self._identities.clear()
        if self._identities_made:
            forget_dummies()

    # -- what a worker calls

    def pause(self, where: str) -> None:
        """A switch point: the worker could go on, and others may go first."""
        worker = self.current
        if worker is None or self.is_draining:
            return
        worker.where = where
        worker.has_woken = False
        if not self.must_go_on(worker):
            self._switch_to_hub()

    def must_go_on(self, worker: Worker) -> bool:
        """See `SimLoop.must_go_on`."""
        return self.loop.must_go_on(worker)

    def block(
        self, where: str, waits_for: Callable[[], bool], limit: TimeLimit | None = None
    ) -> None:
        """Returns once `waits_for()` is true; in the loop's thread the workers go on meanwhile.

        If it never will be, the step of the loop is broken off: a deadlock. limit: that of the
        time, if `waits_for` has one.
        """
        worker = self.current
        if worker is None:
            if not waits_for():
                self._loop_blocks(where, waits_for)
                if where != LOCK:
                    # It is awake as soon as it can go on, and others may go first. Before it takes
                    # a lock they could.
                    self.let_others_go_on()
            return
        while not waits_for():
            if self.is_draining:
                raise greenlet.GreenletExit
            worker.where = where
            worker.has_woken = False
            worker.waits_for, worker.limit = waits_for, limit
            self._switch_to_hub()

    def block_until(self, where: str, is_so: Callable[[], bool], timeout: float | None) -> None:
        """Returns once `is_so()` is true, or after `timeout` virtual seconds."""
        over = TimeLimit(self, timeout)
        self.block(where, lambda: is_so() or over(), over)

    def go_on_without_loop(self) -> None:
        """The loop stands still; its threads go on until each waits, or has had many turns."""
        turns = itertools.count()
        self._loop_blocks("stopped", lambda: not self.runnable() or next(turns) > TURNS_MAX)

    def let_others_go_on(self) -> None:
        """A switch point of the loop's own thread."""
        self.loop_has_woken = False
        if not (self.is_draining or self.is_one_instant):
            self.loop.between_steps()

    def let_others_go_first(self, where: str) -> None:
        """A switch point of whichever thread runs."""
        if self.current is None:
            self.let_others_go_on()
        else:
            self.pause(where)

    def _switch_to_hub(self) -> None:
        worker = cast(Worker, self.current)
        worker.handles = sys.exception()
        worker.stands_in = greenlet.getcurrent()
        # From inside a trace function: the others are to be traced, too.
        sys.call_tracing(cast(greenlet.greenlet, worker.greenlet.parent).switch, ())
        worker.handles = None
        resumed()

    def _loop_blocks(self, where: str, waits_for: Callable[[], bool]) -> None:
        while not waits_for():
            runnable = self.runnable()
            if not runnable:
                # No worker can go on at this instant, but one may sleep until a later one.
                environment = self.loop.environment
                if self.loop.lands_while_blocked(environment.peek()):
                    continue
                if self.loop.others_come(waits_for, environment.peek()):
                    continue
                if environment.peek() > environment.begun_s + self.loop.bounds.horizon_s:
                    task = asyncio.current_task() if asyncio._get_running_loop() else None
                    who = "the loop's thread" if task is None else f"task {task.get_name()}"
                    what = blocking_call(sys._getframe(1), where)
                    self.loop.deadlock(f"{who} blocks the loop for ever: {what}")
                    # Who waits in a `while` would wait again.
                    raise StepBrokenOff(where)
                environment.advance(environment.peek())
                continue
            worker = self.loop.choose_worker(runnable)
            if worker is not None:
                self.step(worker)

    # -- lines of declared files

    def set_loop_trace(self) -> None:
        """On 3.11: the loop's own thread is asked about its lines from now on."""
        if self.traces_loop:
            set_trace(self._trace)

    def _on_line(self, file: str, line: int) -> None:
        if self.is_draining or (self.is_one_instant and self.current is None):
            return
        if self.current is None and file in self._interruptible and self.loop.signals_under_way:
            place = f"{file.rpartition('/')[2]}:{line}"
            if hands_over_before(file, line):
                sys.call_tracing(self.loop.take_signals, (f"before {place}",))
        if file not in self.declared:
            return
        if self.current is not None:
            self.pause(f"{file.rpartition('/')[2]}:{line}")
        elif self.traces_loop and self.workers and self._may_overtake_loop(file, line):
            # From inside a trace function: the others are to be traced, too.
            sys.call_tracing(self.let_others_go_on, ())

    def _may_overtake_loop(self, file: str, line: int) -> bool:
        """At each line where the program asks for it; else where CPython with its GIL lets it."""
        return not self.loop.bounds.own_lines or hands_over_before(file, line)


def _on_watched_line(file: str, line: int) -> None:
    execution = execution_of_this_thread()
    if execution is not None:
        execution.loop.threads._on_line(file, line)


def code_of_job(job: Any) -> CodeType | None:
    """Of what a thread is to call, if that is the program's own or an installed package's."""
    called = _called(job)
    code = code_of(called)
    return code if code is not None and is_programs_code(code) else None


def may_share(job: Any) -> bool:
    """Whether what a thread is to call may change what the loop reads, or call what does.

    Not what only reckons with plain values. Others of C's change them: `heapq.heappush`, `setattr`.
    """
    called, given = _call_of(job)
    is_class = isinstance(called, type) and called.__module__ == "builtins"
    only_reckons = is_class or any(called is each for each in _ONLY_RECKON)
    return not (only_reckons and all(map(_is_plain, given)))


_ONLY_RECKON = (abs, all, any, divmod, len, max, min, pow, round, sorted, sum)
_PLAIN = (bool, bytes, complex, float, int, range, str, type(None))
_OF_PLAIN = (frozenset, list, set, tuple)
_PLAIN_MAX = 100


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in _OF_PLAIN:
        return len(value) <= _PLAIN_MAX and all(type(each) in _PLAIN for each in value)
    return kind in _PLAIN


def _called(job: Any) -> Any:
    return _call_of(job)[0]


def _call_of(job: Any) -> tuple[Any, tuple[Any, ...]]:
    """What it calls, and with what; by asyncio.to_thread a partial of Context.run calls that."""
    given: tuple[Any, ...] = ()
    while is_a(job, functools.partial):
        args = (*job.args, *given)
        given = (*args, *job.keywords.values())
        job = job.func
        if is_a(owner_of(job), Context) and args:
            job, *rest = given
            given = tuple(rest)
    if attribute_of(job, "__func__") is threading.Timer.run:
        timer = job.__self__
        job, given = _call_of(timer.function)
        return job, (*given, *timer.args, *timer.kwargs.values())
    return job, given


def own_file_of(program: Any) -> str | None:
    """The file of a program, also of one that a test's function is given by its plugin."""
    for function in functions_behind(program):
        if is_own_code(function.__code__.co_filename):
            return function.__code__.co_filename
    return None


class TimeLimit:
    """Of a thread that waits. Called, it says whether `timeout` virtual seconds have passed.

    They never have for None or a negative number. at: when they will have.
    """

    def __init__(self, threads: Threads, timeout: float | None) -> None:
        environment = threads.loop.environment
        self._timer: simpy.Timeout | None = None
        self.at = math.inf
        if timeout == 0:
            # Over at once: a timer is seen by the next poll only.
            self.at = environment.now
        elif timeout is not None and timeout > 0:
            self.at = environment.now + timeout
            self._timer = simpy.Timeout(environment, timeout)

    def canonical_state(self) -> Sequence[object]:
        """All of it that decides what happens next."""
        return self.at, self()

    def __call__(self) -> bool:
        return self._timer.processed if self._timer is not None else self.at < math.inf


def _in_thread_of(worker: Worker, go_on: Callable[[], object]) -> None:
    """Calls `go_on` while what is kept for each thread is the worker's.

    Who it is, its locals, and what asyncio keeps: at first no running loop. Not a context manager:
    there are a hundred such calls in an execution.
    """
    outer, outer_hooks = here.identity, sys.get_asyncgen_hooks()
    outer_running = swap_running(worker.inner)
    switch_to(worker.identity)
    sys.set_asyncgen_hooks(*worker.asyncgen_hooks)
    try:
        go_on()
    finally:
        worker.inner = swap_running(outer_running)
        worker.asyncgen_hooks = sys.get_asyncgen_hooks()
        switch_to(outer)
        sys.set_asyncgen_hooks(*outer_hooks)


def switch_to(identity: ThreadIdentity | None) -> None:
    """From now on the thread that runs is this one: None is a main thread."""
    if here.locals is not None and here.identity is not None and here.identity.is_over:
        # While it still runs: what the end of a value calls, its own thread calls.
        here.locals.end_values()
    here.identity = identity
    if here.locals is not None:
        here.locals.switch(identity)


def swap_running(to: tuple[Any, Any]) -> tuple[Any, Any]:
    """Sets this thread's running loop and current task, and returns the previous ones.

    Before 3.14 the current task is kept for each loop, and is the same in all threads.
    """
    loop, task = asyncio._get_running_loop(), None
    if _TASK_OF_THREAD and loop is not None:
        task = asyncio.tasks._swap_current_task(loop, None)  # type: ignore[attr-defined]
    asyncio._set_running_loop(to[0])
    if _TASK_OF_THREAD and to[0] is not None:
        asyncio.tasks._swap_current_task(*to)  # type: ignore[attr-defined]
    return loop, task


_TASK_OF_THREAD = sys.version_info >= (3, 14)


class ReadyQueue(deque[asyncio.Handle]):
    """The loop's ready queue, which lets others act before each callback that is taken from it."""

    def __init__(
        self,
        handles: Iterable[asyncio.Handle],
        between: Callable[[], None],
        about_to_run: Callable[[asyncio.Handle], None],
    ) -> None:
        super().__init__(handles)
        self._between = between
        self._about_to_run = about_to_run

    def popleft(self) -> asyncio.Handle:
        self._between()
        handle = super().popleft()
        self._about_to_run(handle)
        return handle
