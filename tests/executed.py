"""One execution, under any scheduler: `sim.run` takes only natural order and schedules as text."""

from __future__ import annotations

from contextlib import closing

from sim import Outcome, Scheduler, outcomes
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds

BOUNDS = Bounds()


def executed(
    program: Program, scheduler: Scheduler, *, bounds: Bounds = BOUNDS, traced: bool = False
) -> Outcome:
    """The outcome of the scheduler's next execution."""
    with closing(outcomes(program, scheduler, bounds=bounds, traced=traced)) as found:
        return next(found)
