"""The scenarios at server level: the note's story and its kin, told with HTTP, for both clients."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from registry import StreamRegistry
from registry.protocol import State
from sim.bench import log_captured
from sim.execution import Program
from sim.fake_ollama import Profile
from sim.server_bench import PROFILE, ServerBench
from sim.world import World

Client = Literal["async", "thread"]
BOTH: tuple[Client, ...] = ("async", "thread")


@dataclass(frozen=True, slots=True)
class ServerStory:
    """name, story, labels: as of a Scenario. settings: of the server. bench: of the bench."""

    name: str
    story: str
    play: Callable[[ServerBench], Awaitable[None]]
    labels: tuple[str, ...]
    clients: tuple[Client, ...] = BOTH
    settings: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)
    # Whether the published registries are played in it, too: they have no gate and no states, so
    # most stories ask of them what they never promised.
    judges_published: bool = False
    # None for the usual one of the level.
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class ServerScenario:
    """A story, played with one of the two Ollama clients."""

    told: ServerStory
    client: Client

    @property
    def name(self) -> str:
        return f"{self.told.name}.{self.client}"

    @property
    def story(self) -> str:
        return self.told.story

    @property
    def strategy(self) -> str | None:
        return self.told.strategy

    def applies_to(self, cls: type[Any]) -> bool:
        if issubclass(cls, StreamRegistry):
            return True
        return self.told.judges_published and hasattr(cls, "for_server")

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        return self.told.labels if issubclass(cls, StreamRegistry) else ()

    def program_for(self, cls: type[Any]) -> Program:
        async def program(world: World) -> None:
            bench = ServerBench(
                world, cls, client=self.client, settings=self.told.settings, **self.told.bench
            )

            def logged(line: str) -> None:
                bench.logged.append(line)
                world.record(line, actor="log")

            with log_captured(logged):
                await bench.play(self.told.play)

        return program


# -- the note's story


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
    if any(each.status == 409 for each in racers):
        bench.world.reached("a racer got 409")
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


# -- clients


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
    await bench.world.outside("p1's client decides", latest=0.5)
    whole = b'{"model": "fake:normal", "messages": [{"role": "user", "content": "p1"}]}'
    how = bench.world.choose("p1", ("sends the rest", "leaves", "says no more"))
    if how == "sends the rest":
        p1._requests.clear()
        p1.deliver_rest(whole[len(whole) // 2 :])
    elif how == "leaves":
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
    await bench.world.outside("p1 reads on", earliest=1.0, latest=6.0)
    p1.read_on()
    if not bench.has_threads:
        # With threads the tree would be too large for the default budget.
        q1 = bench.post_now("q1", "another", model="fake:normal")
        await bench.over(q1)
        bench.world.check(q1.error_code is None and q1.text, "others are answered", f"{q1.body!r}")
    await bench.over(p1)
    if p1.is_whole:
        bench.world.reached("read on in time")
    else:
        # The server has dropped the connection: there is nobody to tell.
        p1.leave()
        bench.world.reached("was given up")


async def stop_is_pressed(bench: ServerBench) -> None:
    p1 = await bench.post("p1")
    await bench.world.outside("stop is pressed", earliest=0.1, latest=2.0)
    stranger = await bench.press_stop(p1, key="bob")
    bench.world.check(stranger.status == 404, "another key's stream is not there")
    stop = await bench.press_stop(p1)
    bench.world.check(stop.status == 200, "stop is answered", f"{stop.status} {stop.body!r}")
    await bench.over(p1)
    bench.world.reached("was cancelled" if p1.error_code == "cancelled" else "had finished already")


# -- Ollama's troubles


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


async def slow_load(bench: ServerBench) -> None:
    """Re-prompted faster than the model loads: each prompt aborts the load (ollama#8398)."""
    prompts = []
    for serial in (1, 2, 3):
        prompts.append(await bench.post(f"p{serial}", model="fake:slow-load", latest=0.1))
        await asyncio.sleep(1.0)
    await bench.over(*prompts)
    codes = [each.error_code for each in prompts]
    bench.world.check(
        codes == ["superseded", "superseded", None], "the last is answered", f"{codes}"
    )
    if bench.ollama.fake.state("fake:slow-load").loads_started > 1:
        bench.world.reached("a load was aborted")


async def unreachable(bench: ServerBench) -> None:
    bench.ollama.is_down = True
    p1 = await bench.post("p1")
    p2 = await bench.post("p2", latest=0.1)
    await bench.over(p1, p2)
    bench.world.check(p2.status == 503, "unreachable is 503", f"{p2.status} {p2.body!r}")
    bench.world.reached("told where Ollama should be")


# -- sessions, keys, and the end


async def two_keys(bench: ServerBench) -> None:
    mine, theirs = await asyncio.gather(
        bench.post("p1", key="alice", latest=0.1), bench.post("q1", key="bob", latest=0.1)
    )
    await bench.over(mine, theirs)
    for each in (mine, theirs):
        bench.world.check(
            each.error_code is None and each.text,
            "S6 isolation: no key reaches another key's sessions",
            f"{each.name}: {each.body!r}",
        )
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
    await bench.world.outside("SIGTERM", earliest=1.0, latest=1.5)
    ending = asyncio.create_task(bench.terminate())
    await asyncio.sleep(0)
    late = bench.post_now("p3")
    await bench.over(*streams, late)
    await ending
    bench.world.check(late.status == 503, "new requests get 503", f"{late.status}")
    if any(line.endswith("reason=registry_closed") for line in bench.logged):
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


_SILENCE = {"first_chunk_seconds": 5.0, "stream_inactivity_seconds": 3.0}
_SHORT = Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=2)

