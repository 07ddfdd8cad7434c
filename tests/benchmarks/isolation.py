"""What an execution in a fork of its own costs, and what looking for surviving state costs.

python3 -m uv run python tests/benchmarks/isolation.py --rounds 5
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from sim import World, explore
from sim.exploration.subject import Subject

EXECUTIONS = 50


async def withdrawals(world: World) -> None:
    """Three tasks that take turns on a lock."""
    lock = asyncio.Lock()

    async def withdraw(name: str) -> None:
        await world.outside(name, latest=1)
        for _ in range(5):
            async with lock:
                await asyncio.sleep(0)

    await asyncio.gather(*map(withdraw, "abc"))


def seconds_of(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def plain() -> object:
    return explore(withdrawals, strategy="random", max_executions=EXECUTIONS)


def isolated() -> object:
    return explore(withdrawals, strategy="random", max_executions=EXECUTIONS, isolate=True)


def one_looked_at() -> object:
    return explore(withdrawals, strategy="random", max_executions=1)


def one_alone() -> object:
    subject = replace(Subject.of(withdrawals), makes_its_state=True)
    return explore(subject, strategy="random", max_executions=1)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(argv).rounds
    calls = (plain, isolated, one_looked_at, one_alone)
    seconds: dict[str, list[float]] = {call.__name__: [] for call in calls}
    for _ in range(rounds):
        for call in calls:
            seconds[call.__name__].append(seconds_of(call))
    ms = {name: 1000 * statistics.median(each) for name, each in seconds.items()}
    print(f"{len(sys.modules)} modules, medians of {rounds} rounds, in ms:")
    print(f"an execution          {ms['plain'] / EXECUTIONS:8.2f}")
    print(f"the same in a fork    {ms['isolated'] / EXECUTIONS:8.2f}")
    print(
        f"to look for surviving state, once for each explore() "
        f"{ms['one_looked_at'] - ms['one_alone']:8.2f}"
    )


if __name__ == "__main__":
    main()
