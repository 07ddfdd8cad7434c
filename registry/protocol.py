"""The protocol: which stream of a session may work, and what each operation does to it.

Everything that changes the state of a stream stands in this file. It is synchronous and knows
no asyncio: time is an argument, and what has to be done about a change is returned as effects,
which the shell in `stream_registry.py` carries out. All operations go through one door,
`Protocol.apply`: it finds the situation that the operation meets, looks up the row for it in
`TABLE`, and either takes that row or raises and changes nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from registry.errors import (
    IllegalOperation,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
)

GRACE_S = 2.0
DETACHED_PER_SESSION_MAX = 4
DETACHED_MAX = 64

NEW_STREAM_REGISTERED = "new_stream_registered"
CALLER_LEFT = "caller_left"
REGISTRY_CLOSED = "registry_closed"


class State(enum.Enum):
    """A stream that is in none of these has ended, or was never let in."""

    WAITING = "registered; an older stream of its session is still stopping"
    ACTIVE = "holds the session, has its fencing token; the only state that may emit"
    STOPPING = "told to stop, cleaning up; emits nothing more, still holds the session"
    DETACHED = "did not end within the grace; fenced off, still counted until it ends"


# ---- operations: what can be asked of the protocol ------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """A new stream asks for its session; None asks for a session of its own."""

    trace_id: str
    session_id: str | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody stops the stream by name."""

    trace_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The caller of register has left before it saw the answer."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream's task, worker threads and upstream connection are all over."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class GraceExpired:
    """The time that the stream had for its clean-up has passed."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """No stream is let in any more, and those that are in are told to stop."""


Operation = Register | Cancel | Withdraw | Ended | GraceExpired | Close


# ---- effects: what the shell has to carry out, in this order --------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """The stream is ACTIVE: its register is answered."""

    trace_id: str
    fencing_token: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The WAITING stream left: its register raises `error`."""

    trace_id: str
    error: StreamError


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The stream is STOPPING: tell its task and threads, and ask again at `grace_deadline`."""

    trace_id: str
    error: StreamError
    grace_deadline: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The protocol no longer knows the stream: drop whatever is kept for it."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A log line: its name and its fields, in the order in which they are printed."""

    event: str
    fields: tuple[tuple[str, object], ...]


Effect = Admitted | Rejected | StopRequested | Forgotten | Logged


# ---- situations: what an operation can meet -------------------------------------------------


class Situation(enum.Enum):
    # what a register finds
    SESSION_FREE = "session free"
    HOLDER_ACTIVE = "holder active"
    HOLDER_STOPPING = "holder stopping, nobody waits"
    HOLDER_STOPPING_CONTENDED = "holder stopping, another waits"
    HOLDER_OVERDUE = "holder overdue"
    TRACE_ID_KNOWN = "trace id known"
    REGISTRY_CLOSED = "registry closed"
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


# ---- the state ------------------------------------------------------------------------------


class _Session:
    __slots__ = ("detached", "holder", "session_id", "waiting")

    def __init__(self, session_id: str | None) -> None:
        self.session_id = session_id
        # ACTIVE or STOPPING. No other stream of the session is in either state (S1).
        self.holder: _Stream | None = None
        # WAITING, and only while the holder is STOPPING and not overdue (S4, L1). It is one
        # place since the newest prompt interrupts; queueing would make it a list.
        self.waiting: _Stream | None = None
        # How many streams are DETACHED; at most detached_per_session_max (S7).
        self.detached = 0

    def is_idle(self) -> bool:
        return self.holder is None and self.waiting is None and self.detached == 0


class _Stream:
    __slots__ = (
        "fencing_token",
        "grace_deadline",
        "overdue",
        "serial",
        "session",
        "started_at",
        "state",
        "trace_id",
    )

    def __init__(self, trace_id: str, session: _Session, serial: int) -> None:
        self.trace_id = trace_id
        self.session = session
        self.state = State.WAITING
        # The order of the registers, over all sessions.
        self.serial = serial
        # Given when the stream becomes ACTIVE; greater than every one given before (S5).
        self.fencing_token: int | None = None
        self.started_at: float | None = None
        # Set when the stream becomes STOPPING, once: no later register moves it.
        self.grace_deadline: float | None = None
        # STOPPING beyond the grace, since no further stream may be DETACHED.
        self.overdue = False


