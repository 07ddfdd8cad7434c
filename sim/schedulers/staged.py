"""The default: natural order, some random executions, few departures, then every schedule.

Bugs that are everywhere show in the first executions, narrow ones in those with few departures, and
the last stage proves. Which stages, and how long each, was measured: tests/benchmarks/README.md.
"""

from __future__ import annotations

from sim.kernel.observer import Observer
from sim.kernel.schedule import ChoicePoint
from sim.schedulers.base import PROVE_LESS, Scheduler
from sim.schedulers.natural import NaturalOrder
from sim.schedulers.random_first import FirstFew
from sim.schedulers.random_walk import RandomWalk
from sim.schedulers.states.matching import StateMatching
from sim.schedulers.tree_search import DepartureBounded, DepthFirst

RANDOM_EXECUTIONS = 10
DEPARTURES = 1
# Of a large tree these are many, and states find as much by then.
DEPARTURE_EXECUTIONS = 200


class Staged(Scheduler):
    """One scheduler after the other, until one of them has seen every schedule.

    random_executions: after the natural one. departures: up to how many are visited before the last
    stage, in DEPARTURE_EXECUTIONS at most; None to leave that out. The last stage matches states.
    Where an audit finds that they were read wrongly, they prove nothing, and it is done again
    without, depth-first. reads_states: False to do that at once, as an execution in another process
    needs it.
    """

    name = "staged"

    def __init__(
        self,
        seed: int = 0,
        *,
        random_executions: int = RANDOM_EXECUTIONS,
        departures: int | None = DEPARTURES,
        reads_states: bool = True,
    ) -> None:
        self._bounded = None if departures is None else DepartureBounded(departures, departures)
        if self._bounded is not None:
            # It begins there: natural order was the first execution, and is in each bound.
            self._bounded.bound = self._bounded.departures_max
        self._states = StateMatching(seed=seed) if reads_states else None
        random = FirstFew(RandomWalk(seed), random_executions)
        few = self._bounded and FirstFew(self._bounded, DEPARTURE_EXECUTIONS)
        stages = (NaturalOrder(), random, few, self._states or DepthFirst())
        self._to_come: list[Scheduler] = [each for each in stages if each is not None]
        self._now = self._to_come.pop(0)
        self._mistaken: str | None = None
        self._has_choices = False
        # Without a choice in natural order there is one schedule.
        self._is_single = False

    @property
    def at_work(self) -> str:
        return self._now.at_work

    @property
    def is_exhausted(self) -> bool:
        if self._is_single or (self._bounded is not None and self._bounded.saw_all):
            return True
        return not self._to_come and self._now.is_exhausted

    @property
    def covers(self) -> str:
        """Where no state was met twice, none was pruned, and the proof does not rest on them."""
        if isinstance(self._now, StateMatching) and self._now.met_again:
            return self._now.covers
        is_last = self._is_single or not self._to_come
        return DepthFirst.covers if is_last else self._now.covers

    @property
    def matches_states(self) -> bool:
        return self._now.matches_states

    @property
    def complete(self) -> float | None:
        return 1.0 if self.is_exhausted else self._now.complete

    @property
    def bound_finished(self) -> int | None:
        return self._now.bound_finished

    @property
    def next_to_try(self) -> str | None:
        if self._to_come:
            return "give it more, or let the program do less: it came to few schedules"
        if self._mistaken is not None:
            why = self._mistaken.partition(":")[0]
            return f"{why}, so every schedule is run; {PROVE_LESS}"
        if self._states is not None:
            return self._states.next_to_try
        return f"give it more, let the program do less, or {PROVE_LESS}"

    def next_execution(self) -> bool:
        while not self._now.next_execution():
            self._is_single = isinstance(self._now, NaturalOrder) and not self._has_choices
            if self.is_exhausted or not self._to_come:
                return False
            self._now = self._to_come.pop(0)
        return True

    def observer(self) -> Observer | None:
        return self._now.observer()

    def choose(self, point: ChoicePoint) -> int:
        self._has_choices = True
        return self._now.choose(point)

    def learn(self, violated: str | None, labels: set[str]) -> str | None:
        wrong = self._now.learn(violated, labels)
        if wrong is None or self._now is not self._states:
            return wrong
        self._mistaken = wrong
        self._to_come.append(DepthFirst())
        self._now = self._to_come.pop(0)
        return None
