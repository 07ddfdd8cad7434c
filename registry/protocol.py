"""The protocol: which stream of a session may work, and what each operation does to it.

Everything that changes the state of a stream stands in this file; which of it happens when, the
table in `table.py` says. It is synchronous and knows no asyncio: time is an argument, and what has
to be done about a change is returned as effects, which the shell in `stream_registry.py` carries
out. `StreamProtocol.apply` is the single entry point of all operations: it finds the situation that
the operation meets, looks up the row for it in `TABLE`, and either takes that row or raises and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry import wording
from registry.errors import (
    IllegalOperation,
    StreamError,
    StreamRefused,
)
from registry.operations import (
    Admitted,
    Cancel,
    Close,
    Effect,
    Ended,
    Forgotten,
    GraceExpired,
    Logged,
    Operation,
    Queued,
    Register,
    Rejected,
    StopRequested,
    WaitExpired,
    Withdraw,
)
from registry.states import Snapshot, State, Strategy, StreamView
from registry.table import TABLE, Action, Does, Move, Row, Situation, Who
from registry.wording import (
    FINISHED_CLEANLY,
    TIMEOUT_ON_CANCEL,
)

__all__ = [
    "DETACHED_MAX",
    "DETACHED_PER_SESSION_MAX",
    "GRACE_S",
    "PERFORM",
    "QUEUE_MAX",
    "QUEUE_S",
    "TABLE",
    "Action",
    "Admitted",
    "Cancel",
    "Close",
    "Does",
    "Effect",
    "Effects",
    "Ended",
    "Forgotten",
    "GraceExpired",
    "Logged",
    "Move",
    "Operation",
    "Perform",
    "Queued",
    "Register",
    "Rejected",
    "Row",
    "Situation",
    "Snapshot",
    "State",
    "Step",
    "StopRequested",
    "Strategy",
    "StreamProtocol",
    "StreamView",
    "WaitExpired",
    "Who",
    "Withdraw",
]

GRACE_S = 2.0
DETACHED_PER_SESSION_MAX = 4
DETACHED_MAX = 64
QUEUE_MAX = 8
QUEUE_S = 600.0


Effects = tuple[Effect, ...]


# ---- the state ------------------------------------------------------------------------------


class _Session:
    __slots__ = ("detached", "holder", "session_id", "waiting")

    def __init__(self, session_id: str | None) -> None:
        self.session_id = session_id
        # ACTIVE or STOPPING. No other stream of the session is in either state (S1).
        self.holder: KnownStream | None = None
        # WAITING, oldest first, which is also the order in which they become ACTIVE (S4). Empty
        # without a holder that is ACTIVE or STOPPING and not overdue (L1). At most the first one
        # interrupts, and only while the holder is STOPPING; of the others at most queue_max (S7).
        self.waiting: list[KnownStream] = []
        # How many streams are DETACHED; at most detached_per_session_max (S7).
        self.detached = 0

    @property
    def name(self) -> str:
        """In log lines and errors."""
        return self.session_id or "-"

    def is_idle(self) -> bool:
        return self.holder is None and not self.waiting and self.detached == 0


class KnownStream:
    __slots__ = (
        "fencing_token",
        "grace_deadline",
        "overdue",
        "serial",
        "session",
        "started_at",
        "state",
        "strategy",
        "trace_id",
        "wait_deadline",
    )

    def __init__(self, operation: Register, session: _Session, serial: int) -> None:
        self.trace_id = operation.trace_id
        self.strategy = operation.strategy
        self.session = session
        self.state = State.WAITING
        # The order of the registers, over all sessions.
        self.serial = serial
        # Given when the stream becomes ACTIVE; greater than every one given before (S5).
        self.fencing_token: int | None = None
        self.started_at: float | None = None
        # Set when the stream is enqueued, until it is ACTIVE; it leaves at that time (L1).
        self.wait_deadline: float | None = None
        # Set when the stream becomes STOPPING, once: no later register moves it.
        self.grace_deadline: float | None = None
        # STOPPING beyond the grace, since no further stream may be DETACHED.
        self.overdue = False


@dataclass(frozen=True, slots=True)
class Step:
    """One operation while it is applied: what it met before its first action."""

    operation: Any
    now: float
    # That the operation names; None for a register, a close, and where it is not known.
    stream: KnownStream | None
    # Of the stream, or that is registered for, if it has a stream.
    session: _Session | None


class StreamProtocol:
    """The state of all streams, changed by `apply` alone.

    Times are in seconds, on whatever clock the caller reads `now` from.
    """

    def __init__(
        self,
        *,
        grace_s: float = GRACE_S,
        detached_per_session_max: int = DETACHED_PER_SESSION_MAX,
        detached_max: int = DETACHED_MAX,
        queue_max: int = QUEUE_MAX,
        queue_s: float = QUEUE_S,
    ) -> None:
        """queue_max: how many enqueued streams of a session may wait; one that interrupts does
        not count. queue_s: how long each of them may wait for its turn, in seconds.
        """
        if min(grace_s, detached_per_session_max, detached_max, queue_max, queue_s) < 0:
            raise ValueError(
                f"grace_s={grace_s}, detached_per_session_max={detached_per_session_max}, "
                f"detached_max={detached_max}, queue_max={queue_max}, queue_s={queue_s}: none of "
                f"them may be negative"
            )
        self.grace_s = grace_s
        self.detached_per_session_max = detached_per_session_max
        self.detached_max = detached_max
        self.queue_max = queue_max
        self.queue_s = queue_s
        self._streams: dict[str, KnownStream] = {}
        # Named sessions that have a stream; nothing is kept for an idle one.
        self._sessions: dict[str, _Session] = {}
        self._detached = 0
        self._serial_last = 0
        self._fencing_token_last = 0
        self._closed = False

    # -- the entry point

    def apply(self, operation: Operation, now: float) -> Effects:
        """Takes the one row of the table that fits, and answers with what is to be done.

        No effects means that the operation met nothing to do: a cancel of an unknown stream,
        say. Raises a StreamError for a register that is turned away, and IllegalOperation where
        the table has no row; then nothing has changed.
        """
        situation = self.situation_of(operation)
        row = TABLE.get((type(operation), situation))
        if row is None:
            raise IllegalOperation(
                f"{operation} is not possible: {situation.value}. Only the shell that owns the "
                f"stream may say this, and only once the stream has left that state."
            )
        step = self._step(operation, now)
        effects: list[Effect] = []
        for action in row:
            effects += PERFORM[action](self, step)
        return tuple(effects)

    def situation_of(self, operation: Operation) -> Situation:
        """What `apply` would meet now. Changes nothing."""
        match operation:
            case Register():
                return self._situation_of_register(operation)
            case Close():
                closed = self._closed
                return Situation.REGISTRY_CLOSED if closed else Situation.REGISTRY_OPEN
            case GraceExpired(trace_id) if self._may_not_detach(trace_id):
                return Situation.STOPPING_AT_LIMIT
            case _:
                return self._situation_of_stream(operation.trace_id)

    def _situation_of_register(self, operation: Register) -> Situation:
        if operation.trace_id in self._streams:
            return Situation.TRACE_ID_KNOWN
        if self._closed:
            return Situation.REGISTRY_CLOSED
        session = self._session(operation.session_id)
        if session is None or session.holder is None:
            return Situation.SESSION_FREE
        if session.holder.overdue:
            return Situation.HOLDER_OVERDUE
        match operation.strategy:
            case Strategy.INTERRUPT:
                return _situation_of_interrupt(session, session.holder)
            case Strategy.ENQUEUE:
                is_full = _enqueued(session) >= self.queue_max
                return Situation.QUEUE_FULL if is_full else Situation.QUEUE_OPEN
            case Strategy.REJECT:
                return Situation.SESSION_BUSY

    def _session(self, session_id: str | None) -> _Session | None:
        return self._sessions.get(session_id) if session_id is not None else None

    def _situation_of_stream(self, trace_id: str) -> Situation:
        stream = self._streams.get(trace_id)
        if stream is None:
            return Situation.UNKNOWN
        if stream.state is not State.STOPPING:
            return Situation[stream.state.name]
        return Situation.OVERDUE if stream.overdue else Situation.STOPPING

    def _step(self, operation: Operation, now: float) -> Step:
        match operation:
            case Register(_, session_id, _):
                return Step(operation, now, None, self._session(session_id))
            case Close():
                return Step(operation, now, None, None)
            case _:
                stream = self._streams.get(operation.trace_id)
                return Step(operation, now, stream, stream.session if stream else None)

    def _may_not_detach(self, trace_id: str) -> bool:
        stream = self._streams.get(trace_id)
        if stream is None or stream.state is not State.STOPPING or stream.overdue:
            return False
        return (
            stream.session.detached >= self.detached_per_session_max
            or self._detached >= self.detached_max
        )

    # -- questions

    def state_of(self, trace_id: str) -> State | None:
        """None for a stream that has ended or was never let in."""
        stream = self._streams.get(trace_id)
        return stream.state if stream is not None else None

    def may_emit(self, trace_id: str, fencing_token: int | None) -> bool:
        """Whether the stream that was given this fencing token is ACTIVE now.

        The fencing token distinguishes a stream from a later one that took its trace id.
        """
        stream = self._streams.get(trace_id)
        return (
            stream is not None
            and stream.state is State.ACTIVE
            and stream.fencing_token == fencing_token
        )

    def snapshot(self) -> Snapshot:
        return Snapshot(
            streams=tuple(
                StreamView(
                    trace_id=stream.trace_id,
                    session_id=stream.session.session_id,
                    state=stream.state,
                    serial=stream.serial,
                    fencing_token=stream.fencing_token,
                    started_at=stream.started_at,
                    grace_deadline=stream.grace_deadline,
                    overdue=stream.overdue,
                    strategy=stream.strategy,
                    queue_position=_queue_position(stream),
                    wait_deadline=stream.wait_deadline,
                )
                for stream in self._streams.values()
            ),
            sessions_kept=len(self._sessions),
            fencing_token_last=self._fencing_token_last,
            closed=self._closed,
            detached_per_session_max=self.detached_per_session_max,
            detached_max=self.detached_max,
            queue_max=self.queue_max,
        )

    # -- actions with the stream that registers

    def _admit_new(self, step: Step) -> Effects:
        return self._activate(self._add(step.operation), step.now)

    def _let_wait(self, step: Step) -> Effects:
        stream = self._add(step.operation)
        stream.session.waiting.append(stream)
        return ()

    def _enqueue(self, step: Step) -> Effects:
        stream = self._add(step.operation)
        stream.session.waiting.append(stream)
        stream.wait_deadline = step.now + self.queue_s
        return (Queued(stream.trace_id, stream.wait_deadline),)

    def _refuse_overdue(self, step: Step) -> Effects:
        raise self._overdue_refusal(step.operation.trace_id, _holder(step))

    def _refuse_closed(self, step: Step) -> Effects:
        raise wording.refused_as_closed(step.operation.trace_id)

    def _refuse_full(self, step: Step) -> Effects:
        raise wording.refused_as_full(step.operation, self.queue_max)

    def _refuse_busy(self, step: Step) -> Effects:
        holder = _holder(step)
        raise wording.refused_as_busy(step.operation.trace_id, holder.trace_id, holder.state)

    def _refuse_known(self, step: Step) -> Effects:
        trace_id = step.operation.trace_id
        raise wording.refused_as_known(trace_id, self._streams[trace_id].state)

    # -- actions with the others of its session

    def _supersede_holder(self, step: Step) -> Effects:
        holder = _holder(step)
        error = wording.superseded(holder.trace_id, step.operation)
        return self._stop(holder, wording.NEW_STREAM_REGISTERED, error, step.now)

    def _supersede_waiting(self, step: Step) -> Effects:
        effects: list[Effect] = []
        for waiting in _waiting(step):
            error = wording.overtaken(waiting.trace_id, step.operation)
            effects += self._reject(waiting, wording.NEW_STREAM_REGISTERED, error)
        return tuple(effects)

    def _refuse_waiting(self, step: Step) -> Effects:
        effects: list[Effect] = []
        for waiting in _waiting(step):
            error = self._overdue_refusal(waiting.trace_id, _holder(step))
            effects += self._reject(waiting, wording.SESSION_OVERDUE, error)
        return tuple(effects)

    def _admit_next(self, step: Step) -> Effects:
        waiting = _waiting(step)
        if not waiting:
            return ()
        waiting[0].session.waiting.pop(0)
        return self._activate(waiting[0], step.now)

    # -- actions with the stream that is named

    def _stop_named(self, step: Step) -> Effects:
        reason, error = wording.cancelled_by(step.operation)
        return self._stop(_named(step), reason, error, step.now)

    def _reject_named(self, step: Step) -> Effects:
        reason, error = wording.cancelled_by(step.operation)
        return self._reject(_named(step), reason, error)

    def _give_up_wait(self, step: Step) -> Effects:
        stream, holder = _named(step), _holder(step)
        session_name = stream.session.name
        error = wording.waited_too_long(
            stream.trace_id, session_name, self.queue_s, holder.trace_id
        )
        return self._reject(stream, wording.QUEUE_TIMEOUT, error)

    def _detach(self, step: Step) -> Effects:
        stream = _named(step)
        stream.state = State.DETACHED
        stream.session.holder = None
        stream.session.detached += 1
        self._detached += 1
        return (_of_previous(TIMEOUT_ON_CANCEL, stream),)

    def _mark_overdue(self, step: Step) -> Effects:
        stream = _named(step)
        stream.overdue = True
        return (_of_previous(TIMEOUT_ON_CANCEL, stream),)

    def _end_holder(self, step: Step) -> Effects:
        stream = _named(step)
        stream.session.holder = None
        effects = self._forget(stream, step.now)
        if not stream.session.waiting:
            return effects
        return (_of_previous(FINISHED_CLEANLY, stream), *effects)

    def _end_detached(self, step: Step) -> Effects:
        stream = _named(step)
        stream.session.detached -= 1
        self._detached -= 1
        return self._forget(stream, step.now)

    # -- an action with all of them

    def _close(self, step: Step) -> Effects:
        self._closed = True
        effects: list[Effect] = []
        for stream in tuple(self._streams.values()):
            error = wording.stopped_by_close(stream.trace_id)
            if stream.state is State.WAITING:
                effects += self._reject(stream, wording.REGISTRY_CLOSED, error)
            elif stream.state is State.ACTIVE:
                effects += self._stop(stream, wording.REGISTRY_CLOSED, error, step.now)
        return tuple(effects)

    # -- what actions have in common

    def _add(self, operation: Register) -> KnownStream:
        session_id = operation.session_id
        if session_id is None:
            session = _Session(None)
        else:
            session = self._sessions.setdefault(session_id, _Session(session_id))
        self._serial_last += 1
        stream = KnownStream(operation, session, self._serial_last)
        self._streams[stream.trace_id] = stream
        return stream

    def _activate(self, stream: KnownStream, now: float) -> Effects:
        self._fencing_token_last += 1
        stream.fencing_token = self._fencing_token_last
        stream.state = State.ACTIVE
        stream.wait_deadline = None
        stream.started_at = now
        stream.session.holder = stream
        started = wording.started(stream.trace_id, stream.session.name)
        return started, Admitted(stream.trace_id, stream.fencing_token)

    def _stop(self, stream: KnownStream, reason: str, error: StreamError, now: float) -> Effects:
        stream.state = State.STOPPING
        stream.grace_deadline = now + self.grace_s
        stop = StopRequested(stream.trace_id, error, stream.grace_deadline)
        return wording.cancelled(stream.trace_id, reason), stop

    def _reject(self, stream: KnownStream, reason: str, error: StreamError) -> Effects:
        stream.session.waiting.remove(stream)
        self._drop(stream)
        trace_id = stream.trace_id
        cancelled = wording.cancelled(trace_id, reason)
        return cancelled, Rejected(trace_id, error), Forgotten(trace_id)

    def _forget(self, stream: KnownStream, now: float) -> Effects:
        assert stream.started_at is not None
        self._drop(stream)
        trace_id = stream.trace_id
        ended = wording.ended(trace_id, stream.session.name, now - stream.started_at)
        return ended, Forgotten(trace_id)

    def _overdue_refusal(self, trace_id: str, holder: KnownStream) -> StreamRefused:
        in_session = f"{holder.session.detached} of {self.detached_per_session_max}"
        in_process = f"{self._detached} of {self.detached_max}"
        return wording.refused_as_overdue(
            trace_id, holder.trace_id, self.grace_s, in_session, in_process
        )

    def _drop(self, stream: KnownStream) -> None:
        del self._streams[stream.trace_id]
        session = stream.session
        if session.session_id is not None and session.is_idle():
            self._sessions.pop(session.session_id, None)


def _named(step: Step) -> KnownStream:
    assert step.stream is not None
    return step.stream


def _holder(step: Step) -> KnownStream:
    assert step.session is not None
    assert step.session.holder is not None
    return step.session.holder


def _waiting(step: Step) -> tuple[KnownStream, ...]:
    """Those that wait now, oldest first."""
    assert step.session is not None
    return tuple(step.session.waiting)


def _situation_of_interrupt(session: _Session, holder: KnownStream) -> Situation:
    if holder.state is State.ACTIVE:
        contended = session.waiting
        return Situation.HOLDER_ACTIVE_CONTENDED if contended else Situation.HOLDER_ACTIVE
    if session.waiting:
        return Situation.HOLDER_STOPPING_CONTENDED
    return Situation.HOLDER_STOPPING


def _enqueued(session: _Session) -> int:
    return sum(stream.strategy is Strategy.ENQUEUE for stream in session.waiting)


def _queue_position(stream: KnownStream) -> int | None:
    waiting = enumerate(stream.session.waiting, 1)
    return next((position for position, each in waiting if each is stream), None)


def _of_previous(event: str, stream: KnownStream) -> Logged:
    return wording.of_previous(event, stream.trace_id, stream.session.name)


# ---- the code of each action ----------------------------------------------------------------

Perform = Callable[[StreamProtocol, Step], Effects]

PERFORM: dict[Action, Perform] = {
    Action.ADMIT_NEW: StreamProtocol._admit_new,
    Action.LET_WAIT: StreamProtocol._let_wait,
    Action.ENQUEUE: StreamProtocol._enqueue,
    Action.REFUSE_OVERDUE: StreamProtocol._refuse_overdue,
    Action.REFUSE_CLOSED: StreamProtocol._refuse_closed,
    Action.REFUSE_FULL: StreamProtocol._refuse_full,
    Action.REFUSE_BUSY: StreamProtocol._refuse_busy,
    Action.REFUSE_KNOWN: StreamProtocol._refuse_known,
    Action.SUPERSEDE_HOLDER: StreamProtocol._supersede_holder,
    Action.SUPERSEDE_WAITING: StreamProtocol._supersede_waiting,
    Action.REFUSE_WAITING: StreamProtocol._refuse_waiting,
    Action.ADMIT_NEXT: StreamProtocol._admit_next,
    Action.STOP: StreamProtocol._stop_named,
    Action.REJECT: StreamProtocol._reject_named,
    Action.GIVE_UP_WAIT: StreamProtocol._give_up_wait,
    Action.DETACH: StreamProtocol._detach,
    Action.MARK_OVERDUE: StreamProtocol._mark_overdue,
    Action.END_HOLDER: StreamProtocol._end_holder,
    Action.END_DETACHED: StreamProtocol._end_detached,
    Action.CLOSE: StreamProtocol._close,
}
