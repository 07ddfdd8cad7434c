"""The production protocol: a session has exactly one active stream. Standard library only."""

from registry.errors import (
    IllegalOperation,
    RegistryClosed,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
    TraceIdKnown,
)
from registry.protocol import Snapshot, State, StreamProtocol, StreamView
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
    "RegistryClosed",
    "Snapshot",
    "State",
    "StopSignal",
    "StopSignals",
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
