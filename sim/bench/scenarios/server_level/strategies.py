"""Prompts that do not interrupt: enqueued behind the one that streams, or rejected."""

from __future__ import annotations

import asyncio

from registry.protocol import State
from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import SHORT, ServerDefinition
from sim.fake_ollama import Profile

HEARS = "a client whose prompt waits in the queue hears that it is alive"


async def enqueued(bench: ServerBench) -> None:
    """p2 waits for longer than the head is held, p3 asks for one object."""
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", model="fake:slow-load", latest=0.1, strategy="enqueue")
    await asyncio.sleep(0.1)
    p3 = await bench.post("p3", strategy="enqueue", stream=False)
    await asyncio.sleep(0.9)
    if bench.state_of(p2) is State.WAITING:
        bench.world.check(p2.pings, HEARS, f"{p2.status} {p2.body!r}")
        bench.world.reached("pings came in the queue")
    await bench.over(p1, p2, p3)
    for each in (p1, p2, p3):
        answered = each.error_code is None and each.text
        bench.world.check(answered, "each prompt has its turn", f"{each.name}: {each.body!r}")
    prompts = [call.prompt for call in bench.ollama.fake.calls]
    bench.world.check(prompts == ["p1", "p2", "p3"], "the oldest is next", f"{prompts}")
    bench.world.reached("each had its turn")


async def turn_of_a_thread(bench: ServerBench) -> None:
    """p2 is enqueued, and its thread is to begin as that of p1 ends."""
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", strategy="enqueue")
    await bench.over(p1, p2)
    for each in (p1, p2):
        answered = each.error_code is None and each.text
        bench.world.check(answered, "each prompt has its turn", f"{each.name}: {each.body!r}")
    if p1.ended_at is not None and p2.ended_at is not None and p1.ended_at < p2.ended_at:
        bench.world.reached("one after the other")


async def full_queue(bench: ServerBench) -> None:
    """Two wait, which is the bench's limit; one of them leaves, or is stopped over the API."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(1.5)
    p2 = await bench.post("p2", strategy="enqueue")
    p3 = await bench.post("p3", strategy="enqueue")
    await asyncio.sleep(0.1)
    p4 = await bench.post("p4", strategy="enqueue")
    await bench.over(p4)
    is_refused = p4.status == 429 and p4.error_code == "queue_full"
    bench.world.check(is_refused, "a full queue is told", f"{p4.status} {p4.body!r}")
    how = bench.world.choose("p2", ("leaves", "is stopped"))
    if how == "leaves":
        p2.leave()
    else:
        await bench.press_stop(p2)
    await asyncio.sleep(0.1)
    bench.world.check(bench.state_of(p2) is None, "who leaves leaves the queue")
    await bench.press_stop(p1)
    await bench.over(p1, p2, p3)
    bench.world.check(p3.error_code is None and p3.text, "the next has its turn", f"{p3.body!r}")
    prompts = [call.prompt for call in bench.ollama.fake.calls]
    bench.world.check(prompts == ["p1", "p3"], "who has left the queue asks nothing", f"{prompts}")
    bench.world.reached(f"p2 {how}")


async def rejected(bench: ServerBench) -> None:
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", latest=2.5, strategy="reject")
    await bench.over(p1, p2)
    if p2.status == 409 and p2.error_code == "session_busy":
        bench.world.reached("p2 got 409")
    else:
        bench.world.check(p2.error_code is None and p2.text, "else it is answered", f"{p2.body!r}")
        bench.world.reached("p2 was answered")
    answered = p1.error_code is None and p1.text
    bench.world.check(answered, "who is rejected stops nobody", f"{p1.body!r}")


async def shutdown_with_a_queue(bench: ServerBench) -> None:
    """SIGTERM while one streams, and two wait: one before its head, one after it."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(1.2)
    p2 = await bench.post("p2", strategy="enqueue")
    await asyncio.sleep(0.4)
    p3 = await bench.post("p3", strategy="enqueue")
    ending: list[asyncio.Task[None]] = []
    await bench.world.outside("SIGTERM", call=lambda: ending.append(bench.terminate()), latest=0.2)
    await ending[0]
    codes = {each.error_code for each in (p1, p2, p3)}
    bench.world.check(codes == {"shutting_down"}, "the whole queue is told", f"{codes}")
    if p2.status == 200 and p3.status == 503:
        bench.world.reached("as a message and as a status")


_PATIENT = {"head_hold_seconds": 0.3, "ping_seconds": 0.3}

DEFINITIONS = (
    ServerDefinition(
        "enqueued",
        "two prompts wait for the one that streams, and then are answered in their order",
        enqueued,
        ("pings came in the queue", "each had its turn"),
        clients=("async",),
        # p2 has its turn between two pings, and its first chunk long after the second.
        settings={**_PATIENT, "ping_seconds": 0.45},
    ),
    ServerDefinition(
        "turn_of_a_thread",
        "a prompt waits in the queue, while the thread of another reads",
        turn_of_a_thread,
        ("one after the other",),
        clients=("thread",),
        bench={
            "profile": Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=1),
            "lines": False,
        },
    ),
    ServerDefinition(
        "full_queue",
        "one more prompt is enqueued than may wait, and one that waits leaves or is stopped",
        full_queue,
        ("p2 leaves", "p2 is stopped"),
        clients=("async",),
        settings=_PATIENT,
        bench={"profile": SHORT},
    ),
    ServerDefinition(
        "rejected",
        "a prompt is to be rejected if its session is busy",
        rejected,
        ("p2 got 409", "p2 was answered"),
        clients=("async",),
        bench={"profile": SHORT},
    ),
    ServerDefinition(
        "shutdown_with_a_queue",
        "SIGTERM while prompts wait in the queue",
        shutdown_with_a_queue,
        ("as a message and as a status",),
        clients=("async",),
        settings=_PATIENT,
        bench={"profile": SHORT},
    ),
)
