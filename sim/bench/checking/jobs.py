"""A job of `onestream check`: a scenario on a registry, how it is searched, and its result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from sim.bench.catalog import scenarios_named, subject_of
from sim.bench.entry import Entry
from sim.bench.harness.log_capture import silenced
from sim.bench.harness.observed_protocol import ROWS
from sim.bench.scenarios import Scenario
from sim.bench.scenarios.cluster_level import limit_of
from sim.exploration.executing import Watch
from sim.exploration.parallel import Key
from sim.exploration.report import Report
from sim.exploration.search import explore
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded, DepthFirst, RandomFirst, Scheduler, StateMatching

# At server level there are too many schedules for depth-first search, so first it is all schedules
# with up to this many departures. Then, where the budget allows, it is every schedule if states can
# be read, and with worker threads one departure more. See sim/bench/README.md.
DEPARTURES = 1
# Before the bounded search, to visit some schedules beyond the bound.
RANDOM_EXECUTIONS = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One scenario to be run on one registry.

    departures: how many there may be, at server level; None for any number, by matching states.
    """

    level: str
    registry: str
    scenario: Scenario
    departures: int | None = DEPARTURES

    @property
    def key(self) -> Key:
        """From which another process builds it."""
        return self.level, self.registry, self.scenario.name, self.departures

    @classmethod
    def of_key(cls, key: Key) -> Job:
        level, registry, scenario_name, departures = key
        ((_, scenario),) = scenarios_named(level, scenario_name)
        return cls(level, registry, scenario, departures)

    @property
    def entry(self) -> Entry:
        return Entry(self.level, self.scenario.name, self.registry)

    @property
    def name(self) -> str:
        return f"{self.registry} {self.scenario.name}"

    @property
    def deepens(self) -> bool:
        """Whether more budget could prove more of it."""
        is_bounded = self.level != "registry" and self.departures is not None
        return is_bounded and self.scenario.strategy is None

    def deeper(self) -> Job:
        """The job on which more budget is spent. Only for one that deepens."""
        assert self.departures is not None
        deeper = None if self.scenario.reads_states else self.departures + 1
        return replace(self, departures=deeper)

    def strategy(self) -> str | Scheduler:
        """A new scheduler, or the name of one."""
        own: str | Scheduler | None = self.scenario.strategy
        if own is not None:
            return own
        if self.level == "registry":
            return DepthFirst()
        if self.departures is None:
            return StateMatching()
        bounded = DepartureBounded(self.departures)
        return RandomFirst(bounded, random_executions=RANDOM_EXECUTIONS)

    def explored(self, budget_s: float, watch: Watch) -> Report:
        with silenced():
            return explore(
                subject_of(self.entry), strategy=self.strategy(), budget_s=budget_s, watch=watch
            )

    def result(self, report: Report) -> Result:
        return Result(
            self.level, self.registry, self.scenario.name, report, limit_of(self.scenario)
        )


def in_words(results: Iterable[Result]) -> str:
    """How many have which verdict, as `4 proved, 2 limits shown`."""
    counts = Counter(each.shown_verdict for each in results)
    many = {LIMIT_SHOWN: "limits shown"}
    return ", ".join(
        f"{count} {many.get(verdict, verdict) if count > 1 else verdict}"
        for verdict, count in sorted(counts.items(), key=lambda each: VERDICTS.index(each[0]))
    )


LIMIT_SHOWN = "limit shown"
VERDICTS = (
    Verdict.PROVED,
    Verdict.REFUTED,
    LIMIT_SHOWN,
    Verdict.INCONCLUSIVE,
    Verdict.ERROR,
)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a job.

    limit: the assumption that its scenario breaks; then the registry has to be refuted.
    """

    level: str
    registry: str
    scenario: str
    report: Report
    limit: str = ""

    @property
    def verdict(self) -> Verdict:
        """On the registry: a limit is none against it, but has to be shown."""
        verdict = self.report.verdict
        if not self.limit or verdict is Verdict.ERROR:
            return verdict
        return Verdict.PROVED if verdict is Verdict.REFUTED else Verdict.INCONCLUSIVE

    @property
    def shown_verdict(self) -> str:
        """On its scenario, in the word for a reader."""
        is_shown = self.limit and self.report.verdict is Verdict.REFUTED
        return LIMIT_SHOWN if is_shown else self.report.verdict

    @property
    def labels(self) -> list[str]:
        """Those reached that are no rows of the protocol's table."""
        return sorted(label for label in self.report.labels if label not in ROWS)

    @property
    def was_cut_off(self) -> bool:
        """Whether the search was stopped before it had a verdict."""
        return self.report.was_out_of_budget or self.report.was_interrupted

    def as_json(self) -> dict[str, Any]:
        report, found = self.report, self.report.counterexample
        return {
            "registry": self.registry,
            "scenario": self.scenario,
            "level": self.level,
            "verdict": report.verdict,
            "limit": self.limit or None,
            "reason": report.reason,
            "claim": report.claim,
            "executions": report.executions,
            "seconds": round(report.seconds, 3),
            "complete": report.complete,
            "found_by": report.found_by,
            "bounds": str(report.bounds),
            "bounds_hit": sorted(report.bounds_hit),
            "labels": self.labels,
            "digest": report.digest,
            "counterexample": found and found.as_json(),
        }
