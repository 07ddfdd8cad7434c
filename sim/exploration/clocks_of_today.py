"""Programs in which it matters what the clocks show at the beginning: these get those of today.

An execution begins on 2020-01-01, with `time.monotonic()` and the loop's clock at 0, so that it is
the same on every day. But who compares a reading with one that a module took when it was imported,
or with 0 for "never", or asks for the year, goes another way on stock Python. So the natural
schedule is run once more with what the clocks of this process show, and if that is another
execution, all have these. They stand in the schedules, which are the same on another day then.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from sim.counterexamples.differences import difference
from sim.exploration.subject import Problem
from sim.kernel.execution import Outcome, run_execution
from sim.kernel.isolation.entropy import wall_clock
from sim.kernel.schedule import CLOCK_MAX_S, Bounds
from sim.schedulers import NaturalOrder

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
