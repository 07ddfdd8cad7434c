"""How much of a tree of schedules is left, from random descents.

Knuth, "Estimating the Efficiency of Backtrack Programs", Math. Comp. 29, 1975: a random descent
that reaches a leaf with probability p counts it 1/p times, and the mean over descents is the number
of leaves, whatever the probabilities are. Here a descent begins in what a search has not seen, so
that it is the number of executions that are left. Each descent is an execution of its own.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - seeded with a constant
from typing import Protocol, runtime_checkable

from sim.schedule import ChoicePoint

ESTIMATE_PART = 0.1
"""Which part of the budget is kept for the descents, if the search is not through before it."""

DESCENTS_MIN = 30
DESCENTS_MAX = 1000
RATIO_MAX = 100.0
"""Two orders of magnitude: a wider interval says nothing."""

EFFECTIVE_MIN = 30.0
"""Where a few descents weigh more than all others, larger ones are likely to have been missed."""

CONFIDENCE = 0.99
MARGIN = 3.0
_RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Estimate:
    """executions: about how many are left. low, high: an interval for it, see `interval`."""

    executions: float
    low: float
    high: float
    descents: int

    def __str__(self) -> str:
        return (
            f"about {_rounded(self.executions)} executions are left, between {_rounded(self.low)} "
            f"and {_rounded(self.high)} (from {self.descents} random descents)"
        )


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a search has not seen: the subtree below `path`, and the later options at each of
    its choice points from `floor` on.

    costs: of the options of each choice point on the path, in departures. bound: how many
    departures a schedule may have; None for as many as it likes. choice_points: how many an
    execution has, about; used to aim, so an error makes the interval wider and not wrong.
    """

    path: tuple[int, ...]
    costs: tuple[tuple[int, ...], ...]
    floor: int
    bound: int | None = None
    choice_points: int = 0

    def subtrees(self) -> list[tuple[tuple[int, ...], float]]:
        """The path that leads to each, and with which probability a descent takes that path."""
        found = []
        probability, spent = 1.0, 0
        for index, (option, costs) in enumerate(zip(self.path, self.costs, strict=True)):
            chances = self.chances(costs, index, spent)
            if index >= self.floor:
                found += [
                    ((*self.path[:index], later), probability * chances[later])
                    for later in range(option + 1, len(costs))
                    if chances[later]
                ]
            probability *= chances[option]
            spent += costs[option]
        return [*found, (self.path, probability)]

    def chances(self, costs: Sequence[int], index: int, spent: int) -> list[float]:
        """With which probability a descent takes each option; 0 for those beyond the bound."""
        if self.bound is None:
            return [1 / len(costs)] * len(costs)
        left = self.bound - spent
        free = costs.count(0)
        departing = len(costs) - free if left > 0 else 0
        if not departing or not free:
            return [1 / (free or departing) if cost <= left else 0.0 for cost in costs]
        # Evenly over the choice points that are still to come, as departures in a tree are.
        departs = left / (left + max(1, self.choice_points - index))
        return [departs / departing if cost else (1 - departs) / free for cost in costs]


@runtime_checkable
class Searching(Protocol):
    """A scheduler that knows what it has not seen."""

    def frontiers(self) -> list[Frontier]:
        """Together what is left of the bound at work. After `next_execution`, before it is run."""
        ...


class Descents:
    """Random executions in what a search has not seen, with the probability of each."""

    name = "random descents"
    is_exhausted = False
    complete = None
    covers = "random schedules"

    def __init__(
        self, frontiers: Sequence[Frontier], *, seed: int = 0, descents_max: int = DESCENTS_MAX
    ) -> None:
        self._subtrees = [
            (frontier, path, probability)
            for frontier in frontiers
            for path, probability in frontier.subtrees()
        ]
        weights = [probability for _, _, probability in self._subtrees]
        # How much of the weight of the whole tree lies there.
        self.unseen = sum(weights)
        # Half of the descents go where the weight is, the others to each subtree alike: deep
        # below a long path there may be many leaves of hardly any weight.
        self._probabilities = [
            0.5 * weight / self.unseen + 0.5 / len(weights) for weight in weights
        ]
        self._random = Random(f"descents:{seed}")
        self._descents_max = descents_max
        # For each descent that has ended, one over the probability of its leaf.
        self.weights: list[float] = []
        self._is_under_way = False
        self._frontier = frontiers[0]
        self._path: tuple[int, ...] = ()
        self._probability = 1.0
        self._spent = 0

    def next_execution(self) -> bool:
        if self._is_under_way:
            self.weights.append(1 / self._probability)
        if len(self.weights) == self._descents_max:
            self._is_under_way = False
            return False
        self._is_under_way = True
        (number,) = self._random.choices(range(len(self._subtrees)), self._probabilities)
        self._frontier, self._path, _ = self._subtrees[number]
        self._probability = self._probabilities[number]
        self._spent = 0
        return True

    def choose(self, point: ChoicePoint) -> int:
        costs = (
            tuple(point.costs) if self._frontier.bound is not None else (0,) * len(point.options)
        )
        chances = self._frontier.chances(costs, point.index, self._spent)
        if point.index < len(self._path):
            option = self._path[point.index]
        else:
            (option,) = self._random.choices(range(len(chances)), chances)
            self._probability *= chances[option]
        self._spent += costs[option]
        return option

    def estimate(self) -> Estimate | None:
        """None where the descents are too few, or differ by so much that they say nothing."""
        if len(self.weights) < DESCENTS_MIN or effective(self.weights) < EFFECTIVE_MIN:
            return None
        low, high = interval(self.weights)
        if high > RATIO_MAX * low:
            return None
        return Estimate(statistics.fmean(self.weights), low, high, len(self.weights))


def interval(weights: Sequence[float]) -> tuple[float, float]:
    """From where to where the mean of what the weights were drawn from is likely to be.

    The bootstrap's interval, and half an order of magnitude on either side: the weights have a
    long tail, and the rare, large ones may not have been met.
    """
    generator = Random(len(weights))
    means = sorted(
        statistics.fmean(generator.choices(weights, k=len(weights))) for _ in range(_RESAMPLES)
    )
    outside = round(_RESAMPLES * (1 - CONFIDENCE) / 2)
    return means[outside] / MARGIN, means[-1 - outside] * MARGIN


def effective(weights: Sequence[float]) -> float:
    """How many descents of one weight would tell as much (Kish, "Survey Sampling", 1965)."""
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    return sum(scaled) ** 2 / sum(each**2 for each in scaled)


def _rounded(number: float) -> str:
    """With one digit: more would be made up."""
    if number < 1000:
        return f"{float(f'{number:.1g}'):.0f}"
    digit, _, power = f"{number:.0e}".partition("e")
    return f"{digit}·10^{int(power)}"
