"""Depth-first search over all choices: the plain reference, without reduction."""

from __future__ import annotations

from sim.errors import Nondeterminism
from sim.schedule import ChoicePoint


class DepthFirst:
    """Sees every execution once: the natural one first, then the last choice is varied first."""

    name = "depth-first"
    covers = "every schedule"

    def __init__(self) -> None:
        # The choices of this execution, and how many options each choice point has. The first
        # `_position` of them are taken; the others were taken by the execution before.
        self._path: list[int] = []
        self._widths: list[int] = []
        self._position = 0
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

    def _backtrack(self) -> None:
        if self._position < len(self._path):
            raise Nondeterminism(
                f"an execution ended after {self._position} choice points; under the same choices "
                f"it had at least {len(self._path)} before"
            )
        while self._path and self._path[-1] == self._widths[-1] - 1:
            self._path.pop()
            self._widths.pop()
        if self._path:
            self._path[-1] += 1
        else:
            self._exhausted = True
