"""The states of a stream, and a snapshot of all streams."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class State(enum.Enum):
    """A stream that is in none of these has ended, or was never let in."""

    WAITING = "registered; an older stream of its session still holds it, or waits before it"
    ACTIVE = "holds the session, has its fencing token; the only state that may emit"
    STOPPING = "told to stop, cleaning up; emits nothing more, still holds the session"
    DETACHED = "did not end within the grace; fenced off, still counted until it ends"


class Strategy(enum.Enum):
    """What a register does that finds its session busy: held, or waited for."""

    # The newest wins: it stops the holder and overtakes all that wait.
    INTERRUPT = "interrupt"
    # First in, first out: it stops nobody, and waits behind all that wait already.
    ENQUEUE = "enqueue"
    # It stops nobody and waits for nobody: it is refused at once.
    REJECT = "reject"

    @classmethod
    def _missing_(cls, value: object) -> Strategy | None:
        known = ", ".join(strategy.value for strategy in cls)
        raise ValueError(f"{value!r} is no strategy for a busy session; there are {known}")


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
    strategy: Strategy = Strategy.INTERRUPT
    # While it is WAITING: 1 for the next to become ACTIVE; and until when, if it is enqueued.
    queue_position: int | None = None
    wait_deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole state at one moment: every stream not yet ended, oldest register first."""

    streams: tuple[StreamView, ...]
    sessions_kept: int
    fencing_token_last: int
    closed: bool
    detached_per_session_max: int
    detached_max: int
    queue_max: int

    def in_state(self, *states: State) -> tuple[StreamView, ...]:
        return tuple(stream for stream in self.streams if stream.state in states)

    def of_session(self, session_id: str) -> tuple[StreamView, ...]:
        return tuple(stream for stream in self.streams if stream.session_id == session_id)
