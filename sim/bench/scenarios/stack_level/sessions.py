"""The note's scenario and similar ones, over sockets: two prompts of one session, and the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from registry.wording import REGISTRY_CLOSED
from sim.bench.harness.http_bench import PROFILE
from sim.bench.harness.stack_bench import StackBench
from sim.bench.scenarios.stack_level.story import StackDefinition

SHORT = replace(PROFILE, load_s=0.2, chunks=2)


async def second_prompt(bench: StackBench) -> None:
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", latest=2.0)
    await bench.over(p1, p2)
    if p1.error_code == "superseded":
        bench.world.reached("p1 was superseded")
    else:
        bench.world.reached("p1 finished first")
    newest = bench.newest_of(p1, p2)
    is_answered = newest.error_code is None and newest.text
    bench.world.check(is_answered, "the newest prompt is answered", f"{newest.body!r}")


async def hung_upstream(bench: StackBench) -> None:
    """The model has one slot (OLLAMA_NUM_PARALLEL=1), and p1 hangs in it."""
    model = bench.world.choose("p1 hangs", ("fake:hang-midstream", "fake:hang-before-headers"))
    p1 = await bench.post("p1", model=model)
    await asyncio.sleep(1.0)
    if bench.fake.slots_taken(model):
        bench.world.reached("p1 hung in its slot")
    p2 = await bench.post("p2", latest=0.2)
    await bench.over(p1, p2)
    bench.world.check(p1.error_code == "superseded", "prompt 1 is told", f"{p1.body!r}")
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")
    bench.world.check(not bench.fake.slots_taken(model), "the slot is free again")


async def superseded_as_it_connects(bench: StackBench) -> None:
    """Prompt 2 is right behind prompt 1, whose call is just being connected to Ollama."""
    p1 = await bench.post("p1", "s", model="fake:hang-before-headers")
    p2 = await bench.post("p2", "s")
    await bench.over(p1, p2)
    newest = bench.newest_of(p1, p2)
    if p1.error_code == "superseded":
        bench.world.reached("p1 was superseded")
    if newest is p2:
        bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")


async def stop_is_pressed(bench: StackBench) -> None:
    p1 = await bench.post("p1")
    await bench.world.outside("stop is pressed", earliest=0.1, latest=1.0)
    if p1.given_id is None:
        await bench.over(p1)
    theirs = await bench.press_stop(p1, key="bob")
    bench.world.check(theirs.status == 404, "another key's stream is not there")
    stop = await bench.press_stop(p1)
    bench.world.check(stop.status == 200, "stop is answered", f"{stop.status} {stop.body!r}")
    await bench.over(p1)
    bench.world.reached("was cancelled" if p1.error_code == "cancelled" else "had finished already")


async def shutdown(bench: StackBench) -> None:
    """SIGTERM to uvicorn's own handlers, with connections that idle, are half open, stream."""
    idle = await bench.connect("idle")
    half = await bench.connect("half")
    _, data = bench.prompt(half, "p0", "other")
    del bench.prompts["p0"]
    await half.send(data[: len(data) // 2])
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await bench.terminate(earliest=0.2, latest=0.8)
    await bench.over(p1)
    if any(line.fields.get("reason") == REGISTRY_CLOSED for line in bench.logged):
        bench.world.reached("a stream was ended by the shutdown")
    for each in (idle, half):
        each.close()


DEFINITIONS = (
    StackDefinition(
        "second_prompt",
        "a second prompt while the first streams",
        second_prompt,
        ("p1 was superseded", "p1 finished first"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "hung_upstream",
        "Ollama hangs in prompt 1, in its only slot, when prompt 2 comes",
        hung_upstream,
        ("p1 hung in its slot",),
        # Until it hears of the end of p1, its slot is taken.
        bench={"profile": SHORT, "ollama_hears_late": True},
    ),
    StackDefinition(
        "superseded_as_it_connects",
        "a second prompt while the first is being connected to Ollama",
        superseded_as_it_connects,
        ("p1 was superseded",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "stop_is_pressed",
        "the stream is cancelled over the API",
        stop_is_pressed,
        ("was cancelled", "had finished already"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "shutdown",
        "SIGTERM while connections idle, are half open, and stream",
        shutdown,
        ("a stream was ended by the shutdown",),
        bench={"profile": SHORT},
    ),
)
