"""One execution: a program runs in a fresh loop and world until it returns or a property fails."""

from __future__ import annotations

import asyncio
import inspect
import math
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from sim.kernel import watchdog
from sim.kernel.between_callbacks import Choose, Costs
from sim.kernel.collections_at_polls import Collections, only_what_is_new
from sim.kernel.current import Execution
from sim.kernel.diagnosis import NAMED_MAX, blocking_call, who_spins, who_waits
from sim.kernel.draining import drained
from sim.kernel.endless_step import EndlessStep, known_of, remember
from sim.kernel.entropy import Entropy
from sim.kernel.environment import Environment
from sim.kernel.equal_readings import EqualReadings
from sim.kernel.errors import (
    BudgetSpent,
    CheckFailed,
    Nondeterminism,
    NotAProgram,
    ScheduleDoesNotFit,
    StepBrokenOff,
)
from sim.kernel.forks import LATER_S, ForkEnded, ForkTooLate
from sim.kernel.guards import end_isolating, is_isolating
from sim.kernel.hashing import restart_serials, use_deterministic_scopes
from sim.kernel.hosts.hub import Hub, MakeLoop, WorldOfProcesses
from sim.kernel.hosts.process_loop import ProcessEnvironment, ProcessLoop
from sim.kernel.hosts.run import Run
from sim.kernel.interrupts import is_interrupt
from sim.kernel.isolated import run_isolated
from sim.kernel.isolation import collector
from sim.kernel.learned_limits import Learner, is_learning
from sim.kernel.loop import SimLoop
from sim.kernel.notices import Special
from sim.kernel.observed import ObservedLoop, ObservedProcessLoop
from sim.kernel.observer import Chooser, Observer
from sim.kernel.origin import fault_of_simulator, forwards, is_modelled
from sim.kernel.outcome import Outcome
from sim.kernel.raised import words_of_callback, words_of_exception
from sim.kernel.recording import Recording
from sim.kernel.schedule import Bounds, ChoicePoint, Durations, Named
from sim.kernel.threads.earlier_locks import look_into
from sim.kernel.threads.identity import restart_names
from sim.kernel.threads.line_tracing import set_trace
from sim.kernel.time_limits import TimeLimits
from sim.kernel.unretrieved import (
    LeftBehind,
    failed_tasks,
    words_of_dead,
    words_of_logged,
)
from sim.kernel.violation import Kind, Violation
from sim.kernel.world import World

Program = Callable[[World], Awaitable[object]]
ExceptionHandler = Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]

DEAD_MAX = 3
_AS_IT_IS = nullcontext()


def run_execution(
    program: Program, scheduler: Chooser, bounds: Bounds, *, traced: bool = False
) -> Outcome:
    """Runs the program once, under the scheduler's choices, then drains what it left behind.

    traced: it is recorded, unless the scheduler follows it with an observer of its own.
    Raises RuntimeError where a loop runs already, NotAProgram, and what a replay raises.
    """
    require_no_running_loop()
    look_into(program)
    if not is_isolating():
        return _run_here(program, scheduler, bounds, traced)

    def run(chooser: Chooser) -> Outcome:
        end_isolating()
        return _run_here(program, chooser, bounds, traced)

    try:
        return run_isolated(run, scheduler, watchdog.seconds_left() + LATER_S)
    except ForkTooLate:
        raise BudgetSpent(
            "the process of an execution does not end: a call in it blocks, or computes, and does "
            "not look for signals"
        ) from None
    except ForkEnded as exc:
        return Outcome(error=f"the process of an execution {exc}")


def _run_here(program: Program, scheduler: Chooser, bounds: Bounds, traced: bool) -> Outcome:
    watchdog.begin()
    outcome = _run_once(program, scheduler, bounds, known_of(program), traced)
    return outcome if outcome.endless_after is None else _located(program, bounds, outcome, traced)


