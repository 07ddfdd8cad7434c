"""What clients do with their connections: reuse, pipelining, trickling, leaving in every way."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sim.bench.harness.http_client import StackExchange
from sim.bench.harness.stack_bench import QUIET_S, StackBench
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import StackDefinition

ANSWERED = "who asks properly is answered"
# An answer that begins once probes have become rare.
LATE = replace(SHORT, load_s=6.6)
NOTHING_RUNS = "who leaves leaves nothing running at Ollama"


def check_answered(bench: StackBench, *exchanges: StackExchange) -> None:
    for each in exchanges:
        is_answered = each.status == 200 and each.error_code is None and each.text
        bench.world.check(is_answered, ANSWERED, f"{each.name}: {each.status} {each.body!r}")


async def reused_after_error(bench: StackBench) -> None:
    """A request that is refused, and the next one over the same connection."""
    connection = await bench.connect("client")
    bad, data = bench.prompt(connection, "p1", body=b'{"messages": 5}')
    await connection.send(data)
    await bench.over(bad)
    bench.world.check(bad.status == 400, "nonsense is 400", f"{bad.status} {bad.body!r}")
    if not connection.is_open:
        bench.world.reached("the connection was closed")
        return
    second = await bench.post("p2", over=connection)
    await bench.over(second)
    check_answered(bench, second)
    bench.world.reached("the connection was used again")


async def pipelined(bench: StackBench) -> None:
    """Two prompts in one write: answered one after the other, in order."""
    connection = await bench.connect("client")
    first, first_data = bench.prompt(connection, "p1", "a", stream=False)
    second, second_data = bench.prompt(connection, "p2", "b")
    await connection.send(first_data + second_data)
    await bench.over(first, second)
    check_answered(bench, first, second)
    bench.world.reached("both were answered")


async def leaves_with_more_behind(bench: StackBench, *, ends_within_s: float = 0.0) -> None:
    """Its second request is read already when its first hangs in Ollama, and it leaves.

    ends_within_s: how long its first prompt may go on, as nothing tells that it left.
    """
    connection = await bench.connect("client")
    first, first_data = bench.prompt(connection, "p1", "a", model="fake:hang-midstream")
    _, second_data = bench.prompt(connection, "p2", "b")
    await connection.send(first_data + second_data)
    await bench.world.outside("the client leaves", earliest=0.5, latest=0.8)
    if first.body:
        bench.world.reached("left mid-stream")
    connection.close(with_reset=True)
    await asyncio.sleep(ends_within_s + QUIET_S)
    bench.world.check(not bench.calls_held(), NOTHING_RUNS, f"{bench.calls_held()}")


async def trickles(bench: StackBench) -> None:
    """A head that comes byte by byte keeps its connection for a while, and nobody waiting."""
    slow = await bench.connect("slow")
    _, data = bench.prompt(slow, "p0", "other")
    slow_prompt = bench.prompts.pop("p0")
    p1 = await bench.post("p1", latest=0.1)
    for place in range(0, 40, 10):
        await slow.send(data[place : place + 10])
        await asyncio.sleep(0.8)
    await bench.over(p1)
    check_answered(bench, p1)
    await asyncio.sleep(QUIET_S)
    bench.world.check(slow_prompt.has_failed, "a head that trickles is not waited for")
    bench.world.reached("given up")


async def leaves(bench: StackBench) -> None:
    """The client is gone at some moment: with a reset, in good order, or with its sending side."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    how = bench.world.choose("the client", ("resets", "closes", "closes its sending side"))
    await bench.world.outside(f"the client {how}", earliest=0.0, latest=0.8)
    if p1.body:
        bench.world.reached("left mid-stream")
    if how == "closes its sending side":
        p1.connection.close_sending_side()
        await asyncio.sleep(0.3)
        if p1.connection.is_open:
            # Until its answer begins it may be waiting for it.
            bench.world.reached("was waited for")
    p1.connection.close(with_reset=how == "resets")
    if how == "closes its sending side":
        # Whether it waits for the answer the server learns by what it sends, a probe or a ping:
        # the first is answered with a reset, and the second finds that.
        await asyncio.sleep(2 * bench.settings.ping_seconds)
    await asyncio.sleep(QUIET_S)
    bench.world.check(not bench.calls_held(), NOTHING_RUNS, f"{bench.calls_held()}")


async def leaves_before_answer(bench: StackBench) -> None:
    """It has closed its sending side, and so is asked whether it waits, until it is gone."""
    p1 = await bench.post("p1", model="fake:hang-before-headers")
    await bench.world.outside("the client closes its sending side", earliest=0.1, latest=0.8)
    p1.connection.close_sending_side()
    await asyncio.sleep(0.5)
    if p1.connection.is_open:
        bench.world.reached("was waited for")
    p1.connection.close()
    # A probe, up to 0.8 s later, is answered with a reset, and the next finds that.
    await asyncio.sleep(2.5)
    bench.world.check(not bench.calls_held(), NOTHING_RUNS, f"{bench.calls_held()}")


