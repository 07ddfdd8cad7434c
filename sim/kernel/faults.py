"""How many faults an execution may have: each is a departure, taken where a program allows it."""

from __future__ import annotations

from typing import NoReturn, Protocol

from sim.kernel.arguments import wrong_with


class LoopOfFaults(Protocol):
    """What the budget uses of the program's own loop."""

    bounds_hit: set[str]

    def misuse(self, what: str) -> NoReturn: ...


class Faults:
    """The one budget of an execution, of its hosts and of its network alike.

    faults_max: how many may happen, the program's to set; one unless it says more. taken: how many
    have. Where the budget limited what was explored, its loop's `bounds_hit` says so.
    """

    def __init__(self, loop: LoopOfFaults) -> None:
        self._faults_max = 1
        self.taken = 0
        self._loop = loop

    @property
    def faults_max(self) -> int:
        return self._faults_max

    @faults_max.setter
    def faults_max(self, most: int) -> None:
        wrong = wrong_with({"faults_max": most})
        if wrong is not None:
            self._loop.misuse(f"world.faults: {wrong}")
        self._faults_max = most

    def may_happen(self) -> bool:
        """Whether one more may; to be asked where one is allowed."""
        if self.taken < self._faults_max:
            return True
        self._loop.bounds_hit.add(f"faults_max={self._faults_max}")
        return False

    def canonical_state(self) -> object:
        return self._faults_max - self.taken
