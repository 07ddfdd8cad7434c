"""explore(): runs a program under many schedules, and reports a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Literal, TypeAlias

from sim.exploration.beside import Beside, Found, looked_beside, natural_traced
from sim.exploration.clocks_of_today import with_clocks_of_today
from sim.exploration.executing import Watch, out_of_budget, search
from sim.exploration.fresh_copy import FreshCopy
from sim.exploration.judgement import Conclusion, conclude, make_report, words_of_violation
from sim.exploration.report import Findings, Report
from sim.exploration.strategies import DEFAULT_STRATEGY, make_scheduler
from sim.exploration.subject import Problem, Subject, require_program
from sim.exploration.surviving_state import FORKS_MAX, FORKS_S, NaturalRuns
from sim.exploration.thread_lines import BEFORE_PART, refuted_between_lines
from sim.exploration.verdict import Stop
from sim.kernel import forks
from sim.kernel.arguments import require
from sim.kernel.errors import BudgetSpent
from sim.kernel.execution import Program, require_no_running_loop
from sim.kernel.guards import guarded
from sim.kernel.hashing import names_kept
from sim.kernel.isolation.file_times import begun
from sim.kernel.schedule import Bounds
from sim.kernel.watchdog import limited
from sim.schedulers import Portfolio, Scheduler
from sim.schedulers.staged import Staged

BUDGET_S = 60.0

Between: TypeAlias = Callable[[Findings], Found | None]


def explore(
    program: Program | Subject,
    *,
    strategy: str | Scheduler = DEFAULT_STRATEGY,
    budget_s: float | None = None,
    max_executions: int | None = None,
    seed: int = 0,
    labels: Iterable[str] = (),
    lateness_s: float = Bounds.lateness_s,
    passes_max: int = Bounds.passes_max,
    spin_max: int = Bounds.spin_max,
    horizon_s: float = Bounds.horizon_s,
    entropy_seed: int = Bounds.entropy_seed,
    step_lines_max: int = Bounds.step_lines_max,
    cpus: int | None = None,
    isolate: bool = False,
    unretrieved: Literal["warn", "fail"] = "warn",
    thread_lines: bool = True,
    watch: Watch = lambda findings, scheduler: False,
) -> Report:
    """Explores the schedules of `await program(world)`, and returns a Report.

    program: or a Subject, which has its own name and lists the code that its schedules depend on.
    strategy: `staged` (natural order, some random schedules, some with one departure, then every
    schedule, each state of memory only once), `states` (the last alone), `depth-first` (every
    schedule), `departures` (every schedule with up to one departure, then two, … as long as the
    budget allows), `reduced` (one schedule of each class, if the actors share nothing but what
    `World.shared` declares), `random`, `pct`, `portfolio` (several random
    schedulers in turns), `natural`, `cancel everywhere` (see `World.offer_cancels`), or a
    Scheduler; the random ones and `natural` can refute and never prove. seed: of what is random.
    budget_s: real seconds, 60 unless `max_executions` bounds the search.
    labels: what some execution has to reach (`world.reached`), or the verdict is inconclusive.
    lateness_s … horizon_s, step_lines_max: the bounds of the arrival model, see
    `sim.kernel.schedule.Bounds`.
    entropy_seed: of the numbers that `random`, `uuid` and so on give the program; they are the
    same in each execution.
    cpus: of the one machine that the verdict is for, by which asyncio's default pool has its
    threads; without it, those of 4, and a look at 1 and at 28 where that makes a difference.
    isolate: each execution runs in a fork of this process, for programs that change what outlives
    one (a module's globals, a cache): some ms each, and not under `states`, `reduced` and `cancel
    everywhere`.
    unretrieved: whether an exception that nobody retrieves, or a coroutine that nobody awaits, of
    an execution that ends well is a warning of the report (asyncio logs it), or a violation.
    thread_lines: whether the default strategy, and any other that would prove, ends with some
    random executions in which threads are overtaken also between the lines of the program's own
    module, as `World.declare` would have it.
    watch: called before each execution with the findings so far; interrupts by returning True.
    Raises Misused, a ValueError, for an argument that makes no sense, and NotAProgram.
    """
    require_no_running_loop()
    labels = labels if isinstance(labels, str) or not isinstance(labels, Iterable) else [*labels]
    require(
        budget_s=budget_s,
        max_executions=max_executions,
        seed=seed,
        labels=labels,
        horizon_s=horizon_s,
        cpus=cpus,
        isolate=isolate,
        unretrieved=unretrieved,
        thread_lines=thread_lines,
        watch=watch,
    )
    bounds = Bounds(
        lateness_s,
        passes_max,
        spin_max,
        horizon_s,
        entropy_seed,
        step_lines_max,
        unretrieved_fails=unretrieved == "fail",
        cpus=Bounds.cpus if cpus is None else cpus,
    )
    scheduler = make_scheduler(strategy, seed, isolate=isolate)
    if budget_s is None and max_executions is None:
        budget_s = BUDGET_S
    subject = program if isinstance(program, Subject) else Subject.of(program)
    require_program(subject.program)
    subject = replace(subject, labels=(*subject.labels, *labels))
    if isolate and not forks.are_possible():
        raise ValueError("isolate=True needs os.fork, which this system lacks")
    problem = Problem(subject, bounds, isolate, is_for_any_machine=cpus is None)
    begun = perf_counter()
    deadline = begun + budget_s if budget_s is not None else None
    limits = _Limits(deadline, max_executions, watch)
    if isolate or subject.makes_its_state or max_executions == 0:
        problem, found = _found_as_it_is(
            problem, scheduler, limits, seed, thread_lines=thread_lines
        )
    else:
        problem, found = _found(problem, scheduler, limits, seed, thread_lines=thread_lines)
    return make_report(problem, scheduler, *found, perf_counter() - begun)


def _found_as_it_is(
    problem: Problem, scheduler: Scheduler, limits: _Limits, seed: int, *, thread_lines: bool
) -> tuple[Problem, Found]:
    """Without a look at what outlives an execution: each is in a fork, or nothing does."""
    isolate = problem.isolate
    with limited(limits.until), guarded(isolate=isolate):
        traced = None
        try:
            if isolate and not limits.is_over and limits.executions_max != 0:
                traced = natural_traced(problem)
                problem, traced = with_clocks_of_today(problem, traced) or (problem, traced)
        except KeyboardInterrupt:
            return problem, (Findings(stopped=Stop.INTERRUPTED), Conclusion(problem.digest))
        except BudgetSpent as exc:
            return problem, (out_of_budget(Findings(), exc), Conclusion(problem.digest))
        found = _search_and_conclude(problem, scheduler, limits, None)
        if traced is None:
            return problem, found
        beside = limits.beside(seed, scheduler, thread_lines=thread_lines)
        is_exhausted = scheduler.is_exhausted
        return problem, looked_beside(problem, found, traced, beside, is_exhausted=is_exhausted)


def _found(
    problem: Problem, scheduler: Scheduler, limits: _Limits, seed: int, *, thread_lines: bool
) -> tuple[Problem, Found]:
    with limited(limits.until), begun(), FreshCopy(problem) as copy, guarded():
        natural = NaturalRuns(problem, copy)
        between: Between | None = None
        if isinstance(scheduler, Staged) and thread_lines:
            between = partial(_between_lines, natural, limits, seed)
        found = _explored(scheduler, limits, natural, seed, between)
        beside = limits.beside(seed, scheduler, thread_lines=thread_lines)
        problem, is_exhausted = natural.problem, scheduler.is_exhausted
        with names_kept(natural.names):
            found = looked_beside(problem, found, natural.first, beside, is_exhausted=is_exhausted)
        return problem, found


def _between_lines(
    natural: NaturalRuns, limits: _Limits, seed: int, findings: Findings
) -> Found | None:
    """The problem of the natural runs is known once they have run."""
    return refuted_between_lines(natural.problem, findings, limits.until, seed, limits.watch)


@dataclass(frozen=True, slots=True)
class _Limits:
    """As of `search`."""

    deadline: float | None
    executions_max: int | None
    watch: Watch

    def beside(self, seed: int, scheduler: Scheduler, *, thread_lines: bool) -> Beside:
        is_whole = scheduler.complete == 1.0
        # A strategy that somebody has chosen proves nothing of threads without a look either.
        may_look = thread_lines and (isinstance(scheduler, Staged) or scheduler.is_exhausted)
        return Beside(self.until, seed, self.watch, is_whole, may_look)

    @property
    def is_over(self) -> bool:
        return self.deadline is not None and perf_counter() >= self.deadline

    @property
    def until(self) -> float:
        """Of `limited`."""
        return math.inf if self.deadline is None else self.deadline

    @property
    def early(self) -> float | None:
        """When a part of the budget is spent."""
        if self.deadline is None:
            return None
        return perf_counter() + BEFORE_PART * self.seconds_left

    @property
    def seconds_left(self) -> float:
        return math.inf if self.deadline is None else max(0.0, self.deadline - perf_counter())


def _explored(
    scheduler: Scheduler,
    limits: _Limits,
    natural: NaturalRuns,
    seed: int,
    between: Between | None,
) -> Found:
    """Looks for state that survives an execution, then searches."""
    try:
        natural.look(lambda: limits.is_over)
        if natural.differs is not None:
            return _searched_in_forks(limits, natural, seed)
    except KeyboardInterrupt:
        return Findings(stopped=Stop.INTERRUPTED), Conclusion(natural.problem.digest)
    except BudgetSpent as exc:
        return out_of_budget(Findings(), exc), Conclusion(natural.problem.digest)
    with names_kept(natural.names):
        return _search_and_conclude(natural.problem, scheduler, limits, natural, between)


def _search_and_conclude(
    problem: Problem,
    scheduler: Scheduler,
    limits: _Limits,
    natural: NaturalRuns | None,
    between: Between | None = None,
) -> Found:
    deadline, executions_max, watch = limits.deadline, limits.executions_max, limits.watch
    found: Found | None = None
    early = limits.early if between is not None and executions_max is None else None

    def looks_between(findings: Findings, scheduler: Scheduler) -> bool:
        """The rest may take the whole budget, and what these few executions find is found soon."""
        nonlocal found
        if between is not None and early is not None and perf_counter() >= early:
            found = between(findings)
        return found is not None or watch(findings, scheduler)

    findings = search(problem, scheduler, deadline, executions_max, looks_between)
    if found is not None:
        return found
    concluded = conclude(
        problem,
        findings,
        limits.until,
        lambda: watch(findings, scheduler),
        natural,
        is_exhausted=scheduler.is_exhausted,
        matches_states=scheduler.matches_states,
    )
    return findings, concluded


def _searched_in_forks(limits: _Limits, natural: NaturalRuns, seed: int) -> Found:
    """State survives, so nothing is proved; a violation in a fresh process is one all the same."""
    assert natural.first is not None
    assert natural.differs is not None
    survived = natural.survived(natural.differs, what="the first execution")
    executions_max = min(FORKS_MAX, limits.executions_max or FORKS_MAX)
    seconds = min(FORKS_S, limits.seconds_left)
    found = natural.copy.ask(_search_alone, seed, executions_max, seconds)
    if found is not None:
        findings, conclusion = found
        return findings, replace(conclusion, survived=survived)
    violation = natural.first.violation
    unconfirmed = "" if violation is None else words_of_violation(violation)
    return Findings(), Conclusion(
        natural.problem.digest, survived=survived, unconfirmed=unconfirmed
    )


def _search_alone(problem: Problem, seed: int, executions_max: int, seconds: float) -> Found:
    """Some schedules, in natural order and at random, each in a fork of its own."""
    limits = _Limits(perf_counter() + seconds, executions_max, lambda findings, scheduler: False)
    with guarded(isolate=True):
        return _search_and_conclude(problem, Portfolio(seed), limits, None)
