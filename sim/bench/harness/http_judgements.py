"""The judgements of a server that hold at both levels where it is asked over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

from registry.protocol import State
from registry.wording import TIMEOUT_ON_CANCEL
from sim.bench.harness.answers import Answer
from sim.bench.harness.http_bench import HttpBench
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment

WHOLE = "an answer that ends without an error is all that Ollama said"
HEARD = "a client that reads hears something every ping_seconds"
TOLD_THE_END = "every client that stays is told the end"


# -- at every poll


def no_silent_overlap(bench: HttpBench) -> bool:
    """S3: of two upstream calls of a session, the older is of a DETACHED stream, and logged."""
    return not _overlapping(bench)


def overlapping(bench: HttpBench) -> str:
    """Whose calls these are, and, of the async client, which task has each."""
    callers = bench.callers(_overlapping(bench))
    names = (f"{prompt} ({task})" if task else prompt for prompt, task in callers)
    return f"the calls of {' and '.join(names)} are open at once"


def _overlapping(bench: HttpBench) -> list[str]:
    """The prompts of one session whose calls overlap although they must not; none if none do."""
    prompts = bench.prompts_upstream()
    if len(prompts) < 2:
        return []
    calls: dict[str, list[str]] = {}
    for prompt in prompts:
        calls.setdefault(bench.session_of(prompt), []).append(prompt)
    # Not by the order of the calls: the thread of a DETACHED stream that was stuck in a look-up
    # connects last, and has to notice then.
    for calls_of_session in calls.values():
        if len(calls_of_session) > 1:
            free = [each for each in calls_of_session if not _is_fenced_off(bench, each)]
            if len(free) > 1:
                return free
    return []


def _is_fenced_off(bench: HttpBench, prompt: str) -> bool:
    exchange = next(each for each in bench.exchanges if each.name == prompt)
    return bench.state_of(exchange) is State.DETACHED and any(
        line.says(TIMEOUT_ON_CANCEL, trace=exchange.given_id) for line in bench.logged
    )


def none_waits_too_long(bench: HttpBench) -> bool:
    """Who interrupts waits for the grace; who is enqueued until its wait is over."""
    waiting = bench.in_state_longer_than(State.WAITING, bench.grace_s)
    latest = bench.world.now - bench.slack_s
    return not waiting or all(
        view.wait_deadline is not None and view.wait_deadline >= latest
        for view in bench.registry.snapshot().streams
        if view.trace_id in waiting
    )


def none_is_left_in_silence(bench: HttpBench) -> bool:
    too_long_ago = bench.world.now - bench.settings.ping_seconds - bench.slack_s
    return not any(
        max(each.heard_at, each.reads_since) < too_long_ago and each.is_streamed
        for each in bench.exchanges
        if each.is_listening
    )


# -- of what is sent, and how it ends


def only_active_emits(bench: HttpBench, exchange: Answer) -> Iterator[str]:
    if (state := bench.state_of(exchange)) is not State.ACTIVE:
        yield f"content of {exchange.name} in state {state}"
    bench.world.reached("content was sent")


def who_stays_is_told_the_end(bench: HttpBench, exchange: Answer) -> Iterator[str]:
    """And never by a bare end."""
    if _stayed(bench, exchange) and not exchange.is_told_the_end:
        yield f"{exchange.name}: {exchange.status} {exchange.body!r}"


def answer_is_whole(bench: HttpBench, exchange: Answer) -> Iterator[str]:
    is_answer = exchange.status == 200 and exchange.error_code is None
    if not is_answer or not _stayed(bench, exchange):
        return
    said = bench.said_to(exchange.name)
    if exchange.text != said:
        yield f"{exchange.name}: {exchange.text!r} of {said!r}"


def _stayed(bench: HttpBench, exchange: Answer) -> bool:
    """It waited for all of its answer, and took what came."""
    return not bench.clients_may_be_cut and exchange.is_reading and not exchange.has_left


def shut_down_in_time(bench: HttpBench, lasted_s: float) -> Iterator[str]:
    if lasted_s > bench.grace_s + 1.0:
        yield f"it took {lasted_s:.3f} s"


def nothing_is_left(bench: HttpBench) -> Iterator[str]:
    if flags := len(bench.stop_signals):
        yield f"{flags} stop signals"
    loop = bench.world.loop
    tasks = [task.get_name() for task in loop.tasks if not task.done()]
    if tasks != ["program"]:
        yield f"tasks {', '.join(tasks)}"
    if workers := [f"worker {each.number} at {each.where}" for each in loop.threads.workers]:
        yield ", ".join(workers)


OVERLAP = Always("S3 no_silent_overlap", no_silent_overlap, overlapping)
SHUT_DOWN = Judgement("L5 shutdown", Moment.CLOSED, shut_down_in_time)

OF_BOTH_LEVELS: Judgements = (
    OVERLAP,
    SHUT_DOWN,
    Always("L1 admission", none_waits_too_long),
    Always(HEARD, none_is_left_in_silence),
    Judgement("S2 only_active_emits", Moment.SENDS, only_active_emits),
    Judgement(TOLD_THE_END, Moment.ENDED, who_stays_is_told_the_end),
    Judgement(WHOLE, Moment.ENDED, answer_is_whole),
    Judgement("L3 no_leak", Moment.QUIET, nothing_is_left),
)
