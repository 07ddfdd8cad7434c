"""The one interface of whatever answers choice points."""

from __future__ import annotations

from typing import Protocol

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
