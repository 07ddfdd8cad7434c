"""Natural order with departures at a low rate: for executions too long for uniform choices."""

from __future__ import annotations

from random import Random  # noqa: TID251 - this is where the seed becomes a generator

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Once

_RATES = (0.0, 0.002, 0.01, 0.05, 0.2)


class Swarm(Once):
    """One execution; how often it departs is drawn from the seed, for each kind of choice point.

    Uniform choices would depart all the time in a long execution, so that nothing in it succeeds.
    """

    name = "random departures"
    covers = "one random schedule"

    def __init__(self, seed: str) -> None:
        self._random = Random(f"schedule:{seed}")
        self._rates: dict[str, float] = {}
        self._seed = seed

    def choose(self, point: ChoicePoint) -> int:
        rate = self._rates.get(point.kind)
        if rate is None:
            rate = Random(f"rate:{self._seed}:{point.kind}").choice(_RATES)
            self._rates[point.kind] = rate
        if self._random.random() >= rate:
            return 0
        return self._random.randrange(1, len(point.options))
