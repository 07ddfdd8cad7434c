"""Shrinking, held against the least number of departures, which a bounded search knows."""

from __future__ import annotations

from itertools import islice

import pytest

from registry import StreamRegistry
from sim import World, explore, outcomes
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios.registry_level import REGISTRY_SCENARIOS
from sim.bench.subjects import PUBLISHED, registry_class
from sim.bench.subjects.mutants import registry as mutants
from sim.bench.subjects.mutants.base import Break
from sim.bugs import gh_86296, httpcore_1093
from sim.counterexamples.shrink import shrink
from sim.kernel.execution import Program
from sim.kernel.guards import guarded
from sim.kernel.schedule import Bounds, departures_of
from sim.schedulers import DepartureBounded, RandomWalk, Replay
from tests.executed import executed

pytestmark = pytest.mark.once

BOUNDS = Bounds()


def least_departures(program: Program, violated: str) -> int:
    """By looking at every schedule with none, then at those with one, and so on."""
    for departures in range(4):
        for outcome in outcomes(program, DepartureBounded(departures)):
            if outcome.violation is not None and outcome.violation.property == violated:
                return outcome.cost
    raise AssertionError("not within 3 departures")


def shrunk_from_random(
    program: Program, *, failures: int, executions: int = 2000
) -> list[tuple[str, int, int]]:
    """Of some random failures: what was violated, and the departures before and after."""
    found: list[tuple[str, int, int]] = []
    for outcome in islice(outcomes(program, RandomWalk(seed=3)), executions):
        if outcome.violation is None:
            continue
        violated = outcome.violation.property
        departures, _ = shrink(
            program, departures_of(outcome.choices), violated, BOUNDS, executions_max=2000
        )
        again = executed(program, Replay(departures))
        assert again.violation is not None
        assert again.violation.property == violated
        found.append((violated, outcome.cost, again.cost))
        if len(found) == failures:
            break
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_registries_shrink_to_the_least(name: str) -> None:
    """Violations of the published registries need no departure, but one in the narrowest story."""
    cls = registry_class(name)
    seen = 0
    with guarded(), silenced():
        for scenario in REGISTRY_SCENARIOS:
            if not scenario.applies_to(cls):
                continue
            program = scenario.program_for(cls)
            for violated, _, after in shrunk_from_random(program, failures=2, executions=50):
                assert after == least_departures(program, violated)
                assert after <= (scenario.name == "caller_leaves_overtaken")
                seen += 1
    assert seen >= 8


NARROW = [
    (mutants.fencing_token_is_reused, "cancel_while_waiting"),
    (mutants.stopped_before_its_turn_is_let_in, "caller_leaves_overtaken"),
    (mutants.withdrawn_by_name_and_not_by_identity, "caller_leaves_overtaken"),
]


@pytest.mark.parametrize(
    ("mutant", "name"), NARROW, ids=lambda each: getattr(each, "__name__", each)
)
@pytest.mark.thorough
def test_narrow_failures_shrink_to_the_least(
    mutant: Break, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Violations that need departures keep just as many as they need."""
    mutant(monkeypatch)
    (scenario,) = [each for each in REGISTRY_SCENARIOS if each.name == name]
    program = scenario.program_for(StreamRegistry)
    with guarded(), silenced():
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
            pytest.skip("this version of Python has fixed the bug")
        for violated, _, after in found:
            assert after == least_departures(program, violated)


async def has_a_lower_way(world: World) -> None:
    """Three choices together fail, and one that is met only where none of these was made."""
    chosen = [world.choose(f"choice {number}", "ab") for number in range(3)]
    if chosen == ["a", "a", "a"]:
        world.check(world.choose("last", "abcdef") != "f", "it does not fail")
    world.check(chosen != ["b", "b", "b"], "it does not fail")


def test_what_no_step_leads_down_to_is_looked_for() -> None:
    """Where every smaller version of a schedule passes, those with fewer departures are seen."""
    with guarded():
        least, executions = shrink(
            has_a_lower_way,
            ((0, 1), (1, 1), (2, 1)),
            "it does not fail",
            BOUNDS,
            executions_max=400,
        )
        kept, few = shrink(
            has_a_lower_way, ((0, 1), (1, 1), (2, 1)), "it does not fail", BOUNDS, executions_max=20
        )
    assert least == ((3, 5),)
    assert executions > few
    assert kept == ((0, 1), (1, 1), (2, 1))
    assert few <= 20


def test_an_interrupted_shrinking_returns_what_it_has() -> None:
    """It asks before each execution, and what it has by then still violates the property."""
    asked = 0

    def is_interrupted() -> bool:
        nonlocal asked
        asked += 1
        return asked > 3

    schedule = ((3, 5),)
    with guarded():
        found, executions = shrink(
            has_a_lower_way,
            schedule,
            "it does not fail",
            BOUNDS,
            executions_max=400,
            is_interrupted=is_interrupted,
        )
    assert (found, executions) == (schedule, 3)


def test_a_violation_that_does_not_come_back_is_not_shrunk() -> None:
    """What the program does otherwise when it is replayed leaves the schedule as it was."""

    async def passes(world: World) -> None:
        world.choose("any", "ab")

    with guarded():
        assert shrink(passes, ((0, 1),), "it does not fail", BOUNDS, executions_max=400) == (
            ((0, 1),),
            1,
        )


def test_a_registry_counterexample_shrinks_fast() -> None:
    """It takes few executions, well under what a second has room for (some 500)."""
    cls = registry_class("quick_fix")
    program = next(
        each.program_for(cls) for each in REGISTRY_SCENARIOS if each.name == "racing_registers"
    )
    with silenced():
        report = explore(program, strategy="random", seed=5, max_executions=100)
        assert report.counterexample is not None
        with guarded():
            outcome = executed(program, RandomWalk(seed=5))
            assert outcome.violation is not None
            _, executions = shrink(
                program,
                departures_of(outcome.choices),
                outcome.violation.property,
                BOUNDS,
                executions_max=2000,
            )
    assert executions < 100
