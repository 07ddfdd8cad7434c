"""The records of streams: those that run, and for a bounded time and number those that ended."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from registry import Snapshot, StreamView
from registry.operations import Logged
from server.errors import MESSAGE_MAX_CHARS, shortened
from server.events import FIRST_CHUNK, OVER
from server.lines import line
from server.ollama import Chunk

# Of a model's name or an end's reason, which clients and Ollama choose.
NAME_MAX_CHARS = 200
# Chunks of a text that are kept separately: each string costs 50 bytes more than its characters.
_PARTS_MAX = 64


class Way(enum.Enum):
    """How a prompt's stream ended."""

    FINISHED = "finished"
    # Superseded, cancelled, at a shut-down, or with a lease that was lost.
    STOPPED = "stopped"
    # Turned away before it was let in.
    REFUSED = "refused"
    FAILED = "failed"


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
    # Called once, when it has ended.
    on_end: Callable[[Record], None] = lambda record: None
    # The same, for who shows the streams; also when it is known which model answers.
    on_change: Callable[[Record], None] = lambda record: None
    # What happens to it, for the metrics.
    tell: Callable[[Logged], None] = lambda event: None
    # The text is `_blocks`, then `_parts`: text_chars characters, which is text_max_chars at most.
    text_chars: int = 0
    _blocks: list[str] = field(default_factory=list)
    # At most _PARTS_MAX.
    _parts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model = self.model and shortened(self.model, NAME_MAX_CHARS)

    def note_model(self, model: str) -> None:
        known, self.model = self.model, shortened(model, NAME_MAX_CHARS)
        if known != self.model:
            self.on_change(self)

    def note_reason(self, reason: str) -> None:
        """What Ollama says of the end, which has not come yet."""
        self.reason = shortened(reason, NAME_MAX_CHARS)

    @property
    def text(self) -> str:
        return "".join((*self._blocks, *self._parts))

    def add(self, chunk: Chunk, now: float) -> None:
        """Notes a chunk that Ollama sent, whether or not it goes out."""
        if self.first_chunk_at is None:
            self.first_chunk_at = now
            self.tell(line(FIRST_CHUNK, trace=self.trace_id))
        self.chunks += 1
        part = chunk.content[: self.text_max_chars - self.text_chars]
        if part:
            self._parts.append(part)
            self.text_chars += len(part)
            if len(self._parts) == _PARTS_MAX:
                self._blocks.append("".join(self._parts))
                self._parts.clear()

    def end(
        self,
        reason: str,
        message: str | None,
        now: float,
        way: Way = Way.FINISHED,
        superseded_by: str | None = None,
    ) -> None:
        """Notes why it is over; the first reason stays."""
        if self.reason is None:
            self.note_reason(reason)
            self.message = message and shortened(message, MESSAGE_MAX_CHARS)
        if self.ended_at is None:
            self.ended_at = now
            why = self.reason if way is Way.FINISHED else reason
            told = {"trace": self.trace_id, "way": way.value, "reason": why, "chunks": self.chunks}
            newer = {} if superseded_by is None else {"superseded_by": superseded_by}
            self.tell(line(OVER, **told, **newer))
            self.on_end(self)
            self.on_change(self)

    def view(
        self, streams: Mapping[str, StreamView], now: float, *, with_text: bool
    ) -> dict[str, Any]:
        """The record as JSON; times in milliseconds since the register, None if not reached.

        streams: of all that have a state, by trace id. queue_position: 1 for the next to start.
        """
        known = streams.get(self.trace_id)
        # Its task notes the start some steps after it was let in.
        started_at = known.started_at if known and self.started_at is None else self.started_at
        view: dict[str, Any] = {
            "trace_id": self.trace_id,
            "object": "stream",
            "session_id": self.session_id,
            "model": self.model,
            "state": known.state.name if known else "ENDED",
            "queue_position": known.queue_position if known else None,
            "reason": self.reason,
            "message": self.message,
            "created": self.created,
            "chunks": self.chunks,
            "timings_ms": {
                "started": self._ms(started_at),
                "first_chunk": self._ms(self.first_chunk_at),
                "ended": self._ms(self.ended_at),
                "now": self._ms(now),
            },
        }
        if with_text:
            view["text"] = self.text
        return view

    def _ms(self, at: float | None) -> int | None:
        return None if at is None else round((at - self.registered_at) * 1000)


def streams_in(snapshot: Snapshot) -> dict[str, StreamView]:
    """The streams that have a state, by trace id."""
    return {stream.trace_id: stream for stream in snapshot.streams}


class Archive:
    """The records, by owner: a key's new streams push out only its own old ones."""

    def __init__(self, *, records_max: int, age_s: float) -> None:
        self._records_max = records_max
        self._age_s = age_s
        # In the order of their registers: those that run, whatever their number, and those of
        # `_ended`, of which there are at most records_max, none ended longer ago than age_s.
        self._records: dict[str, OrderedDict[str, Record]] = {}
        # In the order of their ends.
        self._ended: dict[str, deque[Record]] = {}

    def add(self, record: Record, now: float) -> None:
        record.on_end = self._has_ended
        self._records.setdefault(record.owner, OrderedDict())[record.trace_id] = record
        if record.ended_at is not None:
            self._has_ended(record)
        self._forget_old(record.owner, now)

    def of_owner(self, owner: str, now: float) -> list[Record]:
        """Newest first."""
        self._forget_old(owner, now)
        return list(reversed(self._records.get(owner, OrderedDict()).values()))

    def get(self, owner: str, trace_id: str, now: float) -> Record | None:
        """None as well if it is another owner's: other owners cannot learn that it exists."""
        self._forget_old(owner, now)
        records = self._records.get(owner)
        return None if records is None else records.get(trace_id)

    def chunks_of_running(self) -> int:
        """Of all that have not ended."""
        records = (record for owned in self._records.values() for record in owned.values())
        return sum(record.chunks for record in records if record.ended_at is None)

    def _has_ended(self, record: Record) -> None:
        assert record.ended_at is not None
        self._ended.setdefault(record.owner, deque()).append(record)
        # For all owners: the records of a key that sends nothing are dropped, too.
        for owner in self._ended:
            self._forget_old(owner, record.ended_at)

    def _forget_old(self, owner: str, now: float) -> None:
        ended = self._ended.get(owner, deque())
        while ended:
            oldest = ended[0]
            assert oldest.ended_at is not None
            if len(ended) <= self._records_max and now - oldest.ended_at <= self._age_s:
                break
            ended.popleft()
            # A stream with a name that was known before took the record's place, and is not old.
            records = self._records[owner]
            if records.get(oldest.trace_id) is oldest:
                del records[oldest.trace_id]
