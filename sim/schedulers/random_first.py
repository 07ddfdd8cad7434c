"""A few random executions first, then another scheduler: to visit some beyond its bound."""

from __future__ import annotations

from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Divisible, Following, Scheduler
from sim.schedulers.random_walk import RandomWalk


class FirstFew(Following):
    """The first executions of another scheduler, and then no more."""

    def __init__(self, scheduler: Scheduler, executions: int) -> None:
        super().__init__(scheduler)
        self._left = executions

    def next_execution(self) -> bool:
        self._left -= 1
        return self._left >= 0 and super().next_execution()


class RandomFirst(Divisible):
    """`random_executions` of a random walk, then `scheduler`, whose claim it makes."""

    def __init__(self, scheduler: Divisible, *, random_executions: int, seed: int = 0) -> None:
        self._scheduler = scheduler
        self._random_executions = random_executions
        self._random = FirstFew(RandomWalk(seed), random_executions)
        self._now: Scheduler = self._random

    @property
    def name(self) -> str:
        return f"{self._scheduler.name}, after {self._random_executions} random"

    @property
    def at_work(self) -> str:
        """Whose execution the last one was."""
        return self._now.name

    @property
    def bound_finished(self) -> int | None:
        return self._scheduler.bound_finished

    @property
    def is_exhausted(self) -> bool:
        return self._scheduler.is_exhausted

    @property
    def covers(self) -> str:
        return self._scheduler.covers

    @property
    def complete(self) -> float | None:
        return self._scheduler.complete

    def next_execution(self) -> bool:
        if self._now is self._random and self._random.next_execution():
            return True
        self._now = self._scheduler
        return self._now.next_execution()

    def observer(self) -> Observer | None:
        return self._now.observer()

    def choose(self, point: ChoicePoint) -> int:
        return self._now.choose(point)

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        return self._now.learn(violated, labels)

    # -- its division

    def begin_round(self) -> Scheduler | None:
        return self._random if self._now is self._random else self._scheduler.begin_round()

    def end_round(self, was_cut: bool) -> None:
        if self._now is self._random:
            self._now = self._scheduler
        else:
            self._scheduler.end_round(was_cut)
