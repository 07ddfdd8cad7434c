"""Where in the program it went wrong: what can be told of the lines that ran, without a guess.

Each fact is a sentence with the lines that it speaks of, which `excerpts.py` shows. They are looked
for in this order:

- broken: what was broken on purpose, where that is known;
- stale: a task or a thread read something, waited or was overtaken, and changed it after another
  had done so meanwhile;
- swallowed: a task was told to end, and a line caught that, and it went on;
- parted: after the same lines a task went another way than in the passing execution;
- counted: a line that changes what others share ran more often than in the passing execution, or
  less often;
- last: where the tasks that the violation names wait, or what they did last.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from itertools import dropwhile, pairwise
from types import CodeType

from sim.counterexamples.accesses import Accesses, accesses_of
from sim.counterexamples.program_lines import ProgramLines, Ran, Touched, What

FACTS_MAX = 3

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
    that. replaced: what production runs in its place."""

    code: CodeType
    line: int
    says: str
    replaced: tuple[CodeType, ...] = ()

    def has(self, ran: Ran) -> bool:
        last = max((line for *_, line in self.code.co_lines() if line is not None), default=0)
        for each in _nested(self.code):
            last = max(last, *(line for *_, line in each.co_lines() if line is not None))
        return ran.file == self.code.co_filename and self.code.co_firstlineno <= ran.line <= last


def facts_of(
    here: ProgramLines,
    there: ProgramLines | None,
    seen: str,
    called: Called = str,
    broken: Broken | None = None,
) -> list[Fact]:
    """there: of the nearest passing execution. seen: what was observed, which may name actors."""
    looked = _Looked(here, there, seen, called)
    found = [] if broken is None else [looked.broken(broken)]
    telling = [*looked.swallowed(), *looked.stale()] or looked.counted()
    found += telling[:2]
    parted = [] if found else looked.parted()
    has_parted = bool(parted)
    found += parted
    if not telling and not looked.has_run(broken) and not has_parted:
        found += looked.last()
    return found[:FACTS_MAX]


