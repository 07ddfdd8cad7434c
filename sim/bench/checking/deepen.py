"""`onestream deepen`: up to which size of a scenario every schedule can be visited.

Iterative deepening over sessions × registers × cancels × leavers × hangs, and at server level over
departures as well: the smallest first, and none that dominates one that timed out. So all that a
proved one dominates was proved before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass, replace
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
from sim.exploration.executing import Watch, unwatched
from sim.exploration.report import Report
from sim.exploration.search import explore
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded, Scheduler, StateMatching

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

    def __str__(self) -> str:
        words = str(self.scenario.size)
        if isinstance(self.scenario, SizedServerScenario):
            words += f", {self.scenario.client}"
        return words if self.departures is None else f"{words}, up to {self.departures} departures"

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
    """The result for a bound. states: how many were visited; None where none can be read."""

    bound: SizeBound
    report: Report
    states: int | None

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
        seen = f"{self.report.executions} executions"
        if self.states is not None:
            seen += f", {self.states} states"
        return f"{self.report.verdict:<13}{self.bound}  ({seen} in {self.report.seconds:.1f} s)"


def deepen(
    *,
    level: str = "registry",
    registry: str = "production",
    budget_s: float = 60.0,
    size: str | None = None,
    client: bool = False,
    on_result: Callable[[Deepened], None] = lambda result: None,
    watch: Callable[[str], Watch] = unwatched,
) -> list[Deepened]:
    """Explores scenarios of growing size until the budget, in real seconds, is spent.

    client: those of the most general client of a registry.
    size: the name of the only one to explore: every schedule, or if that takes too long those with
    up to one departure, two, and so on. It ends with a bound that is not proved for another reason
    than its time. watch: of the search with this name. Raises ValueError for an unknown size, level
    or registry.
    """
    deadline = time.perf_counter() + budget_s
    bounds = _bounds(level, client=client) if size is None else _bounds_alone(_scenario_named(size))
    results: list[Deepened] = []
    too_large: list[SizeBound] = []
    for each in bounds:
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            break
        if any(each.dominates(other) for other in too_large) or _is_proved(each, results):
            continue
        part = _part_of(each, is_alone=size is not None)
        results.append(_play(registry, each, min(left_s, budget_s * part), watch(str(each))))
        on_result(results[-1])
        report = results[-1].report
        if report.was_out_of_budget:
            too_large.append(each)
        elif report.labels_missing and each.departures is not None:
            # They may need one more departure.
            continue
        elif report.verdict != Verdict.PROVED:
            break
    return results


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


def _play(registry: str, bound: SizeBound, budget_s: float, watch: Watch) -> Deepened:
    scenario, cls, scheduler = bound.scenario, registry_class(registry), _strategy(bound)
    if not scenario.applies_to(cls):
        raise ValueError(f"{scenario.name} needs more of a registry than {registry} has")
    with silenced():
        subject = subject_of(Entry(bound.level, scenario.name, registry))
        report = explore(subject, strategy=scheduler, budget_s=budget_s, watch=watch)
    if report.complete == 1.0:
        bound = replace(bound, departures=None)
    states = scheduler.states if isinstance(scheduler, StateMatching) else None
    return Deepened(bound, report, states)
