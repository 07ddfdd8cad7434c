"""One direction of a connection, as plain data: what is written, on its way, has arrived, is read.

Nothing that TCP excludes can be said of it: bytes are not lost, repeated, reordered or changed.
What is written travels in segments, which arrive in order, whole or in two parts.
"""

from __future__ import annotations

import enum
from collections import deque
from typing import NamedTuple

BUFFER_BYTES = 65_536
"""What a direction holds, on its way and arrived, before its writer has to wait."""


class SegmentKind(enum.Enum):
    REQUEST = "asks for a connection"
    ANSWER = "accepts the connection"
    CONFIRMATION = "confirms the connection"
    DATA = "bytes"
    END = "the end of its data"
    RESET = "a reset"


class Segment(NamedTuple):
    """sent_at: by the world's clock; None where nothing depends on it."""

    kind: SegmentKind
    data: bytes = b""
    sent_at: float | None = None


class Way:
    """under_way: written and not arrived, in order; arrived: arrived and not read.

    has_ended: the END has arrived. is_closed: nothing more can be written.
    bytes_under_way is the sum over `under_way`.
    """

    __slots__ = (
        "arrived",
        "buffer_bytes",
        "bytes_under_way",
        "has_ended",
        "is_closed",
        "under_way",
    )

    def __init__(self, buffer_bytes: int) -> None:
        self.buffer_bytes = buffer_bytes
        self.under_way: deque[Segment] = deque()
        self.bytes_under_way = 0
        self.arrived = bytearray()
        self.has_ended = False
        self.is_closed = False

    @property
    def free_bytes(self) -> int:
        """How much its writer may write; a reader that reads makes room at once."""
        return self.buffer_bytes - self.bytes_under_way - len(self.arrived)

    def send(self, segment: Segment) -> None:
        """Of data, at most `free_bytes`."""
        self.bytes_under_way += len(segment.data)
        self.under_way.append(segment)

    def arrive(self) -> Segment:
        """The first segment arrives."""
        segment = self.under_way.popleft()
        if segment.kind is SegmentKind.DATA:
            self.bytes_under_way -= len(segment.data)
            self.arrived += segment.data
        elif segment.kind is SegmentKind.END:
            # Of a reset its receiver takes note, which asks whether the END has come before it.
            self.has_ended = True
        return segment

    def cut(self, at: int) -> None:
        """The first segment, of bytes, will arrive in two parts."""
        whole = self.under_way.popleft()
        parts = (whole._replace(data=whole.data[at:]), whole._replace(data=whole.data[:at]))
        self.under_way.extendleft(parts)

    def sets_out_again(self, at: float) -> None:
        """What is under way was held, and is sent now."""
        held = [segment._replace(sent_at=at) for segment in self.under_way]
        self.under_way = deque(held)

    def read(self, bytes_max: int, *, is_peek: bool = False) -> bytes:
        data = bytes(self.arrived[:bytes_max])
        if not is_peek:
            del self.arrived[:bytes_max]
        return data

    def lose(self) -> None:
        """What is under way never arrives."""
        self.under_way.clear()
        self.bytes_under_way = 0

    def drop(self) -> None:
        """The reader is gone."""
        self.arrived.clear()
