"""Programs in which it matters what the clocks show at the beginning: these get those of today.

An execution begins on 2020-01-01, with `time.monotonic()` and the loop's clock at 0, so that it is
the same on every day. But who compares a reading with one that a module took when it was imported,
or with 0 for "never", or asks for the year, goes another way on stock Python. So the natural
schedule is run once more with what the clocks of this process show, and if that is another
execution, all have these. They stand in the schedules, which are the same on another day then.
Who reads a clock after a departure alone is looked at in some executions beside the search.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from sim.counterexamples.differences import difference
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.kernel.execution import run_execution
from sim.kernel.isolation.entropy import wall_clock
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import CLOCK_MAX_S, Bounds, Schedule
from sim.kernel.violation import Kind
from sim.schedulers import NaturalOrder, Replay

EXECUTIONS, RANDOM_EXECUTIONS = 50, 10
"""With up to one departure, and random ones."""

_real_monotonic = time.monotonic  # noqa: TID251 - what else would show it


def of_today(bounds: Bounds) -> Bounds | None:
    """The bounds with these clocks, in milliseconds; None if the machine runs for too long."""
    clock_s = _in_ms(_real_monotonic())
    if clock_s > CLOCK_MAX_S - bounds.horizon_s:
        return None
    return replace(bounds, clock_s=clock_s, wall_s=_in_ms(wall_clock()))


def _in_ms(seconds: float) -> float:
    # Not before what modules have read.
    return math.ceil(seconds * 1000) / 1000


def with_clocks_of_today(problem: Problem, first: Outcome) -> tuple[Problem, Outcome] | None:
    """The problem with these and its natural execution; None if that is as the first, traced."""
    bounds = of_today(problem.bounds)
    if bounds is None or first.error is not None:
        return None
    today = run_execution(problem.subject.program, NaturalOrder(), bounds, traced=True)
    if difference(first, today) is None:
        return None
    return replace(problem, bounds=bounds), today


def may_matter(problem: Problem, findings: Findings) -> bool:
    """Whether a clock was read, though natural order is the same with those of today."""
    is_first = problem.bounds.clock_s == Bounds.clock_s
    return findings.reads_clock and findings.choice_points > 0 and is_first


def condition(problem: Problem, findings: Findings, schedule: str) -> str:
    """Of a violation, in words: that it hangs on these clocks; empty if it does not.

    schedule: of its counterexample.
    """
    failure, found = findings.failure, Schedule.parse(schedule)
    if failure is None or failure.violation is None or not may_matter(problem, findings):
        return ""
    bounds = of_today(found.bounds)
    is_slow = failure.violation.kind is Kind.ENDLESS_STEP
    if bounds is None or is_slow:
        return ""
    replay = Replay(found.departures, strict=False)
    today = run_execution(problem.subject.program, replay, bounds).violation
    if today is not None and today.property == failure.violation.property:
        return ""
    return (
        "the clocks begin on 2020-01-01 here, and time.monotonic() at 0: with those of today this "
        "schedule violates nothing"
    )
