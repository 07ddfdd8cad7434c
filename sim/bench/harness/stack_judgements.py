"""The judgements of the whole stack: what the production server promises, seen from its sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

from registry.protocol import State
from sim.bench.harness.http_judgements import OF_BOTH_LEVELS
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.bench.harness.stack_bench import StackBench
from sim.bench.harness.stack_hosts import HostsBench
from sim.kernel.world import World


def make_stack_bench(world: World, cls: type[Any], **options: Any) -> StackBench:
    """The whole stack around a registry of this class, with its bench."""
    return StackBench(world, cls, OF_THE_STACK, **options)


def make_hosts_bench(world: World, cls: type[Any], **options: Any) -> HostsBench:
    """The same, with the server and Ollama in processes."""
    return HostsBench(world, cls, OF_THE_STACK, **options)


def stops_reach_upstream(bench: StackBench) -> bool:
    """L2: our end of a stopped stream's connection is closed."""
    stopped = bench.in_state_longer_than(State.STOPPING, 0.0)
    if not stopped:
        return True
    prompts = {each.name for each in bench.prompts.values() if each.given_id in stopped}
    return not any(call.prompt in prompts for call in bench.calls_held())


def no_socket_is_left(bench: StackBench) -> Iterator[str]:
    if sockets := bench.sockets_of_server():
        yield f"sockets {', '.join(each.words for each in sockets)}"


def no_timer_is_left(bench: StackBench) -> Iterator[str]:
    """One of a connection that is lost would hold its buffers for as long as it runs.

    uvicorn leaves one of its own, for its keep-alive, where a connection is reset.
    """
    timers = [each for each in bench.world.timers if _is_productions(each)]
    if timers:
        yield f"timers {', '.join(map(repr, timers))}"


def _is_productions(timer: asyncio.TimerHandle) -> bool:
    module = getattr(timer._callback, "__module__", "")  # type: ignore[attr-defined]
    return module.startswith(("server.", "registry."))


OF_THE_STACK: Judgements = (
    *OF_BOTH_LEVELS,
    Always("L2 prompt_stop", stops_reach_upstream),
    Judgement("L3 no_leak", Moment.QUIET, no_socket_is_left),
    Judgement("L3 no_leak", Moment.QUIET, no_timer_is_left),
)
