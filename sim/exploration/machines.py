"""Machines with fewer CPUs, and with more: asyncio's default pool has as many threads as they say.

With `cpus=4` it has 8. A program with more than 5 jobs at once does otherwise on a machine with
one CPU, as a container may have, so such a one is looked at, and one with the most threads that
there may be; and a violation that this one does not have says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sim.exploration.report import Findings
from sim.exploration.subject import Problem
from sim.exploration.surviving_state import is_violated
from sim.kernel.schedule import Bounds, Schedule
from sim.kernel.threads.pools import CPUS_MOST, default_pool_threads
from sim.kernel.violation import Kind


def make_a_difference(problem: Problem, findings: Findings) -> bool:
    """Whether some execution had more jobs at once than there are threads on every machine."""
    is_asked = findings.machines is None and problem.is_for_any_machine
    return is_asked and "cpus" in findings.bounds_hit


def on_other_machines(bounds: Bounds) -> Iterator[Bounds]:
    return (replace(bounds, cpus=cpus) for cpus in (1, CPUS_MOST))


def condition(problem: Problem, findings: Findings, schedule: str) -> str:
    """Of a violation, in words: that it hangs on the machine; empty if it does not.

    schedule: of its counterexample. Who has named the machine is not told.
    """
    failure = findings.failure
    if failure is None or failure.violation is None or not problem.is_for_any_machine:
        return ""
    found = Schedule.parse(schedule)
    threads = default_pool_threads(found.bounds.cpus)
    is_slow = failure.violation.kind is Kind.ENDLESS_STEP
    if "cpus" not in failure.bounds_hit or is_slow or found.bounds.cpus >= CPUS_MOST:
        return ""
    most = replace(problem, bounds=replace(found.bounds, cpus=CPUS_MOST))
    if is_violated(most, found.departures, failure.violation.property):
        return ""
    return (
        f"the machine has cpus={found.bounds.cpus} here, and asyncio's default pool min(32, CPUs + "
        f"4) threads, {threads}: with {CPUS_MOST} CPUs this schedule violates nothing; "
        f"explore(…, cpus=…) is for one machine alone"
    )
