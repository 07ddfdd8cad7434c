"""What is explored: a program, under the name by which a schedule finds it again."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from sim.exploration.digest import digest_of
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
        full = f"{module}:{name}" if module else name
        # A schedule is parts between slashes.
        return cls(program, full.replace("/", "_"))

    @classmethod
    def named(cls, name: str) -> Subject:
        """`MODULE:NAME`, imported. Raises ValueError if there is none."""
        module_name, _, qualname = name.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in qualname.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as exc:
            raise ValueError(
                f"program {name!r} cannot be imported: {exc}. It has to be a function of a module "
                f"on PYTHONPATH; one of a script is replayed with counterexample.replay(program)"
            ) from exc
        return cls.of(found)

    @property
    def digest(self) -> str:
        return digest_of((self.program, *self.sources))

    def natural_schedule(self, bounds: Bounds) -> Schedule:
        return Schedule(self.name, self.digest, bounds, ())
