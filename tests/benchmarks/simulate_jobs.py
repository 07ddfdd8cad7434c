"""How many more seeds `onestream simulate` runs with more processes.

    python tests/benchmarks/simulate_jobs.py [--seeds N] [--rounds N] [--jobs N]

One process and several take turns; the ratio is the median of the rounds' ratios. On a busy machine
it says little; so the processor time is measured as well, which shows what the work in several
processes costs beyond the work itself.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import time

from sim.bench.simulation.run import make_simulation, simulate
from sim.executors.processes import processes


def processor_s() -> float:
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def measured(seeds: int, jobs: int) -> tuple[float, float]:
    """Seeds per second, and seconds of processor time."""
    simulation = make_simulation(level="server", registry="production", profile=None, client="both")
    begun, spent_before_s = time.perf_counter(), processor_s()
    report = simulate(simulation, seeds=seeds, executor=processes(jobs))
    assert report.verdict in ("passed", "inconclusive"), report.reason
    return seeds / (time.perf_counter() - begun), processor_s() - spent_before_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    measured(16, 1)  # imports
    ratios, costs = [], []
    for _ in range(arguments.rounds):
        alone, alone_s = measured(arguments.seeds, 1)
        together, together_s = measured(arguments.seeds, arguments.jobs)
        ratios.append(together / alone)
        costs.append(together_s / alone_s)
        print(
            f"1 process {alone:.1f} seeds/s, {arguments.jobs} processes {together:.1f} seeds/s: "
            f"{ratios[-1]:.2f} ×; processor time {alone_s:.1f} s and {together_s:.1f} s: "
            f"{costs[-1]:.2f} × (load {os.getloadavg()[0]:.1f})",
            flush=True,
        )
    ratio, cost = statistics.median(ratios), statistics.median(costs)
    print(
        f"median {ratio:.2f} ×; processor time {cost:.2f} ×, "
        f"so {arguments.jobs / cost:.2f} × where {arguments.jobs} cores are free"
    )


if __name__ == "__main__":
    main()