@dataclass(slots=True)
class _Looked:
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

    # -- broken

    def has_run(self, broken: Broken | None) -> bool:
        return broken is not None and any(map(broken.has, self.here.ran))

    def broken(self, broken: Broken) -> Fact:
        ran = [each for each in self.here.ran if broken.has(each)]
        says = broken.says.rstrip(".")
        file, place = broken.code.co_filename, _place(broken.code, broken.line)
        marks = (
            Mark(file, broken.line, f"broken on purpose: {says}"),
            *(
                Mark(each.co_filename, _first_line(each), "what production does in its place")
                for each in broken.replaced
            ),
        )
        sentence = f"production was broken on purpose at {place}: {says}"
        if not ran:
            return Fact(sentence, marks, Pattern.BROKEN)
        # Those in question, and of each the last.
        last = {each.actor: each for each in ran if each.actor in self.involved} or {
            ran[-1].actor: ran[-1]
        }
        named = list(last.items())[-2:]
        times = " and ".join(f"{self.called(who)} ({_s(each)})" for who, each in named)
        return Fact(f"{sentence}; that ran last in {times}", marks, Pattern.BROKEN)

    # -- counted

    def counted(self) -> list[Fact]:
        """Of those whose last turn is nearest to the violation."""
        if self.there is None or self.here.is_cut or self.there.is_cut:
            return []
        ours, theirs = _by_line(self.here.ran), _by_line(self.there.ran)
        more = [each for each in ours if len(ours[each]) > len(theirs.get(each, [])) >= 1]
        if not more:
            return []
        ran = ours[max(more, key=lambda each: ours[each][-1].at)]
        what = (*ran[-1].writes,)[0].text
        times = " and ".join(_s(each) for each in ran[-2:])
        whom = " and ".join(dict.fromkeys(self.called(each.actor) for each in ran[-2:]))
        count, other = len(ran), len(theirs[ran[-1].place])
        sentence = (
            f"{_at(ran[-1])}, which changes `{what}`, runs {_times(count)} here (last at {times}, "
            f"in {whom}), and {_times(other)} where it passes"
        )
        says = f"runs {_times(count)} here, at {times}; {_times(other)} where it passes"
        return [Fact(sentence, (_mark(ran[-1], says),), Pattern.COUNT)]

    # -- stale

    def stale(self) -> list[Fact]:
        """The last one before the violation."""
        ran = self.here.ran
        found = self._telling(_stale_writes(ran))
        if found is None:
            return []
        read, others, own = (ran[at] for at in found[:3])
        touched = found[3]
        waits, goes_on = self._waits(found[0], found[2])
        is_overtaken = goes_on.step in self.here.overtaken
        who, other = self.called(own.actor), self.called(others.actor)
        what = touched.text
        is_there = own.place == others.place
        does = "changes it there, too" if is_there else f"changes it at {_at(own)}"
        also_read = self._also_read(found[1], read, waits, touched)
        both = also_read is not None
        stands = f"waits at {_at(waits)}"
        if is_overtaken:
            stands = f"is overtaken before {_at(goes_on)}"
        if both and not is_overtaken:
            sentence = (
                f"{other} and {who} both read `{what}` at {_at(read)} and wait at {_at(waits)}; "
                f"{other} changes `{what}` at {_at(others)} ({_s(others)}); {who} {does} "
                f"({_s(own)}), and has not read it again since {_s(read)}"
            )
            readers, verbs = f"{other} and {who}", ("read", "wait")
        else:
            sentence = (
                f"{who} reads `{what}` at {_at(read)} ({_s(read)}) and {stands}; "
                f"meanwhile {other} changes it at {_at(others)} ({_s(others)}); {who} goes on and "
                f"{does} without having read it again"
            )
            readers, verbs = who, ("reads", "waits")
        marks = [
            *(
                _mark(each, f"{_s(read)}: {readers} {verbs[0]} {what}")
                for each in ((also_read, read) if readers != who and also_read else (read,))
            ),
            _mark(goes_on, f"before this line {who} is overtaken")
            if is_overtaken
            else _mark(waits, f"{readers} {verbs[1]} here, {who} until {_s(own)}"),
            _mark(others, f"{_s(others)}: {other} goes on and changes {what}"),
            _mark(
                own,
                f"{_s(own)}: {who} changes it, too, and has not read it again since line "
                f"{read.line}",
            ),
        ]
        return [Fact(sentence, tuple(marks), _pattern_of(read, others, own, both=both))]

    def _also_read(self, others: int, read: Ran, waits: Ran, touched: Touched) -> Ran | None:
        """Where the call that changed it had read it at the same line before, if it then waited at
        the same."""
        call = self.here.ran[others].call
        own = [each for each in self.here.ran[: others + 1] if each.call == call]
        is_there = [
            each.place == read.place and any(one.meets(touched) for one in each.reads)
            for each in own
        ]
        if True not in is_there:
            return None
        since = own[is_there.index(True) :]
        waited = any(a.place == waits.place and a.step != b.step for a, b in pairwise(since))
        return since[0] if waited else None

    def _telling(self, found: Iterable[_Stale]) -> _Stale | None:
        """The last one of those whom the violation names. Where it names nobody, as a check at the
        end does, that of anybody, if the passing execution has none at these lines."""
        ran = self.here.ran
        all_of_them = list(found)
        own = [each for each in all_of_them if ran[each[2]].actor in self.involved]
        if not own and not self.named:
            there = () if self.there is None else self.there.ran
            beside = {(there[each[0]].place, there[each[2]].place) for each in _stale_writes(there)}
            own = [
                each
                for each in all_of_them
                if (ran[each[0]].place, ran[each[2]].place) not in beside
            ]
        return max(own, key=lambda each: each[2], default=None)

    def _waits(self, first: int, last: int) -> tuple[Ran, Ran]:
        """Where the call that ran both stood for longest between them, and where it went on."""
        ran = self.here.ran
        call = ran[first].call
        own = [each for each in ran[first : last + 1] if each.call == call]
        pairs = [(a, b) for a, b in pairwise(own) if a.step != b.step]
        if not pairs:
            return ran[first], ran[last]
        return max(pairs, key=lambda pair: (pair[1].at - pair[0].at, pair[1].step - pair[0].step))

    # -- swallowed

    def swallowed(self) -> list[Fact]:
        facts = []
        ran = self.here.ran
        of_calls: dict[int, list[int]] = {}
        for at, each in enumerate(ran):
            of_calls.setdefault(each.call, []).append(at)
        for at, each in enumerate(ran):
            if each.is_of_cancel and each.actor in self.involved:
                rest = [ran[later] for later in of_calls[each.call] if later > at]
                found = self._caught(each, rest)
                if found is not None:
                    facts.append(found)
        return facts[-1:]

    def _caught(self, raised: Ran, rest: Sequence[Ran]) -> Fact | None:
        source = accesses_of(raised.file)
        lines = [each for each in rest if each.what is not What.RESUMES]
        # Since 3.13 the line is told once more as the exception comes up in it.
        lines = [*dropwhile(lambda each: each.place == raised.place, lines)]
        if not lines or lines[0].what is What.RAISES:
            return None
        if any(_is_raised_again(source, each) for each in lines):
            return None
        handler = _handler(source, raised.line, lines)
        if handler is None:
            return None
        catches, on = handler
        who = self.called(raised.actor)
        sentence = (
            f"{who} is told to end as it waits at {_at(raised)} ({_s(raised)}): the CancelledError "
            f"is caught at line {catches}, and it goes on to line {on.line}"
        )
        marks = [
            _mark(raised, f"{_s(raised)}: {who} is told to end here (CancelledError)"),
            Mark(raised.file, catches, "this catches it"),
            _mark(on, f"{_s(on)}: {who} goes on, as if it had not been told"),
        ]
        return Fact(sentence, tuple(marks), Pattern.SWALLOWED)

    # -- parted

    def parted(self) -> list[Fact]:
        """The first line that a task has otherwise than in the passing execution."""
        if self.there is None or self.here.is_cut or self.there.is_cut:
            return []
        ours, theirs = _by_actor(self.here.ran), _by_actor(self.there.ran)
        found = [
            pair
            for actor in ours
            if actor in theirs and (pair := _first_other(ours[actor], theirs[actor])) is not None
        ]
        if not found:
            return []
        # Of those that the violation names, if any of these did so.
        found = [each for each in found if each[0].actor in self.involved] or found
        last, ours_next, theirs_next = min(found, key=lambda each: each[1].at)
        who = self.called(ours_next.actor)
        sentence = (
            f"after {_at(last)} {who} {_does(ours_next)} here, and {_does(theirs_next)} where it "
            f"passes"
        )
        marks = [
            _mark(last, f"{_s(last)}: up to here {who} is as in the passing execution"),
            _mark(ours_next, f"{_s(ours_next)}: {who} {_does(ours_next, has_line=False)} here"),
            replace(
                _mark(
                    theirs_next, f"where it passes, {who} {_does(theirs_next, has_line=False)} next"
                ),
                step=None,
            ),
        ]
        raises = What.RAISES in (ours_next.what, theirs_next.what)
        pattern = Pattern.RAISED if raises else Pattern.WAY
        return [Fact(sentence, tuple(marks), pattern)]

    # -- stands

    def last(self) -> list[Fact]:
        facts = []
        stands = {each.actor: each for each in self.here.stands}
        ran = self.here.ran
        for actor in self._in_question():
            own = [each for each in ran if each.actor == actor]
            if actor in stands and actor != self.here.violator:
                code, line = stands[actor].frames[0]
                facts.append(self._stands(actor, code, line, own))
            elif own:
                who, last = self.called(actor), own[-1]
                sentence = f"the last line of {who} is {_at(last)} ({_s(last)})"
                mark = _mark(last, f"{_s(last)}: the last of {who}")
                facts.append(Fact(sentence, (mark,), Pattern.LAST))
        return facts

    def _stands(self, actor: str, code: CodeType, line: int, own: Sequence[Ran]) -> Fact:
        who = self.called(actor)
        arrived = _arrived(own, code, line)
        since = f" since {_s(arrived)}" if arrived is not None else ""
        sentence = f"{who} waits at {_place(code, line)}{since}"
        mark = Mark(code.co_filename, line, f"{who} waits here{since}")
        return Fact(sentence, (mark,), Pattern.LAST)

    def _in_question(self) -> list[str]:
        """Those involved; else who ran last."""
        order = [*dict.fromkeys(each.actor for each in reversed(self.here.ran))]
        order += [each.actor for each in self.here.stands if each.actor not in order]
        involved = [each for each in order if each in self.involved]
        threads = [each.actor for each in self.here.stands if each.is_thread]
        involved += [each for each in threads if each not in involved]
        involved.sort(key=lambda each: each not in self.seen and each not in threads)
        return involved or order[:2]


