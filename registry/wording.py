"""The protocol's texts: the sentences of its errors, and its log lines. Decides nothing."""

from __future__ import annotations

from registry.errors import (
    QueueFull,
    QueueTimeout,
    RegistryClosed,
    SessionBusy,
    StreamCancelled,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
)
from registry.operations import Cancel, Logged, Register, Withdraw
from registry.states import State, Strategy

NEW_STREAM_REGISTERED = "new_stream_registered"
CALLER_LEFT = "caller_left"
REGISTRY_CLOSED = "registry_closed"
SESSION_OVERDUE = "session_overdue"
QUEUE_TIMEOUT = "queue_timeout"

STREAM_START = "stream_start"
STREAM_END = "stream_end"
STREAM_CANCELLED = "stream_cancelled"
FINISHED_CLEANLY = "prev_stream_finished_cleanly"
TIMEOUT_ON_CANCEL = "prev_stream_timeout_on_cancel"


# ---- why a register is refused --------------------------------------------------------------


def refused_as_closed(trace_id: str) -> RegistryClosed:
    return RegistryClosed(
        trace_id,
        f"stream {trace_id} was refused: the registry is closed; the process is about to end, "
        f"ask its successor",
    )


def refused_as_full(operation: Register, queue_max: int) -> QueueFull:
    trace_id = operation.trace_id
    return QueueFull(
        trace_id,
        f"stream {trace_id} was refused: {queue_max} streams wait in the queue of session "
        f"{operation.session_id}, which is its limit; send it again when one of them has had its "
        f"turn, or with the strategy {Strategy.INTERRUPT.value}",
    )


def refused_as_busy(trace_id: str, holder_id: str, holder_state: State) -> SessionBusy:
    return SessionBusy(
        trace_id,
        f"stream {trace_id} was refused: stream {holder_id} of its session is "
        f"{holder_state.name}, and the strategy is {Strategy.REJECT.value}; send it again when "
        f"that has ended, or with the strategy {Strategy.ENQUEUE.value} or "
        f"{Strategy.INTERRUPT.value}",
    )


def refused_as_known(trace_id: str, state: State) -> TraceIdKnown:
    return TraceIdKnown(
        trace_id,
        f"trace id {trace_id!r} is taken by a stream that is {state.name}; draw a new trace id "
        f"for every prompt, also when it is sent again",
    )


def refused_as_overdue(
    trace_id: str, holder_id: str, grace_s: float, in_session: str, in_process: str
) -> StreamRefused:
    """in_session, in_process: how many are detached there, of how many that may be."""
    return StreamRefused(
        trace_id,
        f"stream {trace_id} was refused: stream {holder_id} of its session was told to stop "
        f"and has not ended within {grace_s:g} s, and no more streams may be detached "
        f"({in_session} in the session, {in_process} in the process). What blocks them is "
        f"below: look at the upstream, then register again",
    )


# ---- why a stream ends, or never starts -----------------------------------------------------


def superseded(trace_id: str, newer: Register) -> StreamSuperseded:
    return StreamSuperseded(
        trace_id,
        f"stream {trace_id} was stopped: stream {newer.trace_id} is newer in session "
        f"{newer.session_id}",
        newer.trace_id,
    )


def overtaken(trace_id: str, newer: Register) -> StreamSuperseded:
    return StreamSuperseded(
        trace_id,
        f"stream {trace_id} never started: stream {newer.trace_id} is newer in session "
        f"{newer.session_id}",
        newer.trace_id,
    )


def waited_too_long(
    trace_id: str, session_name: str, queue_s: float, holder_id: str
) -> QueueTimeout:
    return QueueTimeout(
        trace_id,
        f"stream {trace_id} never started: its turn in session {session_name} has not come "
        f"within {queue_s:g} s, stream {holder_id} still holds it; send it again later, or with "
        f"the strategy {Strategy.INTERRUPT.value}",
    )


def stopped_by_close(trace_id: str) -> RegistryClosed:
    return RegistryClosed(trace_id, f"stream {trace_id} was stopped: the registry was closed")


def cancelled_by(operation: Cancel | Withdraw) -> tuple[str, StreamCancelled]:
    """The reason that is logged, and the error with which the stream ends."""
    trace_id = operation.trace_id
    if isinstance(operation, Cancel):
        reason = why = operation.reason
    else:
        reason, why = CALLER_LEFT, "the caller of its register has left"
    return reason, StreamCancelled(trace_id, f"stream {trace_id} was cancelled: {why}")


# ---- log lines ------------------------------------------------------------------------------


def started(trace_id: str, session_name: str) -> Logged:
    fields = (("trace", trace_id), ("trace_id", trace_id), ("session", session_name))
    return Logged(STREAM_START, fields)


def ended(trace_id: str, session_name: str, lasted_s: float) -> Logged:
    fields = (
        ("trace", trace_id),
        ("stream_id", trace_id),
        ("session", session_name),
        ("duration_ms", round(lasted_s * 1000)),
    )
    return Logged(STREAM_END, fields)


def cancelled(trace_id: str, reason: str) -> Logged:
    return Logged(STREAM_CANCELLED, (("trace", trace_id), ("reason", reason)))


def of_previous(event: str, trace_id: str, session_name: str) -> Logged:
    """What has become of the stream before the one that is let in."""
    return Logged(event, (("session", session_name), ("trace", trace_id)))
