"""What is explored: a program, under the name by which a schedule finds it again."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sim.counterexamples.digest import digest_of, name_of
from sim.exploration.named_programs import program_named
from sim.kernel.errors import NotAProgram
from sim.kernel.execution import Program
from sim.kernel.schedule import Bounds, Schedule


@dataclass(frozen=True, slots=True)
class Subject:
    """sources: functions, classes, modules or packages whose code the schedule depends on, besides
    the program's own module. labels: what some execution has to reach for a proof.
    held: what the program is given from outside and may change, by name. makes_its_state: whether
    it is known that no execution changes anything for the next: then this is not looked for first.
    """

    program: Program
    name: str
    sources: tuple[object, ...] = ()
    labels: tuple[str, ...] = ()
    held: Mapping[str, object] = field(default_factory=dict)
    makes_its_state: bool = False

    @classmethod
    def of(cls, program: Program) -> Subject:
        """By its module and name."""
        return cls(program, name_of(program))

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


@dataclass(frozen=True, slots=True)
class Problem:
    """A subject, and within which bounds it is explored.

    isolate: whether each execution runs in a fork of its own. is_for_any_machine: whether the
    verdict is to hold whatever the number of CPUs.
    """

    subject: Subject
    bounds: Bounds = field(default_factory=Bounds)
    isolate: bool = False
    is_for_any_machine: bool = True

    @property
    def digest(self) -> str:
        return self.subject.digest


def require_program(program: object) -> None:
    """Raises NotAProgram, with what one is, for what cannot be called with the world alone."""
    name = getattr(program, "__qualname__", None) or repr(program)
    example = "a program is an `async def` that takes the world: async def program(world): …"
    if inspect.iscoroutine(program):
        program.close()
        raise NotAProgram(
            f"{name}(…) is a coroutine, which runs once; give the function {name} itself: {example}"
        )
    if not callable(program):
        raise NotAProgram(f"{name} is not a program, as it cannot be called: {example}")
    try:
        # What is called, not what a decorator has wrapped in it: a marked test takes fixtures.
        signature = inspect.signature(program, follow_wrapped=False)
    except (TypeError, ValueError):
        # Written in C: it says so itself when it is called.
        return
    try:
        signature.bind(None)
    except TypeError as exc:
        raise NotAProgram(
            f"{name}({', '.join(signature.parameters)}) cannot be called with the world alone "
            f"({exc}): {example}"
        ) from None
