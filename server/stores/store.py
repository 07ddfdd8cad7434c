"""What a store of sessions is: it runs the lease table's operations, each of them whole."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from registry.lease_records import (
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Message,
    Poll,
    Reply,
    Told,
)
from registry.states import Strategy


class StoreUnreachable(Exception):
    """The store did not answer: whether the operation took effect is not known; ask again."""


class RecordUnreadable(StoreUnreachable):
    """What the store keeps there is not this release's, or not of sessions at all.

    Only those fail whom it is about: of a session, or of an owner's list.
    """


class StoreRefused(Exception):
    """The store cannot be used as it is set up. The sentence says what to change."""


class SessionStore(Protocol):
    """One worker's way to it."""

    @property
    def limits(self) -> LeaseLimits: ...

    async def start(self) -> None:
        """Checks what the promise rests on; raises StoreRefused, LimitsDiffer, StoreUnreachable.

        The quarantine of a store that is new begins here, not with the first prompt. It is kept
        also where the store seems never to have been used, since nothing tells that from one that
        was emptied this moment, while workers hold leases of before: who removes a file, or its
        directory, removes the workers' locks beside it as well, and who flushes a server leaves its
        run id and its uptime as they were. A gate might look whether its file is still there; the
        calls to Ollama behind it would go on until the next renewal, and nobody would log them.
        """

    async def ask(self, operation: LeaseOperation) -> Reply:
        """The operation, whole: register, poll, renew, leave or cancel.

        Raises StoreUnreachable, after which it may be asked again; IllegalOperation and
        LimitsDiffer, after which nothing has changed.
        """

    def messages(self) -> AsyncIterator[Message]:
        """Those to this worker's streams, without end. They may be lost, late, or come twice.

        Raises StoreUnreachable where the way to them is cut: ask again for another iterator.
        """

    async def queue(self, session: str) -> tuple[str, ...]:
        """The streams that wait in it, over all workers, in their order: of one moment.

        Raises StoreUnreachable.
        """

    async def snapshot(self) -> LeaseSnapshot:
        """All that is kept. What several requests read is of several moments."""

    async def close(self) -> None: ...


# Of a look: no stream has it.
NO_SESSION = ""


def look(worker: str, session: str = NO_SESSION) -> Poll:
    """Asked by nobody's stream: it is let in nowhere, and waits for nothing.

    It meets all that a prompt does: what lets none in refuses it as well.
    """
    return Poll(session, f"{worker}/", 0, Strategy.REJECT)


def told_of(word: str) -> Told:
    """What another release says in a word of its own wakes all the same: its stream asks."""
    try:
        return Told(word)
    except ValueError:
        return Told.FREE


def worker_of(stream: str) -> str:
    """A stream is named WORKER/TRACE_ID."""
    return stream.partition("/")[0]
