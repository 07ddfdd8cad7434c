"""Ollama's troubles over sockets: resets, early answers, nobody who listens."""

from __future__ import annotations

import asyncio

from sim.bench.harness.stack_bench import StackBench
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import StackDefinition


async def upstream_errors(bench: StackBench) -> None:
    expected = {
        "fake:cut": "cut",
        "fake:error": "upstream_error",
        "fake:error-midstream": "upstream_error",
        "fake:missing": "model_not_found",
        "fake:busy": "upstream_busy",
        "fake:crash": "cut",
    }
    model = bench.world.choose("Ollama", tuple(expected))
    p1 = await bench.post("p1", model=model)
    await bench.over(p1)
    bench.world.check(
        p1.error_code == expected[model], "the error is told", f"{model}: {p1.body!r}"
    )
    p2 = await bench.post("p2")
    await bench.over(p2)
    bench.world.check(p2.error_code is None and p2.text, "the next is answered", f"{p2.body!r}")
    bench.world.reached(f"{model} came to its end")


async def upstream_resets(bench: StackBench) -> None:
    """Its process dies in the middle of a chunk: the connection is reset, and nobody listens."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await bench.world.outside("Ollama dies", earliest=0.3, latest=0.8)
    if p1.text:
        bench.world.reached("in the middle of the answer")
    await bench.kill_ollama()
    await bench.over(p1)
    bench.world.check(
        p1.error_code in ("cut", "upstream_unreachable"), "it is told", f"{p1.body!r}"
    )
    p2 = await bench.post("p2")
    await bench.over(p2)
    bench.world.check(p2.status == 503, "unreachable is 503", f"{p2.status} {p2.body!r}")
    bench.world.reached("it could not be reached")


async def silence(bench: StackBench) -> None:
    p1 = await bench.post("p1", model="fake:hang-midstream")
    begun = bench.world.now
    await bench.over(p1)
    lasted_s = bench.world.now - begun
    bench.world.check(
        p1.error_code == "upstream_silent",
        "L6 silence: a silent upstream ends its stream with a clear error",
        f"{p1.body!r}",
    )
    limit_s = 2 + bench.settings.first_chunk_seconds + bench.settings.stream_inactivity_seconds
    bench.world.check(lasted_s < limit_s, "L6 silence: in time", f"{lasted_s:.3f} s")
    if p1.pings:
        bench.world.reached("pings came in the silence")
    await asyncio.sleep(0)


DEFINITIONS = (
    StackDefinition(
        "upstream_errors",
        "Ollama fails before the first chunk, after it, or in the middle",
        upstream_errors,
        ("fake:cut came to its end", "fake:error came to its end", "fake:crash came to its end"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "upstream_resets",
        "Ollama's process dies: its connections are reset, and nobody listens any more",
        upstream_resets,
        ("in the middle of the answer", "it could not be reached"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "silence",
        "Ollama falls silent for longer than the limit",
        silence,
        ("pings came in the silence",),
        settings={
            "first_chunk_seconds": 3.0,
            "stream_inactivity_seconds": 2.0,
            "ping_seconds": 1.0,
        },
        bench={"profile": SHORT},
    ),
)
