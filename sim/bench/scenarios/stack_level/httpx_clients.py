"""Clients that are httpx: what its pool does with connections that the server, or they, give up.

Its pool may lose its place for a connection with a caller that is cancelled (httpcore#1093, open in
1.0.9): the scenarios of cancelled callers find that, and hold what the server promises besides.
"""

from __future__ import annotations

from dataclasses import replace

from sim.bench.harness.httpx_client import HttpxExchange
from sim.bench.harness.stack_bench import StackBench
from sim.bench.scenarios.stack_level.connections import NOTHING_RUNS, check_answered
from sim.bench.scenarios.stack_level.sessions import SHORT
from sim.bench.scenarios.stack_level.story import StackDefinition

POOL = "who comes after a caller that has left is answered"


async def superseded(bench: StackBench) -> None:
    """Two prompts of one session by one client; the first has its error, whole."""
    client = bench.httpx_client(connections_max=2)
    p1 = await bench.post_by(client, "p1")
    p2 = await bench.post_by(client, "p2", earliest=0.3, latest=0.8)
    await bench.over(p1, p2)
    newest = bench.newest_of(p1, p2)
    check_answered(bench, newest)
    if p1.error_code == "superseded":
        bench.world.reached("p1 was superseded")
    p3 = await bench.post_by(client, "p3")
    await bench.over(p3)
    check_answered(bench, p3)
    bench.world.check(p3.port in (p1.port, p2.port), "whole answers leave their connections usable")


async def reused_after_error(bench: StackBench) -> None:
    """A refusal is read whole, so that its connection serves the next prompt."""
    client = bench.httpx_client(connections_max=1)
    bad = await bench.post_by(client, "p1", body=b'{"messages": 5}')
    await bench.over(bad)
    bench.world.check(bad.status == 400, "nonsense is 400", f"{bad.status} {bad.body!r}")
    p2 = await bench.post_by(client, "p2")
    await bench.over(p2)
    check_answered(bench, p2)
    if p2.port == bad.port:
        bench.world.reached("its connection was used again")


async def closed_as_it_is_used(bench: StackBench) -> None:
    """The server closes an idle connection in the moment in which the pool hands it out again."""
    client = bench.httpx_client(connections_max=1)
    p1 = await bench.post_by(client, "p1", stream=False)
    await bench.over(p1)
    check_answered(bench, p1)
    p2 = await bench.post_by(client, "p2", earliest=4.9, latest=5.1)
    await bench.over(p2)
    if p2.has_failed:
        # httpx asks for no POST twice; of this one nothing is left at the server.
        p2.has_left = True
        bench.world.reached("it was closed")
    else:
        check_answered(bench, p2)
        is_the_same = p2.port == p1.port
        bench.world.reached("it was used again" if is_the_same else "the pool had seen its end")
    p3 = await bench.post_by(client, "p3")
    await bench.over(p3)
    check_answered(bench, p3)


async def cancelled(bench: StackBench) -> None:
    """A caller is cancelled wherever its request is; the pool has room for one connection."""
    client = bench.httpx_client(connections_max=1)
    p1 = await bench.post_by(client, "p1", model="fake:hang-midstream")
    await bench.world.outside("the caller is cancelled", earliest=0.0, latest=0.8)
    if p1.body:
        bench.world.reached("left mid-stream")
    await p1.leave()
    p2 = await bench.post_by(client, "p2")
    await bench.over(p2)
    _check_has_room(bench, p2)
    bench.world.check(len(bench.calls_held()) == 0, NOTHING_RUNS, f"{bench.calls_held()}")


async def cancelled_in_the_queue(bench: StackBench) -> None:
    """Of two callers one waits for the only connection, and is cancelled as it may get it."""
    client = bench.httpx_client(connections_max=1)
    p1 = await bench.post_by(client, "p1", "a", stream=False)
    waiting = await bench.post_by(client, "p2", "b")
    await bench.world.outside("who waits is cancelled", earliest=0.3, latest=1.2)
    bench.world.reached("p1 was over" if p1.is_whole else "p1 was running")
    await waiting.leave()
    await bench.over(p1)
    check_answered(bench, p1)
    p3 = await bench.post_by(client, "p3", "c")
    await bench.over(p3)
    _check_has_room(bench, p3)


def _check_has_room(bench: StackBench, asked: HttpxExchange) -> None:
    if asked.found_no_place:
        # `sim/bugs/httpcore_1093.py`: of the client alone, and nothing of it is at the server.
        bench.world.reached("the pool has lost a place")
        asked.has_left = True
        return
    is_answered = asked.status == 200 and asked.error_code is None and asked.text
    bench.world.check(is_answered, POOL, f"{asked.raised!r} {asked.status} {asked.body!r}")


BENCH = {"profile": SHORT}

DEFINITIONS = (
    StackDefinition(
        "httpx.superseded",
        "a client of httpx prompts again while its first answer streams",
        superseded,
        ("p1 was superseded",),
        bench=BENCH,
    ),
    StackDefinition(
        "httpx.reused_after_error",
        "a client of httpx uses a connection again after a request that was refused",
        reused_after_error,
        ("its connection was used again",),
        clients=("async",),
        bench=BENCH,
    ),
    StackDefinition(
        "httpx.closed_as_it_is_used",
        "an idle connection of httpx's pool is closed in the moment in which it is used again",
        closed_as_it_is_used,
        ("it was closed", "it was used again", "the pool had seen its end"),
        clients=("async",),
        bench={**BENCH, "clients_hear_late": True},
    ),
    StackDefinition(
        "httpx.cancelled",
        "a caller of httpx is cancelled, wherever its request is, and prompts again",
        cancelled,
        ("left mid-stream",),
        bench=BENCH,
    ),
    StackDefinition(
        "httpx.cancelled_in_the_queue",
        "a caller that waits for a connection of httpx's pool is cancelled as it may get one",
        cancelled_in_the_queue,
        ("p1 was over", "p1 was running"),
        clients=("async",),
        bench={**BENCH, "profile": replace(SHORT, num_parallel=2)},
    ),
)
