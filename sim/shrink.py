"""Makes a failing schedule smaller: by departures, then length, then the values of its choices."""

from __future__ import annotations

from collections.abc import Iterator

from sim.execution import Outcome, Program, run_execution
from sim.schedule import Bounds, departures_of
from sim.schedulers import Replay

Departures = tuple[tuple[int, int], ...]
# Departures as they cost, choice points, the sum of where and what the departures are.
Size = tuple[int, int, int]

# By how much later choices are moved when an earlier one is taken out: some choice points are
# gone with it, or new ones there.
_SHIFTS = (0, -1, 1, -2, 2, -3, 3)


def shrink(
    program: Program, departures: Departures, violated: str, bounds: Bounds, *, executions_max: int
) -> tuple[Departures, int]:
    """The smallest schedule found that violates the same property, and the executions it took.

    Each candidate is natural wherever it says nothing (zero refill), also beyond its end. The
    first that is smaller is taken, and the search begins again with it.
    """
    if executions_max < 1:
        return departures, 0
    executions = 1
    size = _size(_replayed(program, departures, bounds))
    tried = {departures}
    smaller = True
    while smaller:
        smaller = False
        for candidate in _candidates(departures):
            if candidate in tried:
                continue
            if executions >= executions_max:
                return departures, executions
            executions += 1
            tried.add(candidate)
            outcome = _replayed(program, candidate, bounds)
            taken = departures_of(outcome.choices)
            if _violates(outcome, violated) and _size(outcome) < size:
                departures, size, smaller = taken, _size(outcome), True
                tried.add(taken)
                break
    return departures, executions


def _replayed(program: Program, departures: Departures, bounds: Bounds) -> Outcome:
    return run_execution(program, Replay(departures, strict=False), bounds)


def _candidates(departures: Departures) -> Iterator[Departures]:
    """The boldest first: without blocks of choices, then with each of them lower or earlier."""
    length = len(departures)
    block = length
    while block:
        for first in range(length - block, -1, -1):
            before, after = departures[:first], departures[first + block :]
            for shift in _SHIFTS if after and block <= 2 else (0,):
                moved = tuple((index + shift, option) for index, option in after)
                if not before or not moved or moved[0][0] > before[-1][0]:
                    yield before + moved
        block //= 2
    for place, (index, option) in enumerate(departures):
        before, after = departures[:place], departures[place + 1 :]
        for lower in range(1, option):
            yield (*before, (index, lower), *after)
    for place, (index, option) in enumerate(departures):
        before, after = departures[:place], departures[place + 1 :]
        least = before[-1][0] + 1 if before else 0
        for earlier in range(max(least, index - 3), index):
            yield (*before, (earlier, option), *after)


def _violates(outcome: Outcome, violated: str) -> bool:
    return outcome.violation is not None and outcome.violation.property == violated


def _size(outcome: Outcome) -> Size:
    values = sum(index + option for index, option in departures_of(outcome.choices))
    return outcome.cost, len(outcome.choices), values
