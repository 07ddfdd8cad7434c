"""The judgements of the whole stack: what the production server promises, seen from its sockets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from registry.protocol import State
from registry.wording import TIMEOUT_ON_CANCEL
from sim.bench.harness.http_client import StackExchange
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.bench.harness.server_judgements import HEARD, TOLD_THE_END, WHOLE, shut_down_in_time
from sim.bench.harness.stack_bench import StackBench
from sim.kernel.world import World


def make_stack_bench(world: World, cls: type[Any], **options: Any) -> StackBench:
    """The whole stack around a registry of this class, with its bench."""
    return StackBench(world, cls, OF_THE_STACK, **options)


# -- at every poll


def no_silent_overlap(bench: StackBench) -> bool:
    """S3: of two upstream calls of a session, the older is of a DETACHED stream, and logged.

    A call lasts until our end of its connection is closed: when Ollama learns of it is the
    network's affair.
    """
    held = bench.calls_held()
    if len(held) < 2:
        return True
    by_session: dict[str, int] = {}
    for call in held:
        if not _is_fenced_off(bench, call.prompt):
            session = bench.session_of(call.prompt)
            by_session[session] = by_session.get(session, 0) + 1
    return all(calls <= 1 for calls in by_session.values())


def _is_fenced_off(bench: StackBench, prompt: str) -> bool:
    exchange = bench.prompts[prompt]
    return bench.state_of(exchange) is State.DETACHED and any(
        line.says(TIMEOUT_ON_CANCEL, trace=exchange.given_id) for line in bench.logged
    )


def none_waits_too_long(bench: StackBench) -> bool:
    """Who interrupts waits for the grace; who is enqueued until its wait is over."""
    waiting = bench.in_state_longer_than(State.WAITING, bench.grace_s)
    latest = bench.world.now - bench.slack_s
    return not waiting or all(
        view.wait_deadline is not None and view.wait_deadline >= latest
        for view in bench.registry.snapshot().streams
        if view.trace_id in waiting
    )


def stops_reach_upstream(bench: StackBench) -> bool:
    """L2: our end of a stopped stream's connection is closed."""
    stopped = bench.in_state_longer_than(State.STOPPING, 0.0)
    if not stopped:
        return True
    prompts = {each.name for each in bench.prompts.values() if each.given_id in stopped}
    return not any(call.prompt in prompts for call in bench.calls_held())


def none_is_left_in_silence(bench: StackBench) -> bool:
    too_long_ago = bench.world.now - bench.settings.ping_seconds - bench.slack_s
    return not any(
        max(each.heard_at, each.reads_since) < too_long_ago and each.is_streamed
        for each in bench.prompts.values()
        if each.is_listening and not each.has_failed
    )


# -- of what is sent, and how it ends


def only_active_emits(bench: StackBench, exchange: StackExchange) -> Iterator[str]:
    if (state := bench.state_of(exchange)) is not State.ACTIVE:
        yield f"content of {exchange.name} in state {state}"
    bench.world.reached("content was sent")


def who_stays_is_told_the_end(bench: StackBench, exchange: StackExchange) -> Iterator[str]:
    """And never by a bare end."""
    if exchange.stayed and not exchange.is_told_the_end:
        yield f"{exchange.name}: {exchange.status} {exchange.body!r}"


def answer_is_whole(bench: StackBench, exchange: StackExchange) -> Iterator[str]:
    is_answer = exchange.status == 200 and exchange.error_code is None
    said = bench.said_to(exchange.name)
    if is_answer and exchange.stayed and exchange.text != said:
        yield f"{exchange.name}: {exchange.text!r} of {said!r}"


def nothing_is_left(bench: StackBench) -> Iterator[str]:
    if flags := len(bench.stop_signals):
        yield f"{flags} stop signals"
    if sockets := bench.sockets_of_server():
        yield f"sockets {', '.join(each.words for each in sockets)}"
    loop = bench.world.loop
    tasks = [task.get_name() for task in loop.tasks if not task.done()]
    if tasks != ["program"]:
        yield f"tasks {', '.join(tasks)}"
    if workers := [f"worker {each.number} at {each.where}" for each in loop.threads.workers]:
        yield ", ".join(workers)


OF_THE_STACK: Judgements = (
    Always("S3 no_silent_overlap", no_silent_overlap),
    Always("L1 admission", none_waits_too_long),
    Always("L2 prompt_stop", stops_reach_upstream),
    Always(HEARD, none_is_left_in_silence),
    Judgement("S2 only_active_emits", Moment.SENDS, only_active_emits),
    Judgement(TOLD_THE_END, Moment.ENDED, who_stays_is_told_the_end),
    Judgement(WHOLE, Moment.ENDED, answer_is_whole),
    Judgement("L3 no_leak", Moment.QUIET, nothing_is_left),
    Judgement("L5 shutdown", Moment.CLOSED, shut_down_in_time),
)