def _is_named(actor: str, seen: str) -> bool:
    """Whether its name stands there; of "p2 handler", its first word is enough. A task of a process
    has that one's name before its own."""
    names = {actor} if ": " in actor else {actor, actor.split(" ")[0]}
    return any(re.search(rf"(?<![\w/]){re.escape(each)}(?![\w/])", seen) for each in names if each)


def _by_actor(ran: Iterable[Ran]) -> dict[str, list[Ran]]:
    by_actor: dict[str, list[Ran]] = {}
    for each in ran:
        if each.what is not What.RESUMES:
            by_actor.setdefault(each.actor, []).append(each)
    return by_actor


def _first_other(ours: Sequence[Ran], theirs: Sequence[Ran]) -> tuple[Ran, Ran, Ran] | None:
    """The last line that both have, and what comes next in each; None where one only has more."""
    last = None
    for one, other in zip(ours, theirs, strict=False):
        if (one.what, one.code, one.line) != (other.what, other.code, other.line):
            return None if last is None else (last, one, other)
        last = one
    return None


def _by_line(ran: Iterable[Ran]) -> dict[tuple[str, int], list[Ran]]:
    """Those that change what others share."""
    by_line: dict[tuple[str, int], list[Ran]] = {}
    for each in ran:
        if each.writes and each.line not in accesses_of(each.file).spread:
            by_line.setdefault(each.place, []).append(each)
    return by_line