def _located(program: Program, bounds: Bounds, found: Outcome, traced: bool) -> Outcome:
    """The same execution, its endless step broken off by a count: at the same line each time.

    A real clock found it, and where that broke it off says little.
    """
    assert found.endless_after is not None
    endless = EndlessStep(program, found.endless_after, found.choices, found.endless)
    again = _run_once(program, _Again(found.choices), bounds, endless, traced)
    if found.endless is None and again.endless_after is None:
        return _not_counted(again)
    if found.endless is None:
        # Its replays need not count as far.
        endless.who = again.endless
        again = _run_once(program, _Again(found.choices), bounds, endless, traced)
    if again.endless_after is None:
        return found
    remember(endless)
    return again


def _not_counted(again: Outcome) -> Outcome:
    """Broken off by a real clock, without a count, a step ended of itself when it was repeated."""
    again.violation = None
    again.error = again.error or (
        f"a step had the processor for {watchdog.SUSPECT_S:g} s, and whether it ends could not be "
        f"told outside of the main thread: explore there"
    )
    return again


class _Again:
    """Answers as in an execution before."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices

    def choose(self, point: ChoicePoint) -> int:
        option = self._choices[point.index] if point.index < len(self._choices) else 0
        return option if option < len(point.options) else 0

    def observer(self) -> Observer | None:
        return None


def _run_once(
    program: Program, scheduler: Chooser, bounds: Bounds, known: EndlessStep | None, traced: bool
) -> Outcome:
    _number_anew(bounds)
    outcome = Outcome()
    unanswered: list[Exception] = []

    def choose(kind: str, options: Sequence[Named], costs: Costs) -> int:
        at = loop.environment.lasted_s
        point = ChoicePoint(len(outcome.choices), kind, options, at, costs)
        try:
            option = scheduler.choose(point)
        except (Nondeterminism, ScheduleDoesNotFit) as exc:
            # Raised into a task, it would count as the program's own, or be swallowed.
            unanswered.append(exc)
            loop.end_run()
            raise
        outcome.choices.append(option)
        if option:
            outcome.cost += point.costs[option]
        if follower is not None:
            follower.chose(point, option)
        return option

    own = scheduler.observer()
    follower = own if own is not None and own.follows else None
    if traced and follower is None:
        follower = outcome.recording = Recording()
    loop = _new_loop(follower, choose, bounds)
    loop.threads.program = program
    world = World(loop, _process_loops(follower))
    observers = [each for each in (own, outcome.recording) if each is not None]
    for each in observers:
        each.begin(loop, world)
    trace_before = sys.gettrace()
    execution = Execution(loop, _entropy(loop, bounds))
    _watch_readings(execution, loop, is_traced=follower is not None)
    if known is not None:
        known.count_in(execution, outcome.choices)
    try:
        with collector.Kept(), _collecting(world, execution, outcome), execution:
            with _AS_IT_IS if follower is None else follower.patched():
                try:
                    left = _run(_main(program, world, unanswered), loop, world, outcome)
                finally:
                    # What hosts have put in place goes before what was there before them.
                    world.end_ownership()
            _end_count(execution, outcome)
            _note_what_was_met(world, execution, outcome)
            # The draining is not part of the execution.
            for each in observers:
                each.end()
            drained(execution, loop, outcome, world.hub)
            _judge_left_behind(left, bounds, outcome)
    finally:
        _end_count(execution, outcome)
        set_trace(trace_before)
        _close(world)
    _raise_unanswered(unanswered, execution)
    return outcome


def _collecting(
    world: World, execution: Execution, outcome: Outcome
) -> AbstractContextManager[None]:
    """The garbage collector runs at polls, where the bounds say so."""
    is_asked_for = execution.loop.bounds.collections
    return _collecting_at_polls(world, execution, outcome) if is_asked_for else _AS_IT_IS


@contextmanager
def _collecting_at_polls(world: World, execution: Execution, outcome: Outcome) -> Iterator[None]:
    with only_what_is_new():
        found = Collections(world, execution)
        world.at_polls(found.at_poll)
        yield
        outcome.freed = found.freed


def _number_anew(bounds: Bounds) -> None:
    """Hashes and names of what an execution makes are those of the first."""
    restart_serials(bounds.set_order)
    restart_names()
    use_deterministic_scopes()


def _note_what_was_met(world: World, execution: Execution, outcome: Outcome) -> None:
    outcome.reads_clock = execution.entropy.was_read
    outcome.labels = set(world.labels)
    outcome.bounds_hit = world.loops[0].bounds_hit
    loop = world.loops[0]
    outcome.reads_loop = loop.is_read
    if isinstance(loop.limits, Learner):
        outcome.time_limits = loop.limits.found
    outcome.is_late_without_bound = loop.has_network and loop.network.late_max_s == math.inf
    for loop in world.loops:
        outcome.undeclared |= loop.threads.undeclared


def _watch_readings(execution: Execution, loop: SimLoop, *, is_traced: bool) -> None:
    """Which are equal; where time limits end, or are learned; in a traced one, who reads at all."""
    execution.entropy.equal = EqualReadings(loop)
    if is_learning():
        learner = loop.limits = Learner(loop.environment)
        loop.learn_of_timers(learner)
    elif loop.bounds.time_limits:
        loop.limits = TimeLimits(loop)
    execution.entropy.limits = loop.limits
    # Where timers come apart it has a method of its own for this.
    if loop.limits is not None or (is_traced and not loop.bounds.timers_apart):
        loop.watch_readings()


def _entropy(loop: SimLoop, bounds: Bounds) -> Entropy:
    return Entropy(loop.environment, bounds.entropy_seed, bounds.wall_s - bounds.clock_s)


def _new_loop(follower: Observer | None, choose: Choose, bounds: Bounds) -> SimLoop:
    if follower is None:
        return SimLoop(Environment(bounds.clock_s), choose, bounds)
    return ObservedLoop(follower, choose, bounds)


def _process_loops(follower: Observer | None) -> MakeLoop:
    """What makes the loops of processes."""

    def make(run: Run, hub: Hub) -> ProcessLoop:
        bounds = replace(hub.main.bounds, horizon_s=math.inf, time_limits=Durations())
        made: ProcessLoop
        if follower is None:
            made = ProcessLoop(ProcessEnvironment(), hub.choose, bounds)
        else:
            made = ObservedProcessLoop(follower, hub.choose, bounds)
        made.belong_to(run, hub)
        made.set_exception_handler(_exception_handler(made, hub.world))
        return made

    return make


def _raise_unanswered(unanswered: list[Exception], execution: Execution) -> None:
    """What says that the execution is not one, once it is closed."""
    if unanswered:
        raise unanswered[0]
    if execution.spent is not None:
        raise BudgetSpent(execution.spent)


def _end_count(execution: Execution, outcome: Outcome) -> None:
    """No step runs now; notes one that is endless."""
    execution.is_watched = False
    if execution.entropy.equal is not None:
        execution.entropy.equal.end()
    if execution.counter is not None:
        execution.counter.end()
    stuck = execution.loop.stuck
    if stuck is not None and stuck[0] is Kind.ENDLESS_STEP and outcome.endless_after is None:
        outcome.endless_after = execution.loop.environment.polls
        outcome.endless = execution.endless


def _close(world: World) -> None:
    for loop in world.loops:
        loop.close()
        _let_go(loop)
    world.let_go()


def _let_go(loop: SimLoop) -> None:
    """Breaks reference cycles, so that memory is freed without a collection; forgets the tasks.

    asyncio keeps all tasks of the process in one weak set, and ours have the same hashes in each
    execution: those of earlier ones would collide with them.
    """
    loop.forget_tasks()
    loop.let_go()


def _run(
    main: Coroutine[Any, Any, None], loop: SimLoop, world: World, outcome: Outcome
) -> LeftBehind:
    """Runs the program to its end; what it leaves behind counts where nothing else is wrong."""

    on_exception = _exception_handler(loop, world)
    loop.set_exception_handler(on_exception)
    task = loop.main_task = loop.create_task(main, name="program")
    # Named in sim/counterexamples/steps.py, and alike where an exported file ends its program.
    task.add_done_callback(lambda _: loop.end_run())
    _run_until_stopped(loop, world)
    if loop.stuck is not None and world.violation is None:
        others = world.loops[1:]
        world.fail_as(loop.stuck[0], why_stuck(loop, loop.stuck, outcome.steps, others))
    if world.violation is None and loop.stopped_in is not None and not task.done():
        raised = "RuntimeError('Event loop stopped before Future completed.')"
        world.fail_as(Kind.EXCEPTION, f"{raised}: loop.stop() is called in {loop.stopped_in}")
    if world.violation is None and task.done():
        _judge_end(task, world)
    elif task.done() and not task.cancelled():
        task.exception()
    failed = [task for each in world.loops for task in failed_tasks(each.tasks)]
    outcome.error = loop.refused or world.fault or _swallowed_fault(failed)
    outcome.is_undecided = loop.has_spinning_thread
    if loop.stuck is not None and loop.stuck[0] is Kind.ENDLESS_STEP:
        loop.environment.observer.meets(Special.ENDLESS_STEP)
    outcome.violation = world.violation
    has_ended_well = task.done() and outcome.violation is None and outcome.error is None
    # What the program's own handler hears of is not lost.
    if not has_ended_well or loop._exception_handler is not on_exception:
        failed = []
    return LeftBehind(loop.environment.lasted_s, loop.left_behind if has_ended_well else (), failed)


def _exception_handler(loop: SimLoop, world: WorldOfProcesses) -> ExceptionHandler:
    """What an execution's loop does with an exception that nobody else handles."""

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raised = context.get("exception")
        is_recorded = isinstance(raised, CheckFailed | StepBrokenOff)
        if loop.is_shutting_down and isinstance(raised, asyncio.CancelledError):
            # As that of asyncio's own streams, which asks a handler that was cancelled what it
            # raised; stock Python logs it at most.
            return
        if "handle" in context and not is_recorded:
            callback = words_of_callback(context["handle"])
            seen = words_of_exception(raised) if raised is not None else context["message"]
            world.fail_as(Kind.CALLBACK, f"{callback} raises;\n{seen}", raised=raised)
        elif raised is not None and not is_recorded and not world.is_own_fault(raised):
            loop.leaves_behind(words_of_logged(context))

    return on_exception


