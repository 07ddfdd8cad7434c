"""One execution: a program runs in a fresh loop and world until it returns or a property fails."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn

from sim import entropy
from sim.determinism import restart_serials, use_deterministic_scopes
from sim.environment import Environment
from sim.errors import (
    CheckFailed,
    Nondeterminism,
    NotSimulated,
    ScheduleDoesNotFit,
    StepBrokenOff,
)
from sim.happens_before import History, TrackedFuture, TrackedTask, tracked_primitives
from sim.lines import set_trace
from sim.loop import ENDS, NO_LIVELOCK, Choose, Costs, SimLoop
from sim.pools import pools_simulated
from sim.schedule import Bounds, ChoicePoint, Named
from sim.schedulers import Matching, Reducing, Scheduler
from sim.signals import own_signals_simulated
from sim.state import StateReader
from sim.stock_recording import RecordedEnvironment, RecordedFuture, Recording
from sim.threads import Threads, under_way
from sim.threads import patched as threads_patched
from sim.waits import lock_holders, who_spins, who_waits
from sim.watchdog import NO_STEP_WITHOUT_END, begin_execution, end_execution, watched
from sim.world import TraceLine, Violation, World

Program = Callable[[World], Awaitable[object]]

_DRAIN_ROUNDS_MAX = 10
_DRAIN_RUNS_MAX = 100


@dataclass(frozen=True, slots=True)
class Departure:
    """A choice that is not the natural one, with the words for it.

    cost: 0 where it goes on with, or ends, what an earlier one has begun, else 1. passed_over: the
    options before it, the natural one first.
    """

    index: int
    option: int
    kind: str
    at: float
    chosen: str
    passed_over: tuple[str, ...]
    cost: int


@dataclass(slots=True)
class Outcome:
    """What one execution came to.

    choices: the option taken at each choice point; cost: how many departures they are. error: why
    nothing can be said, or None.
    trace, steps, departures, options, recording: only of a traced execution; `steps` has a line for
    each callback, `options` how many there were at each choice point, `recording` what forces the
    execution on stock asyncio.
    """

    choices: list[int] = field(default_factory=list)
    cost: int = 0
    violation: Violation | None = None
    error: str | None = None
    labels: set[str] = field(default_factory=set)
    bounds_hit: set[str] = field(default_factory=set)
    trace: list[TraceLine] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    departures: list[Departure] = field(default_factory=list)
    options: list[int] = field(default_factory=list)
    recording: Recording | None = None

    @property
    def trace_hash(self) -> str:
        """The same for two executions that ran the same callbacks at the same virtual times."""
        return hashlib.sha256("\n".join(self.steps).encode()).hexdigest()


class TrackedLoop(SimLoop):
    """A SimLoop whose futures and tasks tell a history how they are used."""

    def __init__(self, history: History, *args: Any) -> None:
        super().__init__(*args)
        self._history = history
        history.begin(self)

    def _land(self, env: Environment, *, quiescent: bool) -> None:
        if quiescent or self._history.may_overlap:
            super()._land(env, quiescent=quiescent)

    def create_future(self) -> asyncio.Future[Any]:
        future = TrackedFuture(loop=self)
        future.history = self._history
        future.tracked_as = self._history.new_object("future")
        return future

    def new_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = TrackedTask(coro, loop=self, **options)
        task.history = self._history
        task.tracked_as = self._history.new_object("task")
        return task


class TracedLoop(SimLoop):
    """A SimLoop that writes down each callback as it joins the ready queue, and each poll."""

    steps: list[str]
    recording: Recording

    def select(self, timeout: float | None) -> Sequence[object]:
        self.recording.begin_poll()
        found = super().select(timeout)
        if self.stuck is not None and self.stuck[0] == ENDS:
            self.recording.find(None)
        self.recording.end_poll()
        return found

    def create_future(self) -> asyncio.Future[Any]:
        future = RecordedFuture(loop=self)
        future.recording = self.recording
        return future

    def set_task_factory(self, factory: Any) -> None:
        self.recording.obstruct("the program sets a task factory, and the file needs its own")
        super().set_task_factory(factory)

    def interleave(self, threads: Threads) -> None:
        self.recording.obstruct("worker threads run in it, and no selector decides on their steps")
        super().interleave(threads)

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.Handle:
        owner = getattr(callback, "__self__", None)
        actor = owner.get_name() if isinstance(owner, asyncio.Task) else "loop"
        name = getattr(callback, "__qualname__", type(callback).__qualname__)
        self.steps.append(f"{self.environment.now:.9f} {actor} {name}")
        return super().call_soon(callback, *args, context=context)


def run_execution(
    program: Program, scheduler: Scheduler, bounds: Bounds, *, traced: bool = False
) -> Outcome:
    """Runs the program once, under the scheduler's choices, then drains what it left behind."""
    restart_serials()
    use_deterministic_scopes()
    outcome = Outcome()
    unanswered: list[Exception] = []

    def choose(kind: str, options: Sequence[Named], costs: Costs) -> int:
        now = loop.environment.now
        point = ChoicePoint(len(outcome.choices), kind, options, now, costs)
        try:
            option = scheduler.choose(point)
        except (Nondeterminism, ScheduleDoesNotFit) as exc:
            # Raised into a task, it would pass for the program's own, or be swallowed.
            unanswered.append(exc)
            loop.stop()
            raise
        outcome.choices.append(option)
        if outcome.recording is not None:
            outcome.recording.choose(kind, options, option)
            outcome.options.append(len(options))
        if option:
            cost = point.costs[option]
            outcome.cost += cost
            if traced:
                passed_over = tuple(each.name for each in options[:option])
                departure = (point.index, option, kind, now, options[option].name, passed_over)
                outcome.departures.append(Departure(*departure, cost))
        return option

    history = scheduler.begin_history() if isinstance(scheduler, Reducing) else None
    loop, world = _loop_and_world(outcome, choose, bounds, history, traced=traced)
    if isinstance(scheduler, Matching):
        scheduler.begin_states(StateReader(loop, world))
    trace_before = sys.gettrace()
    _enter(loop, bounds)
    try:
        with _primitives(history, traced):
            _run(program, loop, world, outcome)
        outcome.labels = set(world.labels)
        outcome.bounds_hit = loop.bounds_hit
        _end_records(outcome, world, history)
        _drain(loop, outcome)
    finally:
        _leave(loop, trace_before)
    if unanswered:
        raise unanswered[0]
    return outcome


