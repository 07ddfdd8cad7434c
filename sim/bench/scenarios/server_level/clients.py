"""What clients do: leave, send half, read slowly or not at all, press stop."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from registry.protocol import State
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import SHORT, ServerDefinition

SLOW = "who reads slowly gets the whole answer, too"


async def client_leaves(bench: ServerBench) -> None:
    """At any moment: before the first byte, at each chunk, after the last."""
    p1 = await bench.post("p1")
    await bench.world.outside("p1's client leaves", latest=2.0)
    if not p1.body:
        bench.world.reached("left before the first byte")
    elif not p1.is_whole:
        bench.world.reached("left mid-stream")
    p1.leave()
    p2 = await bench.post("p2", latest=0.1)
    await bench.over(p1, p2)
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")


async def client_leaves_waiting(bench: ServerBench) -> None:
    bench.ollama.lookup_s = [1.0]
    p1 = await bench.post("p1")
    await asyncio.sleep(0.1)
    p2 = await bench.post("p2")
    await bench.world.outside("p2's client leaves", latest=1.5)
    if bench.state_of(p2) is State.WAITING:
        bench.world.reached("left while waiting")
    p2.leave()
    await bench.over(p1, p2)


async def half_sent(bench: ServerBench) -> None:
    p1 = await bench.post("p1", half=True)
    whole = b'{"model": "fake:normal", "messages": [{"role": "user", "content": "p1"}]}'
    how = ""

    def decides() -> None:
        nonlocal how
        how = bench.world.choose("p1", ("sends the rest", "leaves", "says no more"))
        if how == "sends the rest":
            p1.send_rest(whole[len(whole) // 2 :])

    await bench.world.outside("p1's client decides", call=decides, latest=0.5)
    if how == "leaves":
        p1.leave()
    await bench.over(p1)
    if p1.status in (400, 408):
        bench.world.reached(f"answered with {p1.status}")
    if how == "leaves":
        bench.world.check(not bench.ollama.connections, "half a request starts nothing")
        bench.world.reached("left with half a request")


async def slow_reader(bench: ServerBench) -> None:
    p1 = await bench.post("p1", model="fake:normal")
    p1.stop_reading()
    await bench.world.outside("p1 reads on", call=p1.read_on, earliest=1.0, latest=6.0)
    if not bench.has_threads:
        # With threads the tree would be too large for the default budget.
        q1 = bench.post_now("q1", "another", model="fake:normal")
        await bench.over(q1)
        bench.world.check(q1.error_code is None and q1.text, "others are answered", f"{q1.body!r}")
    await bench.over(p1)
    if p1.is_whole:
        bench.world.check(p1.error_code is None, SLOW, f"{p1.body!r}")
        bench.world.reached("read on in time")
    else:
        # The server has dropped the connection, so the client gets no error.
        p1.leave()
        bench.world.reached("was given up")


async def full_buffers(bench: ServerBench) -> None:
    """Every buffer between Ollama and the client is full; then one of the two acts."""
    p1 = await bench.post("p1")
    p1.stop_reading()
    await asyncio.sleep(3)
    if bench.deliveries.is_backed_up:
        bench.world.reached("Ollama's answer waited in its socket")
    how = bench.world.choose("p1", ("is re-prompted", "reads on", "leaves"))
    if how == "reads on":
        p1.read_on()
        await bench.over(p1)
        bench.world.check(p1.text and p1.error_code is None, SLOW, f"{p1.body!r}")
        bench.world.reached("read on")
        return
    if how == "leaves":
        p1.leave()
    # Ollama refuses it at once: its only purpose is to take over.
    await bench.post("p2", model="fake:busy")
    await asyncio.sleep(0.1)
    bench.world.check(bench.state_of(p1) is None, "a stream that nobody reads ends when it is told")
    bench.world.reached("p1 was ended")
    p1.leave()


async def leaves_a_hung_stream(bench: ServerBench) -> None:
    """No chunk comes any more, at which a server could notice that its client has left."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(2)
    if p1.text and bench.ollama.fake.active_calls:
        bench.world.reached("it hung mid-stream")
    p1.leave()
    await asyncio.sleep(0.1)
    active = bench.ollama.fake.active_calls
    bench.world.check(not active, "who leaves leaves nothing running at Ollama", f"{active}")


async def stop_is_pressed(bench: ServerBench) -> None:
    p1 = await bench.post("p1")
    stops: list[Exchange] = []

    def is_pressed() -> None:
        stops.append(bench.press_stop_now(p1, key="bob"))

    await bench.world.outside("stop is pressed", call=is_pressed, earliest=0.1, latest=2.0)
    await bench.over(*stops)
    bench.world.check(stops[0].status == 404, "another key's stream is not there")
    stop = await bench.press_stop(p1)
    bench.world.check(stop.status == 200, "stop is answered", f"{stop.status} {stop.body!r}")
    await bench.over(p1)
    bench.world.reached("was cancelled" if p1.error_code == "cancelled" else "had finished already")


DEFINITIONS = (
    ServerDefinition(
        "client_leaves",
        "the client leaves at any moment",
        client_leaves,
        ("left before the first byte", "left mid-stream"),
    ),
    ServerDefinition(
        "client_leaves_waiting",
        "the client of a waiting prompt leaves",
        client_leaves_waiting,
        ("left while waiting",),
        clients=("thread",),
    ),
    ServerDefinition(
        "half_sent",
        "a client sends half of its request",
        half_sent,
        ("answered with 400", "answered with 408", "left with half a request"),
        clients=("async",),
        settings={"body_seconds": 2.0},
    ),
    ServerDefinition(
        "slow_reader",
        "a client stops reading for longer than the send limit, or not",
        slow_reader,
        ("read on in time", "was given up"),
        settings={"send_seconds": 2.0},
        bench={"profile": replace(SHORT, chunks=1)},
    ),
    ServerDefinition(
        "full_buffers",
        "a client reads nothing until everything is full; then it reads on, leaves, or prompts",
        full_buffers,
        (
            "a buffer was full",
            "Ollama's answer waited in its socket",
            "p1 was ended",
            "read on",
        ),
        settings={"buffer_max_chunks": 1},
        bench={"profile": replace(SHORT, chunks=9)},
    ),
    ServerDefinition(
        "leaves_a_hung_stream",
        "the client leaves while Ollama hangs mid-stream",
        leaves_a_hung_stream,
        ("it hung mid-stream",),
    ),
    ServerDefinition(
        "stop_is_pressed",
        "the stream is cancelled over the API",
        stop_is_pressed,
        ("was cancelled", "had finished already"),
        bench={"loop_lines": True},
    ),
)
