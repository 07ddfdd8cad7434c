"""`onestream deepen`: up to which size of a scenario every schedule can be visited.

Iterative deepening over sessions × registers × cancels × leavers × hangs, and at server level over
departures as well: the smallest first, and none that dominates one that timed out. So all that a
proved one dominates was proved before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

from sim.bench.catalog import subject_of
from sim.bench.entry import Entry
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.scenarios.client import ClientScenario, ClientSize
from sim.bench.scenarios.http_story import BOTH
from sim.bench.scenarios.server_level.sized import SizedServerScenario
from sim.bench.scenarios.sized import Size, SizedScenario
from sim.bench.subjects import registry_class
from sim.counted import counted
from sim.executors.base import Executor, MakeExecutor
from sim.exploration.executing import Watch
from sim.exploration.parallel import Key, Team, Work
from sim.exploration.progress import Progress
from sim.exploration.report import Findings, Report
from sim.exploration.search import explore
from sim.exploration.subject import Problem
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded, Divisible, Scheduler, StateMatching

# The largest counts of sessions, registers, cancels, leavers and hangs that are tried.
LARGEST = {"registry": Size(2, 5, 3, 2, 2), "server": Size(2, 3, 1, 1, 1)}
# Of the most general client: operations, sessions, streams that may fail or ignore their cancel.
SMALLEST_CLIENT = ClientSize(2, 1, 0)
LARGEST_CLIENT = ClientSize(8, 3, 3)
DEPARTURES_MAX = 4
# The part of the budget that one scenario may use up; and, if only one is explored, the search for
# every schedule, before departures are counted.
STORY_PART = {"registry": 0.5, "client": 0.25, "server": 0.125}
EVERY_PART = 0.25

Sized = SizedScenario | ClientScenario | SizedServerScenario


@dataclass(frozen=True, slots=True)
class SizeBound:
    """The schedules of a scenario with up to `departures`; None for every schedule."""

    scenario: Sized
    departures: int | None = None

    @property
    def level(self) -> str:
        return "server" if isinstance(self.scenario, SizedServerScenario) else "registry"

    @property
    def weight(self) -> int:
        """How much happens, to order the bounds by."""
        counts: tuple[int, ...] = astuple(self.scenario.size)
        return sum(counts) + (self.departures or 0)

    def key(self, registry: str) -> Key:
        """From which another process builds it."""
        return registry, self.scenario.name, self.departures

    @classmethod
    def of_key(cls, key: Key) -> SizeBound:
        _, scenario_name, departures = key
        return cls(_scenario_named(scenario_name), departures)

    def covered_by(self, report: Report) -> SizeBound:
        """The bound that was proved, where the search has seen more than it had to."""
        return replace(self, departures=None) if report.complete == 1.0 else self

    def __str__(self) -> str:
        words = str(self.scenario.size)
        if isinstance(self.scenario, SizedServerScenario):
            words += f", {self.scenario.client}"
        if self.departures is None:
            return words
        return f"{words}, up to {counted(self.departures, 'departure')}"

    def dominates(self, other: SizeBound) -> bool:
        """Whether a search that has visited this one has visited the other."""
        if getattr(self.scenario, "client", None) != getattr(other.scenario, "client", None):
            return False
        sizes = zip(astuple(self.scenario.size), astuple(other.scenario.size), strict=True)
        if self.departures is None or other.departures is None:
            are_enough = self.departures is None
        else:
            are_enough = self.departures >= other.departures
        return are_enough and all(mine >= its for mine, its in sizes)


@dataclass(frozen=True, slots=True)
class Deepened:
    """The result for a bound."""

    bound: SizeBound
    report: Report

    @property
    def states(self) -> int | None:
        return self.report.states

    def as_json(self) -> dict[str, Any]:
        found = self.report.counterexample
        return {
            "size": self.bound.scenario.name,
            "departures": self.bound.departures,
            "verdict": self.report.verdict,
            "reason": self.report.reason,
            "executions": self.report.executions,
            "states": self.states,
            "seconds": round(self.report.seconds, 3),
            "counterexample": found and found.text,
        }

    def __str__(self) -> str:
        seen = counted(self.report.executions, "execution")
        if self.states is not None:
            seen += f", {counted(self.states, 'state')}"
        return f"{self.report.verdict:<13}{self.bound}  ({seen} in {self.report.seconds:.1f} s)"


def deepen(
    *,
    level: str = "registry",
    registry: str = "production",
    budget_s: float = 60.0,
    size: str | None = None,
    client: bool = False,
    executor: MakeExecutor | None = None,
    on_result: Callable[[Deepened], None] = lambda result: None,
    progress: Progress | None = None,
) -> list[Deepened]:
    """Explores scenarios of growing size until the budget, in real seconds, is spent.

    client: those of the most general client of a registry.
    size: the name of the only one to explore: every schedule, or if that takes too long those with
    up to one departure, two, and so on. It ends with a bound that is not proved for another reason
    than its time. executor: whose workers do it; None for this process. progress: where to show
    it, and what interrupts it. Raises ValueError for an unknown size, level or registry.
    """
    bounds = _bounds(level, client=client) if size is None else _bounds_alone(_scenario_named(size))
    deepening = _Deepening(registry, bounds, budget_s, is_alone=size is not None)
    for result in deepening.results_by(executor, progress or Progress(None)):
        on_result(result)
    return deepening.results


class _Deepening:
    """Which bound is next, and which are left out for what others came to.

    results: in the order of the bounds, also where a later one ended first. So several workers come
    to what one comes to; what they have begun too early is thrown away.
    """

    def __init__(
        self, registry: str, bounds: list[SizeBound], budget_s: float, *, is_alone: bool
    ) -> None:
        self.results: list[Deepened] = []
        self._registry = registry
        self._bounds = bounds
        self._budget_s = budget_s
        self._is_alone = is_alone
        self._deadline = time.perf_counter() + budget_s
        self._too_large: list[SizeBound] = []

    def results_by(
        self, make_executor: MakeExecutor | None, progress: Progress
    ) -> Iterator[Deepened]:
        if make_executor is None:
            yield from self._taken(partial(self._played, progress))
            return
        with closing(make_executor()) as executor:
            yield from self._taken(_Ahead(self._team_plays(executor, progress)).report_on)

    def _taken(self, report_on: Callable[[SizeBound], Report | None]) -> Iterator[Deepened]:
        for bound in self._to_do():
            report = report_on(bound)
            if report is None:
                return
            result = Deepened(bound.covered_by(report), report)
            self.results.append(result)
            yield result
            if report.was_out_of_budget:
                self._too_large.append(bound)
            elif report.labels_missing and bound.departures is not None:
                # They may need one more departure.
                continue
            elif report.verdict != Verdict.PROVED:
                return

    def _to_do(self) -> Iterator[SizeBound]:
        """What is left out once is left out for good, as more results come in."""
        for bound in self._bounds:
            if self._left_s <= 0:
                return
            is_too_large = any(bound.dominates(other) for other in self._too_large)
            if not is_too_large and not _is_proved(bound, self.results):
                _require_applicable(bound, self._registry)
                yield bound

    @property
    def _left_s(self) -> float:
        return self._deadline - time.perf_counter()

    def _seconds_for(self, bound: SizeBound) -> float:
        part = _part_of(bound, is_alone=self._is_alone)
        return max(0.0, min(self._left_s, self._budget_s * part))

    def _played(self, progress: Progress, bound: SizeBound) -> Report:
        watch = progress.watch(str(bound))
        return _explored(bound.key(self._registry), self._seconds_for(bound), watch)

    def _team_plays(
        self, executor: Executor, progress: Progress
    ) -> Iterator[tuple[SizeBound, Report]]:
        """In the order in which they end."""
        begun: list[SizeBound] = []

        def searches() -> Iterator[tuple[Key, Divisible | None]]:
            for bound in self._to_do():
                begun.append(bound)
                strategy = _strategy(bound)
                search = strategy if isinstance(strategy, Divisible) else None
                yield bound.key(self._registry), search

        def show(key: Key, began: float, findings: Findings, scheduler: Scheduler) -> bool:
            return progress.searched(str(SizeBound.of_key(key)), began, findings, scheduler)

        team = Team(executor, Work(_problem_of, _explored, silenced), show)
        reports = team.play(searches(), lambda number: self._seconds_for(begun[number]))
        return ((SizeBound.of_key(key), report) for key, report in reports)


class _Ahead:
    """Reports that come in any order, to be asked for in another."""

    def __init__(self, reports: Iterable[tuple[SizeBound, Report]]) -> None:
        self._reports = iter(reports)
        self._here: dict[SizeBound, Report] = {}

    def report_on(self, bound: SizeBound) -> Report | None:
        """None if there is none to come."""
        while bound not in self._here:
            found = next(self._reports, None)
            if found is None:
                return None
            self._here[found[0]] = found[1]
        return self._here.pop(bound)


def largest_proved(results: list[Deepened]) -> list[SizeBound]:
    """The proved bounds that no other proved one dominates."""
    proved = [each.bound for each in results if each.report.verdict == Verdict.PROVED]
    return [one for one in proved if not any(o.dominates(one) for o in proved if o != one)]


def _is_proved(bound: SizeBound, results: list[Deepened]) -> bool:
    """Also where every schedule of the scenario was visited, which covers any departures."""
    return any(
        each.bound.scenario == bound.scenario and each.bound.dominates(bound)
        for each in results
        if each.report.verdict == Verdict.PROVED
    )


def _part_of(bound: SizeBound, *, is_alone: bool) -> float:
    if not is_alone:
        is_client = isinstance(bound.scenario, ClientScenario)
        return STORY_PART["client" if is_client else bound.level]
    return EVERY_PART if bound.departures is None else 1.0


def _bounds(level: str, *, client: bool) -> list[SizeBound]:
    """In the order of their weight."""
    if level not in SCENARIOS_BY_LEVEL:
        raise ValueError(f"level {level!r} is not known; there is {', '.join(SCENARIOS_BY_LEVEL)}")
    if client and level != "registry":
        raise ValueError(
            f"the most general client is one of a registry, and not of level {level!r}"
        )
    bounds: list[SizeBound] = []
    if client:
        bounds = [bound for scenario in _clients() for bound in _bounds_alone(scenario)]
    elif level == "registry":
        bounds = [SizeBound(scenario) for scenario in _scenarios(level)]
    else:
        bounds = [bound for scenario in _scenarios(level) for bound in _bounded(scenario)]
    return sorted(bounds, key=lambda each: (each.weight, astuple(each.scenario.size)))


def _bounds_alone(scenario: Sized) -> list[SizeBound]:
    # Without states there is no end to the departures.
    every = [SizeBound(scenario)] if scenario.reads_states else []
    return every + _bounded(scenario)


def _bounded(scenario: Sized) -> list[SizeBound]:
    return [SizeBound(scenario, departures) for departures in range(1, DEPARTURES_MAX + 1)]


def _scenarios(level: str) -> Iterator[Sized]:
    sessions, *others = astuple(LARGEST[level])
    ranges = (range(1, sessions + 1), *(range(count + 1) for count in others))
    for size in itertools.starmap(Size, itertools.product(*ranges)):
        scenarios: list[Sized] = (
            [SizedScenario(size)]
            if level == "registry"
            else [SizedServerScenario(size, client) for client in BOTH]
        )
        yield from (scenario for scenario in scenarios if scenario.is_possible)


def _clients() -> Iterator[ClientScenario]:
    ranges = [
        range(least, most + 1)
        for least, most in zip(astuple(SMALLEST_CLIENT), astuple(LARGEST_CLIENT), strict=True)
    ]
    for size in itertools.starmap(ClientSize, itertools.product(*ranges)):
        if (scenario := ClientScenario(size)).is_possible:
            yield scenario


def _scenario_named(name: str) -> Sized:
    scenario: Sized | None = SizedServerScenario.parse(name)
    if scenario is None and (size := Size.parse(name)) is not None:
        scenario = SizedScenario(size)
    if (general := ClientSize.parse(name)) is not None:
        scenario = ClientScenario(general)
    if scenario is None or not scenario.is_possible:
        raise ValueError(
            f"{name!r} is no size: it is written as size-1s4r2c0l1h, for 1 session, 4 registers, "
            f"2 cancels, 0 leavers and 1 hang, and maybe "
            f"1e1x for registers that may enqueue or reject, with .async or .thread for the server "
            f"with one client. There are no more sessions than registers, and no more hangs "
            f"than can happen: one in a session, of a stream told to stop (at the server, of any). "
            f"The most general client's is written as client-3o1s1t: 3 operations, 1 session, 1 "
            f"stream that may fail or ignore its cancel"
        )
    return scenario


def _strategy(bound: SizeBound) -> Scheduler:
    if bound.departures is None:
        return StateMatching()
    if not bound.scenario.reads_states:
        return DepartureBounded(bound.departures)
    return StateMatching(departures_max=bound.departures)


def _require_applicable(bound: SizeBound, registry: str) -> None:
    if not bound.scenario.applies_to(registry_class(registry)):
        raise ValueError(f"{bound.scenario.name} needs more of a registry than {registry} has")


# ---- in a worker, or here --------------------------------------------------------------------


def _problem_of(key: Key) -> Problem:
    bound, registry = SizeBound.of_key(key), key[0]
    return Problem(subject_of(Entry(bound.level, bound.scenario.name, registry)))


def _explored(key: Key, budget_s: float, watch: Watch) -> Report:
    strategy = _strategy(SizeBound.of_key(key))
    with silenced():
        subject = _problem_of(key).subject
        return explore(subject, strategy=strategy, budget_s=budget_s, watch=watch)
