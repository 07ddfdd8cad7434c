"""The one interface of whatever answers choice points."""

from __future__ import annotations

from typing import Protocol, Self, runtime_checkable

from sim.happens_before import History
from sim.readers import Constants
from sim.schedule import ChoicePoint


class Scheduler(Protocol):
    """Lives across executions: told when one begins, asked at each of its choice points."""

    @property
    def name(self) -> str: ...

    def next_execution(self) -> bool:
        """Begins another execution; False if there is none left to see."""
        ...

    def choose(self, point: ChoicePoint) -> int:
        """The index of an option of `point`; 0 is the natural one."""
        ...

    @property
    def is_exhausted(self) -> bool:
        """Whether every execution has been seen, so that the absence of a violation is a proof."""
        ...

    @property
    def covers(self) -> str:
        """What has been seen once it is exhausted, in words: the claim of a proof."""
        ...

    @property
    def complete(self) -> float | None:
        """Which part of the tree has been seen, 0..1, or None where that is unknown."""
        ...


class Following:
    """A scheduler that does what another does, but for what the class that inherits changes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    @property
    def name(self) -> str:
        return self._scheduler.name

    @property
    def covers(self) -> str:
        return self._scheduler.covers

    @property
    def is_exhausted(self) -> bool:
        return self._scheduler.is_exhausted

    @property
    def complete(self) -> float | None:
        return self._scheduler.complete

    def next_execution(self) -> bool:
        return self._scheduler.next_execution()

    def choose(self, point: ChoicePoint) -> int:
        return self._scheduler.choose(point)


class Learning:
    """A scheduler that is told what its executions come to.

    A class to inherit from, and no Protocol: each execution asks whether its scheduler is one.
    """

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        """Told after each execution; why its findings are worth nothing, or None."""
        raise NotImplementedError


class Reducing(Learning):
    """A scheduler that learns from what happened before what."""

    def begin_history(self) -> History | None:
        """What an execution that begins is to tell; None if it need not tell anything."""
        raise NotImplementedError


class Matching(Learning):
    """A scheduler that knows states again."""

    def begin_states(self, states: States) -> None:
        """An execution begins, whose states can be read."""
        raise NotImplementedError


class States(Protocol):
    """The states of one execution, and its end."""

    @property
    def labels(self) -> set[str]: ...

    @property
    def spins_are_many(self) -> bool: ...

    def digest(
        self,
        point: ChoicePoint,
        constants: Constants,
        *,
        with_labels: bool,
        with_spins: bool,
        with_kept: bool,
    ) -> bytes: ...

    def stop(self) -> None:
        """What follows is known: the execution ends with the iteration under way."""
        ...


@runtime_checkable
class Divisible(Scheduler, Protocol):
    """A search whose tree can be divided into parts, for several processes: see sim/parallel.py.

    It is done in rounds, each of which sees one tree.
    """

    def begin_round(self) -> Scheduler | None:
        """All that the next round sees, as one part; None if no round is left.

        A part is a scheduler that can be pickled; one that is a `Part` can be divided further.
        """
        ...

    def end_round(self, was_cut: bool) -> None:
        """Told when all parts were seen, and whether a bound has kept anything from any."""
        ...


@runtime_checkable
class Part(Scheduler, Protocol):
    """A stretch of a tree, in the order in which the search sees it."""

    was_cut: bool

    @property
    def unseen(self) -> float:
        """The share of the whole tree that is left of it, each choice weighing its options alike.

        Asked after `next_execution`, before it is run.
        """
        ...

    def resume(self) -> None:
        """The execution that was begun has not been run: `next_execution` begins it again."""
        ...

    def split(self) -> Self | None:
        """Gives away the later part of what is left; None if there is too little known of it."""
        ...
