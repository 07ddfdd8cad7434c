"""Natural order: what is due lands now, in order, on time and without faults."""

from __future__ import annotations

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Once


class NaturalOrder(Once):
    """Runs one execution, without a departure."""

    name = "natural"
    covers = "the natural schedule"

    def choose(self, point: ChoicePoint) -> int:
        return 0
