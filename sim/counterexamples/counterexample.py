"""A counterexample: the violated sentence, the schedule that leads there, and how to read it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from sim.counterexamples.differences import difference
from sim.counterexamples.digest import Identity
from sim.counterexamples.explanation import Passing, explain, nearest_passing
from sim.counterexamples.fact import Fact
from sim.counterexamples.lined import facts_in_lines
from sim.kernel.errors import BudgetSpent, ScheduleDoesNotFit
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded, is_isolating
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Schedule
from sim.schedulers import Replay


@dataclass(frozen=True, slots=True)
class Counterexample:
    """property: the sentence that did not hold; schedule, text: for programs and for people.
    headline: the property, with the exception that violates it, if one does."""

    property: str
    schedule: str
    text: str
    # Whether each execution of it runs in a process of its own.
    is_isolated: bool = False
    # Of which program it is, None if it may be of any.
    identity: Identity | None = None
    headline: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "headline", self.headline or self.property)

    def as_json(self) -> dict[str, str]:
        return {"property": self.property, "schedule": self.schedule, "text": self.text}

    def replay(self, program: Program) -> Outcome:
        """Runs the schedule on the program, traced; `violation` is None if it did not come back.

        Raises ScheduleDoesNotFit for another program, for one that was edited since, and if it does
        not reach these choice points.
        """
        if self.identity is not None:
            self.identity.require(program)
        with guarded(isolate=self.is_isolated):
            return replay_schedule(program, Schedule.parse(self.schedule))

    def export(self, program: Program) -> str:
        """The text of a Python file that replays it on stock asyncio, without this package.

        Raises ScheduleDoesNotFit, and NotExportable where no selector could bring it about.
        """
        from sim.export.file import export
        from sim.export.sources import bundle_of

        bounds = Schedule.parse(self.schedule).bounds
        return export(self.replay(program), bundle_of(program), bounds, self.text)


def replay_schedule(program: Program, schedule: Schedule) -> Outcome:
    """One traced execution. Raises ScheduleDoesNotFit."""
    replay = Replay(schedule.departures)
    outcome = run_execution(program, replay, schedule.bounds, traced=True)
    replay.require_all_taken(len(outcome.choices))
    return outcome


def confirmed(program: Program, schedule: Schedule, violated: str) -> Counterexample | None:
    """Replays a failure twice, traced; None if it is not the same violation both times."""
    try:
        outcome, again = (replay_schedule(program, schedule) for _ in range(2))
        if outcome.violation is None or outcome.violation.property != violated:
            return None
        if difference(outcome, again) is not None:
            return None
        return make_counterexample(program, outcome, schedule)
    except ScheduleDoesNotFit:
        return None


def make_counterexample(program: Program, outcome: Outcome, schedule: Schedule) -> Counterexample:
    """From a traced outcome with a violation; looks for a passing execution nearby."""
    assert outcome.violation is not None
    passing, facts = Passing(None, None, 0), list[Fact]()
    # Without these it is found all the same.
    with guarded(), suppress(BudgetSpent):
        passing = nearest_passing(program, schedule, outcome)
        facts = facts_in_lines(program, schedule, outcome, passing)
        # A program may remember its last execution: let that be this one.
        replay_schedule(program, schedule)
    text = explain(outcome, schedule, passing, facts)
    violation = outcome.violation
    found = violation.property, str(schedule), text, is_isolating(), Identity.of(program)
    return Counterexample(*found, violation.headline())
