"""Schedulers by the names that `explore(strategy=…)` takes."""

from __future__ import annotations

from collections.abc import Callable

from sim.kernel.arguments import misused
from sim.schedulers import (
    PCT,
    CancelEverywhere,
    DepartureBounded,
    DepthFirst,
    NaturalOrder,
    Portfolio,
    RandomWalk,
    Reduced,
    Scheduler,
    Staged,
    StateMatching,
)

DEFAULT_STRATEGY = "staged"
# The most departures that `departures` comes to; no budget does.
DEPARTURES_MAX = 100

STRATEGIES: dict[str, Callable[[int], Scheduler]] = {
    "staged": Staged,
    "depth-first": lambda seed: DepthFirst(),
    "departures": lambda seed: DepartureBounded(1, DEPARTURES_MAX),
    "reduced": lambda seed: Reduced(DepthFirst(), seed=seed),
    "states": lambda seed: StateMatching(seed=seed),
    "random": RandomWalk,
    "pct": PCT,
    "portfolio": Portfolio,
    "natural": lambda seed: NaturalOrder(),
    "cancel everywhere": lambda seed: CancelEverywhere(),
}


def make_scheduler(strategy: str | Scheduler, seed: int, *, isolate: bool = False) -> Scheduler:
    if isinstance(strategy, Scheduler):
        return strategy
    if not isinstance(strategy, str):
        raise misused(
            f"strategy {strategy!r} is no scheduler: let {type(strategy).__name__} inherit from "
            f"sim.Scheduler, which has a default for all but next_execution and choose"
        )
    if strategy not in STRATEGIES:
        raise misused(
            f"strategy {strategy!r} is not known; there are {', '.join(STRATEGIES)}, or give an "
            f"object of a class that inherits from sim.Scheduler"
        )
    if isolate and strategy == Staged.name:
        return Staged(seed, reads_states=False)
    return STRATEGIES[strategy](seed)
