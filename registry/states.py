"""The states of a stream, and a snapshot of all streams."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """A stream that is in none of these has ended, or was never let in."""

    WAITING = "registered; an older stream of its session is still stopping"
    ACTIVE = "holds the session, has its fencing token; the only state that may emit"
    STOPPING = "told to stop, cleaning up; emits nothing more, still holds the session"
    DETACHED = "did not end within the grace; fenced off, still counted until it ends"


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
