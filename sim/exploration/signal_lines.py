"""Handlers of `signal.signal` that run between two lines of the program, as Python lets them.

A search runs them at polls, and where the main thread has taken a lock: a choice before each line
would multiply its schedules. Some executions beside it have the signal before each line of the
program's module at which CPython looks for one.
"""

from __future__ import annotations

from dataclasses import replace

from sim.exploration.report import Findings
from sim.kernel.schedule import Bounds

EXECUTIONS = 200
"""With one departure: before which line it lands, and all else in natural order."""
RANDOM_EXECUTIONS = 20


def are_possible(findings: Findings) -> bool:
    """Whether in some execution such a handler has run at a poll."""
    return findings.signals is None and "signal_lines" in findings.bounds_hit


def between_lines(bounds: Bounds) -> Bounds:
    return replace(bounds, signal_lines=True)
