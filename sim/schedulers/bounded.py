"""Depth-first search over all schedules with few departures, for trees too large to exhaust."""

from __future__ import annotations

from typing import Self

from sim.errors import Nondeterminism
from sim.schedule import ChoicePoint


class DepartureBounded:
    """Sees every execution without a departure, then every one with up to one, and so on.

    A departure is one choice that is not the natural one; to keep an outside event waiting for
    several polls is one. The search is exhausted at `departures_max`, and a proof once all
    executions with up to `departures_min` were seen; `bound_finished` is how far it came.
    """

    def __init__(self, departures_min: int, departures_max: int | None = None) -> None:
        self.departures_min = departures_min
        self.departures_max = departures_min if departures_max is None else departures_max
        self.bound_finished = -1
        # No schedule has more departures than `bound_finished`.
        self.saw_all = False
        self._bound = 0
        # The choices of this execution, and the costs of the options of each. The first
        # `_position` are taken, and have cost `_spent`.
        self._path: list[int] = []
        self._costs: list[tuple[int, ...]] = []
        self._position = 0
        self._spent = 0
        self._begun = False
        # The choices before this one are not varied: what they lead to otherwise is another part's.
        self._floor = 0
        # Whether the bound has kept an option from being taken, so that a larger one has more.
        self.was_cut = False

    @property
    def name(self) -> str:
        return f"up to {self._bound} departures"

    def next_execution(self) -> bool:
        if self._begun and not self._backtrack() and not self._next_bound():
            return False
        self._begun = True
        self._position = 0
        self._spent = 0
        return True

    def choose(self, point: ChoicePoint) -> int:
        position = self._position
        self._position += 1
        if position == len(self._path):
            self._path.append(0)
            self._costs.append(tuple(point.costs))
        elif len(self._costs[position]) != len(point.options):
            raise Nondeterminism(
                f"choice point {position} ({point.kind} at {point.at:.6f} s) has "
                f"{len(point.options)} options; under the same choices it had "
                f"{len(self._costs[position])} before: something that no schedule decides differs "
                f"between two executions"
            )
        option = self._path[position]
        self._spent += self._costs[position][option]
        return option

    @property
    def bound(self) -> int:
        """How many departures there may be in the round that is under way."""
        return self._bound

    @property
    def spent(self) -> int:
        """How many of them the execution under way has made so far."""
        return self._spent

    @property
    def is_at_new_point(self) -> bool:
        """Whether the next choice point is one that no execution of the round has come by."""
        return self._position == len(self._path)

    @property
    def is_exhausted(self) -> bool:
        """Whether it came as far as a proof has to: its bound belongs to the claim."""
        return self.saw_all or self.bound_finished >= self.departures_min

    @property
    def covers(self) -> str:
        if self.saw_all:
            return "every schedule"
        return f"every schedule with up to {self.bound_finished} departures"

    @property
    def complete(self) -> float | None:
        """1.0 if no schedule has more departures; else nobody knows how many there are."""
        return 1.0 if self.saw_all else None

    # -- its division: see sim/parallel.py

    # How much lies within the bound is not known.
    unseen = 0.0

    def resume(self) -> None:
        """The execution that was begun has not been run: `next_execution` begins it again."""
        self._begun = False

    def split(self) -> Self | None:
        """Gives away the later part of what is left; None if there is too little known of it."""
        spent, was_cut = 0, False
        for index, (option, costs) in enumerate(zip(self._path, self._costs, strict=True)):
            if index >= self._floor:
                for other in range(option + 1, len(costs)):
                    if spent + costs[other] <= self._bound:
                        later = self._part()
                        later._path = [*self._path[:index], other]
                        later._costs = self._costs[: index + 1]
                        later._floor = index
                        # What this part will not come by any more, since its floor is higher.
                        later.was_cut = was_cut or other > option + 1
                        self._floor = index + 1
                        return later
                was_cut = was_cut or option + 1 < len(costs)
            spent += costs[option]
        return None

    def begin_round(self) -> Self | None:
        """All within the next bound, in one part; None if no bound is left."""
        is_through = self.saw_all or self.bound_finished >= self.departures_max
        return None if is_through else self._part()

    def end_round(self, was_cut: bool) -> None:
        self.was_cut = was_cut
        self._next_bound()

    def _part(self) -> Self:
        part = type(self)(self._bound)
        part._bound = self._bound
        return part

    def _backtrack(self) -> bool:
        if self._position < len(self._path):
            raise Nondeterminism(
                f"an execution ended after {self._position} choice points; under the same choices "
                f"it had at least {len(self._path)} before"
            )
        spent = self._spent
        while len(self._path) > self._floor:
            costs, option = self._costs.pop(), self._path.pop()
            spent -= costs[option]
            for other in range(option + 1, len(costs)):
                if spent + costs[other] <= self._bound:
                    self._costs.append(costs)
                    self._path.append(other)
                    return True
                self.was_cut = True
        return False

    def _next_bound(self) -> bool:
        """All within this bound were seen; the next larger one sees them again, and more."""
        self.bound_finished = self._bound
        self.saw_all = not self.was_cut
        if self.saw_all or self._bound >= self.departures_max:
            return False
        self._bound += 1
        self.was_cut = False
        return True
