"""Makes a failing schedule smaller: fewer departures first, then smaller options."""

from __future__ import annotations

from sim.execution import Outcome, Program, run_execution
from sim.schedule import Bounds, departures_of
from sim.schedulers import Replay

Departures = tuple[tuple[int, int], ...]


def shrink(
    program: Program, departures: Departures, violated: str, bounds: Bounds, *, executions_max: int
) -> tuple[Departures, int]:
    """The smallest schedule found that violates the same property, and the executions it took.

    Takes departures out one by one, last first, then lowers their options, until neither helps.
    """
    executions = 0
    smaller: Departures | None = departures
    while smaller is not None:
        departures, smaller = smaller, None
        for candidate in _candidates(departures):
            if executions == executions_max:
                return departures, executions
            executions += 1
            outcome = run_execution(program, Replay(candidate, strict=False), bounds)
            taken = departures_of(outcome.choices)
            if _violates(outcome, violated) and _size(taken) < _size(departures):
                smaller = taken
                break
    return departures, executions


def _candidates(departures: Departures) -> list[Departures]:
    without = [departures[:i] + departures[i + 1 :] for i in reversed(range(len(departures)))]
    lowered = [
        (*departures[:i], (index, lower), *departures[i + 1 :])
        for i, (index, option) in enumerate(departures)
        for lower in range(1, option)
    ]
    return without + lowered


def _violates(outcome: Outcome, violated: str) -> bool:
    return outcome.violation is not None and outcome.violation.property == violated


def _size(departures: Departures) -> tuple[int, int]:
    return len(departures), sum(option for _, option in departures)
