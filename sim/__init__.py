"""A deterministic simulator and model checker for asyncio programs.

`explore` runs a program under many schedules and returns a `Report`; the program is handed a
`World`. `new_event_loop` and `EventLoopPolicy` let other programs and suites run in virtual time.

What is not asked for is not imported: pytest loads `sim.pytest_plugin` in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import sim.kernel.threads.tools  # noqa: F401 - now: it notes which threads there are

if TYPE_CHECKING:
    from sim.counterexamples.counterexample import Counterexample
    from sim.exploration.report import Report
    from sim.exploration.runs import outcomes, run
    from sim.exploration.search import explore
    from sim.exploration.subject import Subject
    from sim.kernel.errors import CheckFailed, NotSimulated, ScheduleDoesNotFit, Stuck
    from sim.kernel.network.fates import Fault
    from sim.kernel.outcome import Outcome
    from sim.kernel.violation import Kind, Violation
    from sim.kernel.world import TraceLine, World
    from sim.runner import EventLoopPolicy, new_event_loop
    from sim.schedulers import DepartureBounded, Scheduler

__all__ = [
    "CheckFailed",
    "Counterexample",
    "DepartureBounded",
    "EventLoopPolicy",
    "Fault",
    "Kind",
    "NotSimulated",
    "Outcome",
    "Report",
    "ScheduleDoesNotFit",
    "Scheduler",
    "Stuck",
    "Subject",
    "TraceLine",
    "Violation",
    "World",
    "explore",
    "new_event_loop",
    "outcomes",
    "run",
]

_HOMES = {
    "CheckFailed": "sim.kernel.errors",
    "Counterexample": "sim.counterexamples.counterexample",
    "DepartureBounded": "sim.schedulers",
    "EventLoopPolicy": "sim.runner",
    "Fault": "sim.kernel.network.fates",
    "Kind": "sim.kernel.violation",
    "NotSimulated": "sim.kernel.errors",
    "Outcome": "sim.kernel.outcome",
    "Report": "sim.exploration.report",
    "ScheduleDoesNotFit": "sim.kernel.errors",
    "Scheduler": "sim.schedulers",
    "Stuck": "sim.kernel.errors",
    "Subject": "sim.exploration.subject",
    "TraceLine": "sim.kernel.world",
    "Violation": "sim.kernel.violation",
    "World": "sim.kernel.world",
    "explore": "sim.exploration.search",
    "new_event_loop": "sim.runner",
    "outcomes": "sim.exploration.runs",
    "run": "sim.exploration.runs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
