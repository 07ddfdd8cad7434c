"""A counterexample as data for a page: what happened step by step, and beside it what passes."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from sim.counterexamples.counterexample import Counterexample
from sim.counterexamples.departures import Words, steps_of
from sim.counterexamples.excerpts import Excerpt, excerpts_of
from sim.counterexamples.explanation import Passing, nearest_passing, what_differs
from sim.counterexamples.fact import Broken, Fact
from sim.counterexamples.facts import facts_of
from sim.counterexamples.rows import Row, first_difference, fitting, rows_of
from sim.kernel.execution import Program, run_execution
from sim.kernel.forks import in_a_fork
from sim.kernel.guards import guarded
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds, Schedule
from sim.kernel.task_rows import Weight
from sim.kernel.world import VIOLATED
from sim.pages.names import Names, Naming, as_it_is
from sim.pages.watched import Moment, Place, Watched, WatchedReplay

# How much of a file is shown around a line that a step stands at.
LINES_AROUND = 7
# A page of more steps is not read; the last ones are those that lead to the violation.
STEPS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Step:
    """A row of the chart. at: virtual seconds. moment: how things stood.

    is_minor: an ordinary step of a task, which is hidden until it is asked for, where the program
    records rows of its own. is_violation: the last one. there: what the passing execution does in
    its place: a text, the same text, or None for nothing; there_at: when, by its own clock. Of a
    step that only the passing one takes, the actor is empty. told: what the facts say of it.
    """

    at: float
    actor: str
    text: str
    moment: Moment
    is_minor: bool = False
    is_violation: bool = False
    is_first_difference: bool = False
    there: str | None = None
    there_at: float | None = None
    told: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Departure:
    """One departure from natural order, in words; index: of its first choice point."""

    index: int
    time: str
    words: str


@dataclass(frozen=True, slots=True)
class Story:
    """property: the sentence that did not hold. seen, where: what was observed, and who checked it.

    departures_cost, departures_points: how many departures they are, at how many choice points of
    choice_points. lanes: the actors, in the order in which they appear. numbers: for a moment,
    which step it is.
    facts, excerpts: where in the program it went wrong.
    passing: which execution stands beside it, in words; empty if none was found. sources: of each
    file the lines that are shown. text: the same for a terminal.
    Of an execution that passes, property, seen, where, schedule and text are empty.
    """

    property: str
    at: float
    seen: str
    where: str
    schedule: str
    text: str
    departures: list[Departure]
    departures_cost: int
    departures_points: int
    choice_points: int
    lanes: list[str]
    steps: list[Step]
    numbers: dict[int, int]
    passing: str
    sources: dict[str, dict[int, str]] = field(default_factory=dict)
    facts: list[Fact] = field(default_factory=list)
    excerpts: list[Excerpt] = field(default_factory=list)


def story_of(
    program: Program, found: Counterexample, naming: Naming = as_it_is, broken: Broken | None = None
) -> Story:
    """Replays it, and its nearest passing neighbour, looking closely.

    naming: what a reader calls an actor. broken: what was broken on purpose.

    Raises ScheduleDoesNotFit for another program than the counterexample's.
    """
    if found.identity is not None:
        found.identity.require(program)
    if found.is_isolated:
        return in_a_fork(lambda: _story_of(program, found, naming, broken))
    return _story_of(program, found, naming, broken)


def _story_of(
    program: Program, found: Counterexample, naming: Naming, broken: Broken | None
) -> Story:
    schedule = Schedule.parse(found.schedule)
    with guarded():
        outcome, watched = _watched(program, schedule.bounds, schedule.departures)
        if outcome.violation is None:
            # It hangs on what the program drops.
            outcome, watched = _watched(
                program, schedule.bounds, schedule.departures, reads_variables=False
            )
        passing = nearest_passing(program, schedule, outcome)
        beside, watched_beside = None, None
        if passing.outcome is not None:
            taken = tuple((each.index, each.option) for each in passing.outcome.departures)
            beside, watched_beside = _watched(
                program, schedule.bounds, taken, reads_variables=False
            )
    assert outcome.violation is not None
    violation = outcome.violation
    words = Words.of(outcome, *([beside] if beside is not None else []))
    names = Names(watched.made, naming)
    steps = [_named(each, names) for each in _steps(outcome, watched, beside, words)]
    facts = facts_of(
        watched.lines,
        None if watched_beside is None else watched_beside.lines,
        violation.detail,
        names.in_text,
        broken,
    )
    steps = _with_those_named(_with_what_is_told(steps, facts), facts)
    return Story(
        facts=facts,
        excerpts=excerpts_of(facts),
        property=violation.property,
        at=violation.at,
        seen=violation.detail,
        where=violation.where,
        schedule=found.schedule,
        text=found.text,
        passing=names.in_text(_passing(outcome, passing, words)),
        **_chart(outcome, watched, steps, words, facts, names),
    )


def natural_story(program: Program, bounds: Bounds) -> Story | None:
    """What happens in natural order, where that passes: it shows what was looked at."""
    return in_a_fork(lambda: _natural_story(program, bounds))


def _natural_story(program: Program, bounds: Bounds) -> Story | None:
    with guarded():
        outcome, watched = _watched(program, bounds, ())
    if outcome.violation is not None:
        return None
    words = Words.of(outcome)
    steps = _steps(outcome, watched, None, words)
    chart = _chart(outcome, watched, steps, words)
    return Story("", 0.0, "", "", "", "", passing="", **chart)


def _chart(
    outcome: Outcome,
    watched: Watched,
    steps: list[Step],
    words: Words,
    facts: Iterable[Fact] = (),
    names: Names | None = None,
) -> dict[str, Any]:
    """What every story has."""
    told_of = [Place(mark.file, mark.line, "") for fact in facts for mark in fact.marks]
    return {
        "departures": _departures(outcome, words, names or Names(watched.made)),
        "departures_cost": outcome.cost,
        "departures_points": len(outcome.departures),
        "choice_points": len(outcome.choices),
        "lanes": _lanes(steps),
        "steps": steps,
        "numbers": _numbers(steps, watched),
        "sources": _sources([*(each.moment.place for each in steps), *told_of]),
    }


def _watched(
    program: Program,
    bounds: Bounds,
    departures: Iterable[tuple[int, int]],
    *,
    reads_variables: bool = True,
) -> tuple[Outcome, Watched]:
    """One execution; the outcome has its recording, as a traced one's."""
    replay = WatchedReplay(departures, reads_variables=reads_variables)
    outcome = run_execution(program, replay, bounds, traced=True)
    outcome.recording = replay.watched
    return outcome, replay.watched


