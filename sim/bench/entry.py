"""The name of what the bench checks: a scenario of a level, on a registry."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import registry as registry_room
import server as server_room
import sim as sim_room
from registry import StreamRegistry
from sim.bench.subjects import registry_class
from sim.bench.subjects.mutants import PREFIX as MUTANT
from sim.bench.subjects.mutants import mutant_named
from sim.exploration.subject import Subject
from sim.kernel.execution import Program

# What an execution of each level runs of this project.
_ROOMS: dict[str, tuple[ModuleType, ...]] = {
    "registry": (registry_room, sim_room),
    "server": (registry_room, server_room, sim_room),
    "stack": (registry_room, server_room, sim_room),
    "cluster": (registry_room, server_room, sim_room),
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
    def subject_in_words(self) -> str:
        """What is checked: a class, or production with a line broken, and where."""
        if self.registry.startswith(MUTANT):
            mutant = mutant_named(self.registry.removeprefix(MUTANT))
            return f"production with one line broken on purpose {mutant.place}"
        return f"{self.registry}{_place_of(self.registry_class)}"

    @property
    def command(self) -> str:
        """The command that finds its schedules."""
        return "mutants" if self.registry.startswith(MUTANT) else "check"

    def subject_of(self, program: Program, labels: tuple[str, ...] = ()) -> Subject:
        """For a caller that has the program already."""
        sources = (self.registry_class, *_ROOMS[self.level])
        # A scenario makes its registry, server and clients within the execution, and its natural
        # schedule is run twice after a search. To look for surviving state before it as well would
        # cost a fork and two executions for each search, and most of `onestream mutants` have one.
        return Subject(program, str(self), sources, labels, makes_its_state=True)


def _place_of(cls: type[Any]) -> str:
    """Where its code is, if it is anywhere."""
    try:
        file, (_, line) = Path(inspect.getfile(cls)), inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return ""
    return f" ({file.parent.name}/{file.name}:{line})"