SERVER_STORIES = (
    ServerStory(
        "second_prompt",
        "a second prompt while the first streams",
        second_prompt,
        ("p1 was superseded", "p1 was superseded mid-stream", "p1 finished first"),
    ),
    ServerStory(
        "racing_prompts",
        "three prompts (two with threads) race while the first streams",
        racing_prompts,
        ("p1 was superseded", "a racer got 409"),
        bench={"profile": _SHORT},
    ),
    ServerStory(
        "hung_upstream",
        "Ollama hangs in prompt 1, in its only slot, when prompt 2 comes",
        hung_upstream,
        ("p1 hung in its slot",),
        judges_published=True,
    ),
    ServerStory(
        "slot_leaks",
        "Ollama leaks the slot of prompt 1, so that prompt 2 waits in silence",
        slot_leaks,
        ("p2 was told that Ollama is silent",),
        clients=("async",),
        settings=_SILENCE,
    ),
    ServerStory(
        "stuck_lookup",
        "the thread of prompt 1 is stuck where nothing can wake it, until the grace expires",
        stuck_lookup,
        ("p1 was detached", "p1 was told at once"),
        clients=("thread",),
    ),
    ServerStory(
        "queued_job",
        "a job is stopped while it is still queued",
        queued_job,
        ("q1 was queued", "q1 never ran"),
        clients=("thread",),
        bench={"threads_max": 1},
    ),
    ServerStory(
        "client_leaves",
        "the client leaves at any moment",
        client_leaves,
        ("left before the first byte", "left mid-stream"),
    ),
    ServerStory(
        "client_leaves_waiting",
        "the client of a waiting prompt leaves",
        client_leaves_waiting,
        ("left while waiting",),
        clients=("thread",),
    ),
    ServerStory(
        "half_sent",
        "a client sends half of its request",
        half_sent,
        ("answered with 400", "answered with 408", "left with half a request"),
        clients=("async",),
        settings={"body_seconds": 2.0},
    ),
    ServerStory(
        "slow_reader",
        "a client stops reading for longer than the send limit, or not",
        slow_reader,
        ("read on in time", "was given up"),
        settings={"send_seconds": 2.0},
        bench={"profile": replace(_SHORT, chunks=1)},
    ),
    ServerStory(
        "stop_is_pressed",
        "the stream is cancelled over the API",
        stop_is_pressed,
        ("was cancelled", "had finished already"),
        bench={"loop_lines": True},
    ),
    ServerStory(
        "upstream_errors",
        "Ollama fails before the first chunk, after it, or in the middle",
        upstream_errors,
        ("fake:normal came to its end", "fake:cut came to its end", "fake:error came to its end"),
    ),
    ServerStory(
        "silence",
        "Ollama falls silent for longer than the limits",
        silence,
        ("as a status", "as a message"),
        settings={**_SILENCE},
    ),
    ServerStory(
        "slow_load",
        "prompted again faster than the model loads",
        slow_load,
        ("a load was aborted",),
        clients=("async",),
    ),
    ServerStory("unreachable", "no Ollama answers", unreachable, ("told where Ollama should be",)),
    ServerStory(
        "two_keys",
        "two keys use the same session id",
        two_keys,
        ("both were answered",),
        clients=("async",),
        bench={
            "profile": Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=2, num_parallel=2)
        },
    ),
    ServerStory(
        "shutdown",
        "SIGTERM while streams hang, wait, and are not read",
        shutdown,
        ("a stream was ended by the shutdown",),
    ),
    ServerStory(
        "cancel_everywhere",
        "a cancel at each step of each task of the server, and a second one in its clean-up",
        cancel_everywhere,
        ("went as it should", "was cut short"),
        bench={"profile": _SHORT},
        strategy="cancel everywhere",
    ),
)

SERVER_SCENARIOS = tuple(
    ServerScenario(told, client) for told in SERVER_STORIES for client in told.clients
)

__all__ = ["PROFILE", "SERVER_SCENARIOS", "ServerScenario", "ServerStory"]
