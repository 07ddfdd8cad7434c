"""Stale reads: who read something, waited or was overtaken, and changed it after another had done
so meanwhile."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sim.counterexamples.fact import Fact, Looked, Mark, Pattern, mark_of, seconds, where
from sim.counterexamples.program_lines import ProgramLines
from sim.counterexamples.ran import Ran, Touched

# A longer value stands in no sentence.
VALUE_MAX = 40

_Stale = tuple[int, int, int, Touched]


def stale(looked: Looked) -> list[Fact]:
    """The last one before the violation."""
    found = _telling(looked, _stale_writes(looked.here.ran))
    if found is None:
        return []
    told = _Told.of(looked, found)
    pattern = _pattern_of(told.read, told.others, told.own, both=told.also_read is not None)
    is_of_both = told.also_read is not None and not told.is_overtaken
    words = told.of_both() if is_of_both else told.of_one()
    return [Fact(words, tuple(told.marks(is_of_both=is_of_both)), pattern)]


@dataclass(frozen=True, slots=True)
class _Told:
    """who read something, and changed it after the other had done so; in words.

    also_read: where the other had read it before. what: as the source calls it, by its key where
    its values are known. was, became, is_now: what was read, what the other made of it, and who;
    empty where that is not known.
    """

    who: str
    other: str
    what: str
    was: str
    became: str
    is_now: str
    read: Ran
    others: Ran
    own: Ran
    waits: Ran
    goes_on: Ran
    is_overtaken: bool
    also_read: Ran | None

    @classmethod
    def of(cls, looked: Looked, found: _Stale) -> _Told:
        here = looked.here
        first, others, own, touched = found
        waits, goes_on = _waits(here, first, own)
        read = here.ran[first]
        also_read = _also_read(here, others, read, waits, touched)
        values = _values(here, found, also_read)
        is_keyed = touched.key is not None and all(values)
        return cls(
            looked.called(here.ran[own].actor),
            looked.called(here.ran[others].actor),
            f"{touched.text}[{touched.key}]" if is_keyed else touched.text,
            *values,
            read,
            here.ran[others],
            here.ran[own],
            waits,
            goes_on,
            goes_on.step in here.overtaken,
            None if also_read is None else here.ran[also_read],
        )

    def of_both(self) -> str:
        return (
            f"{self.other} and {self.who} both read {_from(self.was)}`{self.what}` at "
            f"{where(self.read)} and wait at {where(self.waits)}; {self.other} changes "
            f"`{self.what}`{_to(self.became)} at {where(self.others)} ({seconds(self.others)}); "
            f"{self.who} {self._does} ({seconds(self.own)}), and has not read it again since "
            f"{seconds(self.read)}"
        )

    def of_one(self) -> str:
        stands = f"waits at {where(self.waits)}"
        if self.is_overtaken:
            stands = f"is overtaken before {where(self.goes_on)}"
        return (
            f"{self.who} reads {_from(self.was)}`{self.what}` at {where(self.read)} "
            f"({seconds(self.read)}) and {stands}; meanwhile {self.other} changes it"
            f"{_to(self.became)} at {where(self.others)} ({seconds(self.others)}); {self.who} goes "
            f"on and {self._does} without having read it again"
        )

    @property
    def _does(self) -> str:
        if self.own.place == self.others.place:
            return f"changes it there, too{_comma_to(self.is_now)}"
        return f"changes it{_to(self.is_now)} at {where(self.own)}"

    def marks(self, *, is_of_both: bool) -> list[Mark]:
        readers = f"{self.other} and {self.who}" if is_of_both else self.who
        reads, waits = ("read", "wait") if is_of_both else ("reads", "waits")
        read = f"{seconds(self.read)}: {readers} {reads} {_from(self.was)}{self.what}"
        stands = (
            mark_of(self.goes_on, f"before this line {self.who} is overtaken")
            if self.is_overtaken
            else mark_of(
                self.waits, f"{readers} {waits} here, {self.who} until {seconds(self.own)}"
            )
        )
        changes = f"{seconds(self.others)}: {self.other} goes on and changes {self.what}"
        again = (
            f"{seconds(self.own)}: {self.who} changes it, too{_comma_to(self.is_now)}, and has not "
            f"read it again since line {self.read.line}"
        )
        reads_of = [self.also_read] if is_of_both and self.also_read is not None else []
        return [
            *(mark_of(each, read) for each in (*reads_of, self.read)),
            stands,
            mark_of(self.others, f"{changes}{_to(self.became)}"),
            mark_of(self.own, again),
        ]


def _values(here: ProgramLines, found: _Stale, also_read: int | None) -> tuple[str, str, str]:
    """What was read, and what it was changed to, twice; empty where it is not known, or long, or
    where the two that read it found different ones."""
    first, others, own, touched = found
    known = here.values
    if known is None:
        return "", "", ""
    reads = {known.before(each, touched) for each in (first, also_read) if each is not None}
    was = reads.pop() if len(reads) == 1 else ""
    became, is_now = known.after(others, touched), known.after(own, touched)
    return _short(was), _short(became), _short(is_now)


def _short(value: str) -> str:
    return value if len(value) <= VALUE_MAX else ""


def _from(value: str) -> str:
    return f"{value} from " if value else ""


def _to(value: str) -> str:
    return f" to {value}" if value else ""


def _comma_to(value: str) -> str:
    return f", to {value}" if value else ""


def _also_read(
    here: ProgramLines, others: int, read: Ran, waits: Ran, touched: Touched
) -> int | None:
    """At which line that ran the call that changed it had read it at the same place before, if it
    then waited at the same."""
    ran = here.ran
    own = [at for at in range(others + 1) if ran[at].call == ran[others].call]
    reads = (
        at
        for at in own
        if ran[at].place == read.place and any(one.meets(touched) for one in ran[at].reads)
    )
    first = next(reads, None)
    if first is None:
        return None
    since = [ran[at] for at in own if at >= first]
    waited = any(a.place == waits.place and a.step != b.step for a, b in pairwise(since))
    return first if waited else None


def _telling(looked: Looked, found: Iterable[_Stale]) -> _Stale | None:
    """The last one of those whom the violation names. Where it names nobody, as a check at the end
    does, that of anybody, if the passing execution has none at these lines."""
    ran = looked.here.ran
    all_of_them = list(found)
    own = [each for each in all_of_them if ran[each[2]].actor in looked.involved]
    if not own and not looked.named:
        there = () if looked.there is None else looked.there.ran
        beside = {(there[each[0]].place, there[each[2]].place) for each in _stale_writes(there)}
        own = [
            each for each in all_of_them if (ran[each[0]].place, ran[each[2]].place) not in beside
        ]
    return max(own, key=lambda each: each[2], default=None)


def _waits(here: ProgramLines, first: int, last: int) -> tuple[Ran, Ran]:
    """Where the call that ran both stood for longest between them, and where it went on."""
    ran = here.ran
    call = ran[first].call
    own = [each for each in ran[first : last + 1] if each.call == call]
    pairs = [(a, b) for a, b in pairwise(own) if a.step != b.step]
    if not pairs:
        return ran[first], ran[last]
    return max(pairs, key=lambda pair: (pair[1].at - pair[0].at, pair[1].step - pair[0].step))


def _stale_writes(ran: Sequence[Ran]) -> Iterator[_Stale]:
    """Reads of a call, with what another changed after it, and the call itself after that."""
    # Of each call, and of each actor, what it has read: the last time.
    reads: dict[tuple[str, int], list[tuple[int, Touched]]] = {}
    reads_of_actor: dict[str, list[tuple[int, Touched]]] = {}
    writes: list[tuple[int, Touched]] = []
    for at, each in enumerate(ran):
        of_call = reads.setdefault((each.actor, each.call), [])
        of_actor = reads_of_actor.setdefault(each.actor, [])
        # A line that changes by what it reads, as `+=`, has read it again.
        for touched in each.reads:
            for known in (of_call, of_actor):
                known[:] = [one for one in known if not one[1].meets(touched)]
                known.append((at, touched))
        for touched in each.writes:
            for read_at, read in of_call:
                if ran[read_at].step == each.step or not read.meets(touched):
                    continue
                if any(later > read_at and one.meets(touched) for later, one in of_actor):
                    # In a function that it called.
                    continue
                others = [
                    write_at
                    for write_at, write in writes
                    if write_at > read_at
                    and ran[write_at].actor != each.actor
                    # What it waited for is no surprise.
                    and each.actor not in ran[write_at].awaited_by
                    and write.meets(touched)
                ]
                if others:
                    yield read_at, others[-1], at, touched
            writes.append((at, touched))


def _pattern_of(read: Ran, others: Ran, own: Ran, *, both: bool) -> Pattern:
    """both: they have read it at one line."""
    text = linecache.getline(read.file, read.line).lstrip()
    if text.startswith(("if ", "elif ", "while ")):
        return Pattern.CHECK_THEN_ACT
    is_one_line = both and own.place == others.place
    return Pattern.LOST_UPDATE if is_one_line else Pattern.STALE_READ