@dataclass(frozen=True, slots=True)
class StreamView:
    """One stream in a snapshot. Times are readings of the clock that the operations carried."""

    trace_id: str
    session_id: str | None
    state: State
    serial: int
    fencing_token: int | None
    started_at: float | None
    grace_deadline: float | None
    overdue: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at one moment: every stream not yet ended, oldest register first."""

    streams: tuple[StreamView, ...]
    sessions_kept: int
    fencing_token_last: int
    closed: bool
    detached_per_session_max: int
    detached_max: int

    def in_state(self, *states: State) -> tuple[StreamView, ...]:
        return tuple(stream for stream in self.streams if stream.state in states)

    def of_session(self, session_id: str) -> tuple[StreamView, ...]:
        return tuple(stream for stream in self.streams if stream.session_id == session_id)


class Protocol:
    """The state of all streams, changed by `apply` alone.

    Times are in seconds, on whatever clock the caller reads `now` from.
    """

    def __init__(
        self,
        *,
        grace_s: float = GRACE_S,
        detached_per_session_max: int = DETACHED_PER_SESSION_MAX,
        detached_max: int = DETACHED_MAX,
    ) -> None:
        if grace_s < 0 or detached_per_session_max < 0 or detached_max < 0:
            raise ValueError(
                f"grace_s={grace_s}, detached_per_session_max={detached_per_session_max}, "
                f"detached_max={detached_max}: none of them may be negative"
            )
        self.grace_s = grace_s
        self.detached_per_session_max = detached_per_session_max
        self.detached_max = detached_max
        self._streams: dict[str, _Stream] = {}
        # Named sessions that have a stream; nothing is kept for an idle one.
        self._sessions: dict[str, _Session] = {}
        self._detached = 0
        self._serial_last = 0
        self._fencing_token_last = 0
        self._closed = False

    # -- the door

    def apply(self, operation: Operation, now: float) -> tuple[Effect, ...]:
        """Takes the one row of the table that fits, and answers with what is to be done.

        No effects means that the operation met nothing to do: a cancel of an unknown stream,
        say. Raises StreamRefused or TraceIdKnown for a register that is turned away, and
        IllegalOperation where the table has no row; then nothing has changed.
        """
        situation = self.situation_of(operation)
        try:
            row = TABLE[type(operation), situation]
        except KeyError:
            raise IllegalOperation(
                f"{operation} is not possible: {situation.value}. Only the shell that owns the "
                f"stream may say this, and only once the stream has left that state."
            ) from None
        return tuple(row(self, operation, now))

    def situation_of(self, operation: Operation) -> Situation:
        """What `apply` would meet now. Changes nothing."""
        match operation:
            case Register(trace_id, session_id):
                return self._situation_of_register(trace_id, session_id)
            case Close():
                closed = self._closed
                return Situation.REGISTRY_CLOSED if closed else Situation.REGISTRY_OPEN
            case GraceExpired(trace_id) if self._may_not_detach(trace_id):
                return Situation.STOPPING_AT_LIMIT
            case _:
                return self._situation_of_stream(operation.trace_id)

    def _situation_of_register(self, trace_id: str, session_id: str | None) -> Situation:
        if trace_id in self._streams:
            return Situation.TRACE_ID_KNOWN
        if self._closed:
            return Situation.REGISTRY_CLOSED
        session = self._sessions.get(session_id) if session_id is not None else None
        if session is None or session.holder is None:
            return Situation.SESSION_FREE
        if session.holder.state is State.ACTIVE:
            return Situation.HOLDER_ACTIVE
        if session.holder.overdue:
            return Situation.HOLDER_OVERDUE
        if session.waiting is None:
            return Situation.HOLDER_STOPPING
        return Situation.HOLDER_STOPPING_CONTENDED

    def _situation_of_stream(self, trace_id: str) -> Situation:
        stream = self._streams.get(trace_id)
        if stream is None:
            return Situation.UNKNOWN
        if stream.state is not State.STOPPING:
            return Situation[stream.state.name]
        return Situation.OVERDUE if stream.overdue else Situation.STOPPING

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
                )
                for stream in self._streams.values()
            ),
            sessions_kept=len(self._sessions),
            fencing_token_last=self._fencing_token_last,
            closed=self._closed,
            detached_per_session_max=self.detached_per_session_max,
            detached_max=self.detached_max,
        )

    # -- rows of register

    def _register_free(self, operation: Register, now: float) -> Iterator[Effect]:
        yield from self._activate(self._add(operation), now)

    def _register_stops_holder(self, operation: Register, now: float) -> Iterator[Effect]:
        stream = self._add(operation)
        holder = stream.session.holder
        assert holder is not None
        error = StreamSuperseded(
            holder.trace_id,
            f"stream {holder.trace_id} was stopped: stream {stream.trace_id} is newer in session "
            f"{operation.session_id}",
        )
        yield from self._stop(holder, NEW_STREAM_REGISTERED, error, now)
        stream.session.waiting = stream

    def _register_waits(self, operation: Register, now: float) -> Iterator[Effect]:
        stream = self._add(operation)
        stream.session.waiting = stream
        yield from ()

    def _register_overtakes(self, operation: Register, now: float) -> Iterator[Effect]:
        stream = self._add(operation)
        overtaken = stream.session.waiting
        assert overtaken is not None
        error = StreamSuperseded(
            overtaken.trace_id,
            f"stream {overtaken.trace_id} never started: stream {stream.trace_id} is newer in "
            f"session {operation.session_id}",
        )
        stream.session.waiting = stream
        yield from self._reject(overtaken, NEW_STREAM_REGISTERED, error)

    def _register_refused_overdue(self, operation: Register, now: float) -> Iterator[Effect]:
        session = self._sessions[operation.session_id or ""]
        assert session.holder is not None
        raise _overdue_refusal(operation.trace_id, session.holder, self)

    def _register_refused_closed(self, operation: Register, now: float) -> Iterator[Effect]:
        raise StreamRefused(
            operation.trace_id,
            f"stream {operation.trace_id} was refused: the registry is closed; the process is "
            f"about to end, ask its successor",
        )

    def _register_known(self, operation: Register, now: float) -> Iterator[Effect]:
        state = self._streams[operation.trace_id].state
        raise TraceIdKnown(
            operation.trace_id,
            f"trace id {operation.trace_id!r} is taken by a stream that is {state.name}; draw a "
            f"new trace id for every prompt, also when it is sent again",
        )

    # -- rows of the operations that name a stream

    def _cancel_holder(self, operation: Cancel, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        yield from self._stop(stream, operation.reason, _cancellation(operation), now)

    def _cancel_waiting(self, operation: Cancel, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        stream.session.waiting = None
        yield from self._reject(stream, operation.reason, _cancellation(operation))

    def _withdraw_waiting(self, operation: Withdraw, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        stream.session.waiting = None
        yield from self._reject(stream, CALLER_LEFT, _departure(operation))

    def _withdraw_holder(self, operation: Withdraw, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        yield from self._stop(stream, CALLER_LEFT, _departure(operation), now)

    def _ended_holder(self, operation: Ended, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        session = stream.session
        heir = session.holder = session.waiting
        session.waiting = None
        if heir is not None:
            yield _line("prev_stream_finished_cleanly", stream, "session trace")
        yield from self._forget(stream, now)
        if heir is not None:
            yield from self._activate(heir, now)

    def _ended_detached(self, operation: Ended, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        stream.session.detached -= 1
        self._detached -= 1
        yield from self._forget(stream, now)

    def _grace_expired(self, operation: GraceExpired, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        session = stream.session
        stream.state = State.DETACHED
        heir = session.holder = session.waiting
        session.waiting = None
        session.detached += 1
        self._detached += 1
        yield _line("prev_stream_timeout_on_cancel", stream, "session trace")
        if heir is not None:
            yield from self._activate(heir, now)

    def _grace_expired_at_limit(self, operation: GraceExpired, now: float) -> Iterator[Effect]:
        stream = self._streams[operation.trace_id]
        stream.overdue = True
        yield _line("prev_stream_timeout_on_cancel", stream, "session trace")
        waiting, stream.session.waiting = stream.session.waiting, None
        if waiting is not None:
            error = _overdue_refusal(waiting.trace_id, stream, self)
            yield from self._reject(waiting, "session_overdue", error)

    def _close(self, operation: Close, now: float) -> Iterator[Effect]:
        self._closed = True
        for stream in tuple(self._streams.values()):
            error = StreamRefused(
                stream.trace_id, f"stream {stream.trace_id} was stopped: the registry was closed"
            )
            if stream.state is State.WAITING:
                stream.session.waiting = None
                yield from self._reject(stream, REGISTRY_CLOSED, error)
            elif stream.state is State.ACTIVE:
                yield from self._stop(stream, REGISTRY_CLOSED, error, now)

    def _no_effect(self, operation: Operation, now: float) -> Iterator[Effect]:
        yield from ()

    # -- what rows have in common

    def _add(self, operation: Register) -> _Stream:
        session_id = operation.session_id
        if session_id is None:
            session = _Session(None)
        else:
            session = self._sessions.setdefault(session_id, _Session(session_id))
        self._serial_last += 1
        stream = _Stream(operation.trace_id, session, self._serial_last)
        self._streams[stream.trace_id] = stream
        return stream

    def _activate(self, stream: _Stream, now: float) -> Iterator[Effect]:
        self._fencing_token_last += 1
        stream.fencing_token = self._fencing_token_last
        stream.state = State.ACTIVE
        stream.started_at = now
        stream.session.holder = stream
        yield _line("stream_start", stream, "trace trace_id session")
        yield Admitted(stream.trace_id, stream.fencing_token)

    def _stop(
        self, stream: _Stream, reason: str, error: StreamError, now: float
    ) -> Iterator[Effect]:
        stream.state = State.STOPPING
        stream.grace_deadline = now + self.grace_s
        yield Logged("stream_cancelled", (("trace", stream.trace_id), ("reason", reason)))
        yield StopRequested(stream.trace_id, error, stream.grace_deadline)

    def _reject(self, stream: _Stream, reason: str, error: StreamError) -> Iterator[Effect]:
        yield Logged("stream_cancelled", (("trace", stream.trace_id), ("reason", reason)))
        self._drop(stream)
        yield Rejected(stream.trace_id, error)
        yield Forgotten(stream.trace_id)

    def _forget(self, stream: _Stream, now: float) -> Iterator[Effect]:
        assert stream.started_at is not None
        duration_ms = round((now - stream.started_at) * 1000)
        line = _line("stream_end", stream, "trace stream_id session")
        yield Logged(line.event, (*line.fields, ("duration_ms", duration_ms)))
        self._drop(stream)
        yield Forgotten(stream.trace_id)

    def _drop(self, stream: _Stream) -> None:
        del self._streams[stream.trace_id]
        session = stream.session
        if session.session_id is not None and session.is_idle():
            self._sessions.pop(session.session_id, None)


def _line(event: str, stream: _Stream, names: str) -> Logged:
    session_id = stream.session.session_id
    fields = tuple(
        (name, (session_id or "-") if name == "session" else stream.trace_id)
        for name in names.split()
    )
    return Logged(event, fields)


def _cancellation(operation: Cancel) -> StreamCancelled:
    trace_id = operation.trace_id
    return StreamCancelled(trace_id, f"stream {trace_id} was cancelled: {operation.reason}")


def _departure(operation: Withdraw) -> StreamCancelled:
    trace_id = operation.trace_id
    return StreamCancelled(
        trace_id, f"stream {trace_id} was cancelled: the caller of its register has left"
    )


def _overdue_refusal(trace_id: str, holder: _Stream, protocol: Protocol) -> StreamRefused:
    return StreamRefused(
        trace_id,
        f"stream {trace_id} was refused: stream {holder.trace_id} of its session was told to stop "
        f"and has not ended within {protocol.grace_s:g} s, and no more streams may be detached "
        f"({holder.session.detached} of {protocol.detached_per_session_max} in the session, "
        f"{protocol._detached} of {protocol.detached_max} in the process). What blocks them is "
        f"below: look at the upstream, then register again",
    )


# ---- the table ------------------------------------------------------------------------------

_Row = Callable[[Protocol, Any, float], Iterator[Effect]]

TABLE: dict[tuple[type[Operation], Situation], _Row] = {
    (Register, Situation.SESSION_FREE): Protocol._register_free,
    (Register, Situation.HOLDER_ACTIVE): Protocol._register_stops_holder,
    (Register, Situation.HOLDER_STOPPING): Protocol._register_waits,
    (Register, Situation.HOLDER_STOPPING_CONTENDED): Protocol._register_overtakes,
    (Register, Situation.HOLDER_OVERDUE): Protocol._register_refused_overdue,
    (Register, Situation.REGISTRY_CLOSED): Protocol._register_refused_closed,
    (Register, Situation.TRACE_ID_KNOWN): Protocol._register_known,
    (Cancel, Situation.ACTIVE): Protocol._cancel_holder,
    (Cancel, Situation.WAITING): Protocol._cancel_waiting,
    (Cancel, Situation.STOPPING): Protocol._no_effect,
    (Cancel, Situation.OVERDUE): Protocol._no_effect,
    (Cancel, Situation.DETACHED): Protocol._no_effect,
    (Cancel, Situation.UNKNOWN): Protocol._no_effect,
    (Withdraw, Situation.WAITING): Protocol._withdraw_waiting,
    (Withdraw, Situation.ACTIVE): Protocol._withdraw_holder,
    (Withdraw, Situation.STOPPING): Protocol._no_effect,
    (Ended, Situation.ACTIVE): Protocol._ended_holder,
    (Ended, Situation.STOPPING): Protocol._ended_holder,
    (Ended, Situation.OVERDUE): Protocol._ended_holder,
    (Ended, Situation.DETACHED): Protocol._ended_detached,
    (GraceExpired, Situation.STOPPING): Protocol._grace_expired,
    (GraceExpired, Situation.STOPPING_AT_LIMIT): Protocol._grace_expired_at_limit,
    (Close, Situation.REGISTRY_OPEN): Protocol._close,
    (Close, Situation.REGISTRY_CLOSED): Protocol._no_effect,
}
