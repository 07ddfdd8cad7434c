"""A store, of which is known how it answered last: for the log, and for operators."""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable

from registry.lease_records import LeaseOperation, Poll, Register, Reply
from registry.lease_state import LimitsDiffer
from registry.operations import Logged
from server.lines import line
from server.stores import wording
from server.stores.store import (
    NO_SESSION,
    RecordUnreadable,
    SessionStore,
    StoreRefused,
    StoreUnreachable,
)

_logger = logging.getLogger("onestream.registry")

# An event: the store was asked, and has answered, or not.
STORE_ASKED = "store_asked"
# Its `answer` where the store could not be reached.
NO_ANSWER = "none"


class StoreState(enum.Enum):
    """How the store answered this worker last."""

    OK = "ok"
    UNREACHABLE = "unreachable"
    # It answers, and lets this worker do nothing: others have other settings.
    OTHER_SETTINGS = "other_settings"
    # It answers, and nobody may be let in.
    REFUSES = "refuses"


# What the log says when it becomes so.
_EVENTS = {
    StoreState.OK: "sessions_reachable",
    StoreState.UNREACHABLE: "sessions_unreachable",
    StoreState.OTHER_SETTINGS: "sessions_differ",
    StoreState.REFUSES: "sessions_refused",
}


class WatchedStore:
    """Passes everything on. A line of the log when its state changes, with the reason."""

    def __init__(self, store: SessionStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        self.state = StoreState.OK
        # Called when the state has changed; set by who has told others of it.
        self.on_change: Callable[[], None] = lambda: None
        # Called with each request that is over; set by who counts them.
        self.on_asked: Callable[[Logged], None] | None = None
        self.limits = store.limits
        self.start = store.start
        self.messages = store.messages
        self.queue = store.queue
        self.snapshot = store.snapshot
        self.close = store.close

    async def ask(self, operation: LeaseOperation) -> Reply:
        begun = asyncio.get_running_loop().time()
        # Of one that was cancelled, nobody knows what it would have been.
        answer = "unknown"
        try:
            reply = await self._store.ask(operation)
            answer = reply.word.name.lower()
        except (StoreUnreachable, LimitsDiffer, StoreRefused) as exc:
            is_silent = isinstance(exc, StoreUnreachable) and not isinstance(exc, RecordUnreadable)
            answer = NO_ANSWER if is_silent else "refused"
            # What cannot be read of one session says nothing of the others.
            if not isinstance(exc, RecordUnreadable) or operation.session == NO_SESSION:
                self._note(exc)
            raise
        finally:
            if self.on_asked is not None:
                took_s = asyncio.get_running_loop().time() - begun
                name = type(operation).__name__.lower()
                self.on_asked(line(STORE_ASKED, operation=name, answer=answer, took_s=took_s))
        # A store that lets nobody in goes on to answer those who hold, or leave.
        if self.state is not StoreState.REFUSES or isinstance(operation, Register | Poll):
            self._become(StoreState.OK)
        return reply

    def _note(self, exc: StoreUnreachable | LimitsDiffer | StoreRefused) -> None:
        match exc:
            case RecordUnreadable():
                self._become(StoreState.REFUSES, exc)
            case StoreUnreachable():
                self._become(StoreState.UNREACHABLE, exc)
            case LimitsDiffer():
                self._become(StoreState.OTHER_SETTINGS, exc)
            case _:
                self._become(StoreState.REFUSES, exc)

    def _become(self, state: StoreState, exc: Exception | None = None) -> None:
        if state is self.state:
            return
        self.state = state
        why = "" if exc is None else wording.sentence(exc)
        _logger.warning(line(_EVENTS[state], why, worker=self._worker))
        self.on_change()
