"""Many prompts at once, each a stream of its own: first chunks, processor per prompt, memory.

    python3 -m uv run python -m tests.benchmarks.many [--rounds 3] [--prompts 1000] [--chunks 60]
    python3 -m uv run python -m tests.benchmarks.many --second 200

Every side in a process of its own on the same core, in turns, with a fresh process for each turn.
`--second`: from a prompt to its first chunk, in a session that is free and in one whose stream is
stopped by it, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tests.benchmarks.relays import OTHERS_CORE, Reader, ask, begin, installed, side, upstream

SIDES = ("async", "aiohttp")
# What a side still does when it begins to listen, and what it imports with its first prompt.
SETTLES_S = 0.5
# Prompts of --second before the first that counts, and chunks of a stream that is to be stopped.
WARM_UP = 20
_ENDLESS = 100_000


@dataclass(frozen=True, slots=True)
class Turn:
    """first_s: of each prompt with a chunk, sorted. first_cpu_s: until all had one, or had failed.
    why: what the first that failed was told.
    """

    first_s: list[float]
    first_cpu_s: float
    cpu_s: float
    resident_kb: int
    failed: int
    why: str


def share(values: Sequence[float], of_1: float) -> float:
    return values[min(int(len(values) * of_1), len(values) - 1)] if values else float("nan")


async def turn(name: str, to: str, prompts: int, chunks: int) -> Turn:
    with side(name, to) as running:
        await ask(running.url, -1)
        await asyncio.sleep(SETTLES_S)
        before_kb, cpu = running.resident_kb(), running.cpu_s()
        first_cpu_s = 0.0

        def all_have_begun(_: object) -> None:
            nonlocal first_cpu_s
            first_cpu_s = running.cpu_s() - cpu

        readers = await asyncio.gather(*(begin(running.url, number) for number in range(prompts)))
        beginning = asyncio.gather(*map(_has_begun, readers))
        beginning.add_done_callback(all_have_begun)
        most_kb = before_kb
        while not all(each.over.done() for each in readers):
            await asyncio.wait([each.over for each in readers], timeout=0.5)
            most_kb = max(most_kb, running.resident_kb())
        await beginning
        failed = [each for each in readers if not each.is_whole or each.chunks != chunks]
        return Turn(
            sorted(each.first_at - each.begun_at for each in readers if each.first_at is not None),
            first_cpu_s,
            running.cpu_s() - cpu,
            most_kb - before_kb,
            len(failed),
            failed[0].last.decode(errors="replace") if failed else "",
        )


async def _has_begun(reader: Reader) -> None:
    await asyncio.wait({reader.first, reader.over}, return_when=asyncio.FIRST_COMPLETED)


async def many(names: list[str], rounds: int, prompts: int, chunks: int, gap_s: float) -> None:
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    with upstream(chunks, gap_s) as ollama:
        for _ in range(rounds):
            for name in names:
                turns[name].append(await turn(name, ollama.url, prompts, chunks))
    cpu_columns = f"{'CPU ms/prompt':>15}{'until first':>13}"
    columns = f"{'first chunk p50':>16}{'p99':>8}{cpu_columns}{'KB/stream':>11}"
    print(f"{'':10}{columns}{'failed':>8}")
    for name, of_side in turns.items():
        for each in of_side:
            p50, p99 = share(each.first_s, 0.5), share(each.first_s, 0.99)
            print(
                f"{name:10}{p50:14.2f} s{p99:6.2f} s{each.cpu_s / prompts * 1e3:15.2f}"
                f"{each.first_cpu_s / prompts * 1e3:13.2f}{each.resident_kb / prompts:11.0f}"
                f"{each.failed:8}"
            )
            if each.why:
                print(f"    {each.why!r}")
    if "aiohttp" in turns:
        for name in names:
            pairs = list(zip(turns[name], turns["aiohttp"], strict=True))
            p50, p99 = (
                statistics.median(share(a.first_s, of) / share(b.first_s, of) for a, b in pairs)
                for of in (0.5, 0.99)
            )
            cpu = statistics.median(a.cpu_s / b.cpu_s for a, b in pairs)
            first = statistics.median(a.first_cpu_s / b.first_cpu_s for a, b in pairs)
            print(
                f"{name} / aiohttp: p50 {p50:.2f} ×, p99 {p99:.2f} ×, CPU {cpu:.2f} ×, "
                f"until the first chunks {first:.2f} ×"
            )


async def second(prompts: int) -> None:
    """Prints the milliseconds to a first chunk, in free sessions and in those that are busy."""
    free, busy = [], []
    with upstream(_ENDLESS, 0.05) as ollama, side("async", ollama.url) as running:
        for number in range(-WARM_UP, prompts):
            first, before_s = await begun(running.url, number)
            later, after_s = await begun(running.url, number)
            await first.over
            later.transport.abort()
            await later.over
            if number >= 0:
                free.append(before_s * 1e3)
                busy.append(after_s * 1e3)
    free.sort()
    busy.sort()
    for name, of in (("p50", 0.5), ("p99", 0.99)):
        more = share(busy, of) - share(free, of)
        print(f"{name}: free {share(free, of):.1f} ms, busy {share(busy, of):.1f} ms, {more:+.1f}")


async def begun(url: str, number: int) -> tuple[Reader, float]:
    """A prompt, once its first chunk is there, and the seconds that took."""
    reader = await begin(url, number)
    await reader.first
    assert reader.first_at is not None
    return reader, reader.first_at - reader.begun_at


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=1_000)
    parser.add_argument("--chunks", type=int, default=60)
    parser.add_argument("--gap", type=float, default=0.1)
    parser.add_argument("--second", type=int, default=0, metavar="PROMPTS")
    parser.add_argument("--sides", nargs="*", default=SIDES)
    asked = parser.parse_args(arguments)
    os.sched_setaffinity(0, {OTHERS_CORE})
    if asked.second:
        asyncio.run(second(asked.second))
    else:
        asyncio.run(
            many(installed(asked.sides), asked.rounds, asked.prompts, asked.chunks, asked.gap)
        )


if __name__ == "__main__":
    main()
