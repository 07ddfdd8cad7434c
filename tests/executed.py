"""One execution, under any scheduler: `sim.run` knows natural order and schedules as text alone."""

from __future__ import annotations

from contextlib import closing

from sim import Outcome, Scheduler, outcomes
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds

BOUNDS = Bounds()


def executed(
    program: Program, scheduler: Scheduler, *, bounds: Bounds = BOUNDS, traced: bool = False
) -> Outcome:
    """What the scheduler's next execution comes to."""
    with closing(outcomes(program, scheduler, bounds=bounds, traced=traced)) as found:
        return next(found)
