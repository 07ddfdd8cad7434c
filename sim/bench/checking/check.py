"""`onestream check`: runs the scenarios on registries under check, with a verdict on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TextIO

from sim.bench.catalog import scenarios_named
from sim.bench.checking.agenda import Agenda, players
from sim.bench.checking.jobs import DEPARTURES, Job, Result
from sim.bench.harness.observed_protocol import ROWS
from sim.bench.levels import LEVELS
from sim.bench.scenarios import Scenario
from sim.bench.subjects import PRODUCTION, PUBLISHED, registry_class
from sim.executors.base import MakeExecutor
from sim.exploration.progress import Progress
from sim.exploration.tested_pythons import interpreter
from sim.exploration.verdict import Verdict

# The verdict on a registry is the first of these that occurs among its results.
SEVERITY = (Verdict.ERROR, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.PROVED)


@dataclass(frozen=True, slots=True)
class Checked:
    """The verdict on the registry under check, and everything it rests on.

    not_applicable: pairs of registry and scenario that were not run, since the registry lacks the
    methods for it. rows_missing: rows of the protocol's table that production never took.
    """

    verdict: Verdict
    results: list[Result]
    not_applicable: list[tuple[str, str]]
    rows_missing: list[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "verdict": self.verdict,
            "interpreter": interpreter(),
            "results": [result.as_json() for result in self.results],
            "not_applicable": [
                {"registry": registry, "scenario": scenario}
                for registry, scenario in self.not_applicable
            ],
            "rows_missing": self.rows_missing,
        }


def check(
    *,
    level: str | None = None,
    scenario: str | None = None,
    registry: str | None = None,
    budget_s: float = 60.0,
    departures: int | None = None,
    executor: MakeExecutor | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    progress_to: TextIO | None = None,
) -> Checked:
    """Runs the scenarios; without `registry`, on production and on the published registries.

    budget_s: real seconds for everything together. departures: up to how many are searched, where
    there are too many schedules for all, and no deeper; None for one, and then as deep as the
    budget goes. executor: whose workers do it, on one tree if only one remains; None for this
    process. progress_to: where to print the progress. Ctrl-C ends it, with the results so far.
    Raises ValueError for an unknown level, scenario or registry.
    """
    under_check = registry or PRODUCTION
    # The published ones are refuted quickly; production gets the remaining budget.
    names = (registry,) if registry else (*PUBLISHED, PRODUCTION)
    bound = DEPARTURES if departures is None else departures
    todo, not_applicable = _jobs(names, scenarios_named(level, scenario), bound)
    if not any(job.registry == under_check for job in todo):
        raise ValueError(
            f"scenario {scenario!r} is not applicable to {under_check}: it needs methods that the "
            f"registry has not"
        )
    results: list[Result] = []
    with (
        Progress(progress_to, budget_s) as progress,
        progress.interruptible(),
        players(executor, progress) as play_round,
    ):
        agenda = Agenda(todo, budget_s, play_round, deepens=departures is None)
        for result in agenda.play():
            results.append(result)
            progress.clear()
            on_result(result)
    # With several workers they end in any order.
    places = [(job.registry, job.level, job.scenario.name) for job in todo]
    results.sort(key=lambda each: places.index((each.registry, each.level, each.scenario)))
    is_whole = (
        under_check == PRODUCTION
        and scenario is None
        and level in (None, *LEVELS)
        and len(results) == len(todo)
    )
    missing = _rows_missing(results) if is_whole else []
    verdicts = [each.verdict for each in results if each.registry == under_check]
    if missing or len(results) < len(todo):
        verdicts.append(Verdict.INCONCLUSIVE)
    return Checked(min(verdicts, key=SEVERITY.index), results, not_applicable, missing)


def _jobs(
    registries: Iterable[str], scenarios: Iterable[tuple[str, Scenario]], departures: int
) -> tuple[list[Job], list[tuple[str, str]]]:
    todo, not_applicable = [], []
    for registry in registries:
        cls = registry_class(registry)
        for level, scenario in scenarios:
            if scenario.applies_to(cls):
                todo.append(Job(level, registry, scenario, departures))
            else:
                not_applicable.append((registry, scenario.name))
    return todo, not_applicable


def _rows_missing(results: list[Result]) -> list[str]:
    reached: set[str] = set()
    for result in results:
        if result.registry == PRODUCTION:
            reached |= result.report.labels
    return sorted(ROWS - reached)
