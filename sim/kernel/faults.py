"""How many faults an execution may have: each is a departure, taken where a program allows it."""

from __future__ import annotations


class Faults:
    """The budget of one execution. faults_max: the program's; one unless it says more.

    bounds_hit: where it is noted that the budget limited what was explored.
    """

    def __init__(self, bounds_hit: set[str]) -> None:
        self.faults_max = 1
        self.taken = 0
        self._bounds_hit = bounds_hit

    def may_happen(self) -> bool:
        """Whether one more may; to be asked where one is allowed."""
        if self.taken < self.faults_max:
            return True
        self._bounds_hit.add(f"faults_max={self.faults_max}")
        return False

    def canonical_state(self) -> object:
        return self.faults_max - self.taken
