"""Executions until a strategy has found the bug of a program, or has proved it, as a table.

    python tests/benchmarks/strategies.py [--only PART …] [--executions N] [--seeds N]
                                          [--columns NAME …] [PROGRAM …]

Programs are the published bugs and their fixed twins, the mutants that natural order does not kill,
and production in the scenarios of the registry; or those that are named, as `onestream explore`
takes them. `12` is found in the 12th execution, `proved 84` is proved in 84, `–` neither within
N executions, nor within BUDGET_S. Of strategies that draw it is the median over the seeds 0, 1, ….
The last lines sum up: the executions that were run, and the seconds.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from time import perf_counter

from registry import StreamRegistry
from sim import Subject, explore
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.subjects.mutants import MUTANTS, Mutant
from sim.bench.subjects.mutants import broken as mutant_applied
from sim.bugs import HISTORICAL_BUGS
from sim.bugs.base import this_version
from sim.exploration.report import Report
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.schedulers import DepartureBounded, DepthFirst, Portfolio, RandomWalk, StateMatching
from sim.schedulers.base import Scheduler
from sim.schedulers.staged import Staged

# Real seconds of one search, for what hangs or is slow.
BUDGET_S = 20.0
DEPARTURES_MAX = 30

# `10r 1d states` is natural order, 10 random executions, up to 1 departure, then states.
COLUMNS: dict[str, Callable[[int], Scheduler]] = {
    "depth-first": lambda seed: DepthFirst(),
    "departures": lambda seed: DepartureBounded(DEPARTURES_MAX),
    "states": lambda seed: StateMatching(seed=seed),
    "random": RandomWalk,
    "portfolio": Portfolio,
    "5r states": lambda seed: Staged(seed, random_executions=5, departures=None),
    "10r states": lambda seed: Staged(seed, random_executions=10, departures=None),
    "10r 1d states": lambda seed: Staged(seed, random_executions=10, departures=1),
    "10r 2d states": lambda seed: Staged(seed, random_executions=10, departures=2),
    "30r 1d states": lambda seed: Staged(seed, random_executions=30, departures=1),
}
SEEDED = {name for name in COLUMNS if name not in ("depth-first", "departures", "states")}


@dataclass(frozen=True)
class Case:
    name: str
    program: Program
    mutant: Mutant | None = None


def cases() -> Iterator[Case]:
    for bug in HISTORICAL_BUGS:
        if bug.shows_on(this_version()):
            yield Case(bug.id, bug.program)
        if bug.fixed is not None:
            yield Case(f"{bug.id} fixed", bug.fixed)
    for mutant in MUTANTS:
        scenarios = SCENARIOS_BY_LEVEL[mutant.level]
        for scenario in sorted(scenarios, key=lambda each: each.name not in mutant.likely)[:1]:
            name = f"{mutant.name} ({scenario.name})"
            yield Case(name, scenario.program_for(StreamRegistry), mutant)
    for scenario in SCENARIOS_BY_LEVEL["registry"]:
        yield Case(f"production {scenario.name}", scenario.program_for(StreamRegistry))


@contextmanager
def applied(case: Case) -> Iterator[None]:
    breaks = nullcontext() if case.mutant is None else mutant_applied(case.mutant)
    with breaks, silenced():
        yield


def explored(case: Case, scheduler: Scheduler, executions_max: int) -> Report:
    with applied(case):
        return explore(
            case.program, strategy=scheduler, max_executions=executions_max, budget_s=BUDGET_S
        )


def is_natural(case: Case) -> bool:
    return explored(case, Staged(), 1).verdict is Verdict.REFUTED


def cell(reports: list[Report]) -> str:
    executions = statistics.median_low(each.executions for each in reports)
    verdicts = {each.verdict for each in reports}
    if verdicts == {Verdict.PROVED}:
        return f"proved {executions}"
    found = sum(each.verdict is Verdict.REFUTED for each in reports)
    if found == len(reports):
        return str(executions)
    return f"{executions} ({found} of {len(reports)})" if found else "–"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("programs", nargs="*", metavar="PROGRAM")
    parser.add_argument("--only", nargs="+", default=[""], metavar="PART", help="of the name")
    parser.add_argument("--executions", type=int, default=3000, help="per search, at most")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--columns", nargs="+", choices=COLUMNS, default=[*COLUMNS], metavar="NAME")
    arguments = parser.parse_args()
    named = [Case(name, Subject.named(name).program) for name in arguments.programs]
    columns: list[str] = arguments.columns
    print("| | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    executions = dict.fromkeys(columns, 0)
    seconds = dict.fromkeys(columns, 0.0)
    in_natural_order = 0
    for case in named or cases():
        if not any(part in case.name for part in arguments.only):
            continue
        if is_natural(case):
            in_natural_order += 1
            continue
        cells = []
        for column in columns:
            begun = perf_counter()
            seeds = range(arguments.seeds if column in SEEDED else 1)
            reports = [
                explored(case, COLUMNS[column](seed), arguments.executions) for seed in seeds
            ]
            seconds[column] += (perf_counter() - begun) / len(seeds)
            executions[column] += statistics.median_low(each.executions for each in reports)
            cells.append(cell(reports))
        print("| " + " | ".join([case.name, *cells]) + " |", flush=True)
    print("| all, executions | " + " | ".join(map(str, executions.values())) + " |")
    print("| all, seconds | " + " | ".join(f"{each:.0f}" for each in seconds.values()) + " |")
    print(f"\n{in_natural_order} more fail in natural order, so in the first execution of each")


if __name__ == "__main__":
    main()
