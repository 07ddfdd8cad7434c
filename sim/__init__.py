"""A deterministic simulator and model checker for asyncio programs.

`explore` runs a program under many schedules and returns a `Report`; the program is handed a
`World`. `new_event_loop` and `EventLoopPolicy` let other programs and suites run in virtual time.

What is not asked for is not imported: pytest loads `sim.pytest_plugin` in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sim.counterexample import Counterexample
    from sim.errors import CheckFailed, NotSimulated, ScheduleDoesNotFit, Stuck
    from sim.execution import Outcome
    from sim.exploration import Report, explore
    from sim.runner import EventLoopPolicy, new_event_loop
    from sim.runs import outcomes, run
    from sim.schedulers import DepartureBounded, Scheduler
    from sim.subject import Subject
    from sim.violation import Kind, Violation
    from sim.world import TraceLine, World

__all__ = [
    "CheckFailed",
    "Counterexample",
    "DepartureBounded",
    "EventLoopPolicy",
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
    "CheckFailed": "sim.errors",
    "Counterexample": "sim.counterexample",
    "DepartureBounded": "sim.schedulers",
    "EventLoopPolicy": "sim.runner",
    "Kind": "sim.violation",
    "NotSimulated": "sim.errors",
    "Outcome": "sim.execution",
    "Report": "sim.exploration",
    "ScheduleDoesNotFit": "sim.errors",
    "Scheduler": "sim.schedulers",
    "Stuck": "sim.errors",
    "Subject": "sim.subject",
    "TraceLine": "sim.world",
    "Violation": "sim.violation",
    "World": "sim.world",
    "explore": "sim.exploration",
    "new_event_loop": "sim.runner",
    "outcomes": "sim.runs",
    "run": "sim.runs",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'sim' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
