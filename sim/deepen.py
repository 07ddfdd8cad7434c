"""`onestream deepen`: how large a story may be of which every schedule is seen.

Iterative deepening over sessions × registers × cancels × leavers × hangs: the smallest stories
first, and none that holds one for which the time did not suffice. So whatever a size that was
proved holds was proved before it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from typing import Any

from sim.exploration import PROVED, Report, explore
from sim.log_capture import log_captured
from sim.scenarios.sized import Size, SizedScenario
from sim.schedulers import StateMatching
from sim.suspects import suspect_class

# The largest counts of sessions, registers, cancels, leavers and hangs that are thought of.
LARGEST = Size(2, 5, 3, 2, 2)
# Which part of the budget one size may use up.
SIZE_PART = 0.5


@dataclass(frozen=True, slots=True)
class Deepened:
    """What came of a size. states: how many were seen."""

    size: Size
    report: Report
    states: int

    def as_json(self) -> dict[str, Any]:
        found = self.report.counterexample
        return {
            "size": self.size.name,
            "verdict": self.report.verdict,
            "reason": self.report.reason,
            "executions": self.report.executions,
            "states": self.states,
            "seconds": round(self.report.seconds, 3),
            "counterexample": found and found.text,
        }

    def __str__(self) -> str:
        seen = f"{self.report.executions} executions, {self.states} states"
        return f"{self.report.verdict:<13}{self.size}  ({seen} in {self.report.seconds:.1f} s)"


def deepen(
    *,
    registry: str = "production",
    budget_s: float = 60.0,
    size: str | None = None,
    on_result: Callable[[Deepened], None] = lambda result: None,
) -> list[Deepened]:
    """Plays stories of growing size until the budget, in real seconds, is spent.

    size: the name of one that is to be played alone. It ends with a size that is not proved for
    another reason than its time. Raises ValueError for a size or registry that there is not.
    """
    deadline = time.perf_counter() + budget_s
    results: list[Deepened] = []
    too_large: list[Size] = []
    part = SIZE_PART if size is None else 1.0
    for each in _sizes(size):
        left_s = deadline - time.perf_counter()
        if left_s <= 0:
            break
        if any(_holds(each, other) for other in too_large):
            continue
        results.append(_play(registry, each, min(left_s, budget_s * part)))
        on_result(results[-1])
        report = results[-1].report
        if report.was_out_of_budget:
            too_large.append(each)
        elif report.verdict != PROVED:
            break
    return results


def largest_proved(results: list[Deepened]) -> list[Size]:
    """Those proved that no other proved one holds."""
    proved = [each.size for each in results if each.report.verdict == PROVED]
    return [one for one in proved if not any(_holds(o, one) for o in proved if o != one)]


def _sizes(name: str | None) -> Iterator[Size]:
    """In the order of how much happens, or the one that is named."""
    if name is not None:
        one = Size.parse(name)
        if one is None or not 1 <= one.sessions <= one.registers or one.hangs > one.registers:
            raise ValueError(
                f"{name!r} is no size: it is written as size-1s4r2c0l1h, for 1 session, 4 "
                f"registers, 2 cancels, 0 leavers and 1 hang, with 1 to 4 sessions then, and up to "
                f"4 hangs"
            )
        return iter([one])
    sessions, *others = astuple(LARGEST)
    ranges = (range(1, sessions + 1), *(range(count + 1) for count in others))
    sizes = [Size(*counts) for counts in itertools.product(*ranges)]
    possible = [
        one for one in sizes if one.sessions <= one.registers and one.hangs <= one.registers
    ]
    return iter(sorted(possible, key=lambda one: (sum(astuple(one)), one)))


def _holds(large: Size, small: Size) -> bool:
    return all(a >= b for a, b in zip(astuple(large), astuple(small), strict=True))


def _play(registry: str, size: Size, budget_s: float) -> Deepened:
    scenario, cls, scheduler = SizedScenario(size), suspect_class(registry), StateMatching()
    with log_captured(lambda line: None):
        report = explore(
            scenario.program_for(cls),
            strategy=scheduler,
            budget_s=budget_s,
            labels=scenario.labels_for(cls),
            level="registry",
            scenario=scenario.name,
            registry=registry,
            sources=(cls,),
        )
    return Deepened(size, report, scheduler.states)