def _judge_left_behind(left: LeftBehind, bounds: Bounds, outcome: Outcome) -> None:
    """Once all has ended: the clean-up of what was running may have retrieved some."""
    outcome.unretrieved = seen = left.seen()
    if seen and bounds.unretrieved_fails:
        kind = Kind.UNRETRIEVED
        outcome.violation = Violation(kind.value, ";\n".join(seen), left.at, kind=kind)
        if outcome.recording is not None:
            outcome.recording.violated_at_end(left.at)


def _run_until_stopped(loop: SimLoop, world: World) -> None:
    # Raised into a step it ends there; raised into what is asked at a poll, it ends here.
    try:
        loop.run_forever()
    except StepBrokenOff:
        pass
    except (SystemExit, KeyboardInterrupt) as exc:
        # Stock asyncio lets these end the loop, from whichever task or callback.
        if is_interrupt(exc):
            raise
        world.fail_as(Kind.EXCEPTION, words_of_exception(exc), raised=exc)
    except Exception as exc:
        # Raised between two callbacks, where the loop calls the simulator.
        if exc is loop.raised_by_handler or is_modelled(exc) or _leaves_a_callback(exc):
            if is_modelled(exc) and exc is not loop.raised_by_handler:
                # It arises in no line of the program's, and ours are nobody's business.
                exc = exc.with_traceback(None)
            world.fail_as(Kind.EXCEPTION, words_of_exception(exc), raised=exc)
        elif not world.is_own_fault(exc):
            raise


