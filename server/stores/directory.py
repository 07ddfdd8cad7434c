"""What the workers of a store tell of their streams, so that each can answer for all of them.

It decides nothing: who holds a session stands in the lease table. What is written here is for
clients that ask for their streams, and which worker a cancel has to go to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from registry.lease_records import Message


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream, as its worker described it last."""

    owner: str
    trace_id: str
    worker: str
    # As the lease table knows it.
    session: str
    # When it was registered, by the wall clock.
    at_ms: int
    # Greater with each description.
    version: int
    ended: bool
    # What its owner may see, as JSON.
    view: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What a worker finds that says that it lives.

    was_known: it has said so before, and nothing of that is lost.
    unsettled_ms: for so long the store lets nobody in, as it may have forgotten leases.
    """

    was_known: bool
    unsettled_ms: int


class Directory(Protocol):
    """Each raises StoreUnreachable."""

    async def describe(self, entry: Entry, *, keep_ms: int, ended_max: int) -> None:
        """Ended ones are kept for keep_ms, and as many as ended_max of each owner."""

    async def described(self, owner: str) -> list[Entry]:
        """The owner's, newest first."""

    async def find(self, owner: str, trace_id: str) -> Entry | None: ...

    async def be_seen(self, worker: str, within_ms: int) -> Seen:
        """The worker lives for within_ms from now on, at least."""

    async def is_seen(self, worker: str) -> bool: ...

    async def tell(self, message: Message) -> None:
        """To the stream's worker, as the table's own messages go."""
