"""The note's scenario and similar ones: two prompts of one session, keys, and the end."""

from __future__ import annotations

import asyncio

from registry.protocol import State
from registry.wording import REGISTRY_CLOSED
from sim.bench.harness.server_bench import ServerBench
from sim.bench.scenarios.server_level.story import SHORT, ServerDefinition
from sim.fake_ollama import Profile

ISOLATION = "S6 isolation: no key reaches another key's sessions"


async def second_prompt(bench: ServerBench) -> None:
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", latest=2.5)
    await bench.over(p1, p2)
    if p1.error_code == "superseded":
        bench.world.reached("p1 was superseded")
        if p1.text:
            bench.world.reached("p1 was superseded mid-stream")
    else:
        bench.world.reached("p1 finished first")
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")


async def racing_prompts(bench: ServerBench) -> None:
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(1.2)
    posts = [bench.post("p2"), bench.post("p3", stream=False)]
    if not bench.has_threads:
        # With threads the tree of three would be too large for the default budget.
        posts.append(bench.post("p4"))
    racers = await asyncio.gather(*posts)
    await bench.over(p1, *racers)
    answered = [each for each in racers if each.error_code is None]
    bench.world.check(len(answered) == 1, "one of the racers is answered", f"{len(answered)}")
    if any(each.status == 400 for each in racers):
        bench.world.reached("a racer got 400")
    if p1.error_code == "superseded":
        bench.world.reached("p1 was superseded")


async def hung_upstream(bench: ServerBench) -> None:
    """The model has one slot (OLLAMA_NUM_PARALLEL=1), and p1 hangs in it."""
    model = bench.world.choose("p1 hangs", ("fake:hang-midstream", "fake:hang-before-headers"))
    p1 = await bench.post("p1", model=model)
    await asyncio.sleep(2)
    if bench.ollama.fake.slots_taken(model):
        bench.world.reached("p1 hung in its slot")
    p2 = await bench.post("p2", model="fake:normal", latest=0.5)
    await bench.over(p1, p2)
    if bench.is_production:
        bench.world.check(p1.error_code == "superseded", "prompt 1 is told", f"{p1.body!r}")
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")
    bench.world.check(not bench.ollama.fake.slots_taken(model), "the slot is free again")


async def stuck_lookup(bench: ServerBench) -> None:
    """p1's thread looks up a host name, which nothing can wake: its grace expires."""
    bench.ollama.lookup_s = [5.0]
    p1 = await bench.post("p1")
    await asyncio.sleep(0.1)
    p2 = await bench.post("p2", latest=0.1)
    await asyncio.sleep(2.5)
    if bench.state_of(p1) is State.DETACHED:
        bench.world.reached("p1 was detached")
    await bench.over(p1, p2)
    if p1.error_code == "superseded":
        bench.world.reached("p1 was told at once")
    bench.world.check(p2.error_code is None and p2.text, "prompt 2 is answered", f"{p2.body!r}")


