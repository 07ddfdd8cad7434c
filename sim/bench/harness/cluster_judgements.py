"""The judgements of workers that share a store: what the promises mean over several processes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from registry.errors import SessionsUnavailable, StreamSuperseded
from registry.lease_invariants import PREDICATES, SENTENCES, LeaseStep, Predicate
from registry.lease_records import Word
from registry.states import Strategy
from server.stores.lease import End
from sim.bench.harness.cluster_bench import TRIP_S, ClusterBench, Trouble
from sim.bench.harness.cluster_worker import CALL_S, POLL_S, RENEW_S, Served
from sim.bench.harness.judgement import Always, Judgement, Judgements, Moment
from sim.kernel.world import World

SUPERSEDED = f"refused: {StreamSuperseded.__name__}"
UNREACHABLE = f"refused: {SessionsUnavailable.__name__}"
# Of one message, or one answer, that was lost, and of what is late besides.
SLACK_S = CALL_S + POLL_S + 0.1


def one_gate(bench: ClusterBench) -> bool:
    open_in = [each.prompt.session for each in bench.served if each.is_open]
    return len(open_in) == len(set(open_in))


def open_gates(bench: ClusterBench) -> str:
    """Whose they are, and which task of which worker keeps each lease."""
    opened = [each for each in bench.served if each.is_open]
    sessions = [each.prompt.session for each in opened]
    shared = [each for each in opened if sessions.count(each.prompt.session) > 1]
    names = (f"{each.name} (its lease is kept by {each.keeper})" for each in shared)
    return f"the gates of {' and '.join(names)} are open at once"


def none_waits_too_long(bench: ClusterBench) -> bool:
    return all(
        bench.world.now - each.asked_s <= bound_s(bench, each)
        for each in bench.served
        if not each.answer and not each.is_gone
    )


def answered_in_time(bench: ClusterBench, stream: Served, waited_s: float) -> Iterator[str]:
    if waited_s > bound_s(bench, stream):
        yield f"{stream.name} waited {waited_s:.3f} s, and may for {bound_s(bench, stream):.3f} s"


def bound_s(bench: ClusterBench, stream: Served) -> float:
    """L1 over several processes: the grace, or the lease of a holder that is gone; and the
    quarantine of a store that may have lost writes. Who is enqueued waits for all before it.
    """
    limits = bench.limits
    bound_s = limits.wait_max_ms / 1000 + SLACK_S + stream.worker.stands_s
    if bench.troubles & {Trouble.FAIL_OVER, Trouble.SPLIT_BRAIN}:
        bound_s += limits.quarantine_ms / 1000
    if stream.prompt.strategy is Strategy.ENQUEUE:
        bound_s *= len(bench.served)
        bound_s += sum(each.prompt.life_s + each.prompt.cleanup_s for each in bench.served)
    return bound_s


def none_goes_on_after_a_stop(bench: ClusterBench) -> bool:
    """L2: also where the message is lost, who is stopped hears of it with its next renewal."""
    now_ms = bench.store_ms()
    for record in bench.table.sessions.values():
        if record.holder is None or record.holder.stop_ms is None:
            continue
        name, since_ms = record.holder.stream, now_ms - record.holder.stop_ms
        for stream in bench.served:
            if stream.name == name and stream.is_open and bench.is_reached(stream.worker):
                worker = stream.worker
                # One fault is that the message is lost; each of the others may cost a renewal.
                lost_s = (bench.world.faults.faults_max - 1) * (CALL_S + POLL_S)
                latest_s = RENEW_S / worker.host.clock.rate + lost_s + worker.stands_s + 0.1
                if since_ms > latest_s * 1000:
                    return False
    return True


def heard_for_a_reason(bench: ClusterBench, stream: Served, waited_s: float) -> Iterator[str]:
    """A store that is away counts at once for a newcomer, and for who waits once it is dead."""
    over_s = (bench.limits.lease_ms + bench.limits.margin_ms) / 1000
    gave_up = stream.answer == UNREACHABLE and not stream.worker.stands_s
    if gave_up and CALL_S / stream.worker.host.clock.rate + 0.1 < waited_s < over_s:
        yield f"{stream.name} gave up after {waited_s:.3f} s"


def table_holds(holds: Predicate, bench: ClusterBench, step: LeaseStep) -> Iterator[str]:
    if not holds(step):
        yield f"{step.operation} at {step.now_ms} ms; before {step.before.sessions}"


def in_order(bench: ClusterBench, entry: tuple[str, str, int, int]) -> Iterator[str]:
    """Tickets are the order of the registers, and who is let in after another has a later one."""
    session, stream, ticket, _ = entry
    for other_session, other, earlier, _ in bench.let_in:
        if other_session == session and ticket <= earlier:
            yield f"{stream} has ticket {ticket}, and is let in after {other} with {earlier}"


def newest_wins(bench: ClusterBench, entry: tuple[str, str, int, int]) -> Iterator[str]:
    """By the time of their arrival at their workers, where nobody enqueues."""
    session, name, _, _ = entry
    asked_s = {each.name: each for each in bench.served if each.prompt.session == session}
    mine = asked_s.get(name)
    if mine is None or mine.prompt.strategy is not Strategy.INTERRUPT:
        return
    latest_s = mine.asked_s + 2 * TRIP_S + mine.worker.stands_s
    for other_session, other, _, _ in bench.let_in:
        if other_session == session and asked_s[other].asked_s > latest_s:
            yield f"{name} is let in after {other}, which came later"


def tokens_increase(bench: ClusterBench, entry: tuple[str, str, int, int]) -> Iterator[str]:
    _, stream, _, token = entry
    for _, other, _, earlier in bench.let_in:
        if token <= earlier:
            yield f"{stream} has {token}, after {other} with {earlier}"


def only_who_holds_sends(bench: ClusterBench, stream: Served) -> Iterator[str]:
    if not stream.is_open:
        yield f"{stream.name} sends, and its gate is shut"
    bench.world.reached("content was sent")


def overlap_is_logged(bench: ClusterBench, stream: Served) -> Iterator[str]:
    for other in bench.served:
        if other is stream or other.prompt.session != stream.prompt.session or other.is_gone:
            continue
        if other.works_upstream:
            if other.prompt.name not in bench.timeouts:
                yield f"{other.name} still works upstream, and {stream.name} begins"
            bench.world.reached("upstream overlap, logged")


def stopped_for_a_reason(bench: ClusterBench, stream: Served, end: End) -> Iterator[str]:
    # By its own worker, as its client leaves or the worker ends; or by name.
    leaves = stream.worker.is_ending or stream.prompt.leaves_s is not None
    if end is End.CANCELLED and stream.name not in bench.cancelled and not leaves:
        yield f"{stream.name} was cancelled, and nobody did"
    if end is End.SUPERSEDED and not _newer(bench, stream):
        yield f"{stream.name} was superseded by nobody"
    if end is End.LOST and not bench.may_lose_leases:
        yield f"{stream.name} lost its lease, and nothing has befallen its worker"


def free_at_last(bench: ClusterBench, session: str, word: Word) -> Iterator[str]:
    if word is not Word.GRANTED:
        yield f"a newcomer to session {session} is told {word.value}: {bench.table.sessions}"


def overtaken_by_a_newer(bench: ClusterBench, stream: Served, waited_s: float) -> Iterator[str]:
    # Of a stop by name whose message was lost, the reply says only that the stream is gone.
    is_stopped = stream.name in bench.cancelled
    if stream.answer == SUPERSEDED and not is_stopped and not _newer(bench, stream):
        yield f"{stream.name} is refused for a newer one, and is the newest"


def _newer(bench: ClusterBench, stream: Served) -> list[Served]:
    """Those that came later to their workers, and interrupt; one that stood still may be late.

    What a library sends again is no newer than its first attempt.
    """
    return [
        each
        for each in bench.served
        if each is not stream
        and each.prompt.session == stream.prompt.session
        and each.asked_s + each.worker.stands_s + 2 * TRIP_S >= stream.asked_s
        and each.prompt.strategy is Strategy.INTERRUPT
        and not each.prompt.is_repetition
    ]


def nothing_is_left(bench: ClusterBench) -> Iterator[str]:
    if bench.table.sessions or bench.table.detached:
        yield f"{bench.table.sessions} {bench.table.detached}"


def closed_in_time(bench: ClusterBench, lasted_s: float) -> Iterator[str]:
    if lasted_s > bench.limits.grace_ms / 1000 + SLACK_S:
        yield f"close took {lasted_s:.3f} s"


S1 = "S1 one_gate: a session has at most one stream with an open gate, over all workers"
S2 = "S2 only_active_emits: content is sent only through an open gate"
S3 = (
    "S3 no_silent_overlap: upstream calls of a session overlap only where prev_stream_timeout_on_"
    "cancel was logged of the older"
)
S4 = "S4 newest_wins: nobody is let in after one that registered later"
S5 = "S5 fencing: fencing tokens increase, also over what a fail-over has lost"
S8 = "S8 identity: a stream is stopped only for a reason of its own"
L1 = "L1 admission: a register is answered within the grace or the lease, and the quarantine"
L1_DEAD = "L1 admission: what a dead worker has left holds up nobody"
L3 = "L3 no_leak: nothing is kept of a stream that has left, or of a dead worker"
L2 = "L2 prompt_stop: a stop reaches the gate with the next renewal at the latest"
HEARD = "a store that was away for a moment is not noticed by who waits"

OF_THE_CLUSTER: Judgements = (
    Always(S1, one_gate, open_gates),
    Always(L1, none_waits_too_long),
    Judgement(L1, Moment.ANSWERED, answered_in_time),
    Always(L2, none_goes_on_after_a_stop),
    Judgement(S4, Moment.ANSWERED, overtaken_by_a_newer),
    Judgement(HEARD, Moment.ANSWERED, heard_for_a_reason),
    *(
        Judgement(f"{name}: {SENTENCES[name]}", Moment.APPLIED, partial(table_holds, predicate))
        for name, predicate in PREDICATES.items()
    ),
    Judgement(S4, Moment.LET_IN, in_order),
    Judgement(S4, Moment.LET_IN, newest_wins),
    Judgement(S5, Moment.LET_IN, tokens_increase),
    Judgement(S2, Moment.SENDS, only_who_holds_sends),
    Judgement(S3, Moment.BEGINS, overlap_is_logged),
    Judgement("L5 shutdown", Moment.CLOSED, closed_in_time),
    Judgement(S8, Moment.STOPPED, stopped_for_a_reason),
    Judgement(L1_DEAD, Moment.PROBED, free_at_last),
    Judgement(L3, Moment.QUIET, nothing_is_left),
)


def make_cluster_bench(world: World, **options: Any) -> ClusterBench:
    return ClusterBench(world, OF_THE_CLUSTER, **options)
