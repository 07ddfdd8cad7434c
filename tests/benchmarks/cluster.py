"""What a batch costs with `--jobs` and with `--cluster`, and what that makes of a million seeds.

    python -m uv run --isolated --group cluster python -m tests.benchmarks.cluster [--seeds N]

It starts a cluster of Ray on this machine. Batches that do nothing are answered one by one, and
many at once; then some seeds are run, in turns by this process and by each. The last line is
arithmetic: a million seeds on 64 cores as fast as this one, with batches that cost the clock of a
worker what one by one cost here, and this process what many at once cost.
"""

from __future__ import annotations

import argparse
import os
import statistics
from contextlib import closing
from functools import partial
from time import perf_counter, process_time

from sim.bench.simulation.run import SEEDS_PER_BATCH, make_simulation, simulate
from sim.executors.base import Executor, IsStopped, MakeExecutor
from sim.executors.batches import Batches, in_order
from sim.executors.on_ray import OnRay
from sim.executors.processes import Processes

ALONE, MANY = 200, 1000
CORES = 64
SEEDS = 1_000_000


def nothing(number: int, is_stopped: IsStopped) -> int:
    return number


def one_by_one_s(executor: Executor) -> float:
    batches = Batches(executor)
    begun = perf_counter()
    for number in range(ALONE):
        batches.submit(partial(nothing, number))
        while not batches.answers(1.0):
            """Not there yet."""
    return (perf_counter() - begun) / ALONE


def many_s(executor: Executor) -> float:
    begun = perf_counter()
    for _ in in_order(executor, [partial(nothing, number) for number in range(MANY)]):
        """Taken."""
    return (perf_counter() - begun) / MANY


def simulated(seeds: int, executor: Executor | None) -> tuple[float, float]:
    """Seeds per second, and this process's processor seconds for a batch that others have run."""
    simulation = make_simulation(level="server", registry="production", profile=None, client="both")
    worked: list[float] = []
    report = simulate(
        simulation,
        seeds=seeds,
        executor=None if executor is None else lambda: executor,
        on_progress=lambda done: worked.append(process_time()),
    )
    return seeds / report.seconds, (worked[-1] - worked[0]) / (len(worked) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    arguments = parser.parse_args()
    simulated(2 * SEEDS_PER_BATCH, None)  # imports
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    alone = statistics.median(simulated(arguments.seeds, None)[0] for _ in range(3))
    batch_s = SEEDS_PER_BATCH / alone
    print(f"1 process: {alone:.1f} seeds/s, a batch of {SEEDS_PER_BATCH} takes {batch_s:.2f} s")
    measure("--jobs 2", partial(Processes, 2), arguments.seeds, alone)
    measure("Ray", partial(OnRay, "", 2), arguments.seeds, alone)


def measure(name: str, make: MakeExecutor, seeds: int, alone: float) -> None:
    begun = perf_counter()
    with closing(make()) as executor:
        list(in_order(executor, [partial(nothing, number) for number in range(4)]))
        start_s = perf_counter() - begun
        one_s, each_s = one_by_one_s(executor), many_s(executor)
        rate, worked_s = simulated(seeds, executor)
    print(
        f"{name}: first batches after {start_s:.1f} s; an empty batch costs {one_s * 1e3:.2f} ms "
        f"one by one, {each_s * 1e3:.2f} ms many at once; {rate:.1f} seeds/s, a batch costs this "
        f"process {worked_s * 1e3:.2f} ms; load {os.getloadavg()[0]:.1f}"
    )
    batch_s = SEEDS_PER_BATCH / alone + one_s
    hours = SEEDS / SEEDS_PER_BATCH * batch_s / CORES / 3600
    print(
        f"  {SEEDS:,} seeds on {CORES} cores: {hours:.2f} h, of which {one_s / batch_s:.2%} for "
        f"batches; this process needs {CORES / batch_s * worked_s:.0%} of a core",
        flush=True,
    )


if __name__ == "__main__":
    main()
