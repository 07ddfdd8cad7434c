"""The random schedulers: what they draw, that they draw it again, and who found a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice, pairwise

import pytest

from sim import World, explore, outcomes
from sim.kernel.schedule import NO_MORE, ChoicePoint, Option
from sim.schedulers import (
    PCT,
    DepartureBounded,
    FewDepartures,
    Portfolio,
    RandomFirst,
    RandomWalk,
    Scheduler,
)

RANDOM: dict[str, Callable[[int], Scheduler]] = {
    "uniform": RandomWalk,
    "pct": PCT,
    "few departures": FewDepartures,
    "portfolio": Portfolio,
}


async def withdrawals(world: World) -> None:
    balance = 100

    async def withdraw(name: str) -> None:
        nonlocal balance
        await world.outside(f"{name} arrives")
        seen = balance
        await world.outside(f"the bank confirms {name}")
        balance = seen - 10

    await asyncio.gather(*(withdraw(name) for name in "abc"))
    world.check(balance == 70, "all withdrawals count")


async def overtaken(world: World) -> None:
    """Fails in no natural order: d has to come before a."""
    order = []

    async def client(name: str) -> None:
        await world.outside(f"{name} arrives")
        order.append(name)

    await asyncio.gather(*(client(name) for name in "abcd"))
    world.check(order.index("a") < order.index("d"), "a comes before d")


async def harmless(world: World) -> None:
    async def client(name: str) -> None:
        await world.outside(f"{name} arrives")
        await world.outside(f"{name} leaves")

    await asyncio.gather(*(client(name) for name in "abcd"))


def choices_of(scheduler: Scheduler, executions: int) -> list[list[int]]:
    """The choices of each of the first executions."""
    return [each.choices for each in islice(outcomes(harmless, scheduler), executions)]


@pytest.mark.parametrize("make", RANDOM.values(), ids=RANDOM)
def test_the_same_seed_draws_the_same(make: Callable[[int], Scheduler]) -> None:
    """Executions depend on the seed and their number alone, and differ by both."""
    first = choices_of(make(1), 20)
    assert first == choices_of(make(1), 20)
    assert first != choices_of(make(2), 20)
    assert len({tuple(choices) for choices in first}) > 5


@pytest.mark.parametrize("make", [PCT, FewDepartures, Portfolio])
def test_the_first_execution_is_natural(make: Callable[[int], Scheduler]) -> None:
    """It counts the choice points, among which change points and departures are drawn."""
    (first,) = choices_of(make(0), 1)
    assert len(first) > 3
    assert not any(first)


def test_few_departures_are_few() -> None:
    """Half of the executions depart once, as ChoicePoint.costs counts it, and few more than 4."""

    class Counting(FewDepartures):
        departures = 0

        def choose(self, point: ChoicePoint) -> int:
            costs = list(point.costs)
            option = super().choose(point)
            self.departures += costs[option]
            return option

    scheduler = Counting(0, choice_points=10)
    counted = []
    for _ in islice(outcomes(harmless, scheduler), 200):
        counted.append(scheduler.departures)
        scheduler.departures = 0
    assert 60 < sum(number == 1 for number in counted) < 140
    assert sum(number > 4 for number in counted) < 20


def served(scheduler: PCT, names: list[str]) -> list[str]:
    """Who is served at each choice point, while all are enabled all the time."""
    scheduler.next_execution()
    options = [*(Option(name) for name in names), NO_MORE]
    return [
        options[scheduler.choose(ChoicePoint(index, "landing", options, 0.0, lambda each: ()))].name
        for index in range(12)
    ]


def test_pct_serves_the_foremost_until_it_falls_behind() -> None:
    """Of depth d, it changes whom it serves d - 1 times, and does not come back."""
    scheduler = PCT(0, depth=3, choice_points=12)
    for _ in range(50):
        order = served(scheduler, ["a", "b", "c", "d"])
        changes = [one for one, other in pairwise(order) if one != other]
        # A change at the very first choice point is none that can be seen.
        assert 1 <= len(changes) <= 2
        assert len(set(order)) == len(changes) + 1


def test_pct_takes_the_loop_for_an_actor() -> None:
    """Among four events and the loop, each is the foremost in about a fifth of the executions."""
    scheduler = PCT(0, depth=1, choice_points=12)
    first = [served(scheduler, ["a", "b", "c", "d"])[0] for _ in range(500)]
    for name in ("a", "b", "c", "d", "no more"):
        assert 60 < first.count(name) < 140


@pytest.mark.parametrize("strategy", ["random", "pct", "portfolio"])
def test_a_race_is_found(strategy: str) -> None:
    """A lost update is refuted by each of them, and replays."""
    report = explore(withdrawals, strategy=strategy, max_executions=200)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.replay(withdrawals).violation is not None


@pytest.mark.parametrize("strategy", ["pct", "portfolio"])
def test_random_executions_prove_nothing(strategy: str) -> None:
    """However many there are."""
    report = explore(harmless, strategy=strategy, max_executions=30)
    assert report.verdict == "inconclusive"


def test_the_report_says_who_found_it() -> None:
    """Of several schedulers that take turns, the one whose execution failed is named."""
    found_by = set()
    for seed in range(8):
        report = explore(overtaken, strategy="portfolio", max_executions=200, seed=seed)
        assert report.found_by is not None
        assert f"found by {report.found_by}" in report.reason
        found_by.add(report.found_by)
    assert len(found_by) > 1
    assert found_by <= {"random", "few departures", "pct of depth 3"}


def test_the_report_says_which_half_of_a_bounded_search_found_it() -> None:
    """The random executions before it, or the search itself."""
    portfolio = RandomFirst(DepartureBounded(2), random_executions=10)
    assert explore(overtaken, strategy=portfolio).found_by == "random"
    alone = RandomFirst(DepartureBounded(2), random_executions=0)
    assert explore(overtaken, strategy=alone).found_by == "up to 1 departure"