async def queued_job(bench: ServerBench) -> None:
    """One thread for all: q1's job waits in the executor's queue, and is stopped there."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    await asyncio.sleep(1.5)
    q1 = await bench.post("q1", "another")
    await asyncio.sleep(0.1)
    if bench.state_of(q1) is State.ACTIVE and not q1.is_whole:
        bench.world.reached("q1 was queued")
    how = bench.world.choose("q1", ("leaves", "is re-prompted", "is stopped"))
    if how == "leaves":
        q1.leave()
    elif how == "is stopped":
        await bench.press_stop(q1)
    else:
        q2 = await bench.post("q2", "another", model="fake:normal")
        await asyncio.sleep(0.1)
        q2.leave()
    await asyncio.sleep(0.1)
    await bench.press_stop(p1)
    await bench.over(p1, q1)
    prompts = [call.prompt for call in bench.ollama.fake.calls]
    bench.world.check("q1" not in prompts, "a job stopped in the queue never runs", f"{prompts}")
    bench.world.reached("q1 never ran")


async def two_keys(bench: ServerBench) -> None:
    mine, theirs = await asyncio.gather(
        bench.post("p1", key="alice", latest=0.1), bench.post("q1", key="bob", latest=0.1)
    )
    await bench.over(mine, theirs)
    for each in (mine, theirs):
        answered = each.error_code is None and each.messages
        bench.world.check(answered, ISOLATION, f"{each.name}: {each.body!r}")
    bench.world.reached("both were answered")


async def shutdown(bench: ServerBench) -> None:
    """SIGTERM, with one stream hung, one that waits for it or has taken over, one unread."""
    p1 = await bench.post("p1", model="fake:hang-midstream")
    streams = [p1]
    if bench.has_threads:
        # One thread, blocked, for a client that doesn't read: two make too large a tree.
        p1.stop_reading()
    else:
        unread = await bench.post("q1", "another", model="fake:normal")
        unread.stop_reading()
        streams.append(await bench.post("p2", latest=1.5))
    ending: list[asyncio.Task[None]] = []
    await bench.world.outside(
        "SIGTERM", call=lambda: ending.append(bench.terminate()), earliest=1.0, latest=1.5
    )
    late = bench.post_now("p3")
    await bench.over(*streams, late)
    await ending[0]
    bench.world.check(late.status == 503, "new requests get 503", f"{late.status}")
    if any(line.fields.get("reason") == REGISTRY_CLOSED for line in bench.logged):
        bench.world.reached("a stream was ended by the shutdown")


async def cancel_everywhere(bench: ServerBench) -> None:
    """Two prompts; any task of the server may be cancelled at any of its steps."""
    bench.clients_may_be_cut = True
    bench.world.offer_cancels(bench.is_of_server)
    p1 = await bench.post("p1")
    await asyncio.sleep(0.4)
    p2 = await bench.post("p2")
    await bench.over(p1, p2)
    if p1.error_code == "superseded" and p2.error_code is None and p2.text:
        bench.world.reached("went as it should")
    else:
        bench.world.reached("was cut short")


DEFINITIONS = (
    ServerDefinition(
        "second_prompt",
        "a second prompt while the first streams",
        second_prompt,
        ("p1 was superseded", "p1 was superseded mid-stream", "p1 finished first"),
    ),
    ServerDefinition(
        "racing_prompts",
        "three prompts (two with threads) race while the first streams",
        racing_prompts,
        ("p1 was superseded", "a racer got 400"),
        bench={"profile": SHORT},
    ),
    ServerDefinition(
        "hung_upstream",
        "Ollama hangs in prompt 1, in its only slot, when prompt 2 comes",
        hung_upstream,
        ("p1 hung in its slot",),
        judges_published=True,
    ),
    ServerDefinition(
        "stuck_lookup",
        "the thread of prompt 1 is stuck where nothing can wake it, until the grace expires",
        stuck_lookup,
        ("p1 was detached", "p1 was told at once"),
        clients=("thread",),
    ),
    ServerDefinition(
        "queued_job",
        "a job is stopped while it is still queued",
        queued_job,
        ("q1 was queued", "q1 never ran"),
        clients=("thread",),
        bench={"threads_max": 1},
    ),
    ServerDefinition(
        "two_keys",
        "two keys use the same session id",
        two_keys,
        ("both were answered",),
        clients=("async",),
        bench={
            "profile": Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=2, num_parallel=2)
        },
    ),
    ServerDefinition(
        "shutdown",
        "SIGTERM while streams hang, wait, and are not read",
        shutdown,
        ("a stream was ended by the shutdown",),
    ),
    ServerDefinition(
        "cancel_everywhere",
        "a cancel at each step of each task of the server, and a second one in its clean-up",
        cancel_everywhere,
        ("went as it should", "was cut short"),
        bench={"profile": SHORT},
        strategy="cancel everywhere",
    ),
)
