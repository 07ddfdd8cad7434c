"""The server on uvicorn's other parser, which a user may give to uvicorn as a class.

It is served without production's own protocol, so without its limits of heads and idling; and a
client that closes its sending side counts as one that has left. The rest is promised there too.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from sim.bench.harness.stack_bench import QUIET_S, Parser, StackBench
from sim.bench.scenarios.stack_level import connections, sessions
from sim.bench.scenarios.stack_level.connections import NOTHING_RUNS, check_answered
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import StackDefinition

MODULE = "httptools"
BENCH = {"profile": SHORT, "parser": Parser.HTTPTOOLS}


async def trickles_in(bench: StackBench) -> None:
    """A request that comes in pieces is the same request, and keeps nobody waiting."""
    slow = await bench.connect("slow")
    p1, data = bench.prompt(slow, "p1", "a")
    head_bytes = data.index(b"\r\n\r\n")
    for piece in (data[:10], data[10 : head_bytes + 2], data[head_bytes + 2 : -5]):
        await slow.send(piece)
        await asyncio.sleep(0.3)
    p2 = await bench.post("p2", "b")
    await slow.send(data[-5:])
    await bench.over(p1, p2)
    check_answered(bench, p1, p2)
    bench.world.reached("both were answered")


async def half_closes(bench: StackBench) -> None:
    """It closes its sending side behind its request: it has left, and its stream with it."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await bench.world.outside("the client closes its sending side", earliest=0.0, latest=0.8)
    p1.connection.close_sending_side()
    p1.has_left = True
    await asyncio.sleep(QUIET_S)
    bench.world.check(not p1.connection.is_open, "its connection is closed")
    bench.world.check(not bench.calls_held(), NOTHING_RUNS, f"{bench.calls_held()}")
    p2 = await bench.post("p2")
    await bench.over(p2)
    check_answered(bench, p2)
    bench.world.reached("the next was answered")


async def leaves_with_more_behind(bench: StackBench) -> None:
    """uvicorn tells the request that came last, which waits, and not the one that is running.

    So that one ends by the limits of its stream (`sim/bugs/uvicorn_pipelined.py`).
    """
    limit_s = bench.settings.first_chunk_seconds + bench.settings.stream_inactivity_seconds
    await connections.leaves_with_more_behind(bench, ends_within_s=limit_s)


DEFINITIONS = (
    StackDefinition(
        "httptools.hung_upstream",
        "on httptools: Ollama hangs in prompt 1, in its only slot, when prompt 2 comes",
        sessions.hung_upstream,
        ("p1 hung in its slot",),
        bench=BENCH,
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.reused_after_error",
        "on httptools: a connection is used again after a request that was refused",
        connections.reused_after_error,
        ("the connection was used again",),
        clients=("async",),
        bench=BENCH,
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.pipelined",
        "on httptools: two requests behind each other, in one write",
        connections.pipelined,
        ("both were answered",),
        clients=("async",),
        bench={**BENCH, "profile": replace(SHORT, num_parallel=2)},
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.leaves_with_more_behind",
        "on httptools: a client leaves while a second request waits behind its first",
        leaves_with_more_behind,
        ("left mid-stream",),
        clients=("async",),
        settings={"first_chunk_seconds": 1.0, "stream_inactivity_seconds": 1.0},
        bench=BENCH,
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.trickles_in",
        "on httptools: a request comes in pieces",
        trickles_in,
        ("both were answered",),
        clients=("async",),
        bench={**BENCH, "profile": replace(SHORT, num_parallel=2)},
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.half_closes",
        "on httptools: a client closes its sending side, and so has left",
        half_closes,
        ("the next was answered",),
        bench=BENCH,
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.closes_as_it_is_used",
        "on httptools: an idle connection is closed in the moment in which it is used again",
        connections.closes_as_it_is_used,
        ("it was closed", "it was answered"),
        clients=("async",),
        bench={**BENCH, "clients_hear_late": True},
        needs=MODULE,
    ),
    StackDefinition(
        "httptools.shutdown",
        "on httptools: SIGTERM while connections idle, are half open, stream",
        sessions.shutdown,
        ("a stream was ended by the shutdown",),
        clients=("async",),
        bench=BENCH,
        needs=MODULE,
    ),
)