def _leaves_a_callback(raised: Exception) -> bool:
    """It ends stock asyncio's loop, too, which asks a callback that raises for its name, say."""
    frames = [frame.f_code for frame, _ in traceback.walk_tb(raised.__traceback__)]
    is_simulators = type(raised).__module__.startswith("sim.")
    return asyncio.Handle._run.__code__ in frames and not is_simulators


@forwards
async def _main(program: Program, world: World, unanswered: list[Exception]) -> None:
    awaitable = program(world)
    if not (hasattr(awaitable, "__await__") or inspect.isawaitable(awaitable)):
        unanswered.append(_not_a_program(program, awaitable))
        raise unanswered[-1]
    await awaitable


def _not_a_program(program: Program, returned: object) -> NotAProgram:
    name = getattr(program, "__qualname__", type(program).__qualname__)
    why = "has a `yield`" if inspect.isasyncgen(returned) else f"returns {returned!r}"
    return NotAProgram(
        f"{name} is not a program: it {why}, and cannot be awaited. A program is an `async def` "
        f"that takes the world: async def {name}(world): …"
    )


def require_no_running_loop() -> None:
    """Raises RuntimeError where a loop runs in this thread."""
    if asyncio._get_running_loop() is not None:
        raise RuntimeError(
            "an execution has a loop of its own, and in this thread a loop is running: call "
            "explore, run or replay from plain code, and not from a coroutine or callback; in "
            "pytest, from a test that is no `async def`, or mark it @pytest.mark.explore"
        )


