"""What the lease table keeps, what can be asked of it, and what it answers.

A lease is a session held for a time: several workers share the table through a store, and a worker
that dies or cannot be reached loses what it held. All times are milliseconds of the store's clock.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

from registry.attempts import Asked, Attempt
from registry.states import Strategy


@dataclass(frozen=True, slots=True)
class LeaseLimits:
    """Every worker of a store has the same: with others the promise would not hold."""

    # How long one renewal lasts.
    lease_ms: int = 6_000
    # Waited beyond a lease: as far as the worker's clock may fall behind within one (A1).
    margin_ms: int = 500
    # How long a stopped holder that has closed its gate may clean up.
    grace_ms: int = 2_000
    # How long the store that was replaced in a fail-over may go on answering (A3).
    lag_ms: int = 0
    detached_per_session_max: int = 4
    detached_max: int = 64
    queue_max: int = 8
    # For how long after its last attempt a prompt can be repeated; 0 for never.
    repeat_ms: int = 60_000

    def __post_init__(self) -> None:
        wrong = [field.name for field in fields(self) if getattr(self, field.name) < 0]
        if wrong or self.lease_ms == 0:
            raise ValueError(f"a limit is negative, or the lease lasts no time: {self}")

    @property
    def quarantine_ms(self) -> int:
        """How long nobody is let in after the store may have lost writes."""
        return self.lease_ms + self.margin_ms + self.lag_ms

    @property
    def wait_max_ms(self) -> int:
        """How long a stopped holder is waited for, at most."""
        return max(self.grace_ms, self.lease_ms + self.margin_ms)

    @property
    def text(self) -> str:
        times = f"{self.lease_ms} {self.margin_ms} {self.grace_ms} {self.lag_ms}"
        detached = f"{self.detached_per_session_max} {self.detached_max}"
        return f"{times} {detached} {self.queue_max} {self.repeat_ms}"


# ---- operations: what can be asked ----------------------------------------------------------

# A stream is named WORKER/TRACE_ID, so that no two workers have one of the same name. Each
# operation may be asked again when its reply was lost, and then has no second effect.


@dataclass(frozen=True, slots=True)
class Register:
    """A new stream asks for its session. attempt: of its prompt, where repetitions are known."""

    session: str
    stream: str
    strategy: Strategy = Strategy.INTERRUPT
    attempt: Attempt | None = None


@dataclass(frozen=True, slots=True)
class Poll:
    """A stream that waits asks whether it is its turn; with the ticket that it was given."""

    session: str
    stream: str
    ticket: int
    strategy: Strategy = Strategy.INTERRUPT


@dataclass(frozen=True, slots=True)
class Renew:
    """A stream that was let in asks to go on. closed: its gate is shut, for ever.

    Who renews has logged what its grant named.
    """

    session: str
    stream: str
    fencing_token: int
    ticket: int
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Leave:
    """The stream has ended, or no longer wants to wait. whole: its client has all of the answer.

    logged: what its grant named is in the log; not so where it has none, or does not know of it.
    """

    session: str
    stream: str
    whole: bool = False
    logged: bool = False


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody stops the stream by name."""

    session: str
    stream: str


LeaseOperation = Register | Poll | Renew | Leave | Cancel


# ---- answers --------------------------------------------------------------------------------


class Word(enum.Enum):
    """What a reply says."""

    GRANTED = "granted"
    WAITING = "waiting"
    STOP = "stop"
    GONE = "gone"
    OK = "ok"
    DETACHED = "detached"
    LOST = "lost"
    OVERDUE = "overdue"
    FULL = "full"
    BUSY = "busy"
    UNSETTLED = "unsettled"
    REPEATED = "repeated"
    DONE = "done"
    NOTHING = "nothing"


class Why(enum.Enum):
    """Why a holder stops."""

    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    OWN = "own"


class Told(enum.Enum):
    """What a message says. It only wakes: what holds is in the record, and is asked for."""

    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"
    REFUSED = "refused"
    FREE = "free"
    # Not of the table: another worker was asked for the stream, and wants to hear how it is.
    SHOW = "show"


@dataclass(frozen=True, slots=True)
class Reply:
    word: Word
    ticket: int = 0
    fencing_token: int = 0
    # When to ask again, if no message comes first.
    wait_ms: int = 0
    why: Why | None = None
    # Of a grant: what its taker logs before it begins; see SessionRecord.
    left: str = ""
    late: tuple[str, ...] = ()
    # Of a repetition: its first attempt, and the newer prompt that it would have stopped.
    first: str = ""
    newer: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    stream: str
    told: Told


@dataclass(frozen=True, slots=True)
class Answer:
    reply: Reply
    messages: tuple[Message, ...] = ()


# ---- records --------------------------------------------------------------------------------

# So long, and as many of a session, are those kept that were late and that nobody has logged.
LATE_KEEP_MS = 24 * 3600 * 1000
LATE_MAX = 16


@dataclass(frozen=True, slots=True)
class Holder:
    stream: str
    fencing_token: int
    # Its place in the order of registers.
    ticket: int
    # Until then its gate may be open; extended by its own requests, and never once it was stopped.
    until_ms: int
    # When it asked last; `until_ms` is at most a lease later.
    seen_ms: int
    # When it was first told to stop; no later stop moves it.
    stop_ms: int | None = None
    why: Why | None = None
    # It has said that its gate is shut. Only who was told to stop is closed.
    closed: bool = False
    # It did not end within the grace, and no more streams may be detached.
    overdue: bool = False


@dataclass(frozen=True, slots=True)
class Waiting:
    stream: str
    ticket: int
    strategy: Strategy
    seen_ms: int


@dataclass(frozen=True, slots=True)
class SessionRecord:
    holder: Holder | None = None
    # In the order of their tickets; all are greater than the holder's. One that interrupts stands
    # alone and first, and the holder was told to stop.
    waiting: tuple[Waiting, ...] = ()
    # The holder that left while others waited; and those whose places were taken though they had
    # not left. Kept until one that was let in has logged them: the reply may be lost, or a taker
    # stand still before it logs, and those that are late may have a call to Ollama still.
    left: str = ""
    late: tuple[str, ...] = ()
    # When the last of them was added.
    late_ms: int = 0

    @property
    def is_free(self) -> bool:
        return self.holder is None and not self.waiting

    @property
    def is_idle(self) -> bool:
        return self.is_free and not self.late


@dataclass(frozen=True, slots=True)
class Detached:
    """A stream that did not end within the grace: counted until it leaves, or is dead."""

    session: str
    stream: str
    seen_ms: int


@dataclass(frozen=True, slots=True)
class LeaseSnapshot:
    sessions: tuple[tuple[str, SessionRecord], ...]
    detached: tuple[Detached, ...]
    # The last ticket or fencing token that was given, over all sessions.
    last: int
    generation: str
    quarantine_until_ms: int
    # No lease that was given under these limits goes on beyond.
    active_until_ms: int
    limits_text: str
    # By session, the prompts that were not answered whole.
    asked: tuple[tuple[str, tuple[Asked, ...]], ...] = ()

    def session(self, name: str) -> SessionRecord:
        return next((each for known, each in self.sessions if known == name), SessionRecord())
