"""Executions to the first failure, per broken program and scheduler, as a table in Markdown.

    python tests/benchmarks/schedulers.py [--seeds N] [--executions N] [--only PART_OF_A_NAME]
                                          [--columns NAME …]

`hypothesis` is one test, with N examples at most, in which Hypothesis draws each choice. Of it and
the random schedulers it is the median over the seeds 0, 1, …; `>N` where the median did not fail
within N executions, and `failed/seeds` after it where only some seeds did. Depth-first and
departure-bounded search have no seed. What fails in natural order in any of its scenarios says
nothing about schedulers, and is only counted. Figures are executions, so they are the same on every
machine. A mutant that never returns to its loop hangs what executes it; that counts as a failure
after HUNG_AFTER_S.
"""

from __future__ import annotations

import argparse
import signal
import statistics
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from hypothesis import strategies as st

from registry import StreamRegistry
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.subjects.mutants import MUTANTS, Mutant
from sim.bench.subjects.mutants import broken as mutant_applied
from sim.bugs import HISTORICAL_BUGS
from sim.bugs.base import this_version
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.schedule import Bounds
from sim.schedulers import (
    PCT,
    DepartureBounded,
    DepthFirst,
    FewDepartures,
    NaturalOrder,
    Portfolio,
    RandomWalk,
    Scheduler,
)
from tests.benchmarks.hypothesis_scheduler import Drawn, examples_to_failure

DEPARTURES_MAX = 4
# Executions of each scenario to see whether a mutant is killed there.
LOOKING_MAX = 100
# In real seconds; an execution takes some ten milliseconds.
HUNG_AFTER_S = 3.0

SEARCHES: dict[str, Callable[[], Scheduler]] = {
    "depth-first": DepthFirst,
    "departures": lambda: DepartureBounded(0, DEPARTURES_MAX),
}
RANDOM: dict[str, Callable[[int], Scheduler]] = {
    "uniform": RandomWalk,
    "PCT 2": lambda seed: PCT(seed, depth=2),
    "PCT 3": lambda seed: PCT(seed, depth=3),
    "few": FewDepartures,
    "portfolio": Portfolio,
}
HYPOTHESIS = "hypothesis"
COLUMNS = (*SEARCHES, *RANDOM, HYPOTHESIS)


@dataclass(frozen=True)
class Broken:
    """A program with a bug in it: of its own, or the mutant's."""

    name: str
    program: Program
    mutant: Mutant | None = None


class Hung(KeyboardInterrupt):
    """Raised through everything: a task keeps other exceptions to itself."""


def raise_hung(*_: object) -> None:
    raise Hung


def all_broken(only: str) -> Iterator[Broken | None]:
    """A mutant in the first scenario that kills it; None if natural order does."""
    for mutant in MUTANTS:
        if only in mutant.name:
            yield scenario_of(mutant)
    for bug in HISTORICAL_BUGS:
        if only in bug.id and bug.shows_on(this_version()):
            broken = Broken(bug.id, bug.program)
            with applied(broken):
                is_natural = executions_to_failure(bug.program, NaturalOrder(), 1) == 1
            yield None if is_natural else broken


def scenario_of(mutant: Mutant) -> Broken | None:
    scenarios = sorted(
        SCENARIOS_BY_LEVEL[mutant.level], key=lambda each: each.name not in mutant.likely
    )
    tried = [
        Broken(f"{mutant.name} ({each.name})", each.program_for(StreamRegistry), mutant)
        for each in scenarios
    ]
    for make in (NaturalOrder, lambda: DepartureBounded(1), RandomWalk):
        for broken in tried:
            with applied(broken):
                if executions_to_failure(broken.program, make(), LOOKING_MAX) <= LOOKING_MAX:
                    return broken if make is not NaturalOrder else None
    return Broken(f"{mutant.name} ({scenarios[0].name})", tried[0].program, mutant)


@contextmanager
def applied(broken: Broken) -> Iterator[None]:
    breaks = nullcontext() if broken.mutant is None else mutant_applied(broken.mutant)
    with breaks, guarded(), silenced():
        yield


def executions_to_failure(program: Program, scheduler: Scheduler, executions_max: int) -> float:
    """Infinite if none of the first `executions_max` fails."""
    for number in range(1, executions_max + 1):
        if not scheduler.next_execution():
            break
        if fails(program, scheduler):
            return number
    return float("inf")


def fails(program: Program, scheduler: Scheduler) -> bool:
    """Whether the execution that was begun violates something, or hangs."""
    before = signal.signal(signal.SIGALRM, raise_hung)
    signal.setitimer(signal.ITIMER_REAL, HUNG_AFTER_S)
    try:
        return run_execution(program, scheduler, Bounds()).violation is not None
    except Hung:
        return True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fails_as_drawn(program: Program, data: st.DataObject) -> bool:
    """The same, under a schedule that Hypothesis draws."""
    scheduler = Drawn(data)
    scheduler.next_execution()
    if fails(program, scheduler):
        return True
    scheduler.end()
    return False


def row(broken: Broken, seeds: int, executions_max: int, columns: Collection[str]) -> list[str]:
    def to_failure(column: str, seed: int) -> float:
        if column == HYPOTHESIS:
            drawn = partial(fails_as_drawn, broken.program)
            return examples_to_failure(drawn, seed=seed, examples_max=executions_max)
        scheduler = SEARCHES[column]() if column in SEARCHES else RANDOM[column](seed)
        return executions_to_failure(broken.program, scheduler, executions_max)

    cells = []
    with applied(broken):
        for column in columns:
            tried = range(1 if column in SEARCHES else seeds)
            cells.append(cell([to_failure(column, seed) for seed in tried], executions_max))
    return [broken.name, *cells]


def cell(found: list[float], executions_max: int) -> str:
    median = statistics.median_low(found)
    failed = sum(number <= executions_max for number in found)
    if median <= executions_max:
        return f"{median:g}"
    return f">{executions_max}" + (f" ({failed}/{len(found)})" if failed else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--executions", type=int, default=300, help="per search, at most")
    parser.add_argument("--only", default="", help="part of the name")
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=COLUMNS, metavar="NAME")
    arguments = parser.parse_args()
    print("| | " + " | ".join(arguments.columns) + " |")
    print("|---" * (1 + len(arguments.columns)) + "|")
    in_natural_order = 0
    for broken in all_broken(arguments.only):
        if broken is None:
            in_natural_order += 1
        else:
            cells = row(broken, arguments.seeds, arguments.executions, arguments.columns)
            print("| " + " | ".join(cells) + " |", flush=True)
    print(f"\n{in_natural_order} more fail in natural order, so under each of these at once")


if __name__ == "__main__":
    main()
