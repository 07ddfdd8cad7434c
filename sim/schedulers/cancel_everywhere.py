"""Cancels each task at each of its steps, once, and once more during the clean-up that follows."""

from __future__ import annotations

from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint
from sim.kernel.world import World
from sim.schedulers.base import Scheduler

# Of the tasks that a claim leaves out.
NAMED_MAX = 4


class _Withheld(Observer):
    """Collects, over all executions, which tasks took steps and were offered no cancel."""

    follows = False

    def __init__(self) -> None:
        self.names: set[str] = set()

    def begin(self, loop: SimLoop, world: World) -> None:
        self._loop = loop

    def end(self) -> None:
        self.names |= self._loop.cancels_withheld


class CancelEverywhere(Scheduler):
    """Natural order, except for the cancels that the program offers (`World.offer_cancels`).

    First one execution without a cancel; then for each offer one execution that takes it, and
    one that takes the next offer to the same task as well.
    """

    name = "cancel everywhere"
    is_exhausted = False

    def __init__(self) -> None:
        # The offer to be taken, counted from 0, and whether the next one is taken as well; none
        # in the first execution, which shows how many there are.
        self._target = -1
        self._twice = True
        self._offers_in_all: int | None = None
        self._offers = 0
        self._cancelled: str | None = None
        self._begun = False
        self._withheld = _Withheld()

    @property
    def covers(self) -> str:
        others = sorted(self._withheld.names - {"program"})
        named = ", ".join(others[:NAMED_MAX]) + (", …" if len(others) > NAMED_MAX else "")
        left_out = f" and {named}, which `to=` leaves out" if others else ""
        return (
            f"a cancel at every step of every task but the program's own{left_out}, "
            f"and a second one during the clean-up"
        )

    @property
    def vacuous(self) -> str | None:
        if self._offers_in_all != 0:
            return None
        return (
            "no task was cancelled, since no step of one was offered for it: call "
            "world.offer_cancels() where the program begins, with a `to=` that lets a task through"
        )

    def observer(self) -> Observer:
        return self._withheld

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
