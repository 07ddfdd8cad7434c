"""An execution in a fork of its own, under a scheduler that stays in this process.

The fork has a copy of the scheduler, whose choices it follows; this process makes them again from
what was asked, so that its scheduler has seen the execution, too. What is returned is plain data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sim.kernel import forks
from sim.kernel.errors import Nondeterminism, NotAProgram, ScheduleDoesNotFit
from sim.kernel.observer import Chooser, Observer
from sim.kernel.schedule import ChoicePoint, Option

T = TypeVar("T")


class NotInIsolation(ValueError):
    """A scheduler that watches each execution cannot do so in another process."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A choice point as plain data."""

    index: int
    kind: str
    names: tuple[str, ...]
    at: float
    costs: tuple[int, ...]

    @classmethod
    def of(cls, point: ChoicePoint) -> _Asked:
        names = tuple(each.name for each in point.options)
        return cls(point.index, point.kind, names, point.at, tuple(point.costs))

    def again(self) -> ChoicePoint:
        options = [Option(name) for name in self.names]
        return ChoicePoint(self.index, self.kind, options, self.at, lambda _: self.costs)


class _Recorded:
    """A scheduler, and what it was asked."""

    def __init__(self, scheduler: Chooser) -> None:
        self.asked: list[_Asked] = []
        self._scheduler = scheduler

    def observer(self) -> Observer | None:
        if self._scheduler.observer() is not None:
            raise NotInIsolation(
                f"{type(self._scheduler).__name__} watches each execution from within, and with "
                f"isolate=True each runs in a process of its own: take `depth-first`, `random`, "
                f"`portfolio` or DepartureBounded, or leave isolate=True out"
            )
        return None

    def choose(self, point: ChoicePoint) -> int:
        self.asked.append(_Asked.of(point))
        return self._scheduler.choose(point)


def run_isolated(run: Callable[[Chooser], T], scheduler: Chooser, seconds: float) -> T:
    """Runs the execution in a fork. Raises what it raises, ForkEnded, and ForkTooLate."""

    def in_the_fork() -> tuple[list[_Asked], T | Exception]:
        recorded = _Recorded(scheduler)
        try:
            return recorded.asked, run(recorded)
        except (Nondeterminism, NotAProgram, NotInIsolation, ScheduleDoesNotFit) as exc:
            return recorded.asked, exc

    asked, result = forks.in_a_fork(in_the_fork, seconds)
    for each in asked:
        scheduler.choose(each.again())
    if isinstance(result, Exception):
        raise result
    return result
