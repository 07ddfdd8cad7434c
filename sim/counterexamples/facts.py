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
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from types import CodeType

from sim.counterexamples.accesses import accesses_of
from sim.counterexamples.fact import (
    Broken,
    Called,
    Fact,
    Looked,
    Mark,
    Pattern,
    mark_of,
    place_of,
    seconds,
    where,
)
from sim.counterexamples.program_lines import ProgramLines
from sim.counterexamples.ran import Ran, What
from sim.counterexamples.stale_reads import stale
from sim.counterexamples.swallowed import swallowed

FACTS_MAX = 3


def facts_of(
    here: ProgramLines,
    there: ProgramLines | None,
    seen: str,
    called: Called = str,
    broken: Broken | None = None,
) -> list[Fact]:
    """there: of the nearest passing execution. seen: what was observed, which may name actors."""
    looked = Looked(here, there, seen, called)
    found = [] if broken is None else [_broken(looked, broken)]
    telling = [*swallowed(looked), *stale(looked)] or _counted(looked)
    found += telling[:2]
    parted = [] if found else _parted(looked)
    has_parted = bool(parted)
    found += parted
    if not telling and not _has_run(looked, broken) and not has_parted:
        found += _last(looked)
    return found[:FACTS_MAX]


def _has_run(looked: Looked, broken: Broken | None) -> bool:
    return broken is not None and any(map(broken.has, looked.here.ran))


def _broken(looked: Looked, broken: Broken) -> Fact:
    of_it = [each for each in looked.here.ran if broken.has(each)]
    # Of a function that breaks something under a condition, when it did.
    ran = [each for each in of_it if each.line == broken.line] or of_it
    says = broken.says.rstrip(".")
    file, place = broken.code.co_filename, place_of(broken.code, broken.line)
    on_purpose = Mark(file, broken.line, "broken on purpose")
    instead = [Mark(*each, "what production does in its place") for each in broken.instead]
    sentence = f"broken at {place}: {says}"
    if not ran:
        called = _calls(looked, broken)
        calls = [mark_of(each, f"{seconds(each)}: {_calls_it(looked, each)}") for each in called]
        last_calls = "".join(
            f"; {_calls_it(looked, each)} at {where(each)} ({seconds(each)})" for each in called
        )
        return Fact(f"{sentence}{last_calls}", (on_purpose, *instead, *calls), Pattern.BROKEN)
    # Of those in question, and of each its last. The sentence names who ran it last of all: what
    # another did before may have nothing to do with it, and stands at the line.
    in_question = [each for each in ran if each.actor in looked.involved] or ran[-1:]
    of_each: dict[str, Ran] = {}
    for each in reversed(in_question):
        of_each.setdefault(each.actor, each)
    runs = [
        Mark(file, broken.line, f"{seconds(each)}: {looked.called(each.actor)} runs it", each.step)
        for each in reversed([*of_each.values()][:2])
    ]
    last = in_question[-1]
    sentence = f"{sentence}; that ran last in {looked.called(last.actor)} ({seconds(last)})"
    return Fact(sentence, (on_purpose, *runs, *instead), Pattern.BROKEN)


def _calls(looked: Looked, broken: Broken) -> list[Ran]:
    """The last line that ran and calls what was replaced, if one did."""
    calls = re.compile("|".join(rf"(?<!def )\b{re.escape(name)}\(" for name in broken.replaced))
    found = (
        each
        for each in reversed(looked.here.ran)
        if each.what is What.LINE and calls.search(linecache.getline(each.file, each.line))
    )
    return [*islice(found, 1)] if broken.replaced else []


def _calls_it(looked: Looked, ran: Ran) -> str:
    return f"{looked.called(ran.actor)} calls what is broken"


def _counted(looked: Looked) -> list[Fact]:
    """Of those whose last turn is nearest to the violation."""
    if looked.there is None or looked.here.is_cut or looked.there.is_cut:
        return []
    ours, theirs = _by_line(looked.here.ran), _by_line(looked.there.ran)
    more = [each for each in ours if len(ours[each]) > len(theirs.get(each, [])) >= 1]
    if not more:
        return []
    ran = ours[max(more, key=lambda each: ours[each][-1].at)]
    what = (*ran[-1].writes,)[0].text
    times = " and ".join(seconds(each) for each in ran[-2:])
    whom = " and ".join(dict.fromkeys(looked.called(each.actor) for each in ran[-2:]))
    count, other = len(ran), len(theirs[ran[-1].place])
    sentence = (
        f"{where(ran[-1])}, which changes `{what}`, runs {_times(count)} here (last at {times}, "
        f"in {whom}), and {_times(other)} where it passes"
    )
    says = f"runs {_times(count)} here, at {times}; {_times(other)} where it passes"
    return [Fact(sentence, (mark_of(ran[-1], says),), Pattern.COUNT)]


