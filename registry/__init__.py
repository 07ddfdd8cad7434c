"""The production protocol: a session has exactly one active stream. Standard library only."""

from registry.errors import (
    IllegalOperation,
    QueueFull,
    QueueTimeout,
    RegistryClosed,
    Repetition,
    SessionBusy,
    SessionLeaseLost,
    SessionsUnavailable,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
)
from registry.protocol import Snapshot, State, Strategy, StreamProtocol, StreamView
from registry.stop_signal import (
    StopSignal,
    StopSignals,
    clear_stream_cancelled,
    is_stream_cancelled,
    set_stream_cancelled,
)
from registry.stream import Stream
from registry.stream_registry import StreamRegistry

__all__ = [
    "IllegalOperation",
    "QueueFull",
    "QueueTimeout",
    "RegistryClosed",
    "Repetition",
    "SessionBusy",
    "SessionLeaseLost",
    "SessionsUnavailable",
    "Snapshot",
    "State",
    "StopSignal",
    "StopSignals",
    "Strategy",
    "Stream",
    "StreamCancelled",
    "StreamError",
    "StreamProtocol",
    "StreamRefused",
    "StreamRegistry",
    "StreamSuperseded",
    "StreamView",
    "TraceIdKnown",
    "clear_stream_cancelled",
    "is_stream_cancelled",
    "set_stream_cancelled",
]
