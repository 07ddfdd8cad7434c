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
        # Seeding takes 10 µs, so it is done where an execution has a choice.
        self._is_seeded = False

    def next_execution(self) -> bool:
        self._is_seeded = False
        self._executions += 1
        return True

    def choose(self, point: ChoicePoint) -> int:
        if not self._is_seeded:
            self._is_seeded = True
            self._random.seed(f"{self._seed}:{self._executions - 1}")
        return int(self._random.random() * len(point.options))
