"""What a command asks to be explored, by names alone, so that other processes can do it as well."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any, Literal

from sim.counterexamples.counterexample import Counterexample
from sim.executors.base import MakeExecutor
from sim.exploration.executing import Watch
from sim.exploration.parallel import Key, Team, Work
from sim.exploration.progress import Progress
from sim.exploration.report import Findings, Report
from sim.exploration.search import BUDGET_S, explore
from sim.exploration.strategies import DEFAULT_STRATEGY, make_scheduler
from sim.exploration.subject import Problem, Subject
from sim.exploration.surviving_state import is_violated, natural_runs_agree
from sim.exploration.verdict import Stop
from sim.kernel import forks
from sim.kernel.errors import BudgetSpent
from sim.kernel.schedule import Bounds, Schedule
from sim.kernel.watchdog import limited
from sim.schedulers import DepthFirst, Divisible, RandomFirst, Scheduler
from sim.schedulers.staged import RANDOM_EXECUTIONS

AGAIN_S = 2.0
"""What a finding that did not come back has at least, in seconds, to be found out about."""


_OF_ARRIVAL_MODEL = (
    *("lateness_s", "passes_max", "spin_max", "horizon_s", "entropy_seed", "step_lines_max"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """program: as `Subject.named` takes it; the rest as `explore` takes it."""

    program: str
    strategy: str | None = None
    seed: int = 0
    labels: tuple[str, ...] = ()
    budget_s: float | None = None
    executions_max: int | None = None
    isolate: bool = False
    unretrieved: Literal["warn", "fail"] = "warn"
    lateness_s: float = Bounds.lateness_s
    passes_max: int = Bounds.passes_max
    spin_max: int = Bounds.spin_max
    horizon_s: float = Bounds.horizon_s
    entropy_seed: int = Bounds.entropy_seed
    step_lines_max: int = Bounds.step_lines_max
    cpus: int | None = None
    thread_lines: bool = True

    @property
    def seconds(self) -> float | None:
        """The budget, None if executions are counted instead."""
        if self.budget_s is None and self.executions_max is None:
            return BUDGET_S
        return self.budget_s

    @property
    def subject(self) -> Subject:
        """Raises ValueError if there is no such program."""
        return replace(Subject.named(self.program), labels=self.labels)

    @property
    def arrival_model(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _OF_ARRIVAL_MODEL}

    @property
    def bounds(self) -> Bounds:
        return Bounds(
            **self.arrival_model,
            unretrieved_fails=self.unretrieved == "fail",
            cpus=self.cpus or Bounds.cpus,
        )

    @property
    def scheduler(self) -> Scheduler:
        """A new one. Raises ValueError for an unknown strategy."""
        return make_scheduler(self.strategy or DEFAULT_STRATEGY, self.seed, isolate=self.isolate)


def explored(
    request: Request, progress: Progress, *, executor: MakeExecutor | None = None
) -> Report:
    """By several workers where the strategy can be divided. Raises ValueError, with what to do.

    A limit of executions is that of one process, so with one there is no other.
    """
    scheduler = request.scheduler
    is_divided = request.executions_max is None and not request.isolate
    if executor is None or not is_divided:
        return _explored_alone(request, scheduler, progress, request.budget_s)
    if request.strategy is None:
        # The default's last stage visits states, which cannot be divided.
        search = DepthFirst()
        scheduler = RandomFirst(search, random_executions=RANDOM_EXECUTIONS, seed=request.seed)
    if isinstance(scheduler, Divisible):
        return _explored_by_team(request, scheduler, progress, executor)
    return _explored_alone(request, scheduler, progress, request.budget_s)


def _explored_alone(
    request: Request, scheduler: Scheduler, progress: Progress, budget_s: float | None
) -> Report:
    return explore(
        request.subject,
        strategy=scheduler,
        seed=request.seed,
        budget_s=budget_s,
        max_executions=request.executions_max,
        isolate=request.isolate,
        unretrieved=request.unretrieved,
        watch=progress.watch(request.program),
        cpus=request.cpus,
        thread_lines=request.thread_lines,
        **request.arrival_model,
    )


def _explored_by_team(
    request: Request, scheduler: Divisible, progress: Progress, make_executor: MakeExecutor
) -> Report:
    def show(key: Key, begun: float, findings: Findings, scheduler: Scheduler) -> bool:
        return progress.searched(request.program, begun, findings, scheduler)

    until = perf_counter() + (BUDGET_S if request.seconds is None else request.seconds)

    def left_s() -> float:
        return max(AGAIN_S, until - perf_counter())

    if not _is_repeatable(request, left_s()):
        return _explored_alone(request, scheduler, progress, left_s())
    with closing(make_executor()) as executor:
        work = Work(
            _problem_of,
            _play_whole,
            seed=request.seed,
            thread_lines=request.thread_lines,
            always_looks=request.strategy is None,
        )
        team = Team(executor, work, show)
        seconds = left_s()
        ((_, report),) = team.play([((request,), scheduler)], lambda begun: seconds, until)
    found, is_repeatable = report.counterexample, report.stopped is not Stop.NONDETERMINISM
    if is_repeatable and (found is None or _is_confirmed(request, found, left_s())):
        return report
    return _explored_alone(request, request.scheduler, progress, left_s())


# This process executes nothing itself, so its forks are fresh. What depends on state that outlives
# an execution is explored in one process, which says so.


def _is_repeatable(request: Request, seconds: float) -> bool:
    return _in_a_fork(lambda: natural_runs_agree(_problem_of((request,))), seconds)


def _is_confirmed(request: Request, found: Counterexample, seconds: float) -> bool:
    schedule = Schedule.parse(found.schedule)
    problem = replace(_problem_of((request,)), bounds=schedule.bounds)
    return _in_a_fork(lambda: is_violated(problem, schedule.departures, found.property), seconds)


def _in_a_fork(asked: Callable[[], bool], seconds: float) -> bool:
    """False also where there is no answer in time."""
    if not forks.are_possible():
        return True

    def within_limit() -> bool:
        with limited(perf_counter() + seconds):
            return asked()

    try:
        return forks.in_a_fork(within_limit, seconds + forks.LATER_S)
    except (forks.ForkEnded, BudgetSpent):
        return False


# -- in a worker


def _problem_of(key: Key) -> Problem:
    request: Request = key[0]
    return Problem(request.subject, request.bounds, is_for_any_machine=request.cpus is None)


def _play_whole(key: Key, budget_s: float, watch: Watch) -> Report:
    raise AssertionError("what cannot be divided is explored in the first process")
