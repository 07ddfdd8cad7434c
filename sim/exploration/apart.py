"""Timers of one instant that fire apart, or in another order, as on stock Python they may.

A search lets them fire together, in the order in which they were armed, so that a proof does not
take every division of every instant. Some executions beside it divide one.
"""

from __future__ import annotations

from dataclasses import replace

from sim.exploration.report import Findings
from sim.kernel.schedule import Bounds

EXECUTIONS = 100
"""With up to DEPARTURES of the clock, and all else in natural order."""
DEPARTURES = 2
OF_THE_CLOCK = ("timers", "clock")
RANDOM_EXECUTIONS = 20


def met(findings: Findings) -> bool:
    """Whether in some execution timers of several readings of the clock met in one instant."""
    return findings.apart is None and "timers_apart" in findings.bounds_hit


def timers_apart(bounds: Bounds) -> Bounds:
    return replace(bounds, timers_apart=True)
