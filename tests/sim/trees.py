"""Trees of choices without a program, for tests of how they are searched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from random import Random

from sim.kernel.schedule import ChoicePoint, Option
from sim.schedulers import DepartureBounded, DepthFirst, Scheduler

Path = tuple[int, ...]


@dataclass(frozen=True)
class Tree:
    """width_at: how many options there are after these choices; 0 for a leaf.

    As for most choice points of the simulator, every option but the first is a departure.
    """

    name: str
    width_at: Callable[[Path], int]

    def execute(self, scheduler: Scheduler) -> Path:
        path: Path = ()
        while width := self.width_at(path):
            costs = [0] + [1] * (width - 1)
            point = ChoicePoint(
                len(path), "any", [Option("")] * width, 0.0, lambda options, costs=costs: costs
            )
            path += (scheduler.choose(point),)
        return path


def drawn(path: Path, salt: str) -> float:
    return Random(f"{salt}:{path}").random()


def ragged(path: Path) -> int:
    """Up to 3 options and 12 levels; every branch may end early."""
    if len(path) == 12 or (len(path) > 3 and drawn(path, "end") < 0.15):
        return 0
    return 2 + (drawn(path, "width") < 0.2)


def orders(path: Path) -> int:
    """Of 7 events: one less to choose from at each level."""
    return 0 if len(path) >= 6 else 7 - len(path)


def lopsided(path: Path) -> int:
    """Each departure ends soon, as one that makes a program give up."""
    if len(path) == 40 or (sum(path) > 2 or (path[-3:] and any(path[:-3]))):
        return 0
    return 2


def comb(path: Path) -> int:
    """One deep bush behind the natural choices, and short ends next to it."""
    if any(path[:6]):
        return 0 if len(path) >= 8 else 2
    return 0 if len(path) >= 16 else 2


def bushes(path: Path) -> int:
    """Wide and shallow here, narrow and deep there, by chance."""
    if len(path) == 14 or (len(path) > 2 and drawn(path, "bush") < 0.3):
        return 0
    return 4 if path[:1] == (1,) and len(path) < 5 else 2


def late(path: Path) -> int:
    """Natural choices go on for long; what departs early has most before it."""
    if len(path) >= 24 or sum(path) > 3:
        return 0
    return 3 if len(path) % 5 == 4 else 2 if len(path) % 2 else 1 + (sum(path) < 2)


def chance(path: Path) -> int:
    """A branching process at its critical point: most of it belongs to a few early branches."""
    if len(path) < 2:
        return 3
    if len(path) == 18 or drawn(path, "ends") > 0.8:
        return 0
    return (0, 2, 2, 2, 3)[int(drawn(path, "width") * 5)]


def fibonacci(path: Path) -> int:
    """After each departure one choice point without a choice."""
    if len(path) == 14:
        return 0
    return 1 if path[-1:] == (1,) else 2


def tired(path: Path) -> int:
    """Fewer and fewer options, and fewer still after an odd departure."""
    return max(4 - len(path) // 3 - sum(path) % 2, 0) if len(path) < 11 else 0


def uneven(path: Path) -> int:
    """Some branches are likely to end at each level, others hardly ever."""
    ends = 0.45 if sum(path) % 3 == 0 and len(path) > 2 else 0.05
    return 0 if len(path) == 16 or drawn(path, "u") < ends else 2


TREES = [
    Tree("full", lambda path: 0 if len(path) == 10 else 2),
    Tree("ragged", cache(ragged)),
    Tree("orders", orders),
    Tree("lopsided", lopsided),
    Tree("comb", comb),
    Tree("bushes", cache(bushes)),
    Tree("late", late),
    Tree("chance", cache(chance)),
    Tree("fibonacci", fibonacci),
    Tree("tired", tired),
    Tree("uneven", cache(uneven)),
]
SEARCHES: dict[str, Callable[[], Scheduler]] = {
    "depth-first": DepthFirst,
    "two departures": lambda: DepartureBounded(2),
}
