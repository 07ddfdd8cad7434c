"""Regression schedules, by labels: each refutes its mutant, and finds nothing in production."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sim import World
from sim.kernel.errors import ScheduleDoesNotFit
from sim.schedulers import RandomWalk
from tests.executed import executed
from tests.schedules.by_labels import ByLabels, LabelledDeparture, Labelling, Labels
from tests.schedules.regression import Regression, loaded, regressions

REGRESSIONS = regressions()
EACH = pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda each: each.name)


# ---- the files --------------------------------------------------------------------------------


def test_there_are_regressions_of_both_levels() -> None:
    """An empty folder would pass every other test of this file."""
    assert len(REGRESSIONS) >= 10
    assert {each.level for each in REGRESSIONS} == {"registry", "server"}


@EACH
def test_the_broken_line_is_refuted(
    regression: Regression, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution comes by every departure, and violates the property that the file names."""
    regression.break_production(monkeypatch)
    violation = regression.replay().violation
    assert violation is not None
    assert violation.property.startswith(regression.violates)


@EACH
def test_production_keeps_its_promises_under_it(regression: Regression) -> None:
    """It comes by the same departures, and violates nothing."""
    outcome = regression.replay()
    assert (outcome.error, outcome.violation) == (None, None)


@EACH
def test_its_file_says_what_it_is(regression: Regression, tmp_path: Path) -> None:
    """Written out and read again it is the same."""
    path = tmp_path / f"{regression.name}.toml"
    path.write_text(regression.as_toml())
    assert loaded(path) == regression


@EACH
def test_a_label_that_is_never_met_is_an_error(regression: Regression) -> None:
    """A regression whose situation does not come about any more must not pass."""
    gone = LabelledDeparture("landing", "p1 arrives", "what no execution has")
    with pytest.raises(ScheduleDoesNotFit, match="1 departures were never met"):
        replace(regression, departures=(*regression.departures, gone)).replay()


# ---- labels -----------------------------------------------------------------------------------


async def three_clients(world: World) -> None:
    """What comes when: two of these outside events are alike in name."""

    async def client(name: str) -> None:
        for _ in range(2):
            await world.outside(name, latest=0.5)
            world.record(name)

    how = world.choose("how", ("well", "badly"))
    await asyncio.gather(*map(client, ("a", "b", how)))


@pytest.mark.parametrize("seed", range(20))
def test_labels_bring_an_execution_back(seed: int) -> None:
    """The departures of a random execution, written as labels, lead to the same trace."""
    labelling = Labelling(RandomWalk(seed))
    first = executed(three_clients, labelling, traced=True)
    by_labels = ByLabels(labelling.departures())
    again = executed(three_clients, by_labels, traced=True)
    by_labels.require_all_taken()
    assert again.choices == first.choices
    assert again.trace_hash == first.trace_hash


def test_a_line_is_named_by_its_text(tmp_path: Path) -> None:
    """Lines that move keep their label; files that are not declared keep their number."""
    path = tmp_path / "client.py"
    path.write_text("first\n    second()\n")
    name = "worker 1 goes on at client.py:2"
    assert Labels([str(path)]).of(name) == "worker 1 goes on at client.py `second()`"
    assert Labels().of(name) == name


def test_what_is_no_departure_is_refused() -> None:
    """A field too many, one too few, or a count from 0: the error shows the table."""
    table = {"kind": "landing", "instead_of": "a", "take": "b"}
    assert LabelledDeparture.from_table(table) == LabelledDeparture("landing", "a", "b")
    for wrong in ({"kind": "landing"}, {**table, "index": 4}, {**table, "occurrence": 0}):
        with pytest.raises(ValueError, match="landing"):
            LabelledDeparture.from_table(wrong)