def _judge_end(task: asyncio.Task[None], world: World) -> None:
    if task.cancelled() and world.loop.ends_by_interrupt():
        world.fail_as(Kind.SIGNAL, "SIGINT cancels the main task, and ends the process")
        return
    raised = asyncio.CancelledError() if task.cancelled() else task.exception()
    if raised is not None:
        world.judge_end(raised)


def _swallowed_fault(failed: list[asyncio.Task[Any]]) -> str | None:
    """An error of the simulator that ended a task, awaited or not."""
    for task in failed:
        raised = task._exception
        fault = None if raised is None else fault_of_simulator(raised)
        if fault is not None:
            return fault
    return None


def why_stuck(
    loop: SimLoop,
    stuck: tuple[Kind, str],
    steps: Sequence[str] = (),
    others: Sequence[SimLoop] = (),
) -> str:
    """Who waits for what, and who spins. stuck: as in SimLoop; steps: of a traced execution.

    others: the loops of its processes.
    """
    kind, seen = stuck
    if kind is Kind.ENDLESS_STEP:
        return seen
    spinning = steps if kind is Kind.LIVELOCK else ()
    lines = who_spins(spinning, loop.tasks)
    for each in (loop, *others):
        lines += [f"{each.lane}{line}" for line in _waiting_in(each)]
    return ";\n".join([*lines, seen])


def _waiting_in(loop: SimLoop) -> list[str]:
    workers = [
        f"worker {each.number} waits at {each.where} (thread {each.identity.shown}, "
        f"{blocking_call(each.greenlet.gr_frame, each.where)})"
        for each in loop.threads.workers[:8]
    ]
    jobs_waiting = loop.jobs_waiting_for_threads
    sockets_awaited = (loop.has_network and loop.network.who_waits()[:NAMED_MAX]) or []
    return [
        *workers,
        *([jobs_waiting] if jobs_waiting else []),
        *who_waits(loop.tasks),
        *sockets_awaited,
        *words_of_dead(loop.tasks)[:DEAD_MAX],
        *loop.left_behind[:DEAD_MAX],
    ]
