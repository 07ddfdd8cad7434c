"""Time limits that the program computes from readings of a clock, and that end between two steps.

A search sees them end where its instants are: the outside events' and the timers'. Where a program
reads a clock, some executions are run to learn how long its limits are. If it has any, some more
let what is outside land around their ends, and a step take until then (`kernel/time_limits.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from time import perf_counter

from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.kernel.errors import BudgetSpent, Nondeterminism
from sim.kernel.execution import run_execution
from sim.kernel.learned_limits import LIMITS_MAX, learning, note
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds, Durations, Schedule
from sim.schedulers import Scheduler

EXECUTIONS = 200
"""With up to DEPARTURES of these kinds, and all else in natural order."""
POLLS, EXECUTIONS_MIN = 100_000, 20
"""Of long executions fewer: as many as have POLLS together, and at least the second."""
DEPARTURES = 2
KINDS = ("landing", "meanwhile", "reading", "clock")
RANDOM_EXECUTIONS = 20
TO_LEARN = 5
"""Besides that in natural order, random ones."""


def are_possible(findings: Findings, natural: Outcome | None) -> bool:
    """Whether some execution has read a clock, and something may land at another instant.

    What a network brings may be late without a bound: then it would outlast any limit, minutes too.
    """
    if natural is not None and natural.is_late_without_bound:
        return False
    reads = findings.reads_clock or (natural is not None and natural.reads_loop)
    return reads and findings.limits is None


def executions_of(natural: Outcome | None) -> int:
    """How many there are. natural: a traced one."""
    recording = None if natural is None else natural.recording
    if recording is None:
        return EXECUTIONS
    return max(EXECUTIONS_MIN, min(EXECUTIONS, POLLS // (recording.polls_count + 1)))


def learned(problem: Problem, schedulers: Sequence[Scheduler], until: float) -> Durations:
    """How long they are, in executions that serve nothing else."""
    found: list[float] = []
    # What they end with counts for nothing.
    with learning(), suppress(BudgetSpent, Nondeterminism):
        for scheduler in schedulers:
            while scheduler.next_execution() and perf_counter() < until:
                outcome = run_execution(problem.subject.program, scheduler, problem.bounds)
                for each in outcome.time_limits:
                    note(found, each)
                if not outcome.choices:
                    # All others are the same.
                    return Durations(found)
    return Durations(found[: 2 * LIMITS_MAX])


def with_limits(bounds: Bounds, limits: Durations) -> Bounds:
    return replace(bounds, time_limits=limits)


def condition(schedule: str) -> str:
    """Of a violation, in words: that it hangs on such an instant; empty if it does not.

    schedule: of its counterexample.
    """
    if not Schedule.parse(schedule).bounds.time_limits:
        return ""
    return (
        "in it a time limit that the program computes from a clock ends while it is at work, at an "
        "instant that no timer has, as on stock it may between any two steps: what was true at one "
        "reading of the clock need not be so at the next"
    )
