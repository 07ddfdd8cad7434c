"""Several random schedulers that take turns, since no one of them finds everything soon."""

from __future__ import annotations

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import NEVER_PROVES, Scheduler
from sim.schedulers.few_departures import FewDepartures
from sim.schedulers.natural import NaturalOrder
from sim.schedulers.pct import PCT
from sim.schedulers.random_walk import RandomWalk


class Portfolio(Scheduler):
    """First the natural order, whose choice points it counts; then several random ones in turns.

    The i-th execution of a program depends on the seed and i alone. Never exhausted.
    """

    name = "portfolio"
    next_to_try = NEVER_PROVES

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._executions = 0
        self._choice_points = 0
        self._turns: tuple[Scheduler, ...] = ()
        self._now: Scheduler = NaturalOrder()

    @property
    def at_work(self) -> str:
        """Whose execution the last one was."""
        return self._now.name

    def next_execution(self) -> bool:
        if self._executions == 1:
            self._turns = turns(self._seed, self._choice_points)
        if self._turns:
            self._now = self._turns[(self._executions - 1) % len(self._turns)]
        self._executions += 1
        return self._now.next_execution()

    def choose(self, point: ChoicePoint) -> int:
        if not self._turns:
            self._choice_points = point.index + 1
        return self._now.choose(point)


def turns(seed: int, choice_points: int) -> tuple[Scheduler, ...]:
    """The schedulers in the order of their turns; for why these, see tests/benchmarks/README.md."""
    uniform = RandomWalk(seed)
    few = FewDepartures(seed, choice_points=choice_points)
    pct = PCT(seed, choice_points=choice_points)
    return uniform, few, uniform, few, pct
