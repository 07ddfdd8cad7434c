"""What an execution violated: a property of its program, or one that every program has to have."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass


class Kind(enum.Enum):
    """The value is the violated sentence, where the program has none of its own for it."""

    PROPERTY = ""
    DEADLOCK = "no deadlock: nothing waits for what can no longer come"
    LIVELOCK = "no livelock: nothing spins while virtual time stands still"
    ENDLESS_STEP = "each step gives the loop back"
    NO_END = "the execution ends"
    EXCEPTION = "the program ends without an exception"
    CALLBACK = "no callback raises"
    SIGNAL = "a signal finds a handler"
    UNRETRIEVED = "every exception is retrieved, and every coroutine awaited"


_ADDRESS = re.compile(r"(?<=\bat )0x[0-9a-f]{6,}")


def property_of(sentence: str) -> str:
    """Without the addresses of objects that it shows: by it one execution is compared to another.

    pytest shows the objects of each `assert`, and in the next execution these stand elsewhere.
    """
    return _ADDRESS.sub("0x…", sentence)


@dataclass(frozen=True, slots=True)
class Violation:
    """`property` is the sentence that did not hold, `detail` what was observed, `at` in seconds.

    where: the place in the source that checked it; empty unless the execution is traced.
    is_inherited: it arises from an object that is bound to the loop of an earlier execution.
    raised: the exception that it is, its message cut, and the program's line; empty without one.
    """

    property: str
    detail: str
    at: float
    where: str = ""
    kind: Kind = Kind.PROPERTY
    is_inherited: bool = False
    raised: str = ""

    def headline(self) -> str:
        return f"{self.property}: {self.raised}" if self.raised else self.property
