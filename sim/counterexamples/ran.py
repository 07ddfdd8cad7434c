"""A line that ran, and what of it others may share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from types import CodeType


class What(Enum):
    LINE = auto()
    RESUMES = auto()
    """A coroutine goes on at its `await`."""
    RAISES = auto()
    """An exception comes up at the line."""


@dataclass(frozen=True, slots=True)
class Touched:
    """owner: the identity of whose attribute it is, or a file. key: under which key of it; None for
    all of it, or where that is not known. text: as the source calls it."""

    owner: int | str
    name: str
    key: str | None
    text: str

    def meets(self, other: Touched) -> bool:
        is_same = (self.owner, self.name) == (other.owner, other.name)
        return is_same and (None in (self.key, other.key) or self.key == other.key)


@dataclass(frozen=True, slots=True)
class Ran:
    """A line that ran. step: the number of the callback; call: that of the function's call.

    reads, writes: what others may share; awaited_by: who waits for the actor as it writes. raised:
    the name of the exception's type; is_of_cancel: it is the CancelledError of a task that was told
    to end.
    """

    what: What
    at: float
    actor: str
    step: int
    call: int
    code: CodeType
    line: int
    reads: tuple[Touched, ...] = ()
    writes: tuple[Touched, ...] = ()
    awaited_by: frozenset[str] = frozenset()
    raised: str = ""
    is_of_cancel: bool = False

    @property
    def file(self) -> str:
        return self.code.co_filename

    @property
    def place(self) -> tuple[str, int]:
        return self.file, self.line
