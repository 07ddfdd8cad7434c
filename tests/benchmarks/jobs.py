"""The speed-up of a second process on one tree: `check --jobs 1` and `--jobs 2` in turns.

    python tests/benchmarks/jobs.py [--jobs N] [--rounds N] [SCENARIO ...]

Each search ends before its budget does, so that both do the same work; that their results are the
same is asserted, how fast they were is not. Next to each ratio is that of two processes that share
nothing and only count, on this machine at this moment: with other work on it, that is less than
two, and nothing can be better.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from time import perf_counter

from sim.bench.checking.check import check
from sim.executors.processes import processes

SCENARIOS = ("racing_registers",)


def count(to: int = 10_000_000) -> int:
    total = 0
    for number in range(to):
        total += number * number
    return total


def possible(jobs: int) -> float:
    """How much faster as many processes count than one, in turns."""
    begun = perf_counter()
    count()
    alone_s = perf_counter() - begun
    processes = [multiprocessing.Process(target=count) for _ in range(jobs)]
    begun = perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return jobs * alone_s / (perf_counter() - begun)


def processor_s() -> float:
    """Of this process, and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def measured(scenario: str, jobs: int) -> tuple[float, float, tuple[object, ...]]:
    """Seconds, processor seconds, and what has to be the same with any number of processes."""
    begun, processor_before_s = perf_counter(), processor_s()
    verdict = check(
        scenario=scenario, registry="production", budget_s=300, executor=processes(jobs)
    )
    seconds = perf_counter() - begun
    (result,) = verdict.results
    report = result.report
    worked_s = processor_s() - processor_before_s
    return seconds, worked_s, (report.verdict, report.executions, report.claim, report.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("scenarios", nargs="*", default=SCENARIOS)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before: {os.getloadavg()[0]:.1f}")
    for scenario in arguments.scenarios:
        measured(scenario, 1)
        ratios, alone_s, possibles, overheads = [], [], [], []
        for _ in range(arguments.rounds):
            possibles.append(possible(arguments.jobs))
            one, one_worked_s, came_to = measured(scenario, 1)
            several, worked_s, also_came_to = measured(scenario, arguments.jobs)
            assert came_to == also_came_to
            alone_s.append(one)
            ratios.append(one / several)
            overheads.append(worked_s / one_worked_s)
        print(
            f"{scenario}: {came_to[1]} executions, {statistics.median(alone_s):.1f} s alone; with "
            f"{arguments.jobs} jobs {statistics.median(ratios):.2f} × as fast "
            f"({', '.join(f'{ratio:.2f}' for ratio in ratios)}), where counting alone gets "
            f"{', '.join(f'{each:.2f}' for each in possibles)}; processor time "
            f"{statistics.median(overheads):.2f} × that of one process; "
            f"load {os.getloadavg()[0]:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
