"""The wait for a thread of our own is no silence of Ollama's: in the simulator, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from registry import StreamRegistry
from sim import World, explore
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.http_bench import PROFILE
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.server_bench import ServerBench
from sim.bench.harness.server_judgements import make_server_bench

FIRST_CHUNK_S = 5.0
# One answer takes less than the limit, two after each other take longer.
PROFILE_OF_4_S = replace(PROFILE, load_s=0.1, prompt_eval_s=4.0)
# More than the iterations of the loop take, all in all.
SLACK_S = 0.5


def play(story: Callable[[ServerBench], Awaitable[None]], **settings: Any) -> None:
    """The story, once, in natural order, on a server that has one thread for calls to Ollama."""

    async def program(world: World) -> None:
        limits = {"first_chunk_seconds": FIRST_CHUNK_S, "ping_seconds": 1.0, **settings}
        bench = make_server_bench(
            world,
            StreamRegistry,
            client="thread",
            settings=limits,
            profile=PROFILE_OF_4_S,
            threads_max=1,
        )
        with log_recorded(world, bench.logged.append):
            await bench.play(story)

    report = explore(program, strategy="natural", max_executions=1)
    assert report.counterexample is None, report.text
    assert report.executions == 1


async def after_another(bench: ServerBench, model: str, *, first: str) -> Exchange:
    """A prompt while the only thread is taken by one of another session."""
    p1 = await bench.post("p1", "a", model=first)
    p2 = await bench.post("p2", "b", model=model)
    await bench.over(p2)
    if p1.ended_at is None:
        p1.leave()
    return p2


def test_the_limit_for_the_first_chunk_begins_with_the_thread() -> None:
    """Ollama needs 4.1 s of 5 s for each of two prompts; the second waits 4.5 s for its thread."""

    async def story(bench: ServerBench) -> None:
        p2 = await after_another(bench, "fake:normal", first="fake:normal")
        assert p2.ended_at is not None
        assert p2.ended_at > 2 * 4.1
        assert p2.error_code is None, p2.body

    play(story)


def test_an_ollama_that_is_silent_then_is_told_at_its_limit() -> None:
    """The limit is put off by the wait, and not given up: 5 s after the thread has begun."""

    async def story(bench: ServerBench) -> None:
        p1 = await bench.post("p1", "a", model="fake:normal")
        p2 = await bench.post("p2", "b", model="fake:hang-before-headers")
        await bench.over(p1, p2)
        assert p1.ended_at is not None
        assert p2.ended_at is not None
        assert p2.error_code == "upstream_silent", p2.body
        late_s = p2.ended_at - p1.ended_at - FIRST_CHUNK_S
        assert -SLACK_S < late_s < SLACK_S

    play(story)


def test_a_wait_for_a_thread_has_a_limit_of_its_own() -> None:
    """Whether shorter or longer than Ollama's, the error names this limit, and comes in time."""
    for limit_s in (2.0, 20.0):

        async def story(bench: ServerBench, limit_s: float = limit_s) -> None:
            begun_s = bench.world.now
            p2 = await after_another(bench, "fake:normal", first="fake:hang-midstream")
            assert p2.ended_at is not None
            assert p2.error_code == "no_thread_free", p2.body
            assert f"{limit_s:g} s for a thread of ours".encode() in p2.body
            assert b"JARVIS_THREAD_WAIT_SECONDS" in p2.body
            assert limit_s <= p2.ended_at - begun_s < limit_s + SLACK_S

        play(story, thread_wait_seconds=limit_s)
