"""Small systems of several hosts: the broken ones are refuted, the fixed ones proved to a bound."""

from __future__ import annotations

import pytest

from sim import explore
from sim.examples import late_acknowledgement, lost_answer, paused_lease
from sim.exploration.verdict import Verdict
from sim.schedulers import DepartureBounded

BROKEN = {
    "paused lease": (
        paused_lease.broken,
        "nobody overwrites what a later holder wrote",
        "first is paused for 10 s",
    ),
    "lost answer": (
        lost_answer.broken,
        "a withdrawal takes effect once",
        "bank crashes before it sends to till:40000",
    ),
    "late acknowledgement": (
        late_acknowledgement.broken,
        "no order is shipped twice",
        "consumer crashes",
    ),
    "acknowledged first": (
        late_acknowledgement.acknowledged_first,
        "every order is shipped",
        "consumer crashes",
    ),
}
FIXED = {
    "paused lease": (paused_lease.fixed, paused_lease.LABELS),
    "lost answer": (lost_answer.fixed, lost_answer.LABELS),
    "late acknowledgement": (late_acknowledgement.fixed, late_acknowledgement.LABELS),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_system_is_refuted_by_one_fault(name: str) -> None:
    """Which one is said in the departures, and in the row of the process that it befell."""
    program, violated, fault = BROKEN[name]
    report = explore(program, strategy=DepartureBounded(1), budget_s=600)
    assert report.verdict is Verdict.REFUTED, report.reason
    assert report.counterexample is not None
    assert report.counterexample.property == violated
    text = report.counterexample.text
    assert f"  1. at 0.000 s: {fault}" in text
    assert "  2. at" not in text
    again = report.counterexample.replay(program)
    assert again.violation is not None


@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_system_is_proved_with_one_departure(name: str) -> None:
    """One fault, or one event that is late, at each place; what the fix is for was reached."""
    program, labels = FIXED[name]
    report = explore(program, strategy=DepartureBounded(1), labels=labels, budget_s=600)
    assert report.verdict is Verdict.PROVED, report.reason


@pytest.mark.soak
@pytest.mark.parametrize("name", FIXED)
def test_a_fixed_system_is_proved_with_two_departures(name: str) -> None:
    """A fault, and an event that is late, in all combinations."""
    program, labels = FIXED[name]
    report = explore(program, strategy=DepartureBounded(2), labels=labels, budget_s=3600)
    assert report.verdict is Verdict.PROVED, report.reason


def test_a_counterexample_that_was_found_by_chance_is_the_fault_alone() -> None:
    """Among other departures a fault has another place than where nothing else departs."""
    report = explore(paused_lease.broken, strategy="random", seed=0, max_executions=200)
    assert report.counterexample is not None
    text = report.counterexample.text
    assert "departures: 1, at 1 of" in text
    assert "first is paused for 10 s" in text
    assert len(text.splitlines()) <= 40


def test_the_chart_has_a_column_for_each_process_with_what_it_is_told() -> None:
    """What arrives stands where it arrives, with its first line, and the fault among it."""
    report = explore(lost_answer.broken, strategy=DepartureBounded(1), budget_s=600)
    assert report.counterexample is not None
    lines = report.counterexample.text.splitlines()
    header = next(line for line in lines if line.split() == ["bank", "till", "network"])
    for row, actor in {
        "22 bytes from till:40000 reach bank:1000: withdraw 10 request-1": "bank",
        "crashes before it sends to till:40000": "bank",
        "10 bytes from bank:1000 reach till:40004: withdrawn": "till",
        "has no answer, and asks again": "till",
    }.items():
        found = [line for line in lines[lines.index(header) :] if row in line]
        assert found, row
        assert found[0].index(row) == header.index(actor), row
