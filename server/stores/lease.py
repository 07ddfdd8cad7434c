"""One stream's lease of its session: the worker's side. Knows the store by its interface alone.

The store says who may hold the session; whether this stream may send now, its worker alone decides,
without asking: `is_open` is the gate, asked in the very step of the send. It rests on two things:
nobody has told the stream to stop, and less than a lease has passed on the worker's own clock since
*before* the last request that the store has granted. So it shuts by itself where the store is away.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from contextlib import suppress

from registry.attempts import Attempt
from registry.lease_records import (
    LeaseOperation,
    Leave,
    Poll,
    Register,
    Renew,
    Reply,
    Told,
    Why,
    Word,
)
from registry.states import Strategy
from server.stores.store import SessionStore, StoreUnreachable

# A holder that misses a message of its stop hears of it within this; a lease takes four of them.
RENEW_S = 1.5
# A waiting stream that misses a message asks after this.
POLL_S = 0.25


class End(enum.Enum):
    """Why a stream may no longer send, or never could."""

    SUPERSEDED = "a newer stream of the session came"
    CANCELLED = "it was cancelled"
    # The store was away for a lease, or has given the session to another meanwhile.
    LOST = "its lease is over"
    OWN = "its task is over"


class NotLetIn(Exception):
    """The session was not given to the stream.

    reply: what the store said of it. told: the message that came before; None if it was lost.
    """

    def __init__(self, stream: str, reply: Reply, told: Told | None) -> None:
        why = f" ({told.value})" if told else ""
        super().__init__(f"stream {stream} was not let in: {reply.word.value}{why}")
        self.reply, self.told = reply, told


class Lease:
    """Of one stream: `acquire`, then `keep` in a task of its own, and `leave` when all is over.

    clock: seconds, monotonic, of this machine. on_closed: called in the step in which the gate
    shuts, with the reason, unless the stream has left by itself; it has to return at once.
    """

    def __init__(
        self,
        store: SessionStore,
        session: str,
        stream: str,
        *,
        strategy: Strategy = Strategy.INTERRUPT,
        attempt: Attempt | None = None,
        clock: Callable[[], float],
        on_closed: Callable[[End], None],
        renew_s: float = RENEW_S,
        poll_s: float = POLL_S,
    ) -> None:
        self.session, self.stream = session, stream
        # The grant; None while the stream waits. What the taker logs of the stream before it.
        self.grant: Reply | None = None
        # Why the gate is shut, once it is for ever.
        self.end: End | None = None
        # Another has its place, and the store counts it until it leaves.
        self.is_detached = False
        # Its client has all of the answer.
        self.is_whole = False
        # What its grant named is in the log.
        self.is_logged = False
        self._store = store
        self._strategy, self._attempt = strategy, attempt
        self._clock = clock
        self._on_closed = on_closed
        self._renew_s, self._poll_s = renew_s, poll_s
        # Until then the store gives the session to nobody else; by the worker's own clock.
        self._deadline = 0.0
        # When the store answered last: a lease later the stream is dead to it.
        self._answered = clock()
        self._told: Told | None = None
        self._woken = asyncio.Event()
        # One request after the other: a renewal that came after `leave` would hold the session.
        self._asking = asyncio.Lock()
        self._has_left = False

    @property
    def is_open(self) -> bool:
        """The gate: whether the stream may send now."""
        return self.grant is not None and self.end is None and self._clock() < self._deadline

    def check(self) -> bool:
        """As `is_open`; a lease that is seen to be over ends in this very step."""
        if self.grant is not None and self.end is None and self._clock() >= self._deadline:
            self.shut(End.LOST)
        return self.is_open

    def hear(self, told: Told) -> None:
        """A message of the store. One that comes late, twice or never changes nothing for good."""
        self._woken.set()
        if told is Told.FREE:
            return
        self._told = told
        if self.grant is not None:
            self.shut(End.CANCELLED if told is Told.CANCELLED else End.SUPERSEDED)

    # -- until it is let in

    async def acquire(self) -> Reply:
        """Waits until the session is the stream's, and returns the grant.

        Raises NotLetIn, and StoreUnreachable: at once if it is the first request that fails, else
        when the store has been away for so long that the stream is dead to it. Ends soon after
        `leave` was called; not to be cancelled, since a request that is on its way would come to
        the store after the one of `leave`.
        """
        self._check_has_not_left()
        asked = self._clock()
        register = Register(self.session, self.stream, self._strategy, self._attempt)
        reply = await self._ask(register)
        pause_s = reply.wait_ms / 1000
        while reply.word is Word.WAITING or self._comes_too_late(reply, asked):
            await self._sleep(min(pause_s, self._poll_s))
            self._check_has_not_left()
            poll = Poll(self.session, self.stream, reply.ticket, self._strategy)
            begun = self._clock()
            try:
                reply = await self._ask(poll)
            except StoreUnreachable:
                if self._is_dead:
                    raise
                pause_s = self._poll_s
            else:
                asked, pause_s = begun, reply.wait_ms / 1000
        if reply.word is not Word.GRANTED:
            raise NotLetIn(self.stream, reply, self._told)
        self._check_has_not_left()
        self.grant = reply
        self._deadline = asked + self._lease_s
        return reply

    def _check_has_not_left(self) -> None:
        if self._has_left:
            raise NotLetIn(self.stream, Reply(Word.GONE), self._told)

    def _comes_too_late(self, reply: Reply, asked: float) -> bool:
        """Whether it is a grant whose lease is over: another may hold the session by now."""
        return reply.word is Word.GRANTED and self._clock() >= asked + self._lease_s

    # -- while it holds, and cleans up

    async def keep(self) -> None:
        """Renews the lease until `leave`; once the gate is shut, says so to the store."""
        assert self.grant is not None
        pause_s = self._renew_s
        while not self._has_left:
            left_s = self._deadline - self._clock() if self.end is None else pause_s
            await self._sleep(max(0.0, min(pause_s, left_s)))
            is_answered = not self._has_left and await self._renew(self.grant)
            pause_s = self._renew_s if is_answered else self._poll_s

    async def leave(self) -> None:
        """The stream is over: its session is free for the next. Never raises."""
        self.shut(End.OWN)
        self._has_left = True
        self._woken.set()
        while True:
            with suppress(StoreUnreachable):
                await self._ask(Leave(self.session, self.stream, self.is_whole, self.is_logged))
                return
            if self._is_dead:
                return
            await asyncio.sleep(self._poll_s)

    async def _renew(self, grant: Reply) -> bool:
        """Whether the store has answered, and knows whether the gate is shut."""
        asked = self._clock()
        if asked >= self._deadline:
            self.shut(End.LOST)
        closed = self.end is not None
        renewal = Renew(self.session, self.stream, grant.fencing_token, grant.ticket, closed)
        try:
            reply = await self._ask(renewal)
        except StoreUnreachable:
            return False
        if reply.word is Word.OK:
            self._deadline = asked + self._lease_s
        elif reply.word is Word.STOP:
            self.shut(End.CANCELLED if reply.why is Why.CANCELLED else End.SUPERSEDED)
        else:
            self.is_detached = reply.word is Word.DETACHED
            self.shut(End.LOST)
        return closed or self.end is None

    def shut(self, end: End) -> None:
        """The gate shuts for ever, and `keep` says so to the store; the first reason counts."""
        if self.end is not None:
            return
        self.end = end
        self._woken.set()
        if end is not End.OWN:
            self._on_closed(end)

    # -- what both have in common

    async def _ask(self, operation: LeaseOperation) -> Reply:
        async with self._asking:
            reply = await self._store.ask(operation)
        self._answered = self._clock()
        return reply

    async def _sleep(self, seconds: float) -> None:
        """Until a message comes, at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        self._woken.clear()

    @property
    def _lease_s(self) -> float:
        return self._store.limits.lease_ms / 1000

    @property
    def _is_dead(self) -> bool:
        """Whether the store has not heard of the stream for so long that it counts it as dead."""
        limits = self._store.limits
        return self._clock() >= self._answered + (limits.lease_ms + limits.margin_ms) / 1000
