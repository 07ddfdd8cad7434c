"""Shrinking, held against the least number of departures, which a bounded search knows."""

from __future__ import annotations

import pytest

from registry import StreamRegistry
from sim import explore
from sim.bench import log_captured
from sim.execution import Program, guarded, run_execution
from sim.historical import gh_86296, httpcore_1093
from sim.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.schedule import Bounds, departures_of
from sim.schedulers import DepartureBounded, RandomWalk, Replay
from sim.shrink import shrink
from sim.suspects import PUBLISHED, suspect_class
from sim.suspects.mutants import registry as mutants
from sim.suspects.mutants.base import Break

BOUNDS = Bounds()


def least_departures(program: Program, violated: str) -> int:
    """By looking at every schedule with none, then at those with one, and so on."""
    for departures in range(4):
        search = DepartureBounded(departures)
        while search.next_execution():
            outcome = run_execution(program, search, BOUNDS)
            if outcome.violation is not None and outcome.violation.property == violated:
                return outcome.cost
    raise AssertionError("not within 3 departures")


def shrunk_from_random(
    program: Program, *, failures: int, executions: int = 2000
) -> list[tuple[str, int, int]]:
    """Of some random failures: what was violated, and the departures before and after."""
    walk = RandomWalk(seed=3)
    found: list[tuple[str, int, int]] = []
    for _ in range(executions):
        walk.next_execution()
        outcome = run_execution(program, walk, BOUNDS)
        if outcome.violation is None:
            continue
        violated = outcome.violation.property
        departures, _ = shrink(
            program, departures_of(outcome.choices), violated, BOUNDS, executions_max=2000
        )
        again = run_execution(program, Replay(departures), BOUNDS)
        assert again.violation is not None
        assert again.violation.property == violated
        found.append((violated, outcome.cost, again.cost))
        if len(found) == failures:
            break
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_registries_shrink_to_the_least(name: str) -> None:
    """Every violation of the published registries at registry level needs no departure at all."""
    cls = suspect_class(name)
    seen = 0
    with guarded(), log_captured(lambda line: None):
        for scenario in REGISTRY_SCENARIOS:
            if not scenario.applies_to(cls):
                continue
            program = scenario.program_for(cls)
            for violated, _, after in shrunk_from_random(program, failures=2, executions=50):
                assert after == least_departures(program, violated) == 0
                seen += 1
    assert seen >= 8


NARROW = [
    (mutants.withdrawn_by_name_and_not_by_identity, "caller_leaves_overtaken"),
]


@pytest.mark.parametrize(("mutant", "name"), NARROW, ids=[each[1] for each in NARROW])
def test_narrow_failures_shrink_to_the_least(
    mutant: Break, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Violations that need departures keep just as many as they need."""
    mutant(monkeypatch)
    (scenario,) = [each for each in REGISTRY_SCENARIOS if each.name == name]
    program = scenario.program_for(StreamRegistry)
    with guarded(), log_captured(lambda line: None):
        found = shrunk_from_random(program, failures=4)
        least = {violated: least_departures(program, violated) for violated, _, _ in found}
    assert found
    assert all(after == least[violated] >= 1 for violated, _, after in found)
    assert any(before > after for _, before, after in found)


@pytest.mark.parametrize("program", [gh_86296.BUG.program, httpcore_1093.BUG.program])
def test_historical_bugs_shrink_to_the_least(program: Program) -> None:
    """So do those of programs that have nothing to do with streams."""
    with guarded():
        found = shrunk_from_random(program, failures=3)
        if not found:
            pytest.skip("this version of Python has mended the bug")
        for violated, _, after in found:
            assert after == least_departures(program, violated)


def test_a_registry_counterexample_shrinks_fast() -> None:
    """It takes few executions, well under what a second has room for (some 500)."""
    cls = suspect_class("quick_fix")
    program = next(
        each.program_for(cls) for each in REGISTRY_SCENARIOS if each.name == "racing_registers"
    )
    with log_captured(lambda line: None):
        report = explore(program, strategy="random", seed=5, max_executions=100)
        assert report.counterexample is not None
        with guarded():
            walk = RandomWalk(seed=5)
            walk.next_execution()
            outcome = run_execution(program, walk, BOUNDS)
            assert outcome.violation is not None
            _, executions = shrink(
                program,
                departures_of(outcome.choices),
                outcome.violation.property,
                BOUNDS,
                executions_max=2000,
            )
    assert executions < 100
