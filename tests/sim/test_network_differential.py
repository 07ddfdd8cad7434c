"""What programs do on real loopback sockets, they do on simulated ones under some schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest

from sim import Scheduler, World, outcomes
from sim.kernel.violation import Kind
from sim.schedulers import DepartureBounded, FewDepartures, NaturalOrder
from tests.sim.differential import BOUNDS, OTHER
from tests.sim.network_programs import Plan, random_plan, run_plan
from tests.sim.stock_world import Stuck, run_on_stock

SILENT_S = 0.03
"""How long a real loop that nothing wakes is waited for before it counts as stuck."""

DEPARTURES_MAX = 3

RANDOM_FIRST = 30
"""Random executions before those are searched that begin as the wanted outcome does."""


class Notes:
    """What each end has seen, in its own order."""

    def __init__(self) -> None:
        self.by_end: dict[str, list[str]] = {}

    def note(self, end: str, text: str) -> None:
        self.by_end.setdefault(end, []).append(text)

    def seen(self, *, is_over: bool) -> Seen:
        ends = tuple((end, tuple(notes)) for end, notes in sorted(self.by_end.items()))
        return Seen(ends, is_over)


@dataclass(frozen=True, slots=True)
class Seen:
    """is_over: whether the program returned, or nothing could wake it any more."""

    ends: tuple[tuple[str, tuple[str, ...]], ...]
    is_over: bool

    def shows(self, wanted: Seen) -> bool:
        """Whether this simulated outcome is the real one.

        A real program that is stuck may only have waited longer than it was waited for.
        """
        return self == wanted or (not wanted.is_over and self.begins(wanted))

    def begins(self, wanted: Seen) -> bool:
        mine = dict(self.ends)
        return all(mine.get(end, ())[: len(notes)] == notes for end, notes in wanted.ends)

    def may_become(self, wanted: Seen) -> bool:
        """Whether more notes could make this the wanted one."""
        theirs = dict(wanted.ends)
        for end, notes in self.ends:
            length = len(notes) if wanted.is_over else min(len(notes), len(theirs.get(end, ())))
            if notes[:length] != theirs.get(end, ())[:length]:
                return False
        return True

    def __str__(self) -> str:
        lines = [f"  {end}: {'; '.join(notes)}" for end, notes in self.ends]
        return "\n".join([*lines, "  over" if self.is_over else "  stuck"])


def on_real_sockets(plan: Plan, runs: Iterable[int]) -> Counter[Seen]:
    """How often each outcome was seen on loopback, on stock asyncio, with noise."""
    return Counter(_one_on_real_sockets(plan, seed) for seed in runs)


def _one_on_real_sockets(plan: Plan, seed: int) -> Seen:
    notes, found = Notes(), []

    async def main(_: Any) -> None:
        await run_plan(plan, notes.note)
        found.append(notes.seen(is_over=True))

    def is_stuck() -> None:
        found.append(notes.seen(is_over=False))

    _, result = run_on_stock(main, seed, on_stuck=is_stuck, silent_s=SILENT_S)
    if not found:
        assert isinstance(result, BaseException) and not isinstance(result, Stuck)
        raise result
    return found[0]


def simulated(
    plan: Plan, scheduler: Scheduler, wanted: Seen | None = None
) -> Iterator[Seen | None]:
    """The outcome of each execution; None of those that do not lead to what is wanted."""
    last: list[Any] = []

    async def main(world: World) -> None:
        notes = Notes()
        last[:] = [notes, None]

        def note(end: str, text: str) -> None:
            # Not what comes of a program that is stuck and given up.
            if last[1] is not None or world.violation is not None:
                return
            notes.note(end, text)
            if wanted is not None and not notes.seen(is_over=False).may_become(wanted):
                world.fail(OTHER)

        await run_plan(plan, note)
        last[1] = notes.seen(is_over=True)

    for outcome in outcomes(main, scheduler, bounds=BOUNDS):
        assert outcome.error is None, outcome.error
        violation = outcome.violation
        if violation is not None and violation.property == OTHER:
            yield None
            continue
        assert violation is None or violation.kind is Kind.DEADLOCK, violation
        yield last[1] or last[0].seen(is_over=False)


def is_simulated(plan: Plan, wanted: Seen, executions_max: int) -> bool:
    """Whether some schedule leads to it."""
    return any(
        found is not None and found.shows(wanted)
        for scheduler, count in (
            (FewDepartures(), RANDOM_FIRST),
            (DepartureBounded(DEPARTURES_MAX), executions_max),
        )
        for found in islice(simulated(plan, scheduler, wanted), count)
    )


SMALL = (3, 4, 6, 10, 34, 39, 45, 46, 64, 80, 86, 94, 1261)
"""Those that have seen a kernel's rule broken: what a reset is after the end and before it, a close
with unread data or without lingering, a shutdown of what is over. Of 1261: who has asked for a
connection goes on before who accepts it."""


@pytest.mark.socket
@pytest.mark.parametrize(
    ("plans", "runs", "executions_max"),
    [(SMALL, 5, 500), pytest.param(range(400), 20, 5_000, marks=pytest.mark.soak)],
    ids=["small", "large"],
)
def test_what_real_sockets_do_is_simulated(
    plans: Sequence[int], runs: int, executions_max: int
) -> None:
    """Each outcome on loopback comes of some schedule, and the natural one of most runs."""
    natural_runs = 0
    for number in plans:
        plan = random_plan(f"network {number}")
        real = on_real_sockets(plan, range(runs))
        natural = next(simulated(plan, NaturalOrder()))
        for wanted, count in real.items():
            assert natural is not None
            if natural.shows(wanted):
                natural_runs += count
                continue
            assert is_simulated(plan, wanted, executions_max), (
                f"plan {number} has an outcome on real sockets that no schedule has:\n{plan}\n"
                f"{wanted}\nin natural order:\n{natural}"
            )
    print(f"{natural_runs} of {len(plans) * runs} runs end as in natural order")
    assert natural_runs > len(plans) * runs / 2
