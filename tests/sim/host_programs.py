"""Programs with hosts and processes, executed once in natural order."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sim import Outcome, World
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder
from tests.executed import BOUNDS, executed

Program = Callable[[World], Awaitable[object]]


def traced(program: Program, bounds: Bounds = BOUNDS) -> Outcome:
    return executed(program, NaturalOrder(), bounds=bounds, traced=True)


def passes(program: Program) -> Outcome:
    outcome = traced(program)
    assert outcome.error is None, outcome.error
    assert outcome.violation is None, outcome.violation
    return outcome