def _primitives(history: History | None, traced: bool) -> AbstractContextManager[None]:
    """What asyncio's locks and queues tell beside their work."""
    if history is not None:
        return tracked_primitives(history)
    return lock_holders() if traced else nullcontext()


def _enter(loop: SimLoop, bounds: Bounds) -> None:
    under_way.append(loop.threads)
    begin_execution(loop)
    entropy.begin(loop.environment, bounds.entropy_seed)


def _leave(loop: SimLoop, trace_before: Any) -> None:
    entropy.end()
    end_execution()
    under_way.pop()
    set_trace(trace_before)
    loop.close()
    _let_go(loop)


def _let_go(loop: SimLoop) -> None:
    """What counts its references is freed now, without a collection; the tasks are forgotten.

    asyncio keeps all tasks of the process in one weak set, and ours hash alike in each execution:
    those of earlier ones would be in the way.
    """
    for task in loop.tasks:
        asyncio._unregister_task(task)
    loop.tasks.clear()
    # No circle is left, so the next execution finds its memory warm.
    del loop._choose, loop._selector, loop.time, loop.threads.loop
    loop.on_poll = None
    loop.set_exception_handler(_say_nothing)


def _say_nothing(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Exceptions that nobody retrieved are found when memory is freed: after the execution."""


def _loop_and_world(
    outcome: Outcome, choose: Choose, bounds: Bounds, history: History | None, *, traced: bool
) -> tuple[SimLoop, World]:
    if history is not None:
        tracked = TrackedLoop(history, Environment(), choose, bounds)
        return tracked, World(tracked)
    if not traced:
        loop = SimLoop(Environment(), choose, bounds)
        return loop, World(loop)
    outcome.recording = Recording()
    recorded = TracedLoop(RecordedEnvironment(outcome.recording), choose, bounds)
    recorded.steps, recorded.recording = outcome.steps, outcome.recording
    world = World(recorded)
    world.trace = outcome.trace
    return recorded, world


def _end_records(outcome: Outcome, world: World, history: History | None) -> None:
    """What the draining reaches, or does, is explored by nobody."""
    world.trace = None
    if history is not None:
        history.end()
    if outcome.recording is not None:
        outcome.recording.end(len(outcome.steps))


def _run(program: Program, loop: SimLoop, world: World, outcome: Outcome) -> None:
    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        # An exception that nobody retrieves is found when memory is freed, which is no part of
        # a schedule; one in a callback is found here and now.
        told = isinstance(context.get("exception"), CheckFailed | StepBrokenOff)
        if "handle" in context and not told:
            world.fail("no callback raises", f"{context.get('exception')!r}")

    loop.set_exception_handler(on_exception)
    task = loop.create_task(_main(program, world), name="program")
    task.add_done_callback(lambda _: loop.stop())
    # Raised into a step it ends there; into what the bench does at a poll, here.
    with suppress(StepBrokenOff):
        loop.run_forever()

    if loop.stuck is not None and world.violation is None:
        world.fail(loop.stuck[0], why_stuck(loop, loop.stuck))
    if world.violation is None and task.done():
        _judge_end(task, world)
    elif task.done() and not task.cancelled():
        task.exception()
    if loop.refused is not None:
        outcome.error = loop.refused
    if loop.stuck is not None and loop.stuck[0] == NO_STEP_WITHOUT_END:
        loop.environment.obstruct("a step never ends, and would not end there, either")
    outcome.violation = world.violation


async def _main(program: Program, world: World) -> None:
    await program(world)


def _judge_end(task: asyncio.Task[None], world: World) -> None:
    if task.cancelled():
        world.fail("the program ends without an exception", "it was cancelled")
        return
    exception = task.exception()
    if exception is None or isinstance(exception, NotSimulated):
        return
    if isinstance(exception, AssertionError) and exception.args:
        world.fail(str(exception.args[0]).splitlines()[0])
        return
    where = traceback.extract_tb(exception.__traceback__)[-1]
    detail = f"{exception!r} in {where.name}, line {where.lineno}"
    world.fail("the program ends without an exception", detail)


def why_stuck(loop: SimLoop, stuck: tuple[str, str]) -> str:
    """Who waits for what, and where the execution is traced who spins. stuck: as in SimLoop."""
    sentence, seen = stuck
    if sentence == NO_STEP_WITHOUT_END:
        return seen
    spinning = loop.steps if sentence == NO_LIVELOCK and isinstance(loop, TracedLoop) else []
    workers = [f"worker {each.number} waits at {each.where}" for each in loop.threads.workers[:8]]
    lines = [*who_spins(spinning, loop.tasks), *workers, *who_waits(loop.tasks), seen]
    return ";\n".join(lines)


def _drain(loop: SimLoop, outcome: Outcome) -> None:
    """Cancels what is left and runs it to its end, in natural order, so that nothing leaks."""
    loop._choose = _choose_natural
    loop.on_poll = None
    loop.threads.drain()
    for _ in range(_DRAIN_ROUNDS_MAX):
        tasks = [task for task in loop.tasks if not task.done()]
        if not tasks:
            break
        _run_until_done(loop, [task for task in tasks if _is_cancelled(task, loop)])
    else:
        names = ", ".join(sorted(task.get_name() for task in tasks))
        outcome.error = (
            f"{names} outlived {_DRAIN_ROUNDS_MAX} cancels after the program's end, so what comes "
            f"after would not be independent of it; let the task end when it is cancelled"
        )
        for task in tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
    if loop._asyncgens:
        _run_until_done(loop, [loop.create_task(loop.shutdown_asyncgens())])


def _choose_natural(kind: str, options: Sequence[Named], costs: Costs) -> int:
    return 0


def _is_cancelled(task: asyncio.Task[Any], loop: SimLoop) -> bool:
    """Tasks that await each other in a circle cannot be cancelled; their coroutines are closed."""
    try:
        task.cancel()
    except RecursionError:
        loop.tasks.remove(task)
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        coroutine: Any = task.get_coro()
        coroutine.close()
        return False
    return True


def _run_until_done(loop: SimLoop, tasks: list[asyncio.Task[Any]]) -> None:
    left = len(tasks)

    def one_done(task: asyncio.Task[Any]) -> None:
        nonlocal left
        left -= 1
        if not task.cancelled():
            task.exception()
        if left == 0:
            loop.stop()

    for task in tasks:
        task.add_done_callback(one_done)
    loop.stuck = None
    for _ in range(_DRAIN_RUNS_MAX):
        loop.run_forever()
        # Others stop the loop, too: a check that fails now, or a task of the round before.
        if left == 0 or loop.stuck is not None:
            break
    for task in tasks:
        task.remove_done_callback(one_done)


_guards = 0


@contextmanager
def guarded() -> Iterator[None]:
    """No collection of garbage within an execution, no thread of the operating system, no clock.

    When garbage is collected is no part of a schedule, but closes generators; so it is done
    between executions. Blocks may be nested: the outermost one sets up and takes down.
    """
    global _guards
    _guards += 1
    try:
        if _guards > 1:
            yield
        else:
            with _guards_up():
                yield
    finally:
        _guards -= 1


@contextmanager
def _guards_up() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    start = threading.Thread.start
    threading.Thread.start = _refuse_thread  # type: ignore
    try:
        with (
            watched(),
            threads_patched(),
            pools_simulated(),
            own_signals_simulated(),
            entropy.virtualised(),
        ):
            yield
    finally:
        threading.Thread.start = start  # type: ignore[method-assign]
        if was_enabled:
            gc.enable()


def _refuse_thread(thread: threading.Thread, *args: Any) -> NoReturn:
    loop = asyncio._get_running_loop()
    instead = (
        "use loop.run_in_executor(None, …) or asyncio.to_thread, which are simulated; a thread of "
        "the operating system runs in no order that could be replayed"
    )
    if isinstance(loop, SimLoop):
        loop.refuse(f"{type(thread).__qualname__}.start", instead)
    raise NotSimulated(f"{thread!r} is not simulated: {instead}")
