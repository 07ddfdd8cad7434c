"""The steps that a front performs, one at a time.

`FakeOllama.handle` is a generator of these. It knows no clock, no socket and no event loop;
a front performs each step and then asks for the next. Three rules bind every front:

1. It performs the steps in order, and does nothing of its own between them.
2. When the client disconnects, or the answer is over, it calls the generator's `close()`. The
   script's own `finally` then frees what the request held, or keeps it where the mode says so.
   A front that forgets `close()` leaks a slot.
3. It watches for the disconnect during every step but `Sleep(deaf=True)`: that one it sleeps to
   its end although the client has left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from sim.fake_ollama.slots import Waiter


@dataclass(frozen=True, slots=True)
class Sleep:
    """Wait for `seconds`; a deaf sleep does not notice that the client leaves."""

    seconds: float
    deaf: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """Wait for ever, or until the client leaves."""


@dataclass(frozen=True, slots=True)
class Acquire:
    """Wait until the waiter is granted its slot, by `call_when_granted`."""

    waiter: Waiter


@dataclass(frozen=True, slots=True)
class Head:
    """Send the status line and the headers.

    `length_bytes` is the length of the body, or None for a body that is sent in HTTP chunks.
    """

    status: int
    content_type: str
    length_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Body:
    """Send these bytes as one TCP segment (to a HEAD request: nothing)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """End the response properly: the client sees EOF, and the connection may be used again."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Break the connection off in the middle of the response, as when Ollama dies."""


Step: TypeAlias = Sleep | Hang | Acquire | Head | Body | End | Drop