# ---- steps -----------------------------------------------------------------------------------


def _steps(outcome: Outcome, watched: Watched, beside: Outcome | None, words: Words) -> list[Step]:
    rows = rows_of(outcome, words)
    others = rows_of(beside, words) if beside is not None else []
    difference = first_difference(rows, others) if beside is not None else None
    marked = difference[0] if difference is not None else None
    shown = {id(row) for row in fitting(rows, marked, STEPS_MAX) if not _is_aside(row, watched)}
    if marked is not None:
        shown.add(id(marked))
    steps: list[Step] = []
    for row, other in _aligned(rows, others):
        if row is None:
            assert other is not None
            at = other.line.at
            is_minor = (
                difference is not None and other is not difference[1] and _is_aside_there(other)
            )
            there = _short(other)
            steps.append(Step(at, "", "", Moment(), is_minor=is_minor, there=there, there_at=at))
            continue
        steps.append(
            Step(
                at=row.line.at,
                actor=row.line.actor,
                text=row.line.text,
                moment=_moment_of(row, watched),
                is_minor=id(row) not in shown,
                is_violation=row.line.text == VIOLATED,
                is_first_difference=row is marked,
                there=None if other is None else _short(other),
                there_at=None if other is None else other.line.at,
            )
        )
    return _violation_first(steps)


def _violation_first(steps: list[Step]) -> list[Step]:
    """What only the passing execution does from then on stands below the violation."""
    at = next((number for number, each in enumerate(steps) if each.is_violation), None)
    if at is None:
        return steps
    first = at
    while first > 0 and not steps[first - 1].actor:
        first -= 1
    return [*steps[:first], steps[at], *steps[first:at], *steps[at + 1 :]]


def _named(step: Step, names: Names) -> Step:
    moment, in_text = step.moment, names.in_text
    text = in_text(step.text, moment.whose)
    moment.tasks = [(in_text(name), in_text(does)) for name, does in moment.tasks]
    moment.ready = list(map(in_text, moment.ready))
    moment.held = {in_text(actor): in_text(what) for actor, what in moment.held.items()}
    moment.choices = [
        replace(each, options=tuple(map(in_text, each.options))) for each in moment.choices
    ]
    moment.values = {
        (in_text(owner), name): in_text(text) for (owner, name), text in moment.values.items()
    }
    there = None if step.there is None else in_text(step.there)
    return replace(step, actor=in_text(step.actor), text=text, there=there)


