"""The invariants, as named data: what must hold in every state and over every operation.

Those of the table (S1, S4–S8, and the part of L1 that a state shows) are predicates over
snapshots and stand here, and what of L3 one shows. The others are about what happens outside of the
protocol (S2, S3, L2–L6) and are judged where that is observed; their sentences stand here, too, so
that all promises of one process are in one place. What several workers keep: `lease_invariants`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from registry.protocol import (
    Cancel,
    Close,
    Ended,
    GraceExpired,
    Operation,
    Register,
    Snapshot,
    State,
    Strategy,
    StreamView,
    WaitExpired,
    Withdraw,
)

_OfOneStream = Register | Cancel | Withdraw | Ended | GraceExpired | WaitExpired

SENTENCES = {
    "S1 one_active": "a session has at most one ACTIVE stream",
    "S2 only_active_emits": "content is handed to send only while its stream is ACTIVE",
    "S3 no_silent_overlap": "upstream calls of one session overlap only if the older stream is "
    "DETACHED and prev_stream_timeout_on_cancel was logged",
    "S4 newest_wins": "whoever interrupts waits for a stopping stream alone, before all others, "
    "and an overtaken WAITING stream never starts",
    "S4 oldest_next": "of the streams that wait in a session the oldest is the next to be ACTIVE",
    "S4 reject_never_waits": "who is to be rejected where the session is busy never waits",
    "S5 fencing": "a session's fencing tokens strictly increase",
    "S6 isolation": "an operation on one session changes no other, and a register on a free "
    "session is answered in the same instant",
    "S7 bounded": "DETACHED and WAITING streams and worker threads stay within their limits",
    "S8 identity": "ending or cancelling a stream never touches another",
    "L1 admission": "every register is answered: at once where the session is free or it does not "
    "wait, within grace + lateness if it interrupts, within queue_s + lateness if it is enqueued",
    "L2 prompt_stop": "a stop reaches the upstream in the same instant and wakes a blocked thread",
    "L3 no_leak": "when all is quiet, nothing is left of the streams that were",
    "L4 no_deadlock": "nothing waits for what can no longer come, nothing spins while time stands",
    "L5 shutdown": "close and process exit are bounded, whatever a thread or Ollama does",
    "L6 silence": "an upstream silent for longer than the inactivity limit ends its stream with a "
    "clear error",
}


@dataclass(frozen=True, slots=True)
class StateInvariant:
    """Holds of every snapshot."""

    name: str
    holds: Callable[[Snapshot], bool]

    @property
    def sentence(self) -> str:
        return SENTENCES[self.name]


@dataclass(frozen=True, slots=True)
class StepInvariant:
    """Holds between the snapshots before and after every operation."""

    name: str
    holds: Callable[[Snapshot, Operation, Snapshot], bool]

    @property
    def sentence(self) -> str:
        return SENTENCES[self.name]


def one_active(now: Snapshot) -> bool:
    active = [stream.session_id for stream in now.in_state(State.ACTIVE) if stream.session_id]
    return len(active) == len(set(active))


def newest_wins(now: Snapshot) -> bool:
    """A stream that interrupts waits only if no other is ACTIVE in its session, and before all."""
    for streams in _by_session(now):
        waiting = [stream for stream in streams if stream.state is State.WAITING]
        if not any(stream.strategy is Strategy.INTERRUPT for stream in waiting):
            continue
        if any(stream.state is State.ACTIVE for stream in streams):
            return False
        if waiting[0].strategy is not Strategy.INTERRUPT:
            return False
    return True


def reject_never_waits(now: Snapshot) -> bool:
    return all(stream.strategy is not Strategy.REJECT for stream in now.in_state(State.WAITING))


def fencing(now: Snapshot) -> bool:
    """Within a session, streams that registered later have greater fencing tokens."""
    for streams in _by_session(now):
        given = [s.fencing_token for s in streams if s.fencing_token is not None]
        if any(later <= earlier for earlier, later in pairwise(given)):
            return False
    return True


def bounded(now: Snapshot) -> bool:
    if len(now.in_state(State.DETACHED)) > now.detached_max:
        return False
    for streams in _by_session(now):
        states = [stream.state for stream in streams]
        if states.count(State.DETACHED) > now.detached_per_session_max:
            return False
        waiting = [stream.strategy for stream in streams if stream.state is State.WAITING]
        if waiting.count(Strategy.INTERRUPT) > 1 or waiting.count(Strategy.ENQUEUE) > now.queue_max:
            return False
    return True


def waiting_is_bounded(now: Snapshot) -> bool:
    """Who waits, waits for one that holds the session, and whose grace, if it stops, is running.

    An ACTIVE holder may take long, so an enqueued stream has a time at which it leaves.
    """
    for streams in _by_session(now):
        waiting = [stream for stream in streams if stream.state is State.WAITING]
        if waiting and not any(_can_be_waited_for(stream) for stream in streams):
            return False
        if any(s.strategy is Strategy.ENQUEUE and s.wait_deadline is None for s in waiting):
            return False
    return True


def _can_be_waited_for(stream: StreamView) -> bool:
    return stream.state in (State.ACTIVE, State.STOPPING) and not stream.overdue


def nothing_kept(now: Snapshot) -> bool:
    """No session is kept that has no stream."""
    return now.sessions_kept == len({s.session_id for s in now.streams if s.session_id})


def fencing_grows(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """Every fencing token given is greater than all given before, also to streams long gone."""
    known = {stream.trace_id for stream in before.streams if stream.fencing_token is not None}
    given = [s.fencing_token for s in after.streams if s.trace_id not in known and s.fencing_token]
    return all(fencing_token > before.fencing_token_last for fencing_token in given)


def isolation(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """A stream that an operation changed belongs to the session of the operation."""
    if isinstance(operation, Close):
        return True
    session_id = _session_of(operation, before)
    trace_id = operation.trace_id
    return _others(before, session_id, trace_id) == _others(after, session_id, trace_id)


def identity(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """Only who interrupts, or closes, stops or removes a stream that is not named.

    Ending lets another in, and stops none.
    """
    if isinstance(operation, Close):
        return True
    if isinstance(operation, Register) and operation.strategy is Strategy.INTERRUPT:
        return True
    states = {stream.trace_id: stream.state for stream in after.streams}
    for stream in before.streams:
        now = states.get(stream.trace_id)
        if stream.trace_id != operation.trace_id and _was_stopped(stream.state, now, operation):
            return False
    return True


def overtaken_never_starts(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """Who becomes ACTIVE is none that a younger one, which interrupts, has overtaken."""
    return not any(
        waiting.strategy is Strategy.INTERRUPT and waiting.serial > stream.serial
        for stream, waiting in _started_and_waiting(before, after)
    )


def oldest_next(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """Who becomes ACTIVE leaves none behind that has waited for longer."""
    return not any(
        waiting.serial < stream.serial for stream, waiting in _started_and_waiting(before, after)
    )


def grace_goes_on(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    """The grace of a stopped stream does not restart, whatever comes meanwhile."""
    deadlines = {stream.trace_id: stream.grace_deadline for stream in after.streams}
    return all(
        stream.grace_deadline is None
        or deadlines.get(stream.trace_id, stream.grace_deadline) == stream.grace_deadline
        for stream in before.streams
    )


STATE_INVARIANTS = (
    StateInvariant("S1 one_active", one_active),
    StateInvariant("S4 newest_wins", newest_wins),
    StateInvariant("S4 reject_never_waits", reject_never_waits),
    StateInvariant("S5 fencing", fencing),
    StateInvariant("S7 bounded", bounded),
    StateInvariant("L1 admission", waiting_is_bounded),
    StateInvariant("L3 no_leak", nothing_kept),
)

STEP_INVARIANTS = (
    StepInvariant("S4 newest_wins", overtaken_never_starts),
    StepInvariant("S4 oldest_next", oldest_next),
    StepInvariant("S5 fencing", fencing_grows),
    StepInvariant("S6 isolation", isolation),
    StepInvariant("S8 identity", identity),
    StepInvariant("L1 admission", grace_goes_on),
)


def violated(before: Snapshot, operation: Operation, after: Snapshot) -> str | None:
    """The name of the first invariant that does not hold, or None."""
    for invariant in STATE_INVARIANTS:
        if not invariant.holds(after):
            return invariant.name
    for step in STEP_INVARIANTS:
        if not step.holds(before, operation, after):
            return step.name
    return None


def _by_session(now: Snapshot) -> Iterable[list[StreamView]]:
    """The streams of each named session, in the order of their registers."""
    sessions: dict[str, list[StreamView]] = defaultdict(list)
    for stream in now.streams:
        if stream.session_id is not None:
            sessions[stream.session_id].append(stream)
    return sessions.values()


def _started_and_waiting(
    before: Snapshot, after: Snapshot
) -> Iterable[tuple[StreamView, StreamView]]:
    """Who has become ACTIVE, with each other of its session that was waiting."""
    were_active = {stream.trace_id for stream in before.in_state(State.ACTIVE)}
    waiting = before.in_state(State.WAITING)
    for stream in after.in_state(State.ACTIVE):
        if stream.session_id is None or stream.trace_id in were_active:
            continue
        for other in waiting:
            if other.session_id == stream.session_id and other.trace_id != stream.trace_id:
                yield stream, other


def _session_of(operation: _OfOneStream, before: Snapshot) -> str | None:
    if isinstance(operation, Register):
        return operation.session_id
    for stream in before.streams:
        if stream.trace_id == operation.trace_id:
            return stream.session_id
    return None


def _others(now: Snapshot, session_id: str | None, trace_id: str) -> tuple[StreamView, ...]:
    """The streams of other sessions; a stream without a session id has one of its own."""
    return tuple(
        stream
        for stream in now.streams
        if stream.trace_id != trace_id
        and (stream.session_id is None or stream.session_id != session_id)
    )


def _was_stopped(before: State, after: State | None, operation: Operation) -> bool:
    if not isinstance(operation, Ended | GraceExpired):
        return after is not before
    # Ending or expiring may let the WAITING stream in, or refuse it; it stops no other.
    return before is not State.WAITING and after is not before
