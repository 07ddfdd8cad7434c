"""The one interface of whatever answers choice points."""

from __future__ import annotations

from typing import Protocol

from sim.happens_before import History
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


class Reducing:
    """A scheduler that learns from what happened before what, and from what it came to.

    A class to inherit from, and no Protocol: each execution asks whether its scheduler is one.
    """

    def begin_history(self) -> History | None:
        """What an execution that begins is to tell; None if it need not tell anything."""
        raise NotImplementedError

    def learn(self, outcome: object, has_failed: bool) -> str | None:
        """Told after each execution; why its findings are worth nothing, or None."""
        raise NotImplementedError
