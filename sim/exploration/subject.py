"""What is explored: a program, under the name by which a schedule finds it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sim.exploration.digest import digest_of
from sim.exploration.named_programs import program_named
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds, Schedule


@dataclass(frozen=True, slots=True)
class Subject:
    """sources: functions, classes, modules or packages whose code the schedule depends on, besides
    the program's own module. labels: what some execution has to reach for a proof.
    """

    program: Program
    name: str
    sources: tuple[object, ...] = ()
    labels: tuple[str, ...] = ()

    @classmethod
    def of(cls, program: Program) -> Subject:
        """By its module and name."""
        module = getattr(program, "__module__", None)
        name = getattr(program, "__qualname__", type(program).__qualname__)
        return cls(program, f"{module}:{name}" if module else name)

    @classmethod
    def named(cls, name: str) -> Subject:
        """`MODULE:PROGRAM` or `FILE.py:PROGRAM`, imported; its schedules find it by that name.

        Raises ValueError if there is none.
        """
        return replace(cls.of(program_named(name)), name=name)

    @property
    def digest(self) -> str:
        return digest_of((self.program, *self.sources))

    def natural_schedule(self, bounds: Bounds) -> Schedule:
        return Schedule(self.name, self.digest, bounds, ())
