"""The judgements of a bench, as named data: see `registry/invariants.py`.

A driver drives, and reports what happens; which judgements are asked then is chosen once, by what
the registry under check offers.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from registry.invariants import SENTENCES
from sim.kernel.world import World


def sentence(name: str) -> str:
    """The sentence of the promise of this name, for a violation; other names are sentences."""
    return f"{name}: {SENTENCES[name]}" if name in SENTENCES else name


class Moment(enum.Enum):
    """When a judgement is asked, and of what besides the bench."""

    # At registry level; of a request, and of what it emits.
    ANSWERED = "a register returns or raises"
    ADMITTED = "a register has returned"
    LEFT = "a register was cancelled"
    REPEATED = "a register that was repeated has returned or raised, after seconds"
    REPEATED_LEFT = "a register that was repeated was cancelled, and nobody had stopped it"
    CANCELLED = "a cancel by name has returned, of these requests, with this answer"
    RAISED = "a cancel, pop or close has raised"
    BEGINS = "a stream begins to work upstream"
    EMITS = "content comes through the gate"
    # At server level; of an exchange.
    SENDS = "content is handed to `send`"
    ENDED = "all is quiet, for each exchange"
    # At both; of seconds, or of nothing.
    CLOSED = "the registry, or the process, was told to end and has"
    QUIET = "all that was begun is over"
    # At cluster level; of a step of the lease table, of who was let in, of why a gate has shut.
    APPLIED = "the store has run an operation"
    LET_IN = "the store has let in a stream that it had not let in before"
    STOPPED = "a stream's gate has shut, for this reason"
    PROBED = "all is over or dead, and a newcomer to this session was told this word"
    # In a simulation.
    SHUT = "the process has ended, with these requests open"
    LATE = "the last fault is long over, with these requests open"
    PRIED = "somebody has pressed the stop of another key's stream"
    HEALED = "one who prompted once more was answered, or not in time"
    COMPLETED = "all is over, for each prompt, what was asked of Ollama, and its profile"
    LASTED = "all is over, for each prompt, what was asked of Ollama, and its seconds"
    TURNS = "all is over, for what became of the prompts of each session"


@dataclass(frozen=True, slots=True)
class Always:
    """Holds at every poll. name: of a promise, or a sentence of its own. seen: where it does not,
    what is observed, in words."""

    name: str
    holds: Callable[[Any], bool]
    seen: Callable[[Any], str] | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """Asked at its moment. finds: yields the violations that it sees, of which the first counts."""

    name: str
    moment: Moment
    finds: Callable[..., Iterator[str]]


Judgements = tuple[Always | Judgement, ...]


class Judges:
    """The judgements of one bench in one execution."""

    def __init__(self, world: World, bench: object, judgements: Judgements) -> None:
        self._world = world
        self._bench = bench
        self._of_moment = _by_moment(judgements)
        for each in judgements:
            if isinstance(each, Always):
                seen = None if each.seen is None else partial(each.seen, bench)
                world.always(sentence(each.name), partial(each.holds, bench), seen=seen)

    def canonical_state(self) -> object:
        """The same in each state."""
        return None

    def ask(self, moment: Moment, *seen: object) -> None:
        """Refutes the program where a judgement finds something, and ends the execution."""
        for each in self._of_moment.get(moment, ()):
            for found in each.finds(self._bench, *seen):
                self._world.check(False, sentence(each.name), found, judge=each.finds)


@cache
def _by_moment(judgements: Judgements) -> Mapping[Moment, Sequence[Judgement]]:
    of_moment: dict[Moment, list[Judgement]] = {}
    for each in judgements:
        if isinstance(each, Judgement):
            of_moment.setdefault(each.moment, []).append(each)
    return of_moment
