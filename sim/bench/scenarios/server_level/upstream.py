"""Ollama's troubles: errors, silence, endless answers, slots that leak, closes that take long."""

from __future__ import annotations

import asyncio

from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import SILENCE, ServerDefinition


async def slot_leaks(bench: ServerBench) -> None:
    """Ollama keeps the slot of a call whose client left (ollama#17131): p2 waits for it."""
    p1 = await bench.post("p1", model="fake:ignores-disconnect")
    await asyncio.sleep(1.5)
    p2 = await bench.post("p2", model="fake:ignores-disconnect", latest=0.2)
    await bench.over(p1, p2)
    bench.world.check(
        p2.status == 504 or p2.error_code == "upstream_silent",
        "a silent upstream ends its stream with a clear error",
        f"{p2.status} {p2.body!r}",
    )
    bench.world.reached("p2 was told that Ollama is silent")


async def upstream_errors(bench: ServerBench) -> None:
    expected = {
        "fake:normal": None,
        "fake:error": "upstream_error",
        "fake:error-midstream": "upstream_error",
        "fake:cut": "cut",
        "fake:missing": "model_not_found",
        "fake:busy": "upstream_busy",
        "fake:crash": "cut",
    }
    model = bench.world.choose("Ollama", tuple(expected))
    stream = bench.world.choose("stream", (True, False))
    p1 = await bench.post("p1", model=model, stream=stream)
    await bench.over(p1)
    bench.world.check(
        p1.error_code == expected[model], "the error is told", f"{model}: {p1.body!r}"
    )
    bench.world.reached(f"{model} came to its end")


async def silence(bench: ServerBench) -> None:
    model = bench.world.choose("Ollama", ("fake:hang-midstream", "fake:hang-before-headers"))
    p1 = await bench.post("p1", model=model)
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
    bench.world.reached("as a status" if p1.status == 504 else "as a message")
    if p1.pings >= 2:
        bench.world.reached("pings came in the silence")
    said = bench.deliveries.said_to(p1.name)
    bench.world.check(p1.text == said, "pings are no content", f"{p1.text!r} of {said!r}")


async def endless(bench: ServerBench) -> None:
    """It would go on for 20 virtual minutes."""
    p1 = await bench.post("p1", model="fake:slow")
    begun = bench.world.now
    await bench.over(p1)
    lasted_s = bench.world.now - begun
    limit_s = bench.settings.total_seconds
    bench.world.check(
        p1.error_code == "total_exceeded" and b"JARVIS_TOTAL_SECONDS" in p1.body,
        "an endless stream ends with a clear error",
        f"{p1.body!r}",
    )
    in_time = limit_s <= lasted_s < limit_s + 0.1
    bench.world.check(in_time, "an endless stream ends at its limit", f"{lasted_s:.3f} s")
    if p1.text:
        bench.world.reached("it was ended mid-stream")


async def slow_close(bench: ServerBench) -> None:
    """Ollama notices the stop at once; our end of the connection is closed much later."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(2)
    p2 = await bench.post("p2", model="fake:normal", latest=0.2)
    await asyncio.sleep(0.1)
    how = bench.world.choose("the stream of p1", ("is left alone", "is cancelled once more"))
    if how == "is cancelled once more":
        bench.stream_of(p1).cancel()
    await bench.over(p1, p2)
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")
    if any(line.says("agent_timeout_on_cancel") for line in bench.logged):
        bench.world.reached("the agent was told twice")


async def slow_load(bench: ServerBench) -> None:
    """Re-prompted faster than the model loads: each prompt aborts the load (ollama#8398)."""
    prompts = []
    for serial in (1, 2, 3):
        prompts.append(await bench.post(f"p{serial}", model="fake:slow-load"))
        await asyncio.sleep(1.0)
    await bench.over(*prompts)
    *before, last = [each.error_code for each in prompts]
    is_newest_alone = last is None and set(before) == {"superseded"}
    bench.world.check(is_newest_alone, "the last is answered", f"{before} {last}")
    if bench.ollama.fake.state("fake:slow-load").loads_started > 1:
        bench.world.reached("a load was aborted")


async def unreachable(bench: ServerBench) -> None:
    bench.ollama.is_down = True
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", latest=0.1)
    await bench.over(p1, p2)
    bench.world.check(p2.status == 503, "unreachable is 503", f"{p2.status} {p2.body!r}")
    bench.world.reached("told where Ollama should be")


DEFINITIONS = (
    ServerDefinition(
        "slot_leaks",
        "Ollama leaks the slot of prompt 1, so that prompt 2 waits in silence",
        slot_leaks,
        ("p2 was told that Ollama is silent",),
        clients=("async",),
        settings=SILENCE,
    ),
    ServerDefinition(
        "upstream_errors",
        "Ollama fails before the first chunk, after it, or in the middle",
        upstream_errors,
        ("fake:normal came to its end", "fake:cut came to its end", "fake:error came to its end"),
    ),
    ServerDefinition(
        "silence",
        "Ollama falls silent for longer than the limits",
        silence,
        ("as a status", "as a message", "pings came in the silence"),
        settings={**SILENCE, "ping_seconds": 1.0},
    ),
    ServerDefinition(
        "endless",
        "Ollama does not come to an end within the limit of a stream",
        endless,
        ("it was ended mid-stream",),
        settings={"total_seconds": 1.5},
    ),
    ServerDefinition(
        "slow_close",
        "the connection to Ollama takes longer to close than the agent is given",
        slow_close,
        ("the agent was told twice",),
        clients=("async",),
        bench={"close_s": 0.8},
    ),
    ServerDefinition(
        "slow_load",
        "prompted again faster than the model loads",
        slow_load,
        ("a load was aborted",),
        clients=("async",),
    ),
    ServerDefinition(
        "unreachable", "no Ollama answers", unreachable, ("told where Ollama should be",)
    ),
)
