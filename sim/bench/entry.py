"""The name of what the bench checks: a scenario of a level, on a registry."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import registry as registry_room
import server as server_room
import sim as sim_room
from registry import StreamRegistry
from sim.bench.subjects import registry_class
from sim.bench.subjects.mutants import PREFIX as MUTANT
from sim.exploration.subject import Subject
from sim.kernel.execution import Program

# What an execution of each level runs of this project.
_ROOMS: dict[str, tuple[ModuleType, ...]] = {
    "registry": (registry_room, sim_room),
    "server": (registry_room, server_room, sim_room),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Written in a schedule as `LEVEL:SCENARIO:REGISTRY`."""

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
        return StreamRegistry if is_mutant else registry_class(self.registry)

    @property
    def command(self) -> str:
        """The command that finds its schedules."""
        return "mutants" if self.registry.startswith(MUTANT) else "check"

    def subject_of(self, program: Program, labels: tuple[str, ...] = ()) -> Subject:
        """For a caller that has the program already."""
        sources = (self.registry_class, *_ROOMS[self.level])
        return Subject(program, str(self), sources, labels)