async def leaves_long_before_answer(bench: StackBench) -> None:
    """The same when probes have become rare: the next finds that it is gone, and is the last."""
    p1 = await bench.post("p1", model="fake:hang-before-headers")
    await asyncio.sleep(0.1)
    p1.connection.close_sending_side()
    # Probes 3.15 s after that, and 6.35 s.
    await bench.world.outside("the client leaves", earliest=3.0, latest=4.0)
    bench.world.check(p1.connection.is_open, "who waits for its answer is waited for")
    p1.connection.close()
    await asyncio.sleep(3.5)
    bench.world.check(not bench.calls_held(), NOTHING_RUNS, f"{bench.calls_held()}")
    bench.world.reached("was seen to be gone")


async def half_closes(bench: StackBench) -> None:
    """It closes its sending side behind its request, as some proxies do, and waits."""
    connection = await bench.connect("client")
    p1 = await bench.post("p1", over=connection, stream=False)
    await bench.world.outside("the client closes its sending side", earliest=0.0, latest=0.1)
    if p1.is_whole:
        return
    connection.close_sending_side()
    await bench.over(p1)
    check_answered(bench, p1)
    await asyncio.sleep(QUIET_S)
    bench.world.check(not connection.is_open, "nobody can ask again: the connection is closed")
    bench.world.reached("was answered")


async def stops_reading(bench: StackBench) -> None:
    """All buffers of the kernels and of the server fill; then prompt 2 comes."""
    p1 = await bench.post("p1", model="fake:slow")
    await asyncio.sleep(0.5)
    p1.connection.stop_reading()
    await asyncio.sleep(3.0)
    if bench.state_of(p1) is not None:
        bench.world.reached("it was not read")
    p2 = await bench.post("p2", latest=0.1)
    await bench.over(p2)
    check_answered(bench, p2)
    bench.world.check(bench.state_of(p1) is None, "a stream that nobody reads ends when it is told")
    p1.connection.close()


async def never_reads(bench: StackBench) -> None:
    """An answer that is over for the server stays in its buffer, as nobody reads it."""
    bench.world.network.buffer_bytes = 100
    p1 = await bench.post("p1", stream=False)
    p1.connection.stop_reading()
    await asyncio.sleep(3 * bench.settings.send_seconds)
    held = [each for each in bench.sockets_of_server() if not each.is_listening]
    bench.world.check(not held, "a client that never reads is given up", f"{held}")
    bench.world.reached("was given up")
    p1.connection.close()


async def closes_as_it_is_used(bench: StackBench) -> None:
    """The server closes an idle connection in the moment in which its client uses it again."""
    connection = await bench.connect("client")
    first = await bench.post("p1", over=connection, model="fake:normal", stream=False)
    await bench.over(first)
    check_answered(bench, first)
    second = await bench.post("p2", over=connection, earliest=4.9, latest=5.1)
    await bench.over(second)
    if second.has_failed:
        # Nothing of it is left: who prompts again is not refused because of it.
        second.has_left = True
        bench.world.reached("it was closed")
        third = await bench.post("p3")
        await bench.over(third)
        check_answered(bench, third)
    else:
        check_answered(bench, second)
        bench.world.reached("it was answered")


DEFINITIONS = (
    StackDefinition(
        "reused_after_error",
        "a connection is used again after a request that was refused",
        reused_after_error,
        ("the connection was used again",),
        clients=("async",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "pipelined",
        "two requests behind each other, in one write",
        pipelined,
        ("both were answered",),
        clients=("async",),
        bench={"profile": replace(SHORT, num_parallel=2)},
    ),
    StackDefinition(
        "leaves_with_more_behind",
        "a client leaves while a second request of its connection waits behind the first",
        leaves_with_more_behind,
        ("left mid-stream",),
        clients=("async",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "trickles",
        "a head that comes byte by byte",
        trickles,
        ("given up",),
        clients=("async",),
        settings={"request_head_seconds": 2.0},
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "leaves",
        "a client resets its connection, closes it, or closes its sending side",
        leaves,
        ("left mid-stream", "was waited for"),
        settings={"ping_seconds": 1.0},
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "leaves_before_answer",
        "a client closes its sending side while Ollama is silent, and leaves later",
        leaves_before_answer,
        ("was waited for",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "leaves_long_before_answer",
        "a client that has closed its sending side leaves when probes have become rare",
        leaves_long_before_answer,
        ("was seen to be gone",),
        clients=("async",),
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "half_closes",
        "a client closes its sending side behind its request, and waits for the answer",
        half_closes,
        ("was answered",),
        clients=("async",),
        bench={"profile": LATE},
    ),
    StackDefinition(
        "stops_reading",
        "a client stops reading until every buffer is full, and prompts again",
        stops_reading,
        ("it was not read",),
        bench={"profile": replace(SHORT, chunk_s=0.001)},
    ),
    StackDefinition(
        "never_reads",
        "a client never reads an answer that is over for the server",
        never_reads,
        ("was given up",),
        clients=("async",),
        settings={"send_seconds": 2.0},
        bench={"profile": SHORT},
    ),
    StackDefinition(
        "closes_as_it_is_used",
        "an idle connection is closed in the moment in which it is used again",
        closes_as_it_is_used,
        ("it was closed", "it was answered"),
        clients=("async",),
        bench={"profile": SHORT, "clients_hear_late": True},
    ),
)
