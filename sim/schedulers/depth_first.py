"""Depth-first search over all choices: the plain reference, without reduction."""

from __future__ import annotations

from typing import Self

from sim.errors import Nondeterminism
from sim.schedule import ChoicePoint


class DepthFirst:
    """Sees every execution once: the natural one first, then the last choice is varied first."""

    name = "depth-first"
    covers = "every schedule"

    # It counts no departures.
    bound = spent = 0

    def __init__(self) -> None:
        # The choices of this execution, and how many options each choice point has. The first
        # `_position` of them are taken; the others were taken by the execution before.
        self._path: list[int] = []
        self._widths: list[int] = []
        self._position = 0
        # The choices before this one are not varied: what they lead to otherwise is another part's.
        self._floor = 0
        self._begun = False
        self._exhausted = False

    def next_execution(self) -> bool:
        if self._begun:
            self._backtrack()
        self._begun = True
        self._position = 0
        return not self._exhausted

    def choose(self, point: ChoicePoint) -> int:
        position, width = self._position, len(point.options)
        self._position += 1
        if position == len(self._path):
            self._path.append(0)
            self._widths.append(width)
        elif self._widths[position] != width:
            raise Nondeterminism(
                f"choice point {position} ({point.kind} at {point.at:.6f} s) has {width} options "
                f"({', '.join(option.name for option in point.options)}); under the same choices "
                f"it had {self._widths[position]} before. Something that no schedule decides "
                f"differs between two executions: a global that keeps state, the wall clock, "
                f"random, or a set of objects that hash by address"
            )
        return self._path[position]

    @property
    def is_at_new_point(self) -> bool:
        """Whether the next choice point is one that no execution has come by."""
        return self._position == len(self._path)

    @property
    def is_exhausted(self) -> bool:
        return self._exhausted

    @property
    def complete(self) -> float | None:
        """The share of the tree left of the current path, each choice weighing its options alike.

        It counts weight, not executions: half of the weight may hold most of the executions.
        """
        if self._exhausted:
            return 1.0
        done, weight = 0.0, 1.0
        for option, width in zip(self._path, self._widths, strict=True):
            weight /= width
            done += option * weight
        return done

    # -- its division: see sim/parallel.py

    was_cut = False

    @property
    def unseen(self) -> float:
        """The share of the tree that is left: the current path, and what lies behind it."""
        unseen, weight = 0.0, 1.0
        for index, (option, width) in enumerate(zip(self._path, self._widths, strict=True)):
            weight /= width
            if index >= self._floor:
                unseen += weight * (width - 1 - option)
        return unseen + weight

    def resume(self) -> None:
        """The execution that was begun has not been run: `next_execution` begins it again."""
        self._begun = False

    def split(self) -> Self | None:
        """Gives away the later part of what is left; None if there is too little known of it."""
        for index in range(self._floor, len(self._path)):
            if self._path[index] + 1 < self._widths[index]:
                later = type(self)()
                later._path = [*self._path[:index], self._path[index] + 1]
                later._widths = self._widths[: index + 1]
                later._floor = index
                self._floor = index + 1
                return later
        return None

    def begin_round(self) -> Self | None:
        """All there is to see, in one part; None once that was seen."""
        return None if self._exhausted else type(self)()

    def end_round(self, was_cut: bool) -> None:
        self._exhausted = True

    def _backtrack(self) -> None:
        if self._position < len(self._path):
            raise Nondeterminism(
                f"an execution ended after {self._position} choice points; under the same choices "
                f"it had at least {len(self._path)} before"
            )
        while len(self._path) > self._floor and self._path[-1] == self._widths[-1] - 1:
            self._path.pop()
            self._widths.pop()
        if len(self._path) > self._floor:
            self._path[-1] += 1
        else:
            self._exhausted = True
