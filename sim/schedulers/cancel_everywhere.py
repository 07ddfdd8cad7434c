"""Cancels each task at each of its steps, once, and once more during the clean-up that follows."""

from __future__ import annotations

from sim.schedule import ChoicePoint
from sim.schedulers.base import Scheduler


class CancelEverywhere(Scheduler):
    """Natural order, but for the cancels that the program offers (`World.offer_cancels`).

    First one execution without a cancel; then for each offer one execution that takes it, and
    one that takes the next offer to the same task as well.
    """

    name = "cancel everywhere"
    is_exhausted = False
    covers = "a cancel at every step of every task, and a second one during the clean-up"

    def __init__(self) -> None:
        # The offer to be taken, counted from 0, and whether the next one is taken as well; none
        # in the first execution, which shows how many there are.
        self._target = -1
        self._twice = True
        self._offers_in_all: int | None = None
        self._offers = 0
        self._cancelled: str | None = None
        self._begun = False

    def next_execution(self) -> bool:
        if self._begun:
            if self._offers_in_all is None:
                self._offers_in_all = self._offers
            self._advance()
            if self._target == self._offers_in_all:
                self.is_exhausted = True
                return False
        self._begun = True
        self._offers = 0
        self._cancelled = None
        return True

    def choose(self, point: ChoicePoint) -> int:
        if point.kind != "cancel":
            return 0
        offer, self._offers = self._offers, self._offers + 1
        task = point.options[1].name
        if offer == self._target:
            self._cancelled = task
            return 1
        if self._twice and task == self._cancelled:
            self._cancelled = None
            return 1
        return 0

    def _advance(self) -> None:
        if self._twice:
            self._target += 1
        self._twice = not self._twice
