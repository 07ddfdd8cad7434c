"""The interface of all schedulers."""

from __future__ import annotations

from typing import Self

from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint

NEVER_PROVES = 'it never proves; strategy="staged", the default, does'
"""What to try next where a scheduler only refutes."""

PROVE_LESS = 'prove less, with strategy="departures"'
"""What to try next where every schedule is too many."""


class Scheduler:
    """Lives across executions: `next_execution` begins one, `choose` answers its choice points.

    A base class: these two have no default.
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
        """Its observer of the execution that begins, or None."""
        return None

    def choose(self, point: ChoicePoint) -> int:
        """The index of an option of `point`; 0 is the natural one."""
        raise NotImplementedError

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        """Called after each execution; returns why its findings cannot be trusted, or None."""
        return None

    @property
    def is_exhausted(self) -> bool:
        """Whether every execution was visited, so that the absence of a violation is a proof."""
        return False

    @property
    def covers(self) -> str:
        """What was visited once it is exhausted, in words: the claim of a proof."""
        return "random schedules"

    @property
    def matches_states(self) -> bool:
        """Whether a proof rests on what was read of states."""
        return False

    @property
    def vacuous(self) -> str | None:
        """Why its proof would be one of nothing, though it is exhausted; None if it is not."""
        return None

    @property
    def next_to_try(self) -> str | None:
        """What to do where it ended without a verdict, in a sentence; None without an idea."""
        return None

    @property
    def complete(self) -> float | None:
        """Which part of the tree was visited, 0..1, or None where that is unknown."""
        return None

    @property
    def bound_finished(self) -> int | None:
        """The bound on departures up to which all schedules were visited, if it has one."""
        return None

    @property
    def states(self) -> int | None:
        """How many states were visited; None where none are read."""
        return None


class Once(Scheduler):
    """A scheduler of one execution."""

    _begun = False

    def next_execution(self) -> bool:
        begun, self._begun = self._begun, True
        return not begun


class Following(Scheduler):
    """A scheduler that delegates to another; a subclass overrides what it changes."""

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
    def matches_states(self) -> bool:
        return self._scheduler.matches_states

    @property
    def vacuous(self) -> str | None:
        return self._scheduler.vacuous

    @property
    def next_to_try(self) -> str | None:
        return self._scheduler.next_to_try

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
    """A search whose tree can be divided into parts, for several processes (`parallel.py`).

    It is done in rounds, each of which visits one tree.
    """

    def begin_round(self) -> Scheduler | None:
        """All that the next round visits, as one part; None if no round remains.

        A part is a scheduler that can be pickled; one that is a `Part` can be divided further.
        """
        raise NotImplementedError

    def end_round(self, was_cut: bool) -> None:
        """Called when all parts were visited. was_cut: whether a bound pruned any of them."""
        raise NotImplementedError


class Part(Scheduler):
    """A part of a tree that a search visits in one stretch."""

    was_cut = False

    @property
    def unseen(self) -> float:
        """Its unvisited share of the whole tree; at each choice the options have equal weight.

        Call it between `next_execution` and the run.
        """
        raise NotImplementedError

    def resume(self) -> None:
        """The execution that was begun did not run: `next_execution` begins it again."""
        raise NotImplementedError

    def split(self) -> Self | None:
        """Splits off the unvisited part after the current branch; None if there is none yet."""
        raise NotImplementedError
