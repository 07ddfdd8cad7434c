"""Depth-first search over the choices of a program: all of them, or all with few departures.

It is the plain reference, without reduction, with which every other search is compared.
"""

from __future__ import annotations

import math
from typing import Self

from sim.counted import counted
from sim.kernel.arguments import misused, require
from sim.kernel.errors import Nondeterminism
from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import Divisible, Part


class TreeSearch(Divisible, Part):
    """Visits every execution of its tree once: the natural one first, then the last choice varied.

    bound: how much the choices of an execution may cost together, in the current round.
    """

    def __init__(self, bound: float = math.inf) -> None:
        self.bound = bound
        # What the choices of the current execution have cost so far.
        self.spent = 0
        # Whether the bound has pruned an option, so that a larger one visits more.
        self.was_cut = False
        # The choices of this execution, and the costs of the options of each. The first
        # `_position` are taken; the others were taken by the execution before.
        self._path: list[int] = []
        self._costs: list[tuple[int, ...]] = []
        self._position = 0
        # The choices before this one are not varied: their other options belong to other parts.
        self._floor = 0
        self._begun = False

    def next_execution(self) -> bool:
        if self._begun and not self._backtrack() and not self._next_round():
            return False
        self._begun = True
        self._position = 0
        self.spent = 0
        return True

    def choose(self, point: ChoicePoint) -> int:
        position = self._position
        self._position += 1
        if position == len(self._path):
            self._path.append(0)
            self._costs.append(self._costs_of(point))
        elif len(self._costs[position]) != len(point.options):
            raise Nondeterminism(
                f"choice point {position} ({point.kind} at {point.at:.6f} s) has "
                f"{len(point.options)} options "
                f"({', '.join(option.name for option in point.options)}); under the same choices "
                f"it had {len(self._costs[position])} before. Something that no schedule decides "
                f"differs between two executions: a global that keeps state, the wall clock, "
                f"random, or a set of objects that hash by address"
            )
        option = self._path[position]
        self.spent += self._costs[position][option]
        return option

    def _costs_of(self, point: ChoicePoint) -> tuple[int, ...]:
        raise NotImplementedError

    def _next_round(self) -> bool:
        """All within this bound were visited; whether a larger one is to be tried."""
        raise NotImplementedError

    def _part(self) -> Self:
        """A search of the whole tree within the bound of this round."""
        raise NotImplementedError

    @property
    def is_at_new_point(self) -> bool:
        """Whether no execution of the round has visited the next choice point."""
        return self._position == len(self._path)

    def _backtrack(self) -> bool:
        if self._position < len(self._path):
            points = counted(self._position, "choice point")
            raise Nondeterminism(
                f"an execution ended after {points}; under the same choices "
                f"it had at least {len(self._path)} before"
            )
        spent = self.spent
        while len(self._path) > self._floor:
            costs, option = self._costs.pop(), self._path.pop()
            spent -= costs[option]
            for other in range(option + 1, len(costs)):
                if spent + costs[other] <= self.bound:
                    self._costs.append(costs)
                    self._path.append(other)
                    return True
                self.was_cut = True
        return False

    # -- its division: see sim/exploration/parallel.py

    @property
    def unseen(self) -> float:
        unseen, weight = 0.0, 1.0
        for index, (option, costs) in enumerate(zip(self._path, self._costs, strict=True)):
            weight /= len(costs)
            if index >= self._floor:
                unseen += weight * (len(costs) - 1 - option)
        return unseen + weight

    def resume(self) -> None:
        self._begun = False

    def split(self) -> Self | None:
        spent, was_cut = 0, False
        for index, (option, costs) in enumerate(zip(self._path, self._costs, strict=True)):
            if index >= self._floor:
                for other in range(option + 1, len(costs)):
                    if spent + costs[other] <= self.bound:
                        later = self._part()
                        later._path = [*self._path[:index], other]
                        later._costs = self._costs[: index + 1]
                        later._floor = index
                        # This part does not visit it any more, since its floor is higher.
                        later.was_cut = was_cut or other > option + 1
                        self._floor = index + 1
                        return later
                was_cut = was_cut or option + 1 < len(costs)
            spent += costs[option]
        return None

    def end_round(self, was_cut: bool) -> None:
        self.was_cut = was_cut
        self._next_round()


class DepthFirst(TreeSearch):
    """Every execution: no choice costs anything."""

    name = "depth-first"
    covers = "every schedule"
    is_exhausted = False
    next_to_try = (
        'strategy="staged", the default, finds most bugs sooner and proves with fewer executions; '
        '"departures" proves less in less'
    )

    @property
    def complete(self) -> float | None:
        """The share of the tree before the current path; options of a choice have equal weight.

        It counts weight, not executions: half of the weight may hold most of the executions.
        """
        if self.is_exhausted:
            return 1.0
        done, weight = 0.0, 1.0
        for option, costs in zip(self._path, self._costs, strict=True):
            weight /= len(costs)
            done += option * weight
        return done

    def begin_round(self) -> Self | None:
        return None if self.is_exhausted else self._part()

    def _costs_of(self, point: ChoicePoint) -> tuple[int, ...]:
        return (0,) * len(point.options)

    def _next_round(self) -> bool:
        self.is_exhausted = True
        return False

    def _part(self) -> Self:
        return type(self)()


class DepartureBounded(TreeSearch):
    """Visits every execution without a departure, then every one with up to one, and so on.

    A departure is one choice that is not the natural one; to keep an outside event waiting for
    several polls is one. The search is exhausted at `departures_max`, and a proof once all
    executions with up to `departures_min` were visited; `bound_finished` is the last full round.
    """

    bound_finished = -1
    # No schedule has more departures than `bound_finished`.
    saw_all = False

    def __init__(self, departures_min: int, departures_max: int | None = None) -> None:
        super().__init__(0)
        require(departures_min=departures_min, departures_max=departures_max)
        if departures_max is not None and departures_max < departures_min:
            raise misused(
                f"departures_max={departures_max} is less than departures_min={departures_min}"
            )
        self.departures_min = departures_min
        self.departures_max = departures_min if departures_max is None else departures_max

    @property
    def name(self) -> str:
        return f"up to {counted(self.bound, 'departure')}"

    @property
    def is_exhausted(self) -> bool:
        """Whether it has visited enough for a proof, whose claim names the bound."""
        return self.saw_all or self.bound_finished >= self.departures_min

    @property
    def covers(self) -> str:
        if self.saw_all:
            return "every schedule"
        return f"every schedule with up to {counted(self.bound_finished, 'departure')}"

    @property
    def next_to_try(self) -> str:
        if self.bound_finished < 1:
            return "give it more, or let the program do less"
        return f"give it more, or prove less: DepartureBounded({self.bound_finished}) was finished"

    @property
    def complete(self) -> float | None:
        """1.0 if no schedule has more departures; else unknown."""
        return 1.0 if self.saw_all else None

    def begin_round(self) -> Self | None:
        is_through = self.saw_all or self.bound_finished >= self.departures_max
        return None if is_through else self._part()

    def _costs_of(self, point: ChoicePoint) -> tuple[int, ...]:
        return tuple(point.costs)

    def _next_round(self) -> bool:
        """The next larger bound visits the executions of this one again, and more."""
        self.bound_finished = int(self.bound)
        self.saw_all = not self.was_cut
        if self.saw_all or self.bound >= self.departures_max:
            return False
        self.bound += 1
        self.was_cut = False
        return True

    def _part(self) -> Self:
        part = type(self)(int(self.bound))
        part.bound = self.bound
        return part