def _with_what_is_told(steps: list[Step], facts: Iterable[Fact]) -> list[Step]:
    """Where a line ran that a fact tells of, a row is shown and says so: that of whom it names, or
    the first of that step. It names the file where that is not the one in which the row stands."""
    told: dict[int, list[str]] = {}
    for mark in (mark for fact in facts if not fact.pattern.is_in_charts for mark in fact.marks):
        own = [
            number
            for number, each in enumerate(steps)
            if each.actor and not each.is_violation and each.moment.turn == mark.step
        ]
        named = [number for number in own if steps[number].actor in mark.says]
        for number in (named or own)[:1]:
            place = steps[number].moment.place
            is_own = place is not None and place.file == mark.file
            line = f"line {mark.line}" if is_own else f"{Path(mark.file).name}:{mark.line}"
            says = f"{line}: {re.sub(_TIME, '', mark.says)}"
            if says not in told.setdefault(number, []):
                told[number].append(says)
    return [
        replace(each, is_minor=False, told=tuple(told[number])) if number in told else each
        for number, each in enumerate(steps)
    ]


# The row has its own.
_TIME = r"^[\d.]+ s: "


def _with_those_named(steps: list[Step], facts: Iterable[Fact]) -> list[Step]:
    """Whom the facts name has a column: where all of its steps are minor, the first and the last
    are shown."""
    said = " ".join(each.sentence for each in facts)
    have_one = {each.actor for each in steps if not each.is_minor}
    of_actors: dict[str, list[int]] = {}
    for number, each in enumerate(steps):
        is_named = re.search(rf"(?<![\w/-]){re.escape(each.actor)}(?![\w/-])", said)
        if each.actor and each.actor not in have_one and is_named:
            of_actors.setdefault(each.actor, []).append(number)
    shown = {number for own in of_actors.values() for number in (own[0], own[-1])}
    return [
        replace(each, is_minor=each.is_minor and number not in shown)
        for number, each in enumerate(steps)
    ]


def _is_aside(row: Row, watched: Watched) -> bool:
    """How a connection is made and ended, and a library's step without a line of the program's."""
    if row.is_recorded:
        return row.line.is_chatter
    moment = _moment_of(row, watched)
    is_librarys = moment.library != "" and moment.turn not in watched.lines.turns
    return is_librarys and row.weight is not Weight.FAILURE


def _is_aside_there(row: Row) -> bool:
    """Of what only the passing execution does: an ordinary step of a task, or chatter."""
    return row.line.is_chatter or row.is_ordinary


def _short(row: Row) -> str:
    return f"{row.line.actor}: {row.line.text}"


def _moment_of(row: Row, watched: Watched) -> Moment:
    of_rows = watched.of_trace if row.is_recorded else watched.of_tasks
    if row.number < len(of_rows):
        return watched.moments[of_rows[row.number]]
    # What is known once everything has ended.
    return Moment()


def _aligned(rows: list[Row], others: list[Row]) -> Iterable[tuple[Row | None, Row | None]]:
    """Rows that are the same stand side by side; of those that are not, all of one come first."""
    texts, other_texts = ([_short(each) for each in side] for side in (rows, others))
    matcher = SequenceMatcher(None, texts, other_texts, autojunk=False)
    for what, i, i_end, j, j_end in matcher.get_opcodes():
        if what == "equal":
            yield from zip(rows[i:i_end], others[j:j_end], strict=True)
        else:
            yield from ((row, None) for row in rows[i:i_end])
            yield from ((None, other) for other in others[j:j_end])


def _lanes(steps: list[Step]) -> list[str]:
    """As in the text's chart: the outside first, the log last."""
    actors = dict.fromkeys(each.actor for each in steps if each.actor and not each.is_violation)
    return sorted(actors, key=lambda actor: (actor != "outside", actor == "log"))


def _numbers(steps: list[Step], watched: Watched) -> dict[int, int]:
    of_moment = {id(moment): number for number, moment in enumerate(watched.moments)}
    return {
        of_moment[id(each.moment)]: number
        for number, each in enumerate(steps)
        if id(each.moment) in of_moment
    }


# ---- words -----------------------------------------------------------------------------------


def _departures(outcome: Outcome, words: Words, names: Names) -> list[Departure]:
    return [
        Departure(step.departures[0].index, step.time, names.in_text(words.of_step(step)))
        for step in steps_of(outcome.departures)
    ]


def _passing(outcome: Outcome, passing: Passing, words: Words) -> str:
    if passing.outcome is None:
        return ""
    return what_differs(outcome, passing.outcome, passing.change, words)


def _sources(places: Iterable[Place | None]) -> dict[str, dict[int, str]]:
    sources: dict[str, dict[int, str]] = {}
    for place in dict.fromkeys(places):
        if place is None:
            continue
        lines = linecache.getlines(place.file)
        shown = sources.setdefault(place.file, {})
        first, last = place.line - LINES_AROUND, place.line + LINES_AROUND
        for number in range(max(first, 1), min(last, len(lines)) + 1):
            shown[number] = lines[number - 1].rstrip("\n")
    return sources
