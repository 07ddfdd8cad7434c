"""The protocol: which stream of a session may work, and what each operation does to it.

Everything that changes the state of a stream stands in this file, the table first. It is
synchronous and knows no asyncio: time is an argument, and what has to be done about a change is
returned as effects, which the shell in `stream_registry.py` carries out. All operations go through
one door, `StreamProtocol.apply`: it finds the situation that the operation meets, looks up the row
for it in `TABLE`, and either takes that row or raises and changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from registry.errors import (
    IllegalOperation,
    QueueFull,
    QueueTimeout,
    RegistryClosed,
    SessionBusy,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
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


# ---- the table ------------------------------------------------------------------------------


class Situation(enum.Enum):
    """What an operation can meet. A stream of state STOPPING is either stopping or overdue."""

    # what a register finds, whatever its strategy
    SESSION_FREE = "session free"
    HOLDER_OVERDUE = "holder overdue"
    TRACE_ID_KNOWN = "trace id known"
    REGISTRY_CLOSED = "registry closed"
    # what one that interrupts finds
    HOLDER_ACTIVE = "holder active"
    HOLDER_ACTIVE_CONTENDED = "holder active, others wait"
    HOLDER_STOPPING = "holder stopping, nobody waits"
    HOLDER_STOPPING_CONTENDED = "holder stopping, another waits"
    # what one that is to be enqueued, or rejected, finds: in both the holder is active or stopping
    QUEUE_OPEN = "enqueues, queue has room"
    QUEUE_FULL = "enqueues, queue full"
    SESSION_BUSY = "rejects, session busy"
    # in which state an operation finds the stream that it names
    WAITING = "waiting"
    ACTIVE = "active"
    STOPPING = "stopping"
    STOPPING_AT_LIMIT = "stopping, at the limit of detached streams"
    OVERDUE = "overdue"
    DETACHED = "detached"
    UNKNOWN = "unknown"
    # what a close finds
    REGISTRY_OPEN = "registry open"


class Who(enum.Enum):
    """Whose state an action changes."""

    NEW = "the new stream"
    NAMED = "the stream"
    HOLDER = "the holder"
    NEXT = "the next that waits"
    EACH_WAITING = "each that waits"
    EACH_ACTIVE = "each that is active"


@dataclass(frozen=True, slots=True)
class Move:
    """Who gets into which state; UNKNOWN is that of a stream that has ended or was not let in."""

    who: Who
    to: Situation


# Without equality: two actions that move alike are two, and no enum aliases.
@dataclass(frozen=True, eq=False, slots=True)
class Does:
    """moves: of nobody, where there is none whom it is about.

    effects: what each move has the shell do, in this order, log lines by their names. tells: the
    error that the stream ends with. refuses: why `apply` raises that error and changes nothing.
    """

    moves: tuple[Move, ...] = ()
    effects: tuple[type[Effect] | str, ...] = ()
    tells: type[StreamError] | None = None
    refuses: str | None = None


_STARTS = (STREAM_START, Admitted)
_STOPS = (STREAM_CANCELLED, StopRequested)
_LEAVES = (STREAM_CANCELLED, Rejected, Forgotten)


def _does(
    who: Who,
    to: Situation,
    effects: tuple[type[Effect] | str, ...] = (),
    tells: type[StreamError] | None = None,
) -> Does:
    return Does((Move(who, to),), effects, tells)


def _refuses(error: type[StreamError], why: str) -> Does:
    return Does(tells=error, refuses=why)


class Action(enum.Enum):
    """What a row does: one or more of these, in their order. `PERFORM` has the code of each."""

    # with the stream that registers
    ADMIT_NEW = _does(Who.NEW, Situation.ACTIVE, _STARTS)
    LET_WAIT = _does(Who.NEW, Situation.WAITING)
    ENQUEUE = _does(Who.NEW, Situation.WAITING, (Queued,))
    REFUSE_OVERDUE = _refuses(StreamRefused, "the holder can be neither waited for nor detached")
    REFUSE_CLOSED = _refuses(RegistryClosed, "no stream is let in any more")
    REFUSE_FULL = _refuses(QueueFull, "as many wait in its session as may")
    REFUSE_BUSY = _refuses(SessionBusy, "its session is held, and it waits for nobody")
    REFUSE_KNOWN = _refuses(TraceIdKnown, "another stream has its trace id")
    # with the others of its session
    SUPERSEDE_HOLDER = _does(Who.HOLDER, Situation.STOPPING, _STOPS, StreamSuperseded)
    SUPERSEDE_WAITING = _does(Who.EACH_WAITING, Situation.UNKNOWN, _LEAVES, StreamSuperseded)
    REFUSE_WAITING = _does(Who.EACH_WAITING, Situation.UNKNOWN, _LEAVES, StreamRefused)
    ADMIT_NEXT = _does(Who.NEXT, Situation.ACTIVE, _STARTS)
    # with the stream that is named
    STOP = _does(Who.NAMED, Situation.STOPPING, _STOPS, StreamCancelled)
    REJECT = _does(Who.NAMED, Situation.UNKNOWN, _LEAVES, StreamCancelled)
    GIVE_UP_WAIT = _does(Who.NAMED, Situation.UNKNOWN, _LEAVES, QueueTimeout)
    DETACH = _does(Who.NAMED, Situation.DETACHED, (TIMEOUT_ON_CANCEL,))
    MARK_OVERDUE = _does(Who.NAMED, Situation.OVERDUE, (TIMEOUT_ON_CANCEL,))
    # The first of its lines only where another takes over.
    END_HOLDER = _does(Who.NAMED, Situation.UNKNOWN, (FINISHED_CLEANLY, STREAM_END, Forgotten))
    END_DETACHED = _does(Who.NAMED, Situation.UNKNOWN, (STREAM_END, Forgotten))
    # with all of them, in the order of their registers
    CLOSE = Does(
        (Move(Who.EACH_WAITING, Situation.UNKNOWN), Move(Who.EACH_ACTIVE, Situation.STOPPING)),
        (STREAM_CANCELLED, Rejected, Forgotten, StopRequested),
        StreamRefused,
    )


Row = tuple[Action, ...]
Effects = tuple[Effect, ...]

# No row: the operation is not possible there. An empty row: it is, and there is nothing to do.
TABLE: dict[tuple[type[Operation], Situation], Row] = {
    (Register, Situation.SESSION_FREE): (Action.ADMIT_NEW,),
    (Register, Situation.HOLDER_ACTIVE): (Action.SUPERSEDE_HOLDER, Action.LET_WAIT),
    # Whoever interrupts overtakes all that wait, also those enqueued: else they would be answered
    # before what the user has said since.
    (Register, Situation.HOLDER_ACTIVE_CONTENDED): (
        Action.SUPERSEDE_HOLDER,
        Action.SUPERSEDE_WAITING,
        Action.LET_WAIT,
    ),
    (Register, Situation.HOLDER_STOPPING): (Action.LET_WAIT,),
    (Register, Situation.HOLDER_STOPPING_CONTENDED): (Action.SUPERSEDE_WAITING, Action.LET_WAIT),
    # Behind all that wait, also behind one that interrupts; a stopping holder is waited for, too.
    (Register, Situation.QUEUE_OPEN): (Action.ENQUEUE,),
    (Register, Situation.QUEUE_FULL): (Action.REFUSE_FULL,),
    (Register, Situation.SESSION_BUSY): (Action.REFUSE_BUSY,),
    (Register, Situation.HOLDER_OVERDUE): (Action.REFUSE_OVERDUE,),
    (Register, Situation.REGISTRY_CLOSED): (Action.REFUSE_CLOSED,),
    (Register, Situation.TRACE_ID_KNOWN): (Action.REFUSE_KNOWN,),
    (Cancel, Situation.ACTIVE): (Action.STOP,),
    (Cancel, Situation.WAITING): (Action.REJECT,),
    (Cancel, Situation.STOPPING): (),
    (Cancel, Situation.OVERDUE): (),
    (Cancel, Situation.DETACHED): (),
    (Cancel, Situation.UNKNOWN): (),
    (Withdraw, Situation.WAITING): (Action.REJECT,),
    (Withdraw, Situation.ACTIVE): (Action.STOP,),
    (Withdraw, Situation.STOPPING): (),
    (Ended, Situation.ACTIVE): (Action.END_HOLDER, Action.ADMIT_NEXT),
    (Ended, Situation.STOPPING): (Action.END_HOLDER, Action.ADMIT_NEXT),
    (Ended, Situation.OVERDUE): (Action.END_HOLDER,),
    (Ended, Situation.DETACHED): (Action.END_DETACHED,),
    (GraceExpired, Situation.STOPPING): (Action.DETACH, Action.ADMIT_NEXT),
    (GraceExpired, Situation.STOPPING_AT_LIMIT): (Action.MARK_OVERDUE, Action.REFUSE_WAITING),
    (WaitExpired, Situation.WAITING): (Action.GIVE_UP_WAIT,),
    (Close, Situation.REGISTRY_OPEN): (Action.CLOSE,),
    (Close, Situation.REGISTRY_CLOSED): (),
}


# ---- the state ------------------------------------------------------------------------------


class _Session:
    __slots__ = ("detached", "holder", "session_id", "waiting")

    def __init__(self, session_id: str | None) -> None:
        self.session_id = session_id
        # ACTIVE or STOPPING. No other stream of the session is in either state (S1).
        self.holder: _Stream | None = None
        # WAITING, oldest first, which is also the order in which they become ACTIVE (S4). Empty
        # without a holder that is ACTIVE or STOPPING and not overdue (L1). At most the first one
        # interrupts, and only while the holder is STOPPING; of the others at most queue_max (S7).
        self.waiting: list[_Stream] = []
        # How many streams are DETACHED; at most detached_per_session_max (S7).
        self.detached = 0

    def is_idle(self) -> bool:
        return self.holder is None and not self.waiting and self.detached == 0


class _Stream:
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
    """One operation under way: what it met before its first action."""

    operation: Any
    now: float
    # That the operation names; None for a register, a close, and where it is not known.
    stream: _Stream | None
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
        self._streams: dict[str, _Stream] = {}
        # Named sessions that have a stream; nothing is kept for an idle one.
        self._sessions: dict[str, _Session] = {}
        self._detached = 0
        self._serial_last = 0
        self._fencing_token_last = 0
        self._closed = False

    # -- the door

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

        The fencing token tells a stream from a later one that took its trace id.
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
        raise _overdue_refusal(step.operation.trace_id, _holder(step), self)

    def _refuse_closed(self, step: Step) -> Effects:
        trace_id = step.operation.trace_id
        raise RegistryClosed(
            trace_id,
            f"stream {trace_id} was refused: the registry is closed; the process is about to end, "
            f"ask its successor",
        )

    def _refuse_full(self, step: Step) -> Effects:
        trace_id, session_id = step.operation.trace_id, step.operation.session_id
        raise QueueFull(
            trace_id,
            f"stream {trace_id} was refused: {self.queue_max} streams wait in the queue of session "
            f"{session_id}, which is its limit; send it again when one of them has had its turn, "
            f"or with the strategy {Strategy.INTERRUPT.value}",
        )

    def _refuse_busy(self, step: Step) -> Effects:
        trace_id, holder = step.operation.trace_id, _holder(step)
        raise SessionBusy(
            trace_id,
            f"stream {trace_id} was refused: stream {holder.trace_id} of its session is "
            f"{holder.state.name}, and the strategy is {Strategy.REJECT.value}; send it again when "
            f"that has ended, or with the strategy {Strategy.ENQUEUE.value} or "
            f"{Strategy.INTERRUPT.value}",
        )

    def _refuse_known(self, step: Step) -> Effects:
        trace_id = step.operation.trace_id
        raise TraceIdKnown(
            trace_id,
            f"trace id {trace_id!r} is taken by a stream that is "
            f"{self._streams[trace_id].state.name}; draw a new trace id for every prompt, also "
            f"when it is sent again",
        )

    # -- actions with the others of its session

    def _supersede_holder(self, step: Step) -> Effects:
        holder = _holder(step)
        error = StreamSuperseded(
            holder.trace_id,
            f"stream {holder.trace_id} was stopped: stream {step.operation.trace_id} is newer in "
            f"session {step.operation.session_id}",
        )
        return self._stop(holder, NEW_STREAM_REGISTERED, error, step.now)

    def _supersede_waiting(self, step: Step) -> Effects:
        effects: list[Effect] = []
        for waiting in _waiting(step):
            error = StreamSuperseded(
                waiting.trace_id,
                f"stream {waiting.trace_id} never started: stream {step.operation.trace_id} is "
                f"newer in session {step.operation.session_id}",
            )
            effects += self._reject(waiting, NEW_STREAM_REGISTERED, error)
        return tuple(effects)

    def _refuse_waiting(self, step: Step) -> Effects:
        effects: list[Effect] = []
        for waiting in _waiting(step):
            error = _overdue_refusal(waiting.trace_id, _holder(step), self)
            effects += self._reject(waiting, SESSION_OVERDUE, error)
        return tuple(effects)

    def _admit_next(self, step: Step) -> Effects:
        waiting = _waiting(step)
        if not waiting:
            return ()
        waiting[0].session.waiting.pop(0)
        return self._activate(waiting[0], step.now)

    # -- actions with the stream that is named

    def _stop_named(self, step: Step) -> Effects:
        reason, error = _told(step.operation)
        return self._stop(_named(step), reason, error, step.now)

    def _reject_named(self, step: Step) -> Effects:
        reason, error = _told(step.operation)
        return self._reject(_named(step), reason, error)

    def _give_up_wait(self, step: Step) -> Effects:
        stream = _named(step)
        error = QueueTimeout(
            stream.trace_id,
            f"stream {stream.trace_id} never started: its turn in session {_name_of(stream)} has "
            f"not come within {self.queue_s:g} s, stream {_holder(step).trace_id} still holds it; "
            f"send it again later, or with the strategy {Strategy.INTERRUPT.value}",
        )
        return self._reject(stream, QUEUE_TIMEOUT, error)

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
            error = RegistryClosed(
                stream.trace_id, f"stream {stream.trace_id} was stopped: the registry was closed"
            )
            if stream.state is State.WAITING:
                effects += self._reject(stream, REGISTRY_CLOSED, error)
            elif stream.state is State.ACTIVE:
                effects += self._stop(stream, REGISTRY_CLOSED, error, step.now)
        return tuple(effects)

    # -- what actions have in common

    def _add(self, operation: Register) -> _Stream:
        session_id = operation.session_id
        if session_id is None:
            session = _Session(None)
        else:
            session = self._sessions.setdefault(session_id, _Session(session_id))
        self._serial_last += 1
        stream = _Stream(operation, session, self._serial_last)
        self._streams[stream.trace_id] = stream
        return stream

    def _activate(self, stream: _Stream, now: float) -> Effects:
        self._fencing_token_last += 1
        stream.fencing_token = self._fencing_token_last
        stream.state = State.ACTIVE
        stream.wait_deadline = None
        stream.started_at = now
        stream.session.holder = stream
        trace_id = stream.trace_id
        fields = (("trace", trace_id), ("trace_id", trace_id), ("session", _name_of(stream)))
        return Logged(STREAM_START, fields), Admitted(trace_id, stream.fencing_token)

    def _stop(self, stream: _Stream, reason: str, error: StreamError, now: float) -> Effects:
        stream.state = State.STOPPING
        stream.grace_deadline = now + self.grace_s
        stop = StopRequested(stream.trace_id, error, stream.grace_deadline)
        return _cancelled(stream, reason), stop

    def _reject(self, stream: _Stream, reason: str, error: StreamError) -> Effects:
        stream.session.waiting.remove(stream)
        self._drop(stream)
        trace_id = stream.trace_id
        return _cancelled(stream, reason), Rejected(trace_id, error), Forgotten(trace_id)

    def _forget(self, stream: _Stream, now: float) -> Effects:
        assert stream.started_at is not None
        self._drop(stream)
        trace_id = stream.trace_id
        fields = (
            ("trace", trace_id),
            ("stream_id", trace_id),
            ("session", _name_of(stream)),
            ("duration_ms", round((now - stream.started_at) * 1000)),
        )
        return Logged(STREAM_END, fields), Forgotten(trace_id)

    def _drop(self, stream: _Stream) -> None:
        del self._streams[stream.trace_id]
        session = stream.session
        if session.session_id is not None and session.is_idle():
            self._sessions.pop(session.session_id, None)


def _named(step: Step) -> _Stream:
    assert step.stream is not None
    return step.stream


def _holder(step: Step) -> _Stream:
    assert step.session is not None
    assert step.session.holder is not None
    return step.session.holder


def _waiting(step: Step) -> tuple[_Stream, ...]:
    """Those that wait now, oldest first."""
    assert step.session is not None
    return tuple(step.session.waiting)


def _situation_of_interrupt(session: _Session, holder: _Stream) -> Situation:
    if holder.state is State.ACTIVE:
        contended = session.waiting
        return Situation.HOLDER_ACTIVE_CONTENDED if contended else Situation.HOLDER_ACTIVE
    if session.waiting:
        return Situation.HOLDER_STOPPING_CONTENDED
    return Situation.HOLDER_STOPPING


def _enqueued(session: _Session) -> int:
    return sum(stream.strategy is Strategy.ENQUEUE for stream in session.waiting)


def _queue_position(stream: _Stream) -> int | None:
    waiting = enumerate(stream.session.waiting, 1)
    return next((position for position, each in waiting if each is stream), None)


def _name_of(stream: _Stream) -> str:
    return stream.session.session_id or "-"


def _cancelled(stream: _Stream, reason: str) -> Logged:
    return Logged(STREAM_CANCELLED, (("trace", stream.trace_id), ("reason", reason)))


def _of_previous(event: str, stream: _Stream) -> Logged:
    return Logged(event, (("session", _name_of(stream)), ("trace", stream.trace_id)))


def _told(operation: Cancel | Withdraw) -> tuple[str, StreamCancelled]:
    """The reason that is logged, and the error with which the stream ends."""
    trace_id = operation.trace_id
    if isinstance(operation, Cancel):
        reason = why = operation.reason
    else:
        reason, why = CALLER_LEFT, "the caller of its register has left"
    return reason, StreamCancelled(trace_id, f"stream {trace_id} was cancelled: {why}")


def _overdue_refusal(trace_id: str, holder: _Stream, protocol: StreamProtocol) -> StreamRefused:
    return StreamRefused(
        trace_id,
        f"stream {trace_id} was refused: stream {holder.trace_id} of its session was told to stop "
        f"and has not ended within {protocol.grace_s:g} s, and no more streams may be detached "
        f"({holder.session.detached} of {protocol.detached_per_session_max} in the session, "
        f"{protocol._detached} of {protocol.detached_max} in the process). What blocks them is "
        f"below: look at the upstream, then register again",
    )


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
