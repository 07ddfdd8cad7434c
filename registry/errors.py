"""What the registry raises. Each error names the stream, the state and what to do next."""

from __future__ import annotations

from typing import ClassVar


class StreamError(Exception):
    """Base of what `register`, `stream()` and the emit gate raise about one stream.

    `code` is a stable word for programs (the server puts it on the wire),
    `trace_id` the stream it is about.
    """

    code: ClassVar[str] = "stream_error"

    def __init__(self, trace_id: str, message: str) -> None:
        super().__init__(message)
        self.trace_id = trace_id


class StreamSuperseded(StreamError):
    """A newer stream of the same session was registered: the newest wins.

    newer: its trace id, where it is known.
    """

    code = "superseded"

    def __init__(self, trace_id: str, message: str, newer: str | None = None) -> None:
        super().__init__(trace_id, message)
        self.newer = newer


class StreamCancelled(StreamError):
    """The stream was cancelled by name, or by the end of what it belonged to."""

    code = "cancelled"


class StreamRefused(StreamError):
    """The stream was not let in: the registry is closed or the session is overdue."""

    code = "refused"


class RegistryClosed(StreamRefused):
    """The registry is closed, or was while the stream ran: the process is about to end."""


class SessionBusy(StreamError):
    """The stream was to be rejected if its session is busy, and it is; nobody was touched."""

    code = "session_busy"


class QueueFull(StreamError):
    """The stream was to be enqueued, and as many wait in its session as may."""

    code = "queue_full"


class QueueTimeout(StreamError):
    """The enqueued stream has waited as long as one may, and never started."""

    code = "queue_timeout"


class Repetition(StreamError):
    """A client's library sent the prompt again by itself, and it would stop a newer one."""

    code = "repetition"


class TraceIdKnown(StreamError):
    """A trace id was registered twice; the stream that has it was not touched."""

    code = "trace_id_known"


class SessionsUnavailable(StreamError):
    """The store that workers share could not be asked who holds the session, or cannot say yet.

    retry_after_s: when it may be worth asking again.
    """

    code = "sessions_unavailable"

    def __init__(self, trace_id: str, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(trace_id, message)
        self.retry_after_s = retry_after_s


class SessionLeaseLost(StreamError):
    """The worker could not renew the stream's lease in time; another may have the session now."""

    code = "session_lease_lost"


class IllegalOperation(Exception):
    """An operation met a situation for which the table has no row. Nothing was changed."""
