"""Executions one after the other, until a scheduler is exhausted or something else ends them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from time import perf_counter

from sim.counted import counted
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.exploration.verdict import Stop
from sim.kernel.errors import BudgetSpent, Nondeterminism
from sim.kernel.execution import run_execution
from sim.kernel.isolation.entropy import Generators
from sim.kernel.schedule import departures_of
from sim.schedulers import Scheduler

COLLECT_EVERY_EXECUTIONS = 200


Watch = Callable[[Findings, Scheduler], bool]
"""Called before each execution; True interrupts the search."""


def unwatched(name: str) -> Watch:
    """Of a search with this name: shows nothing, and ends nothing."""
    return lambda findings, scheduler: False


def search(
    problem: Problem,
    scheduler: Scheduler,
    deadline: float | None,
    executions_max: int | None,
    watch: Watch,
) -> Findings:
    """Runs the scheduler's executions until it is exhausted, or something else ends the search.

    deadline: a reading of `time.perf_counter`. To be called within `guarded`.
    """
    findings = Findings()
    generators = Generators((problem.subject.program, *problem.subject.sources))
    try:
        while scheduler.next_execution():
            if executions_max is not None and findings.executions >= executions_max:
                findings.stopped = Stop.EXECUTIONS_MAX
                findings.stopped_why = (
                    f"the limit of {counted(executions_max, 'execution')} was reached"
                )
                break
            if deadline is not None and perf_counter() >= deadline:
                findings.stopped = Stop.OUT_OF_BUDGET
                break
            if watch(findings, scheduler):
                findings.stopped = Stop.INTERRUPTED
                break
            if _execute(problem, scheduler, findings):
                break
            if findings.executions % COLLECT_EVERY_EXECUTIONS == 0:
                gc.collect(1)
    except Nondeterminism as exc:
        findings.stopped = Stop.NONDETERMINISM
        findings.stopped_why = f"{Stop.NONDETERMINISM}: {exc}"
    except BudgetSpent as exc:
        out_of_budget(findings, exc)
    except KeyboardInterrupt:
        findings.stopped = Stop.INTERRUPTED
    findings.drawn_from |= set(generators.drawn())
    return findings


def _execute(problem: Problem, scheduler: Scheduler, findings: Findings) -> bool:
    """One execution; whether it ends the search."""
    outcome = run_execution(problem.subject.program, scheduler, problem.bounds)
    findings.executions += 1
    findings.labels |= outcome.labels
    findings.bounds_hit |= outcome.bounds_hit
    findings.undeclared |= outcome.undeclared
    findings.reads_clock = findings.reads_clock or outcome.reads_clock
    findings.choice_points = len(outcome.choices)
    if outcome.unretrieved and findings.unretrieved is None:
        findings.unretrieved = outcome.unretrieved, departures_of(outcome.choices)
    violated = outcome.violation.property if outcome.violation is not None else None
    # Before it learns: then it may leave its turn to another.
    at_work = scheduler.at_work
    wrong = scheduler.learn(violated, outcome.labels)
    outcome.error = outcome.error or wrong
    if outcome.error is not None and outcome.is_undecided:
        findings.stopped, findings.stopped_why = Stop.THREAD_SPINS, outcome.error
        return True
    if outcome.error is not None:
        findings.error = outcome.error
    elif outcome.violation is not None:
        findings.failure = outcome
        findings.found_by = at_work
    return findings.error is not None or findings.failure is not None


def out_of_budget(findings: Findings, spent: BudgetSpent) -> Findings:
    findings.stopped = Stop.OUT_OF_BUDGET
    findings.is_broken_off = True
    findings.stopped_why = f"{Stop.OUT_OF_BUDGET}: {spent}"
    return findings
