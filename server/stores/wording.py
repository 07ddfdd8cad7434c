"""What a stream's end or refusal says, where workers share a store. Decides nothing."""

from __future__ import annotations

import math

from registry import (
    QueueFull,
    QueueTimeout,
    Repetition,
    SessionBusy,
    SessionLeaseLost,
    SessionsUnavailable,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
)
from registry.lease_records import LeaseLimits, Reply, Told, Word
from registry.lease_state import LimitsDiffer
from registry.wording import NEW_STREAM_REGISTERED, SESSION_OVERDUE

# By the name of the limit; the others are the same in all workers of a release.
_SETTINGS = {
    "lease_ms": "JARVIS_LEASE_SECONDS",
    "margin_ms": "JARVIS_LEASE_MARGIN_SECONDS",
    "grace_ms": "JARVIS_GRACE_SECONDS",
    "lag_ms": "JARVIS_LEASE_LAG_SECONDS",
    "queue_max": "JARVIS_QUEUE_MAX",
    "repeat_ms": "JARVIS_REPEAT_SECONDS",
}
LEASE_LOST = "session_lease_lost"
STORE_UNREACHABLE = "sessions_unavailable"


def stopped_by_newer(trace_id: str, session: str) -> StreamSuperseded:
    return StreamSuperseded(
        trace_id, f"stream {trace_id} was stopped: a newer stream of session {session} came"
    )


def cancelled_by(trace_id: str, reason: str) -> StreamCancelled:
    return StreamCancelled(trace_id, f"stream {trace_id} was cancelled: {reason}")


def lease_lost(trace_id: str, session: str, limits: LeaseLimits) -> SessionLeaseLost:
    return SessionLeaseLost(
        trace_id,
        f"stream {trace_id} was stopped: for {limits.lease_ms / 1000:g} s its worker could not "
        f"tell the store of sessions (JARVIS_SESSIONS) that it goes on, so that another may hold "
        f"session {session} now; what was sent of its answer is not the whole. Look at the store "
        f"and the network to it, then send the prompt again",
    )


_UNFORESEEN = "in an unforeseen way; the log has the traceback, worker_failed"


def not_asked(trace_id: str) -> SessionsUnavailable:
    return SessionsUnavailable(
        trace_id, f"stream {trace_id} was refused: to ask for its session failed {_UNFORESEEN}"
    )


def not_kept(trace_id: str) -> SessionLeaseLost:
    return SessionLeaseLost(
        trace_id, f"stream {trace_id} was stopped: to renew its lease failed {_UNFORESEEN}"
    )


def unreachable(trace_id: str, why: Exception) -> SessionsUnavailable:
    return SessionsUnavailable(trace_id, f"stream {trace_id} was refused: {sentence(why)}")


def sentence(why: Exception) -> str:
    """What a store says, for who knows the settings and not the table's limits."""
    if not isinstance(why, LimitsDiffer):
        return str(why)
    listed = ", ".join(_difference(*each) for each in why.differing)
    return (
        f"workers that share a store have the same settings, and others have {listed}; end all "
        f"workers, and start them with the same"
    )


def _difference(name: str, own: str, other: str) -> str:
    setting = _SETTINGS.get(name)
    if setting is None:
        return f"{name} {other} where this one has {own} (another release)"
    if name.endswith("_ms"):
        own, other = (f"{int(each) / 1000:g}" if each.isdigit() else each for each in (own, other))
    return f"{setting}={other} where this one has {own}"


def repetition(trace_id: str, first: str, newer: str) -> Repetition:
    return Repetition(
        trace_id,
        f"this prompt was asked before as stream {first}, which was not answered whole, and "
        f"stream {newer} is newer in its session: a repetition stops no newer prompt. Wait for "
        f"that one, or cancel it, and ask again (JARVIS_REPEAT_SECONDS)",
    )


def waited_too_long(trace_id: str, session: str, queue_s: float) -> QueueTimeout:
    return QueueTimeout(
        trace_id,
        f"stream {trace_id} never started: its turn in session {session} has not come within "
        f"{queue_s:g} s; send it again later, or with the strategy interrupt",
    )


def not_let_in(
    trace_id: str, session: str, reply: Reply, told: Told | None, limits: LeaseLimits
) -> tuple[str, StreamError]:
    """The reason that is logged, and the error, of a stream that the store has turned away."""
    match reply.word, told:
        case Word.REPEATED, _:
            _, _, first = reply.first.partition("/")
            _, _, newer = reply.newer.partition("/")
            return Repetition.code, repetition(trace_id, first, newer)
        case (Word.OVERDUE, _) | (_, Told.REFUSED):
            return SESSION_OVERDUE, StreamRefused(
                trace_id,
                f"stream {trace_id} was refused: the stream before it in session {session} has "
                f"not ended within the grace of {limits.grace_ms / 1000:g} s, and no more streams "
                f"may be detached ({limits.detached_per_session_max} in a session, "
                f"{limits.detached_max} of all workers). What blocks them is below: look at the "
                f"upstream, then send it again",
            )
        case Word.FULL, _:
            return "queue_full", QueueFull(
                trace_id,
                f"stream {trace_id} was refused: {limits.queue_max} streams wait in the queue of "
                f"session {session}, which is its limit; send it again when one of them has had "
                f"its turn, or with the strategy interrupt",
            )
        case Word.BUSY, _:
            return "session_busy", SessionBusy(
                trace_id,
                f"stream {trace_id} was refused: another stream holds session {session}, and the "
                f"strategy is reject; send it again when that has ended, or with the strategy "
                f"enqueue or interrupt",
            )
        case Word.UNSETTLED, _:
            settled_s = limits.quarantine_ms / 1000
            return "sessions_unsettled", SessionsUnavailable(
                trace_id,
                f"stream {trace_id} was refused: the store of sessions is new or was replaced, and "
                f"whether session {session} is busy is known within {settled_s:g} s; send it "
                f"again then, or with the strategy interrupt or enqueue, which wait for that",
                retry_after_s=math.ceil(settled_s),
            )
        case _, Told.CANCELLED:
            return "requested", cancelled_by(trace_id, "requested")
        case _:
            return NEW_STREAM_REGISTERED, StreamSuperseded(
                trace_id,
                f"stream {trace_id} never started: a newer stream of session {session} came",
            )
