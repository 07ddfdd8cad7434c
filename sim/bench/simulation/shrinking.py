"""Makes a failed seed smaller: fewer users, fewer actions, then fewer departures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sim.bench.entry import Entry
from sim.bench.simulation.scenario import SimulatedSeed
from sim.bench.subjects import registry_class
from sim.counterexamples.counterexample import Counterexample, confirmed
from sim.counterexamples.shrink import Departures, shrink
from sim.kernel.execution import run_execution
from sim.kernel.schedule import Bounds, Schedule, departures_of
from sim.kernel.violation import Kind, Violation
from sim.schedulers import NaturalOrder, Replay, Scheduler, Swarm

# At server level an execution takes some tens of milliseconds, a shrunk one a few.
EXECUTIONS_MAX = 600
# How many other schedules of a smaller plan are tried, where neither natural order nor the seed's
# own departures violate the property: its choice points differ from the whole plan's.
OTHER_SCHEDULES = 2
BOUNDS = Bounds()


def schedule_of(simulated: SimulatedSeed, registry: str, departures: Departures) -> Schedule:
    """The schedule by which `onestream replay` finds this execution."""
    entry = Entry(simulated.level, simulated.name, registry)
    subject = entry.subject_of(simulated.program_for(entry.registry_class))
    return Schedule(subject.name, subject.digest, BOUNDS, departures)


def shrunk(
    simulated: SimulatedSeed, registry: str, violated: Violation, departures: Departures
) -> Counterexample | None:
    """The counterexample of the smallest failing execution found; None if none fails again."""
    cls = registry_class(registry)
    shrinking = _Shrinking(simulated, cls, violated.property, departures)
    if violated.kind is not Kind.ENDLESS_STEP:
        shrinking.shrink_plan()
        shrinking.shrink_departures()
    schedule = schedule_of(shrinking.simulated, registry, shrinking.departures)
    program = shrinking.simulated.program_for(shrinking.cls)
    return confirmed(program, schedule, violated.property)


class _Shrinking:
    """The smallest failing execution so far, and how many it took to get there."""

    def __init__(
        self, simulated: SimulatedSeed, cls: type[Any], violated: str, departures: Departures
    ) -> None:
        self.simulated = simulated
        self.cls = cls
        self.departures = departures
        self._violated = violated
        self._seed_name = simulated.name
        self._executions = 0

    def shrink_plan(self) -> None:
        """Leaves out users, then ever smaller runs of actions, until nothing can be left out."""
        smaller = True
        while smaller and self._executions < EXECUTIONS_MAX:
            smaller = any(self._fails(self.simulated.keeping(kept)) for kept in self._candidates())

    def shrink_departures(self) -> None:
        """Leaves out ever shorter runs of departures, then lowers the rest."""
        size = len(self.departures)
        while size > 0:
            for start in reversed(range(0, len(self.departures), size)):
                fewer = self.departures[:start] + self.departures[start + size :]
                self._fails_under(self.simulated, Replay(fewer, strict=False))
            size //= 2
        left = max(0, EXECUTIONS_MAX - self._executions)
        program = self.simulated.program_for(self.cls)
        self.departures, _ = shrink(
            program, self.departures, self._violated, BOUNDS, executions_max=left
        )

    def _candidates(self) -> Iterator[tuple[int, ...]]:
        plan = self.simulated.plan
        for key, session in plan.users:
            yield tuple(
                each.number for each in plan.actions if (each.key, each.session) != (key, session)
            )
        numbers = plan.numbers
        size = len(numbers) // 2
        while size > 0:
            for start in reversed(range(0, len(numbers), size)):
                yield numbers[:start] + numbers[start + size :]
            size //= 2

    def _fails(self, candidate: SimulatedSeed) -> bool:
        if len(candidate.plan.actions) == len(self.simulated.plan.actions):
            return False
        names = [self._seed_name] + [f"{self._seed_name}:{i}" for i in range(OTHER_SCHEDULES)]
        schedulers: list[Scheduler] = [NaturalOrder(), *map(Swarm, names)]
        return any(self._fails_under(candidate, scheduler) for scheduler in schedulers)

    def _fails_under(self, candidate: SimulatedSeed, scheduler: Scheduler) -> bool:
        if self._executions >= EXECUTIONS_MAX:
            return False
        self._executions += 1
        outcome = run_execution(candidate.program_for(self.cls), scheduler, BOUNDS)
        if outcome.violation is None or outcome.violation.property != self._violated:
            return False
        departures = departures_of(outcome.choices)
        if candidate is self.simulated and len(departures) >= len(self.departures):
            return False
        self.simulated, self.departures = candidate, departures
        return True
