"""Two executions of one schedule, compared: where they differ, in a user's words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest

from sim.counterexamples.steps import Step, step_of
from sim.kernel.hashing import pattern_of
from sim.kernel.outcome import Outcome

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def difference(first: Outcome, then: Outcome) -> str | None:
    """In words, where two traced executions differ; None if they do not.

    Names of tasks may carry a counter or an address, which differ and decide nothing.
    """
    ends = _ends_differ(first, then)
    steps = _steps_differ(_steps(first), _steps(then))
    return "; ".join(filter(None, (ends, steps))) or None


def drifting_names(first: Outcome, then: Outcome) -> dict[str, list[str]]:
    """By pattern, the names of tasks in the first execution that are others in the second."""
    return _drifting(_steps(first), _steps(then))


def _ends_differ(first: Outcome, then: Outcome) -> str | None:
    one, other = _end_of(first), _end_of(then)
    if _kind_of_end(first) != _kind_of_end(then):
        return f"the first execution {one}, the next one {other}"
    if first.labels != then.labels:
        missing = ", ".join(sorted(first.labels ^ then.labels))
        return f"only one of them reaches {missing}"
    return None


def _kind_of_end(outcome: Outcome) -> tuple[bool, str | None]:
    violation = outcome.violation
    return outcome.error is None, violation.property if violation is not None else None


def _end_of(outcome: Outcome) -> str:
    if outcome.error is not None:
        return f"is an error ({outcome.error})"
    if outcome.violation is None:
        return "holds"
    seen = _ADDRESS.sub("0x…", " ".join(outcome.violation.detail.split()))
    seen = f" ({seen})" if seen else ""
    return f"violates «{outcome.violation.property}»{seen}"


def _steps(outcome: Outcome) -> list[Step]:
    return [step_of(line) for line in outcome.steps]


def _steps_differ(first: list[Step], then: list[Step]) -> str | None:
    drifting = _drifting(first, then)
    pairs = zip_longest(_alike(first, drifting), _alike(then, drifting))
    for number, (one, other) in enumerate(pairs):
        if one != other:
            here, there = _words_at(first, number), _words_at(then, number)
            if here == there:
                here, there = _exactly_at(first, number), _exactly_at(then, number)
            return f"step {number + 1} in natural order was: {here}; and then: {there}"
    return None


def _words_at(steps: list[Step], number: int) -> str:
    return steps[number].words if number < len(steps) else "nothing more"


def _exactly_at(steps: list[Step], number: int) -> str:
    """For two steps that read alike: what they call, and when."""
    step = steps[number]
    return f"{step.what} ({step.callback}), at {step.at:.6f} s"


def _drifting(first: list[Step], then: list[Step]) -> dict[str, list[str]]:
    one, other = _names_by_pattern(first), _names_by_pattern(then)
    return {
        pattern: names
        for pattern, names in one.items()
        if pattern in other and set(names) != set(other[pattern])
    }


def _names_by_pattern(steps: Iterable[Step]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for actor in dict.fromkeys(step.actor for step in steps):
        pattern = pattern_of(actor)
        if pattern != actor:
            found.setdefault(pattern, []).append(actor)
    return found


def _alike(steps: list[Step], drifting: dict[str, list[str]]) -> list[tuple[float, str, str]]:
    """Comparable: drifting names by their turn, times without the nanoseconds of readings."""
    turns: dict[str, dict[str, int]] = {}
    alike = []
    for step in steps:
        actor, pattern = step.actor, pattern_of(step.actor)
        if pattern in drifting:
            names = turns.setdefault(pattern, {})
            actor = f"{pattern} {names.setdefault(actor, len(names))}"
        alike.append((round(step.at, 6), actor, step.callback))
    return alike
