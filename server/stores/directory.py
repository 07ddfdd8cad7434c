"""What the workers of a store tell of their streams, so that each can answer for all of them.

It decides nothing: who holds a session stands in the lease table. What is written here is for
clients that ask for their streams, and which worker a cancel has to go to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Protocol

from registry.lease_records import Message


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream, as its worker described it last: one of another release may say less, or more.

    Of a stream whose worker is not named nobody is known to serve it.
    """

    owner: str
    trace_id: str
    worker: str = ""
    # As the lease table knows it.
    session: str = ""
    # When it was registered, by the wall clock.
    at_ms: int = 0
    # Greater with each description.
    version: int = 0
    ended: bool = False
    # What its owner may see, as JSON.
    view: str = "{}"

    @property
    def shown(self) -> dict[str, Any]:
        """What its owner may see, with all that every answer has."""
        return {
            "trace_id": self.trace_id,
            "object": "stream",
            "session_id": None,
            "model": None,
            "state": "ENDED" if self.ended else "ACTIVE",
            "queue_position": None,
            "reason": None,
            "message": None,
            "created": self.at_ms // 1000,
            "chunks": 0,
            "timings_ms": dict.fromkeys(("started", "first_chunk", "ended", "now")),
            "text": "",
            **mapping_of(self.view),
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker finds that says that it lives.

    was_known: it has said so before, and nothing of that is lost.
    unsettled_ms: for so long the store lets nobody in, as it may have forgotten leases.
    now_ms: by the store's clock.
    """

    was_known: bool
    unsettled_ms: int
    now_ms: int


# By their names, with the types that they may have.
_TYPES = {"owner": str, "trace_id": str} | {
    each.name: type(each.default) for each in fields(Entry) if each.default is not MISSING
}


def entry_of(owner: str, trace_id: str, text: bytes | str) -> Entry:
    """text: its fields as JSON."""
    known = {
        name: value
        for name, value in mapping_of(text).items()
        if isinstance(value, _TYPES.get(name, ()))
    }
    return Entry(**{"owner": owner, "trace_id": trace_id, **known})


def mapping_of(text: bytes | str) -> Mapping[str, Any]:
    """Empty where it is none: another release may have written it; the others are shown."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class Directory(Protocol):
    """Each raises StoreUnreachable."""

    async def describe(self, entry: Entry, *, keep_ms: int, ended_max: int) -> None:
        """Ended ones are kept for keep_ms, and as many as ended_max of each owner."""

    async def described(self, owner: str) -> list[Entry]:
        """The owner's, newest first."""

    async def found(self, owner: str, trace_ids: Sequence[str]) -> list[Entry]:
        """Those of these that are kept, in any order."""

    async def be_seen(self, worker: str, within_ms: int) -> Seen:
        """The worker lives for within_ms from now on, at least."""

    async def is_seen(self, worker: str) -> bool: ...

    async def tell(self, message: Message) -> None:
        """To the stream's worker, as the table's own messages go."""
