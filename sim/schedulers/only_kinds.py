"""Every schedule whose few departures are at choice points of some kinds: the clock's, say."""

from __future__ import annotations

from collections.abc import Iterable

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.tree_search import DepartureBounded


class OnlyKinds(DepartureBounded):
    """As DepartureBounded; at all other choice points all goes as in natural order."""

    def __init__(self, kinds: Iterable[str], departures: int) -> None:
        super().__init__(departures)
        self._kinds = frozenset(kinds)

    def choose(self, point: ChoicePoint) -> int:
        return super().choose(point) if point.kind in self._kinds else 0
