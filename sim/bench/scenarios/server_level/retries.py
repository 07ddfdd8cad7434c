"""Clients whose library sends a prompt again by itself, after an error."""

from __future__ import annotations

import asyncio

from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import SHORT, SILENCE, ServerDefinition

NEWER_WHOLE = "the newer prompt is answered whole, whatever a library repeats"
RANK_KEPT = "the repetition of the newest prompt is let in, whoever was let in before it"

HANGS = "fake:hang-before-headers"


async def repeated(bench: ServerBench) -> None:
    """Prompt 1 ends without an answer, prompt 2 is there or comes, and prompt 1 comes again."""
    how = bench.world.choose("p1", ("is superseded", "is stopped", "fails"))
    model = "fake:error" if how == "fails" else HANGS
    p1 = await bench.post("p1", model=model)
    await asyncio.sleep(0.4)
    if how == "is stopped":
        await bench.press_stop(p1)
    # However it came, it is the newer one.
    strategy = "enqueue" if how == "is stopped" else None
    p2 = await bench.post("p2", latest=0.2, strategy=strategy)
    await bench.over(p1)
    again = await bench.post("p1 again", text="p1", model=model, latest=2.0)
    await bench.over(again, p2)
    bench.world.check(p2.error_code is None and p2.text, NEWER_WHOLE, f"{p2.body!r}")
    if again.error_code == "repetition":
        bench.world.check(again.status == 400, "a repetition is told so", f"{again.status}")
        bench.world.reached(f"p1 {how}, and its repetition was refused")
    else:
        bench.world.reached("the repetition found its session free")


async def both_repeated(bench: ServerBench) -> None:
    """Prompt 2 stops prompt 1 and fails; then both come again, the older one first."""
    p1 = await bench.post("p1", model=HANGS)
    await asyncio.sleep(0.4)
    p2 = await bench.post("p2", model="fake:error")
    await bench.over(p1, p2)
    p1_again = await bench.post("p1 again", text="p1", model=HANGS)
    await asyncio.sleep(0.4)
    p2_again = await bench.post("p2 again", text="p2", model="fake:error", latest=0.2)
    await bench.over(p1_again, p2_again)
    # Ollama's own error, and not a refusal of ours.
    bench.world.check(p2_again.error_code == "upstream_error", RANK_KEPT, f"{p2_again.body!r}")
    if p1_again.error_code == "superseded":
        bench.world.reached("the older repetition was let in and gave way")


DEFINITIONS = (
    ServerDefinition(
        "repeated",
        "a library repeats by itself a prompt that was superseded, stopped or failed",
        repeated,
        (
            "p1 is superseded, and its repetition was refused",
            "p1 is stopped, and its repetition was refused",
            "p1 fails, and its repetition was refused",
            "the repetition found its session free",
        ),
        # With threads the tree is too large for the default budget, and they play no part in it.
        clients=("async",),
        settings=SILENCE,
        bench={"profile": SHORT},
    ),
    ServerDefinition(
        "both_repeated",
        "two libraries repeat their prompts, the older one first",
        both_repeated,
        ("the older repetition was let in and gave way",),
        clients=("async",),
        settings=SILENCE,
        bench={"profile": SHORT},
    ),
)
