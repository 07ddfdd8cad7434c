"""Uniform random choices; the i-th execution depends on the seed and i alone."""

from __future__ import annotations

from random import Random  # noqa: TID251 - this is where the seed becomes a generator

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import NEVER_PROVES, Scheduler


class RandomWalk(Scheduler):
    """Each option of each choice point is equally likely. Never exhausted: it proves nothing."""

    name = "random"
    next_to_try = NEVER_PROVES

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._executions = 0
        self._random = Random()

    def next_execution(self) -> bool:
        self._random.seed(f"{self._seed}:{self._executions}")
        self._executions += 1
        return True

    def choose(self, point: ChoicePoint) -> int:
        return int(self._random.random() * len(point.options))
