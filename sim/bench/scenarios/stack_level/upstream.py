"""Ollama's troubles over sockets: resets, early answers, silence, nobody who listens."""

from __future__ import annotations

import asyncio

from sim.bench.harness.http_client import StackExchange
from sim.bench.harness.stack_bench import (
    OLLAMAS_ADDRESS,
    OLLAMAS_NAME,
    QUIET_S,
    StackBench,
)
from sim.bench.harness.stack_ollama import Early
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import StackDefinition
from sim.kernel.network.fates import Fault

PROMPT_BYTES = 6000
# Longer than every limit of the server's.
LOOK_UP_S = 60.0


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
    await _answered(bench, "p2")
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


async def early_answer(bench: StackBench) -> None:
    """Ollama answers, or hangs up, while the prompt is still being sent; then it is well again."""
    bench.world.network.buffer_bytes = PROMPT_BYTES // 3
    bench.front.early = bench.world.choose("Ollama", tuple(Early))
    codes = ("upstream_busy", "cut") if bench.front.early is Early.ANSWERS else ("cut",)
    p1 = await bench.post("p1", padding_bytes=PROMPT_BYTES)
    await bench.over(p1)
    bench.world.check(p1.error_code in codes, "the error is told", f"{p1.body!r}")
    if bench.front.was_early:
        bench.world.reached(f"it {bench.front.early.value}")
    if p1.error_code == "upstream_busy":
        bench.world.reached("the answer was heard")
    bench.front.early = None
    await _answered(bench, "p2")


async def hung_up_idle(bench: StackBench) -> None:
    """Ollama closes connections that idle, as one is to be used for the next prompt.

    None ever idles: each call has a connection of its own, which ends with it.
    """
    for name in ("p1", "p2"):
        await _answered(bench, name)
        await asyncio.sleep(QUIET_S)
        idle = bench.sockets_to_ollama()
        bench.world.check(not idle, "no connection to Ollama idles", f"{idle}")
    ports = {each.port for each in bench.front.calls}
    bench.world.check(len(ports) == 2, "each call has a connection of its own", f"{ports}")
    bench.world.reached("two calls, none beside them")


async def no_descriptor(bench: StackBench) -> None:
    """The process has no descriptor left, once: for a client, or for Ollama."""
    bench.world.network.may_fail(Fault.NO_DESCRIPTOR)
    is_told = [await _has_no_descriptor(bench, name) for name in ("p1", "p2")]
    bench.world.check(not all(is_told), "none was left once alone")
    if any(line.event == "no_descriptors" for line in bench.logged):
        bench.world.reached("none was left for a client")
    if is_told[-1]:
        await _answered(bench, "p3")


async def _has_no_descriptor(bench: StackBench, name: str) -> bool:
    """Who is not told so is answered."""
    exchange = await bench.post(name)
    await bench.over(exchange)
    if exchange.error_code is None:
        _check_answered(bench, exchange)
        return False
    is_told = exchange.error_code == "upstream_unreachable" and b"open files" in exchange.body
    bench.world.check(is_told, "it says that there is no descriptor", f"{exchange.body!r}")
    bench.world.reached("none was left for Ollama")
    return True


async def look_up_hangs(bench: StackBench) -> None:
    """The resolver does not answer for prompt 1; for all that comes later it does."""
    network = bench.world.network
    network.look_up_s = LOOK_UP_S
    p1 = await bench.post("p1")
    asked_at = bench.world.now
    await asyncio.sleep(0.5)
    stood_s = bench.world.now - asked_at
    bench.world.check(stood_s < 1.0, "the loop never waits for a resolver", f"{stood_s:.3f} s")
    network.look_up_s = 0.0
    bench.world.check(not bench.front.calls, "nobody can be asked yet", f"{bench.front.calls}")
    then = bench.world.choose("then", ("prompt 2 comes", "its client leaves", "SIGTERM comes"))
    begun = bench.world.now
    if then == "SIGTERM comes":
        await bench.terminate()
    else:
        if then == "its client leaves":
            p1.connection.close()
        p2 = await bench.post("p2", latest=0.2)
        await bench.over(p2)
        _check_answered(bench, p2)
    await bench.over(p1)
    lasted_s = bench.world.now - begun
    limit_s = bench.grace_s + 2.0
    bench.world.check(lasted_s < limit_s, "nobody waits for a resolver", f"{lasted_s:.3f} s")
    bench.world.reached(then)
    # A look-up cannot be woken: its thread is the last to end.
    await asyncio.sleep(LOOK_UP_S)


async def cut_off(bench: StackBench) -> None:
    """Ollama's machine crashes, or is cut off, and nobody says so; later it is there again."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await bench.world.outside("Ollama is cut off", earliest=0.4, latest=0.5)
    if p1.text:
        bench.world.reached("in the middle of the answer")
    bench.cut_ollama_off()
    has_crashed = bench.world.choose("Ollama's machine", (False, True))
    if has_crashed:
        await bench.kill_ollama()
    begun = bench.world.now
    await bench.over(p1)
    limit_s = bench.settings.first_chunk_seconds + bench.settings.stream_inactivity_seconds
    lasted_s = bench.world.now - begun
    bench.world.check(p1.error_code == "upstream_silent", "silence is told", f"{p1.body!r}")
    bench.world.check(lasted_s < limit_s + 1.0, "L6 silence: in time", f"{lasted_s:.3f} s")
    p2 = await bench.post("p2")
    await bench.over(p2)
    is_told = p2.error_code == "upstream_unreachable"
    bench.world.check(is_told, "no connection is told", f"{p2.body!r}")
    bench.reconnect_ollama()
    if has_crashed:
        bench.world.reached("it had crashed")
    else:
        await _answered(bench, "p3")
        bench.world.reached("it was reached again")


async def _answered(bench: StackBench, name: str) -> None:
    asked = await bench.post(name)
    await bench.over(asked)
    _check_answered(bench, asked)


def _check_answered(bench: StackBench, asked: StackExchange) -> None:
    is_answered = asked.error_code is None and asked.text
    bench.world.check(is_answered, "the next is answered", f"{asked.body!r}")


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
    StackDefinition(
        "early_answer",
        "Ollama answers, or hangs up, before it has read the prompt",
        early_answer,
        ("it answers that it is busy", "it closes the connection", "the answer was heard"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "hung_up_idle",
        "no connection to Ollama is ever idle, to be closed as it is used",
        hung_up_idle,
        ("two calls, none beside them",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "no_descriptor",
        "the process has no descriptor left, for a client or for Ollama",
        no_descriptor,
        ("none was left for Ollama", "none was left for a client"),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "look_up_hangs",
        "Ollama's name is looked up for ever, and its prompt is superseded, left or shut down",
        look_up_hangs,
        ("prompt 2 comes", "its client leaves", "SIGTERM comes"),
        bench={"profile": SHORT, "ollama_at": OLLAMAS_NAME},
    ),
    StackDefinition(
        "cut_off",
        "Ollama's machine crashes, or is cut off, and nobody says so",
        cut_off,
        ("in the middle of the answer", "it had crashed", "it was reached again"),
        settings={
            "connect_seconds": 1.0,
            "first_chunk_seconds": 3.0,
            "stream_inactivity_seconds": 2.0,
            "ping_seconds": 1.0,
        },
        bench={"profile": SHORT, "ollama_at": OLLAMAS_ADDRESS},
    ),
)
