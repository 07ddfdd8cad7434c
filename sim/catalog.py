"""What the bench checks, by name: a scenario of a level on a registry."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import registry as registry_room
import server as server_room
import sim as sim_room
from registry import StreamRegistry
from sim.execution import Program
from sim.log_capture import silenced
from sim.scenarios import SCENARIOS_BY_LEVEL, Playable
from sim.scenarios.server_level.sized import SizedServerScenario
from sim.scenarios.sized import Size, SizedScenario
from sim.simulate.scenario import PREFIX as SIMULATED
from sim.simulate.scenario import SimulatedSeed
from sim.subject import Subject
from sim.suspects import suspect_class
from sim.suspects.mutants import PREFIX as MUTANT
from sim.suspects.mutants import broken_as

# What an execution of each level runs of ours.
_ROOMS: dict[str, tuple[ModuleType, ...]] = {
    "registry": (registry_room, sim_room),
    "server": (registry_room, server_room, sim_room),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """As it stands in a schedule: `LEVEL:SCENARIO:REGISTRY`."""

    level: str
    scenario: str
    registry: str

    def __str__(self) -> str:
        return f"{self.level}:{self.scenario}:{self.registry}"

    @classmethod
    def parse(cls, subject: str) -> Entry:
        """Of a subject that `is_of_the_bench`."""
        return cls(*subject.split(":", 2))

    @property
    def registry_class(self) -> type[Any]:
        """A mutant is the production class, broken while it runs."""
        is_mutant = self.registry.startswith(MUTANT)
        return StreamRegistry if is_mutant else suspect_class(self.registry)

    @property
    def command(self) -> str:
        """The command that finds its schedules."""
        return "mutants" if self.registry.startswith(MUTANT) else "check"

    def subject(self) -> Subject:
        """Raises ValueError for an unknown scenario or registry."""
        if self.scenario.startswith(SIMULATED):
            simulated = SimulatedSeed.named(self.scenario, self.level)
            return self.subject_of(simulated.program_for(self.registry_class))
        ((_, scenario),) = scenarios_named(self.level, self.scenario)
        cls = self.registry_class
        return self.subject_of(scenario.program_for(cls), scenario.labels_for(cls))

    def subject_of(self, program: Program, labels: tuple[str, ...] = ()) -> Subject:
        """For a caller that has the program already."""
        sources = (self.registry_class, *_ROOMS[self.level])
        return Subject(program, str(self), sources, labels)


@contextmanager
def as_played(name: str) -> Iterator[Subject]:
    """The subject of an entry; within, production is broken for a mutant's, and nothing is logged.

    Raises ValueError for a scenario or registry that there is not.
    """
    entry = Entry.parse(name)
    with broken_as(entry.registry), silenced():
        yield entry.subject()


def scenarios_named(level: str | None, name: str | None) -> Iterable[tuple[str, Playable]]:
    if level is not None and level not in SCENARIOS_BY_LEVEL:
        raise ValueError(f"level {level!r} is not known; there is {', '.join(SCENARIOS_BY_LEVEL)}")
    known = [
        (each_level, each)
        for each_level, scenarios in SCENARIOS_BY_LEVEL.items()
        for each in scenarios
        if level in (None, each_level)
    ]
    if name is None:
        return known
    size, sized = Size.parse(name), SizedServerScenario.parse(name)
    if size is not None and level in (None, "registry"):
        return [("registry", SizedScenario(size))]
    if sized is not None and level in (None, "server"):
        return [("server", sized)]
    found = [(each_level, each) for each_level, each in known if each.name == name]
    if not found:
        names = ", ".join(each.name for _, each in known)
        raise ValueError(f"scenario {name!r} is not known; there are {names}")
    return found
