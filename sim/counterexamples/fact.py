"""What a fact is: a sentence with the lines that it speaks of; and what it is told from."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum
from types import CodeType

from sim.counterexamples.program_lines import ProgramLines
from sim.counterexamples.ran import Ran

Called = Callable[[str], str]
"""What a reader calls an actor."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A line, with what is said of it. step: of this execution, in which it ran, where one did."""

    file: str
    line: int
    says: str
    step: int | None = None


class Pattern(Enum):
    """What the fact is one of; the value is what a text calls it. A text has no fact of the last
    two: its chart shows them."""

    BROKEN = "broken on purpose"
    SWALLOWED = "swallowed cancel"
    CHECK_THEN_ACT = "check-then-act"
    LOST_UPDATE = "lost update"
    STALE_READ = "stale read"
    COUNT = "another count"
    WAY = "another way"
    RAISED = "raised"
    LAST = "last line"

    @property
    def is_in_charts(self) -> bool:
        return self in (Pattern.RAISED, Pattern.LAST)


@dataclass(frozen=True, slots=True)
class Fact:
    sentence: str
    marks: tuple[Mark, ...]
    pattern: Pattern


@dataclass(frozen=True, slots=True)
class Broken:
    """Code that was broken on purpose. line: the first that does otherwise. says: what is lost by
    that. instead: what production runs in its place, as pairs of a file and a line. replaced: the
    names of production's functions that it takes the place of."""

    code: CodeType
    line: int
    says: str
    instead: tuple[tuple[str, int], ...] = ()
    replaced: tuple[str, ...] = ()

    def has(self, ran: Ran) -> bool:
        last = max((line for *_, line in self.code.co_lines() if line is not None), default=0)
        for each in _nested(self.code):
            last = max(last, *(line for *_, line in each.co_lines() if line is not None))
        return ran.file == self.code.co_filename and self.code.co_firstlineno <= ran.line <= last


@dataclass(slots=True)
class Looked:
    """The lines of two executions, this one and the nearest that passes; what was seen of this one,
    and which actors it names. involved: these, and whose step the violation was."""

    here: ProgramLines
    there: ProgramLines | None
    seen: str
    called: Called
    named: set[str] = field(init=False)
    involved: set[str] = field(init=False)

    def __post_init__(self) -> None:
        actors = dict.fromkeys([each.actor for each in self.here.ran])
        actors |= dict.fromkeys(each.actor for each in self.here.stands)
        self.named = {actor for actor in actors if _is_named(actor, self.seen)}
        self.involved = self.named | ({self.here.violator} & set(actors))


def _is_named(actor: str, seen: str) -> bool:
    """Whether its name stands there; of "p2 handler", its first word is enough. A task of a process
    has that one's name before its own."""
    names = {actor} if ": " in actor else {actor, actor.split(" ")[0]}
    return any(re.search(rf"(?<![\w/]){re.escape(each)}(?![\w/])", seen) for each in names if each)


def _nested(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _nested(each)


def mark_of(ran: Ran, says: str) -> Mark:
    return Mark(ran.file, ran.line, says, ran.step)


def place_of(code: CodeType, line: int) -> str:
    return f"{code.co_filename.rpartition('/')[2]}:{line}"


def where(ran: Ran) -> str:
    return place_of(ran.code, ran.line)


def seconds(ran: Ran) -> str:
    return f"{ran.at:.3f} s"
