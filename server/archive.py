"""What is told of streams: those that run, and for a bounded time and number those that ended."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from registry import Snapshot
from server.ollama import Chunk


@dataclass(slots=True)
class Record:
    """One stream as its owner may see it. Times ending in `_at` are the event loop's."""

    trace_id: str
    owner: str
    session_id: str
    created: int
    text_max_chars: int
    registered_at: float
    model: str | None = None
    started_at: float | None = None
    first_chunk_at: float | None = None
    ended_at: float | None = None
    # Why it ended: Ollama's done_reason, or the code of an error. None while it runs.
    reason: str | None = None
    message: str | None = None
    chunks: int = 0
    # At most text_max_chars, in pieces; `text_chars` is their sum.
    text_parts: list[str] = field(default_factory=list)
    text_chars: int = 0

    def add(self, chunk: Chunk, now: float) -> None:
        """Notes a chunk that Ollama sent, whether or not it goes out."""
        if self.first_chunk_at is None:
            self.first_chunk_at = now
        self.chunks += 1
        part = chunk.content[: self.text_max_chars - self.text_chars]
        if part:
            self.text_parts.append(part)
            self.text_chars += len(part)

    def end(self, reason: str, message: str | None, now: float) -> None:
        """Notes why it is over; the first reason stays."""
        if self.reason is None:
            self.reason, self.message = reason, message
        self.ended_at = now

    def view(self, snapshot: Snapshot, now: float, *, with_text: bool) -> dict[str, Any]:
        """The record as JSON; times in milliseconds since the register, None if not reached."""
        states = {stream.trace_id: stream.state.name for stream in snapshot.streams}
        view: dict[str, Any] = {
            "trace_id": self.trace_id,
            "object": "stream",
            "session_id": self.session_id,
            "model": self.model,
            "state": states.get(self.trace_id, "ENDED"),
            "reason": self.reason,
            "message": self.message,
            "created": self.created,
            "chunks": self.chunks,
            "timings_ms": {
                "started": self._ms(self.started_at),
                "first_chunk": self._ms(self.first_chunk_at),
                "ended": self._ms(self.ended_at),
                "now": self._ms(now),
            },
        }
        if with_text:
            view["text"] = "".join(self.text_parts)
        return view

    def _ms(self, at: float | None) -> int | None:
        return None if at is None else round((at - self.registered_at) * 1000)


class Archive:
    """The records, by owner: what one key's streams fill, they push out of their own alone."""

    def __init__(self, *, records_max: int, age_s: float) -> None:
        self._records_max = records_max
        self._age_s = age_s
        # Oldest first. Of those that have ended, at most records_max and none older than age_s;
        # those that run are kept whatever their number.
        self._records: dict[str, OrderedDict[str, Record]] = {}

    def add(self, record: Record, now: float) -> None:
        self._records.setdefault(record.owner, OrderedDict())[record.trace_id] = record
        self._forget_old(now)

    def of_owner(self, owner: str, now: float) -> list[Record]:
        """Newest first."""
        self._forget_old(now)
        return list(reversed(self._records.get(owner, OrderedDict()).values()))

    def get(self, owner: str, trace_id: str, now: float) -> Record | None:
        """None as well if it is another owner's: nobody learns that it is there."""
        self._forget_old(now)
        records = self._records.get(owner)
        return None if records is None else records.get(trace_id)

    def _forget_old(self, now: float) -> None:
        for records in self._records.values():
            ended = [record for record in records.values() if record.ended_at is not None]
            surplus = len(ended) - self._records_max
            for position, record in enumerate(ended):
                assert record.ended_at is not None
                if position < surplus or now - record.ended_at > self._age_s:
                    del records[record.trace_id]
