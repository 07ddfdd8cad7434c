"""The judgements of a server in its bench: the production registry has to keep all that it
promises, a published one what it promised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry import StreamRegistry
from registry.protocol import State
from registry.wording import TIMEOUT_ON_CANCEL
from server.ollama_thread import SEGMENTS_MAX
from sim.bench.harness.asgi import Exchange
from sim.bench.harness.deliveries import Delivery, prompt_of
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.bench.harness.server_bench import ServerBench
from sim.fake_ollama import Call
from sim.kernel.world import World

WHOLE = "an answer that ends without an error is all that Ollama said"
PROMPT = "what Ollama has sent is with a client that reads, but for the loop's lateness"
BACK_PRESSURE = "what waits for a client that does not read stays within buffer_max_chunks"
HEARD = "a client that reads hears something every ping_seconds"
TOLD_THE_END = "every client that stays is told the end"


def make_server_bench(world: World, cls: type[Any], **options: Any) -> ServerBench:
    """The server around a registry of this class, with its bench."""
    return ServerBench(
        world, cls, OURS if issubclass(cls, StreamRegistry) else PUBLISHED, **options
    )


# -- at every poll


def no_silent_overlap(bench: ServerBench) -> bool:
    """S3: of two upstream calls of a session, the older is of a DETACHED stream, and logged.

    A call lasts until it is over for Ollama and for our end of the connection.
    """
    open_calls = [each for each in bench.ollama.connections if not each.is_over]
    if len(open_calls) < 2:
        return True
    calls: dict[str, list[str]] = {}
    for connection in open_calls:
        if (name := prompt_of(connection)) is not None:
            calls.setdefault(bench.session_of(name), []).append(name)
    # Not by the order of the calls: the thread of a DETACHED stream that was stuck in a look-up
    # connects last, and has to notice then.
    return all(
        sum(not _is_fenced_off(bench, name) for name in names) <= 1
        for names in calls.values()
        if len(names) > 1
    )


def _is_fenced_off(bench: ServerBench, name: str) -> bool:
    exchange = next(each for each in bench.server.exchanges if each.name == name)
    return bench.state_of(exchange) is State.DETACHED and any(
        line.says(TIMEOUT_ON_CANCEL, trace=exchange.given_id) for line in bench.logged
    )


def none_waits_too_long(bench: ServerBench) -> bool:
    """Who interrupts waits for the grace; who is enqueued until its wait is over."""
    waiting = bench.in_state_longer_than(State.WAITING, bench.grace_s)
    latest = bench.world.now - bench.slack_s
    return not waiting or all(
        view.wait_deadline is not None and view.wait_deadline >= latest
        for view in bench.registry.snapshot().streams
        if view.trace_id in waiting
    )


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


def none_is_left_in_silence(bench: ServerBench) -> bool:
    too_long_ago = bench.world.now - bench.settings.ping_seconds - bench.slack_s
    return not any(
        max(each.heard_at, each.reads_since) < too_long_ago and each.is_streamed
        for each in bench.server.exchanges
        if each.is_listening
    )


# -- of what is sent, and how it ends


def only_active_emits(bench: ServerBench, exchange: Exchange) -> Iterator[str]:
    if (state := bench.state_of(exchange)) is not State.ACTIVE:
        yield f"content of {exchange.name} in state {state}"
    bench.world.reached("content was sent")


def who_stays_is_told_the_end(bench: ServerBench, exchange: Exchange) -> Iterator[str]:
    """And never by a bare end."""
    if _stayed(bench, exchange) and not exchange.is_told_the_end:
        yield f"{exchange.name}: {exchange.body!r}"


def answer_is_whole(bench: ServerBench, exchange: Exchange) -> Iterator[str]:
    is_answer = exchange.status == 200 and exchange.error_code is None
    said = bench.deliveries.said_to(exchange)
    if is_answer and _stayed(bench, exchange) and exchange.text != said:
        yield f"{exchange.name}: {exchange.text}"


def _stayed(bench: ServerBench, exchange: Exchange) -> bool:
    return not bench.clients_may_be_cut and exchange.is_reading and not exchange.has_left


def shut_down_in_time(bench: ServerBench, lasted_s: float) -> Iterator[str]:
    if lasted_s > bench.grace_s + 1.0:
        yield f"it took {lasted_s:.3f} s"


def nothing_is_left(bench: ServerBench) -> Iterator[str]:
    if active := _calls_held(bench):
        yield f"upstream calls {active}"
    if unclosed := [each.name for each in bench.ollama.connections if not each.is_closed]:
        yield f"connections {', '.join(unclosed)}"
    if flags := len(bench.stop_signals):
        yield f"{flags} stop signals"
    loop = bench.world.loop
    tasks = [task.get_name() for task in loop.tasks if not task.done()]
    if tasks != ["program"]:
        yield f"tasks {', '.join(tasks)}"
    if workers := [f"worker {each.number} at {each.where}" for each in loop.threads.workers]:
        yield ", ".join(workers)
    if suspended := [each for each in loop._asyncgens if _is_suspended(each)]:
        yield f"generators {suspended}"


def _is_suspended(generator: Any) -> bool:
    return generator.ag_frame is not None


# -- which judgements for which registry

PUBLISHED: Judgements = (
    Always("S3 no_silent_overlap", no_silent_overlap),
    Judgement("L5 shutdown", Moment.CLOSED, shut_down_in_time),
)
"""The published threads are not woken, so that nothing more can be required of them."""

OURS: Judgements = (
    *PUBLISHED,
    Always("L1 admission", none_waits_too_long),
    Always("L2 prompt_stop", stops_reach_upstream),
    Always(PROMPT, none_is_kept_waiting),
    Always(BACK_PRESSURE, buffers_are_bounded),
    Always(HEARD, none_is_left_in_silence),
    Judgement("S2 only_active_emits", Moment.SENDS, only_active_emits),
    Judgement(TOLD_THE_END, Moment.ENDED, who_stays_is_told_the_end),
    Judgement(WHOLE, Moment.ENDED, answer_is_whole),
    Judgement("L3 no_leak", Moment.QUIET, nothing_is_left),
)
