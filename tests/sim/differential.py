"""What stock asyncio does with a program, and whether the simulator has it among its outcomes."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sim import Scheduler, World, outcomes
from sim.kernel.schedule import Bounds
from sim.kernel.violation import Kind
from sim.schedulers import DepartureBounded, DepthFirst, FewDepartures
from tests.sim.stock_world import StockWorld, Stuck, many_switches, run_on_stock

Program = Callable[[Any, list[str]], Awaitable[None]]

BOUNDS = Bounds(lateness_s=60.0, passes_max=20)
"""A machine may be as slow as it likes: a timer may be late, and an event last."""

RANDOM_FIRST = 100
"""Random executions before all are run: they meet most of what is likely."""

DEPARTURES_FIRST = 3
"""Then those with up to a number of departures: most of the rest needs few, but at any place."""

OTHER = "an outcome that is not wanted"


@dataclass(frozen=True, slots=True)
class Seen:
    """The notes of one run; and whether the program returned, or nothing could wake it any more.

    is_sure: false where a thread may only have been slow to wake it.
    """

    notes: tuple[str, ...]
    is_over: bool
    is_sure: bool = True

    def shows(self, wanted: Seen) -> bool:
        """Whether this outcome of an execution is the one of a run on stock asyncio."""
        if wanted.is_sure:
            return self == wanted
        return self.notes[: len(wanted.notes)] == wanted.notes


def on_stock(program: Program, runs: Iterable[int]) -> Counter[Seen]:
    """How often each outcome was seen in these runs, with noise, on stock asyncio."""
    seen: Counter[Seen] = Counter()
    with many_switches():
        for seed in runs:
            seen[_one_on_stock(program, seed)] += 1
    return seen


def _one_on_stock(program: Program, seed: int) -> Seen:
    log: list[str] = []
    found: list[Seen] = []

    async def main(world: StockWorld) -> None:
        await program(world, log)
        found.append(Seen(tuple(log), is_over=True))

    def is_stuck() -> None:
        alone = threading.active_count() == threads_before
        found.append(Seen(tuple(log), is_over=False, is_sure=alone))

    threads_before = threading.active_count()
    _, result = run_on_stock(main, seed, on_stuck=is_stuck)
    if not found:
        assert isinstance(result, BaseException) and not isinstance(result, Stuck)
        raise result
    return found[0]


class _Notes(list[str]):
    """Of one execution, which is ended where they are the beginning of nothing that is wanted."""

    def __init__(self, world: World, wanted: Seen | None) -> None:
        super().__init__()
        self.is_over = False
        self._world = world
        self._wanted = wanted

    def append(self, note: str) -> None:
        # Not of the tasks that are cancelled after a deadlock, or after the end.
        if self.is_over or self._world.violation is not None:
            return
        super().append(note)
        if self._wanted is not None and not self._may_show(self._wanted):
            self._world.fail(OTHER)

    def _may_show(self, wanted: Seen) -> bool:
        length = len(self) if wanted.is_sure else min(len(self), len(wanted.notes))
        return tuple(self[:length]) == wanted.notes[:length]


def simulated(
    program: Program, scheduler: Scheduler, wanted: Seen | None = None
) -> Iterator[Seen | None]:
    """The outcome of each execution; None of those that do not lead to what is wanted."""
    last: list[_Notes] = []

    async def main(world: World) -> None:
        last[:] = [_Notes(world, wanted)]
        await program(world, last[0])
        last[0].is_over = True

    for outcome in outcomes(main, scheduler, bounds=BOUNDS):
        assert outcome.error is None, outcome.error
        violation = outcome.violation
        if violation is not None and violation.property == OTHER:
            yield None
            continue
        assert violation is None or violation.kind is Kind.DEADLOCK, violation
        yield Seen(tuple(last[0]), last[0].is_over)


@dataclass
class Comparison:
    """Outcomes of stock asyncio that no execution had.

    missing: no schedule leads to them. undecided: too many schedules could lead to them.
    """

    missing: list[Seen]
    undecided: list[Seen]
    executions: int = 0


def compare(program: Program, stock: Iterable[Seen], executions_max: int) -> Comparison:
    """Looks for each outcome of stock asyncio: among some random executions, then among all.

    executions_max: how many that begin as the outcome does are run for each.
    """
    found = Comparison([], [])
    left = list(stock)
    for outcome in islice(simulated(program, FewDepartures()), RANDOM_FIRST):
        found.executions += 1
        left = [wanted for wanted in left if outcome is None or not outcome.shows(wanted)]
        if not left:
            return found
    for wanted in left:
        _look_for(program, wanted, executions_max, found)
    return found


def _look_for(program: Program, wanted: Seen, executions_max: int, found: Comparison) -> None:
    for scheduler in (DepartureBounded(DEPARTURES_FIRST), DepthFirst()):
        is_exhausted = True
        for number, outcome in enumerate(simulated(program, scheduler, wanted), 1):
            found.executions += 1
            if outcome is not None and outcome.shows(wanted):
                return
            if number == executions_max:
                is_exhausted = False
                break
    (found.missing if is_exhausted else found.undecided).append(wanted)
