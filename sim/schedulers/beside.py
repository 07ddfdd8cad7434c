"""A few random executions first, then another scheduler: for what lies beyond its bound."""

from __future__ import annotations

from sim.schedule import ChoicePoint
from sim.schedulers.base import Scheduler
from sim.schedulers.random_walk import RandomWalk


class RandomBeside:
    """`random_executions` of a random walk, then `scheduler`, whose claim it makes."""

    def __init__(self, scheduler: Scheduler, *, random_executions: int, seed: int = 0) -> None:
        self._scheduler = scheduler
        self._random = RandomWalk(seed)
        self._random_left = random_executions
        self._random_executions = random_executions
        self._now: Scheduler = scheduler

    @property
    def name(self) -> str:
        return f"{self._scheduler.name}, {self._random_executions} random beside"

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
        self._now = self._random if self._random_left > 0 else self._scheduler
        self._random_left -= 1
        return self._now.next_execution()

    def choose(self, point: ChoicePoint) -> int:
        return self._now.choose(point)
