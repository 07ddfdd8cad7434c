"""Chunks per second of the server beside bare relays, where Ollama always has the next one ready.

    python3 -m uv run python -m tests.benchmarks.relay [--rounds 5] [--streams 4] [--chunks 3000]

Every side in a process of its own on the same core, in turns. Processor time is what to compare on
a machine that does other work as well; the clock's ratio stands next to it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.benchmarks.relays import OTHERS_CORE, Process, ask, installed, side, upstream

SIDES = ("async", "thread", "aiohttp", "httpx")


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of one side: seconds by the clock and of its processor, per chunk."""

    wall_s: float
    cpu_s: float


async def turn(running: Process, streams: int, chunks: int) -> Turn:
    wall, cpu = time.perf_counter(), running.cpu_s()
    readers = await asyncio.gather(*(ask(running.url, number) for number in range(streams)))
    wall, cpu = time.perf_counter() - wall, running.cpu_s() - cpu
    for reader in readers:
        assert reader.is_whole and reader.chunks == chunks, (reader.is_whole, reader.chunks)
    count = streams * chunks
    return Turn(wall / count, cpu / count)


async def measured(names: list[str], rounds: int, streams: int, chunks: int) -> None:
    with ExitStack() as exits:
        ollama = exits.enter_context(upstream(chunks, 0))
        sides = {name: exits.enter_context(side(name, ollama.url)) for name in names}
        turns: dict[str, list[Turn]] = {name: [] for name in sides}
        for number in range(rounds + 1):
            for name, running in sides.items():
                each = await turn(running, streams, chunks)
                # In the first round everybody still imports and allocates.
                if number:
                    turns[name].append(each)
    print(f"{'':10}{'chunks/s':>10}{'µs/chunk of processor':>24}{'× aiohttp: clock':>18}{'CPU':>8}")
    for name, each_turn in turns.items():
        wall = statistics.median(each.wall_s for each in each_turn)
        cpu = statistics.median(each.cpu_s for each in each_turn)
        pairs = list(zip(turns.get("aiohttp", ()), each_turn, strict=False))
        by_clock = statistics.median([a.wall_s / b.wall_s for a, b in pairs] or [0])
        by_cpu = statistics.median([a.cpu_s / b.cpu_s for a, b in pairs] or [0])
        print(f"{name:10}{1 / wall:10,.0f}{cpu * 1e6:24.1f}{by_clock:17.2f}×{by_cpu:7.2f}×")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=3_000)
    parser.add_argument("--sides", nargs="*", default=SIDES, choices=(*SIDES, "litellm"))
    asked = parser.parse_args(arguments)
    os.sched_setaffinity(0, {OTHERS_CORE})
    asyncio.run(measured(installed(asked.sides), asked.rounds, asked.streams, asked.chunks))


if __name__ == "__main__":
    main()
