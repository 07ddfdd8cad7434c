"""Natural order: what is due lands now, in order, on time and without faults."""

from __future__ import annotations

from sim.schedule import ChoicePoint


class NaturalOrder:
    """Runs one execution, without a departure."""

    name = "natural"
    is_exhausted = False
    complete = None
    covers = "the natural schedule"

    def __init__(self) -> None:
        self._begun = False

    def next_execution(self) -> bool:
        begun, self._begun = self._begun, True
        return not begun

    def choose(self, point: ChoicePoint) -> int:
        return 0