def _parted(looked: Looked) -> list[Fact]:
    """The first line that a task has otherwise than in the passing execution."""
    if looked.there is None or looked.here.is_cut or looked.there.is_cut:
        return []
    ours, theirs = _by_actor(looked.here.ran), _by_actor(looked.there.ran)
    found = [
        pair
        for actor in ours
        if actor in theirs and (pair := _first_other(ours[actor], theirs[actor])) is not None
    ]
    if not found:
        return []
    # Of those that the violation names, if any of these did so.
    found = [each for each in found if each[0].actor in looked.involved] or found
    last, ours_next, theirs_next = min(found, key=lambda each: each[1].at)
    who = looked.called(ours_next.actor)
    sentence = (
        f"after {where(last)} {who} {_does(ours_next)} here, and {_does(theirs_next)} where it "
        f"passes"
    )
    marks = [
        mark_of(last, f"{seconds(last)}: up to here {who} is as in the passing execution"),
        mark_of(ours_next, f"{seconds(ours_next)}: {who} {_does_here(ours_next)}"),
        replace(
            mark_of(theirs_next, f"where it passes, {who} {_does_here(theirs_next)} next"),
            step=None,
        ),
    ]
    raises = What.RAISES in (ours_next.what, theirs_next.what)
    pattern = Pattern.RAISED if raises else Pattern.WAY
    return [Fact(sentence, tuple(marks), pattern)]


def _last(looked: Looked) -> list[Fact]:
    facts: dict[object, Fact] = {}
    # Those who wait at one line since one moment are told of together.
    waiting: dict[tuple[CodeType, int, str], list[str]] = {}
    stands = {each.actor: each for each in looked.here.stands}
    ran = looked.here.ran
    for actor in _in_question(looked):
        own = [each for each in ran if each.actor == actor]
        who = looked.called(actor)
        if actor in stands and actor != looked.here.violator:
            code, line = stands[actor].frames[0]
            place = code, line, _since(_arrived(own, code, line))
            waiting.setdefault(place, []).append(who)
            facts[place] = _wait(waiting[place], *place)
        elif own:
            last = own[-1]
            sentence = f"the last line of {who} is {where(last)} ({seconds(last)})"
            mark = mark_of(last, f"{seconds(last)}: the last of {who}")
            facts[actor] = Fact(sentence, (mark,), Pattern.LAST)
    return [*facts.values()]


def _since(arrived: Ran | None) -> str:
    return f" since {seconds(arrived)}" if arrived is not None else ""


def _wait(who: Sequence[str], code: CodeType, line: int, since: str) -> Fact:
    wait = f"{' and '.join(who)} {'wait' if len(who) > 1 else 'waits'}"
    mark = Mark(code.co_filename, line, f"{wait} here{since}")
    return Fact(f"{wait} at {place_of(code, line)}{since}", (mark,), Pattern.LAST)


def _in_question(looked: Looked) -> list[str]:
    """Those involved; else who ran last."""
    order = [*dict.fromkeys(each.actor for each in reversed(looked.here.ran))]
    order += [each.actor for each in looked.here.stands if each.actor not in order]
    involved = [each for each in order if each in looked.involved]
    threads = [each.actor for each in looked.here.stands if each.is_thread]
    involved += [each for each in threads if each not in involved]
    involved.sort(key=lambda each: each not in looked.seen and each not in threads)
    return involved or order[:2]


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


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _does(ran: Ran) -> str:
    if ran.what is What.RAISES:
        return f"gets {ran.raised} at line {ran.line}"
    return f"goes to line {ran.line}"


def _does_here(ran: Ran) -> str:
    return f"gets {ran.raised} here" if ran.what is What.RAISES else "comes here"


def _arrived(own: Sequence[Ran], code: CodeType, line: int) -> Ran | None:
    """When it came to the line at which it stands: it may have gone on within what that awaits."""
    arrived = None
    for each in reversed(own):
        if each.code is not code or each.line != line:
            break
        arrived = each
    return arrived
