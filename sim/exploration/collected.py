"""Garbage that is collected within an execution, as on stock Python it may be at any time.

A search keeps it to the end. Some executions beside it have it collected at all polls, or at some:
a task that only a circle holds, or what a WeakSet has, is gone from then on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.counterexamples.counterexample import replay_schedule
from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.kernel.collections_at_polls import listed
from sim.kernel.schedule import Bounds, Schedule

CHOICES_OF_POLLS = 8


def with_collections(bounds: Bounds, findings: Findings) -> Iterator[Bounds]:
    """At all polls; and at some, if the collector has found something there.

    findings: to which those of the executions with the first are added.
    """
    yield replace(bounds, collections=1)
    if findings.collected:
        yield from (replace(bounds, collections=each) for each in range(2, CHOICES_OF_POLLS + 1))


def condition(problem: Problem, schedule: str) -> str:
    """Of a violation, in words: that something was freed; empty if nothing was.

    schedule: of its counterexample.
    """
    found = Schedule.parse(schedule)
    if not found.bounds.collections:
        return ""
    freed = replay_schedule(problem.subject.program, found).freed
    what = f"{listed(freed)}, which" if freed else "what"
    return (
        f"in it the collector freed {what} only a circle of objects held, as stock Python may at "
        f"any time: keep a reference, of a task what create_task returns"
    )
