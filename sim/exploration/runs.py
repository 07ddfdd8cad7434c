"""One execution, or one after another, without a verdict: what `explore` is made of."""

from __future__ import annotations

from collections.abc import Iterator

from sim.counterexamples.digest import Identity, name_of
from sim.exploration.subject import require_program
from sim.kernel.arguments import misused, require
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import NATURAL, Bounds, Schedule
from sim.schedulers import NaturalOrder, Replay, Scheduler

BOUNDS = Bounds()


def require_bounds(bounds: object) -> None:
    if not isinstance(bounds, Bounds):
        raise misused(f"bounds={bounds!r} makes no sense: bounds are a sim.kernel.schedule.Bounds")
    require(horizon_s=bounds.horizon_s)


def _require_its_own(program: Program, schedule: Schedule) -> None:
    own = name_of(program)
    module, colon, attribute = schedule.subject.rpartition(":")
    is_of_file = module.endswith(".py") and attribute == own.rpartition(":")[2]
    if colon:
        # By the path of its file it has another name than by its module.
        named = own if is_of_file else schedule.subject
        Identity(named, schedule.digest).require(program)


def run(
    program: Program, schedule: str = NATURAL, *, bounds: Bounds = BOUNDS, traced: bool = False
) -> Outcome:
    """Runs the program once: in natural order, or under the schedule of a counterexample.

    bounds: of the arrival model; a schedule brings its own. traced: with `trace` and `steps`.
    Raises ValueError for a text that is not a schedule, ScheduleDoesNotFit if the program does not
    reach its choice points, is another than the schedule names, or was edited since. A name
    without a colon, of a test say, is not checked.
    """
    require_program(program)
    require(schedule=schedule, traced=traced)
    require_bounds(bounds)
    if schedule == NATURAL:
        with guarded():
            return run_execution(program, NaturalOrder(), bounds, traced=traced)
    parsed = Schedule.parse(schedule)
    _require_its_own(program, parsed)
    replay = Replay(parsed.departures)
    with guarded():
        outcome = run_execution(program, replay, parsed.bounds, traced=traced)
    replay.require_all_taken(len(outcome.choices))
    return outcome


def outcomes(
    program: Program, scheduler: Scheduler, *, bounds: Bounds = BOUNDS, traced: bool = False
) -> Iterator[Outcome]:
    """The outcome of each execution of a scheduler, until it is exhausted.

    The guards of an execution are up until the iteration ends, or is closed.
    """
    require_program(program)
    require(traced=traced)
    require_bounds(bounds)
    if not isinstance(scheduler, Scheduler):
        raise misused(
            f"scheduler {scheduler!r} is no sim.Scheduler, as sim.DepartureBounded(2) is one"
        )
    with guarded():
        while scheduler.next_execution():
            outcome = run_execution(program, scheduler, bounds, traced=traced)
            violated = outcome.violation.property if outcome.violation is not None else None
            outcome.error = outcome.error or scheduler.learn(violated, outcome.labels)
            yield outcome
