"""The comparison with Hypothesis runs; its figures are in README.md next to this file."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import strategies as st

from sim import World
from sim.bench.checking.mutants import Kill
from sim.kernel.guards import guarded
from sim.schedulers import DepthFirst
from tests.benchmarks.hypothesis_mutants import WAYS, Row, row_of, summary
from tests.benchmarks.hypothesis_scheduler import examples_to_failure
from tests.benchmarks.schedulers import COLUMNS, Broken, executions_to_failure, fails_as_drawn, row


async def three_come(world: World) -> None:
    """Fails under one order of six, which is not the natural one."""
    order = []

    async def comes(name: str) -> None:
        await world.outside(name)
        order.append(name)

    await asyncio.gather(*(comes(name) for name in "abc"))
    world.check(order != ["c", "b", "a"], "they do not come backwards")


async def nothing_fails(world: World) -> None:
    await world.outside("a")


@pytest.mark.thorough
def test_every_way_has_its_say() -> None:
    """Of one mutant of each level that every way kills, and of one that actions alone do not."""
    names = {
        "fencing_token_is_reused": "registry",
        "agent_is_not_ended_before_pop": "server",
        "withdrawn_by_name_and_not_by_identity": "registry",
    }
    rows = [row_of(name, level, seeds=1) for name, level in names.items()]
    assert [list(row.examples) for row in rows] == [list(WAYS)] * 3
    falls_at_once, falls_at_server, survives = (row.examples for row in rows)
    for examples in (falls_at_once, falls_at_server):
        assert all(number <= 100 for (number,) in examples.values())
    assert falls_at_once["scenarios"] == falls_at_server["scenarios"] == [1]
    assert survives["actions"] == [math.inf]
    for way in ("actions, schedule", "scenarios"):
        assert 1 < survives[way][0] <= 100
    told = summary(rows, seeds=1)
    assert "| `onestream mutants` | 3 | – | 0 | – |" in told
    assert "| actions | 2 | 0 | 1 | `withdrawn_by_name_and_not_by_identity` |" in told
    assert "| scenarios | 3 | 0 | 0 | – |" in told


def test_who_falls_under_some_seeds_only_is_told_apart() -> None:
    """A mutant has a median and a count of seeds; production, the control, does not count."""
    kill = Kill("flag_is_lost", "", "registry", "S1 one_active: one", "story", 7, 0.1, "os1/…", "")
    some = Row("flag_is_lost", kill, {way: [3.0, math.inf, math.inf] for way in WAYS})
    assert some.cells == ["flag_is_lost", "7, S1 one_active", *[">100 (1/3)"] * 3]
    control = Row("production", None, {way: [math.inf] * 3 for way in WAYS})
    assert control.cells == ["production", "–", ">100", ">100", ">100"]
    assert "| actions | 0 | 1 | 0 | – |" in summary([control, some], seeds=3)


@pytest.mark.thorough
def test_hypothesis_is_a_scheduler() -> None:
    """It finds what natural order does not show, the same with the same seed, and no more."""

    def to_failure(seed: int) -> float:
        def fails(data: st.DataObject) -> bool:
            return fails_as_drawn(three_come, data)

        with guarded():
            return examples_to_failure(fails, seed=seed)

    found = [to_failure(seed) for seed in range(3)]
    assert found == [to_failure(seed) for seed in range(3)]
    assert all(1 < number <= 100 for number in found)
    assert len(set(found)) > 1
    with guarded():
        drawn = examples_to_failure(lambda data: fails_as_drawn(nothing_fails, data), seed=0)
    assert drawn == math.inf


def test_a_row_has_a_cell_for_each_scheduler() -> None:
    """The table of schedulers, of a program of six orders."""
    broken = Broken("three_come", three_come)
    name, *cells = row(broken, seeds=3, executions_max=100, columns=COLUMNS)
    assert name == "three_come"
    assert len(cells) == len(COLUMNS)
    with guarded():
        depth_first = executions_to_failure(three_come, DepthFirst(), 100)
    assert cells[COLUMNS.index("depth-first")] == f"{depth_first:g}"
    assert 1 < int(cells[COLUMNS.index("hypothesis")]) <= 100
