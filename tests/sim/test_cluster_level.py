"""Workers that share a store: proved, and refuted where an assumption does not hold."""

from __future__ import annotations

import pytest

from sim import Report, explore
from sim.bench.catalog import subject_of
from sim.bench.checking.jobs import Job
from sim.bench.checking.mutants import kill_all
from sim.bench.entry import Entry
from sim.bench.scenarios.cluster_level import CLUSTER_SCENARIOS, ClusterScenario
from sim.bench.subjects.mutants.cluster import KILLED
from sim.exploration.verdict import Verdict
from sim.replay import replay as replay_text
from sim.schedulers import DepartureBounded, Scheduler
from tests.limits import AMPLE_S

pytestmark = pytest.mark.once

SCENARIOS = {each.name: each for each in CLUSTER_SCENARIOS if not each.limit}
LIMITS = {each.name: each for each in CLUSTER_SCENARIOS if each.limit}
# Of some dozen executions; `onestream check --level cluster` proves the others too, in longer.
SMALL = ("two_prompts", "messages_lost", "crash", "short_freeze", "fail_over")
# Of these a worker that ends, and the messages of two that do not.
QUICK = ("two_prompts", "crash")


def explored(scenario: ClusterScenario, strategy: str | Scheduler = "states") -> Report:
    subject = subject_of(Entry("cluster", scenario.name, "production"))
    return explore(subject, strategy=strategy, budget_s=AMPLE_S)


@pytest.mark.parametrize(
    "name",
    [
        *QUICK,
        *(pytest.param(each, marks=pytest.mark.thorough) for each in SMALL if each not in QUICK),
    ],
)
def test_workers_keep_the_promises(name: str) -> None:
    """Every schedule, with a fault at most: each promise holds, and each label is reached."""
    report = explored(SCENARIOS[name])
    assert report.verdict == "proved", report.text


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name not in SMALL])
def test_workers_keep_the_promises_in_larger_scenarios(name: str) -> None:
    """With one departure, a fault among them: each promise holds, and each label is reached.

    Every schedule of some takes longer than anybody waits: `onestream check --level cluster` says
    how far it came.
    """
    report = explored(SCENARIOS[name], DepartureBounded(1))
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.thorough
def test_each_limit_is_shown(name: str) -> None:
    """Where an assumption is broken, a promise is, by a schedule that replays.

    Which one is found first differs: two that hold a session, an overlap, or one let in after a
    newer one.
    """
    report = explored(LIMITS[name])
    assert report.counterexample is not None, report.text
    assert report.counterexample.property.startswith(("S1 ", "S3 ", "S4 "))
    assert replay_text(report.counterexample.schedule) is not None


def test_a_limit_that_is_shown_counts_as_proved_and_one_that_is_not_as_inconclusive() -> None:
    """It is no verdict against the registry, and a limit that nobody sees is not claimed."""
    limit, other = LIMITS["limit_freeze"], SCENARIOS["two_prompts"]
    refuted, proved = explored(limit), explored(other)
    job = Job("cluster", "production", limit)
    assert job.result(refuted).verdict is Verdict.PROVED
    assert job.result(proved).verdict is Verdict.INCONCLUSIVE
    assert Job("cluster", "production", other).result(refuted).verdict is Verdict.REFUTED


# By natural order, or by one departure near its beginning.
QUICKLY_KILLED = (
    "stop_is_not_carried_by_renewals",
    "ticket_order_is_lost",
    "anybody_frees_the_session",
    "late_holder_is_not_named",
)


@pytest.mark.parametrize(
    ("mutant", "scenario", "violated"),
    [
        pytest.param(
            breaks.__name__,
            scenario,
            violated,
            marks=() if breaks.__name__ in QUICKLY_KILLED else pytest.mark.thorough,
            id=breaks.__name__,
        )
        for breaks, scenario, violated in KILLED
    ],
)
def test_each_mutant_is_killed_by_its_property(mutant: str, scenario: str, violated: str) -> None:
    """A lease with one safeguard less is refuted, where and by what its line says."""
    (kill,) = kill_all(name=mutant)
    assert kill.violated.startswith(violated), kill
    assert kill.scenario == scenario
