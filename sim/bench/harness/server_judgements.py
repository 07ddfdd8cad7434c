"""The judgements of a server in its bench: the production registry has to keep all that it
promises, a published one what it promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry import StreamRegistry
from registry.protocol import State
from server.ollama_thread import SEGMENTS_MAX
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.deliveries import Delivery, prompt_of
from sim.bench.harness.http_judgements import OF_BOTH_LEVELS, OVERLAP, SHUT_DOWN
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.bench.harness.server_bench import ServerBench
from sim.fake_ollama import Call
from sim.kernel.world import World

PROMPT = "what Ollama has sent is with a client that reads, but for the loop's lateness"
BACK_PRESSURE = "what waits for a client that does not read stays within buffer_max_chunks"


def make_server_bench(world: World, cls: type[Any], **options: Any) -> ServerBench:
    """The server around a registry of this class, with its bench."""
    return ServerBench(
        world, cls, OURS if issubclass(cls, StreamRegistry) else PUBLISHED, **options
    )


# -- at every poll


def stops_reach_upstream(bench: ServerBench) -> bool:
    """L2, as far as it can be seen from outside: the connection of a stopped stream is shut.

    A thread that could not be woken may connect afterwards; it has to notice at once.
    """
    stopped = bench.in_state_longer_than(State.STOPPING, 0.0)
    if not stopped:
        return True
    names = {each.name for each in bench.server.exchanges if each.given_id in stopped}
    return not any(
        call.prompt in names and bench.ollama.age_s(call) > bench.slack_s
        for call in _calls_held(bench)
    )


def _calls_held(bench: ServerBench) -> list[Call]:
    """The running calls, except for those that Ollama continues only since it is deaf."""
    active = bench.ollama.fake.active_calls
    if not active:
        return []
    held = {prompt_of(each) for each in bench.ollama.connections if not each.is_over}
    return [call for call in active if call.prompt in held]


def _owed_to(bench: ServerBench, exchange: Exchange) -> Delivery | None:
    # A client that asked for one object is handed nothing before the end.
    asked = exchange.name in bench.asked_to_stream
    return bench.deliveries.open_for(exchange) if asked else None


def none_is_kept_waiting(bench: ServerBench) -> bool:
    if not bench.deliveries or bench.clients_may_be_cut:
        return True
    late_at = bench.world.now - bench.slack_s
    for exchange in bench.server.exchanges:
        delivery = _owed_to(bench, exchange)
        if delivery is None or not exchange.is_listening:
            continue
        since = max(delivery.oldest_at or 0.0, exchange.reads_since)
        if since < late_at and bench.state_of(exchange) is State.ACTIVE:
            return False
    return True


def buffers_are_bounded(bench: ServerBench) -> bool:
    if not bench.deliveries:
        return True
    limit = bench.settings.buffer_max_chunks
    if bench.has_threads:
        # The thread reads ahead, and holds one more that finds no room.
        limit += SEGMENTS_MAX + 1
    for exchange in bench.server.exchanges:
        delivery = _owed_to(bench, exchange)
        if delivery is None:
            continue
        held = delivery.held
        if held > limit:
            return False
        if held >= bench.settings.buffer_max_chunks and not exchange.is_reading:
            bench.world.reached("a buffer was full")
    return True


# -- when all is over


def upstream_is_over(bench: ServerBench) -> Iterator[str]:
    if active := _calls_held(bench):
        yield f"upstream calls {active}"
    if unclosed := [each.name for each in bench.ollama.connections if not each.is_closed]:
        yield f"connections {', '.join(unclosed)}"
    if suspended := [each for each in bench.world.loop._asyncgens if _is_suspended(each)]:
        yield f"generators {suspended}"


def _is_suspended(generator: Any) -> bool:
    return generator.ag_frame is not None


# -- which judgements for which registry

PUBLISHED: Judgements = (OVERLAP, SHUT_DOWN)
"""The published threads are not woken, so that nothing more can be required of them."""

OURS: Judgements = (
    *OF_BOTH_LEVELS,
    Always("L2 prompt_stop", stops_reach_upstream),
    Always(PROMPT, none_is_kept_waiting),
    Always(BACK_PRESSURE, buffers_are_bounded),
    Judgement("L3 no_leak", Moment.QUIET, upstream_is_over),
)
