"""Natural order: what is due lands now, in order, on time and without faults."""

from __future__ import annotations

from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import NEVER_PROVES, Once


class NaturalOrder(Once):
    """Runs one execution, without a departure."""

    name = "natural"
    next_to_try = NEVER_PROVES
    covers = "the natural schedule"

    def choose(self, point: ChoicePoint) -> int:
        return 0
