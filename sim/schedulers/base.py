"""The one interface of whatever answers choice points."""

from __future__ import annotations

from typing import Self

from sim.observer import Observer
from sim.schedule import ChoicePoint


class Scheduler:
    """Lives across executions: told when one begins, asked at each of its choice points.

    To be inherited from: `next_execution` and `choose` are what each has to answer.
    """

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def at_work(self) -> str:
        """Whose execution the last one was, where several take turns."""
        return self.name

    def next_execution(self) -> bool:
        """Begins another execution; False if there is none left to see."""
        raise NotImplementedError

    def observer(self) -> Observer | None:
        """Who is told what happens in the execution that begins; None if nobody need be."""
        return None

    def choose(self, point: ChoicePoint) -> int:
        """The index of an option of `point`; 0 is the natural one."""
        raise NotImplementedError

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        """Told after each execution; why its findings are worth nothing, or None."""
        return None

    @property
    def is_exhausted(self) -> bool:
        """Whether every execution has been seen, so that the absence of a violation is a proof."""
        return False

    @property
    def covers(self) -> str:
        """What has been seen once it is exhausted, in words: the claim of a proof."""
        return "random schedules"

    @property
    def vacuous(self) -> str | None:
        """Why its proof would be one of nothing, though it is exhausted; None if it is not."""
        return None

    @property
    def complete(self) -> float | None:
        """Which part of the tree has been seen, 0..1, or None where that is unknown."""
        return None

    @property
    def bound_finished(self) -> int | None:
        """All schedules with up to so many departures were seen, where it counts them."""
        return None


class Once(Scheduler):
    """A scheduler of one execution."""

    _begun = False

    def next_execution(self) -> bool:
        begun, self._begun = self._begun, True
        return not begun


class Following(Scheduler):
    """A scheduler that does what another does, but for what the class that inherits changes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    @property
    def name(self) -> str:
        return self._scheduler.name

    @property
    def at_work(self) -> str:
        return self._scheduler.at_work

    @property
    def covers(self) -> str:
        return self._scheduler.covers

    @property
    def is_exhausted(self) -> bool:
        return self._scheduler.is_exhausted

    @property
    def vacuous(self) -> str | None:
        return self._scheduler.vacuous

    @property
    def complete(self) -> float | None:
        return self._scheduler.complete

    @property
    def bound_finished(self) -> int | None:
        return self._scheduler.bound_finished

    def next_execution(self) -> bool:
        return self._scheduler.next_execution()

    def observer(self) -> Observer | None:
        return self._scheduler.observer()

    def choose(self, point: ChoicePoint) -> int:
        return self._scheduler.choose(point)

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        return self._scheduler.learn(violated, labels)


class Divisible(Scheduler):
    """A search whose tree can be divided into parts, for several processes: see sim/parallel.py.

    It is done in rounds, each of which sees one tree.
    """

    def begin_round(self) -> Scheduler | None:
        """All that the next round sees, as one part; None if no round is left.

        A part is a scheduler that can be pickled; one that is a `Part` can be divided further.
        """
        raise NotImplementedError

    def end_round(self, was_cut: bool) -> None:
        """Told when all parts were seen, and whether a bound has kept anything from any."""
        raise NotImplementedError


class Part(Scheduler):
    """A stretch of a tree, in the order in which the search sees it."""

    was_cut = False

    @property
    def unseen(self) -> float:
        """The share of the whole tree that is left of it, each choice weighing its options alike.

        Asked after `next_execution`, before it is run.
        """
        raise NotImplementedError

    def resume(self) -> None:
        """The execution that was begun has not been run: `next_execution` begins it again."""
        raise NotImplementedError

    def split(self) -> Self | None:
        """Splits off the later part of what is left; None if there is nothing to split yet."""
        raise NotImplementedError
