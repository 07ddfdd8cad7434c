"""Readings of the wall clock that are equal, as two in a row mostly are on stock Python.

A search lets each be later than the last, which stock shows as well. Before it says "proved", some
executions in which all near ones are equal, or some, find what takes them for keys, or divides by
what lies between them (`beside.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.exploration.report import Findings
from sim.kernel.schedule import Bounds, Schedule

CHOICES_OF_READINGS = 8


def are_possible(findings: Findings) -> bool:
    """Whether in some execution the clock was read twice with next to nothing between."""
    return findings.equal is None and "equal_readings" in findings.bounds_hit


def with_equal_readings(bounds: Bounds) -> Iterator[Bounds]:
    return (replace(bounds, equal_readings=each) for each in range(1, CHOICES_OF_READINGS + 1))


def condition(schedule: str) -> str:
    """Of a violation, in words: that it hangs on them; empty if it does not.

    schedule: of its counterexample.
    """
    if not Schedule.parse(schedule).bounds.equal_readings:
        return ""
    return (
        "two readings of the wall clock are equal in it, as on stock where less than a microsecond "
        "lies between them: time.perf_counter() measures what passes, and a counter makes keys"
    )
