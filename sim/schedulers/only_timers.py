"""Every schedule whose few departures are of the clock: which timers fire when, and how late."""

from __future__ import annotations

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.tree_search import DepartureBounded

_OF_THE_CLOCK = ("timers", "clock")


class OnlyTimers(DepartureBounded):
    """As DepartureBounded; all that is not of the clock goes as in natural order."""

    def choose(self, point: ChoicePoint) -> int:
        return super().choose(point) if point.kind in _OF_THE_CLOCK else 0
