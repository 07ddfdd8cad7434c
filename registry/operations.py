"""What can be asked of the protocol, and what it answers with."""

from __future__ import annotations

import json
from dataclasses import dataclass

from registry.errors import StreamError
from registry.states import Strategy

# ---- operations: what can be asked ----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Register:
    """A new stream asks for its session; None asks for a session of its own."""

    trace_id: str
    session_id: str | None
    strategy: Strategy = Strategy.INTERRUPT


@dataclass(frozen=True, slots=True)
class Cancel:
    """Somebody stops the stream by name."""

    trace_id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """The caller of register has left before it saw the answer."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Ended:
    """The stream's task, worker threads and upstream connection are all over."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class GraceExpired:
    """The time that the stream had for its clean-up has passed."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class WaitExpired:
    """The enqueued stream has waited for its turn as long as it may."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Close:
    """No stream is let in any more, and those that are in have to stop."""


Operation = Register | Cancel | Withdraw | Ended | GraceExpired | WaitExpired | Close


# ---- effects: what the shell has to carry out, in this order --------------------------------


@dataclass(frozen=True, slots=True)
class Admitted:
    """The stream is ACTIVE: its register is answered."""

    trace_id: str
    fencing_token: int


@dataclass(frozen=True, slots=True)
class Queued:
    """The stream waits for its turn: if it is not answered by `wait_deadline`, say so."""

    trace_id: str
    wait_deadline: float


@dataclass(frozen=True, slots=True)
class Rejected:
    """The WAITING stream left: its register raises `error`."""

    trace_id: str
    error: StreamError


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The stream is STOPPING: stop its task and threads, and ask again at `grace_deadline`."""

    trace_id: str
    error: StreamError
    grace_deadline: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The protocol no longer knows the stream: drop all that is kept for it."""

    trace_id: str


@dataclass(frozen=True, slots=True)
class Logged:
    """A log line: its name and its fields, in the order in which they are printed.

    text: a sentence for people, behind the fields.
    """

    event: str
    fields: tuple[tuple[str, object], ...]
    text: str = ""

    def __str__(self) -> str:
        """As the note has it."""
        words = [self.event]
        words += [f"{name}={_word(value)}" for name, value in self.fields]
        if self.text:
            words.append(self.text)
        return " ".join(words)


def _word(value: object) -> str:
    """A field is one word of its line, or in quotes: no text of others makes a line of its own."""
    text = str(value)
    if text.isascii() and text.isprintable() and " " not in text and '"' not in text:
        return text
    return json.dumps(text)


Effect = Admitted | Queued | Rejected | StopRequested | Forgotten | Logged