_Stale = tuple[int, int, int, Touched]


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


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _nested(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _nested(each)


def _first_line(code: CodeType) -> int:
    """Of its body."""
    lines = sorted({line for *_, line in code.co_lines() if line is not None})
    texts = {line: linecache.getline(code.co_filename, line).lstrip() for line in lines}
    begins = ("def ", "async def ", "@")
    return next((line for line in lines if not texts[line].startswith(begins)), lines[-1])


def _does(ran: Ran, *, has_line: bool = True) -> str:
    where = f" line {ran.line}" if has_line else " this"
    if ran.what is What.RAISES:
        return f"gets {ran.raised} at{where}"
    return f"goes to{where}"


def _handler(source: Accesses, line: int, rest: Sequence[Ran]) -> tuple[int, Ran] | None:
    """Which line catches what came up at this one, and where its call goes on; None if none."""
    first = rest[0]
    inside = (each for each in rest if _is_in_body(source.handler_at(each.line), each.line))
    entered = next(inside, None) if source.handler_at(first.line) is not None else None
    if entered is not None:
        handler = source.handler_at(entered.line)
        assert handler is not None
        of_handler = [each for each in rest if handler[0] <= each.line <= handler[1]]
        on = [each for each in rest if each.at >= entered.at and each not in of_handler]
        after = [each for each in on if each.line > handler[1]]
        is_raised_on = any(each.what is What.RAISES for each in of_handler)
        if after and not is_raised_on and source.final_at(after[0].line) is None:
            return handler[0], after[0]
        return None
    around = source.with_at(line)
    if around is not None and not around[0] <= first.line <= around[1]:
        is_final = source.final_at(first.line) is not None
        return None if is_final else (around[0], first)
    return None


def _is_raised_again(source: Accesses, ran: Ran) -> bool:
    """Whether the line passes on what told it to end, and is not told once more as it waits."""
    is_cancel = ran.what is What.RAISES and ran.raised == "CancelledError"
    return is_cancel and ran.line not in source.awaiting


def _is_in_body(handler: tuple[int, int] | None, line: int) -> bool:
    return handler is not None and line != handler[0]


def _arrived(own: Sequence[Ran], code: CodeType, line: int) -> Ran | None:
    """When it came to the line at which it stands: it may have gone on within what that awaits."""
    arrived = None
    for each in reversed(own):
        if each.code is not code or each.line != line:
            break
        arrived = each
    return arrived


def _mark(ran: Ran, says: str) -> Mark:
    return Mark(ran.file, ran.line, says, ran.step)


def _place(code: CodeType, line: int) -> str:
    return f"{code.co_filename.rpartition('/')[2]}:{line}"


def _at(ran: Ran) -> str:
    return _place(ran.code, ran.line)


def _s(ran: Ran) -> str:
    return f"{ran.at:.3f} s"
