"""Natural order with a few departures, drawn at random."""

from __future__ import annotations

from random import Random  # noqa: TID251 - seeded for each execution

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import NEVER_PROVES, Scheduler

MORE = 0.5


class FewDepartures(Scheduler):
    """Natural order, except for departures at choice points that are drawn uniformly.

    The number of departures is geometric: one, and with probability `MORE` another, and so on.
    Options without a cost (see `ChoicePoint.costs`: an event that is kept waiting may be kept
    longer) are drawn uniformly, too. It samples what the departure-bounded search enumerates.
    choice_points: how many an execution has; None to count them in a first one, in natural order.
    """

    name = "few departures"
    next_to_try = NEVER_PROVES

    def __init__(self, seed: int = 0, *, choice_points: int | None = None) -> None:
        self._seed = seed
        self._choice_points = choice_points
        self._executions = 0
        self._is_counting = False
        self._counted = 0
        self._random = Random()
        self._departs_at: set[int] = set()

    def next_execution(self) -> bool:
        if self._is_counting:
            self._choice_points = self._counted
        self._is_counting = self._choice_points is None
        if self._choice_points is not None:
            self._random.seed(f"few:{self._seed}:{self._executions}")
            self._executions += 1
            departures = 1
            while self._random.random() < MORE:
                departures += 1
            departures = min(departures, self._choice_points)
            self._departs_at = set(self._random.sample(range(self._choice_points), departures))
        return True

    def choose(self, point: ChoicePoint) -> int:
        if self._is_counting:
            self._counted = point.index + 1
            return 0
        cost = int(point.index in self._departs_at)
        options = [option for option, each in enumerate(point.costs) if each == cost]
        # Where all options are free, or none is, all are drawn from.
        options = options or list(range(len(point.options)))
        return options[int(self._random.random() * len(options))]
