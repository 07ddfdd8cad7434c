"""A page: what a command found, with its counterexamples, as one file of HTML without a network."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from sim.counterexamples.excerpts import Excerpt
from sim.exploration.verdict import Verdict
from sim.pages.groups import grouped
from sim.pages.overview import overview_of
from sim.pages.story import Step, Story
from sim.pages.values import Change, Values, changes
from sim.pages.watched import Choice, Moment, Place

_PARTS = Path(__file__).parent / "parts"


@dataclass(frozen=True, slots=True)
class Cell:
    """text: what it says. share: 0..1, drawn as a bar, or None. story: the number of the
    counterexample that it leads to."""

    text: str
    share: float | None = None
    story: int | None = None
    is_number: bool = False
    is_verdict: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table."""

    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: list[str]
    rows: list[Line]


@dataclass(frozen=True, slots=True)
class Told:
    """A counterexample of a page. name: what it is one of. commands: pairs of what a command does
    with it, as `replay`, and the command. rules: for labels that are rules of the program's,
    what each says. about: what a reader has to know first, as pairs of a term and a sentence."""

    name: str
    story: Story
    commands: tuple[tuple[str, str], ...]
    rules: Mapping[str, str] = field(default_factory=dict)
    about: Sequence[tuple[str, str]] = ()

    @classmethod
    def of(
        cls,
        name: str,
        story: Story,
        rules: Mapping[str, str] | None = None,
        about: Sequence[tuple[str, str]] = (),
    ) -> Told:
        """With the commands for a schedule that can be found by its name, if it has one."""
        if not story.schedule:
            return cls(name, story, (), rules or {}, about)
        quoted = shlex.quote(story.schedule)
        return cls(
            name,
            story,
            tuple((do, f"onestream {do} {quoted}") for do in ("replay", "export")),
            rules or {},
            about,
        )


@dataclass(frozen=True, slots=True)
class Page:
    """title: what was looked at. reason: of the verdict. facts: pairs of a name and a value.
    stories: the counterexamples. text: what the terminal says as well. said: the verdict in another
    word, where what was looked at is not a program.
    """

    title: str
    verdict: Verdict
    reason: str = ""
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    stories: Sequence[Told] = ()
    text: str = ""
    said: str = ""

    def write(self, file: str | Path) -> None:
        """Raises OSError where that cannot be written."""
        Path(file).write_text(self.html, encoding="utf-8")

    @property
    def html(self) -> str:
        shown = {
            "title": self.title,
            "verdict": str(self.verdict),
            "said": self.said or str(self.verdict),
            "reason": self.reason,
            "facts": self.facts,
            "tables": self.tables,
            "text": self.text,
            "stories": [_shown(each) for each in self.stories],
            "groups": grouped([each.story for each in self.stories]),
        }
        rendered: str = _template().render(
            page=shown, css=_part("page.css"), js=_part("overview.js") + _part("page.js")
        )
        return rendered


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_PARTS), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["coded"] = _coded
    environment.filters["linked"] = _linked
    return environment


def _coded(text: str) -> Any:
    """What stands between backticks, as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    code = Markup("<code>{}</code>")
    return Markup().join(code.format(part) if at % 2 else part for at, part in enumerate(parts))


def _template() -> Any:
    return _environment().get_template("page.html")


def _part(name: str) -> Any:
    """As it is: it is ours, and not to be escaped."""
    from markupsafe import Markup

    return Markup((_PARTS / name).read_text(encoding="utf-8"))


def _linked(marked: Any, words: Sequence[tuple[str, str]], number: int) -> Any:
    """Each of the words that are explained at the foot of a counterexample leads there, where it
    stands for the first time in a text that is escaped."""
    from markupsafe import Markup, escape

    text = str(escape(marked))
    for term, _ in words:
        link = f'<a class="word" href="#word-{number}-{term}">{term}</a>'
        text = re.sub(rf"(?<![\w&#;/-]){term}(?![\w;/-])", link, text, count=1)
    return Markup(text)


# ---- a counterexample --------------------------------------------------------------------------


def _shown(told: Told) -> dict[str, Any]:
    story = told.story
    departing = {each.index for each in story.departures}
    lanes = _lanes(story)
    return {
        "name": told.name,
        "commands": told.commands,
        "rules": _taken(told),
        "about": told.about,
        "held": _held(story),
        "words": [each for each in GLOSSARY if _says(told, each[0])],
        "facts": [_sentence(each.sentence) for each in story.facts],
        "excerpts": [_excerpt(each) for each in story.excerpts],
        "opening": _opening(story),
        "last_acts": _last_acts(story),
        "led_there": _led_there(story),
        "last_changes": _last_changes(story),
        "property": story.property,
        "at": story.at,
        "seen": story.seen,
        "where": story.where,
        "text": story.text,
        "departures": story.departures,
        "departures_cost": story.departures_cost,
        "departures_points": story.departures_points,
        "choice_points": story.choice_points,
        "lanes": lanes,
        "overview": overview_of(story, lanes),
        "lanes_shown": sum(not each["is_minor"] for each in lanes),
        "passing": story.passing,
        "has_minor": any(each.is_minor for each in story.steps),
        "steps": story.steps,
        "rows": _rows(story, departing),
        "data": [
            _data(each, _words(each, story), few, all_of_them, changed)
            for each, few, all_of_them, changed in zip(
                story.steps,
                causes(story, is_few=True),
                causes(story, is_few=False),
                changed_by(story),
                strict=True,
            )
        ],
        "sources": {_path(file): lines for file, lines in story.sources.items()},
    }


def _sentence(text: str) -> str:
    """It begins with a capital letter, unless with a name."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first in ("the", "after", "production") else text


def _excerpt(excerpt: Excerpt) -> dict[str, Any]:
    """Its lines without the indentation that all have; a gap has the number 0."""
    texts = [line[1] for line in excerpt.lines if line is not None and line[1].strip()]
    indent = min(map(_indent, texts), default=0)
    return {
        "file": _path(excerpt.file),
        "name": Path(excerpt.file).name,
        "function": excerpt.function,
        "first": min(excerpt.says, default=0),
        "lines": [
            {
                "number": 0 if line is None else line[0],
                "text": "" if line is None else line[1][indent:],
                "indent": 0 if line is None else _indent(line[1][indent:]),
                "says": [] if line is None else excerpt.says.get(line[0], []),
            }
            for line in excerpt.lines
        ],
    }


# What a page may say of the bench's subjects, each explained where it does.
GLOSSARY = (
    (
        "DETACHED",
        "A stream that outlasted its grace: fenced off, and the next one is let in.",
    ),
    ("upstream", "What the server asks in turn: here Ollama, or a fake of it."),
    ("gate", "What a stream asks before it sends: it is open while the stream may."),
)


def _says(told: Told, term: str) -> bool:
    story = told.story
    texts = [story.property, story.seen, *(says for _, says in told.about)]
    texts += [each.text for each in story.steps if not each.is_minor]
    return any(term in text for text in texts)


def _opening(story: Story) -> dict[str, Any] | None:
    """The first line that a fact tells of: what stands beside the chart at first."""
    if not story.excerpts:
        return None
    excerpt = story.excerpts[0]
    marks = [mark for fact in story.facts for mark in fact.marks if mark.line in excerpt.says]
    line = marks[0].line
    return {"place": (_path(excerpt.file), line, excerpt.function), "says": excerpt.says[line]}


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _taken(told: Told) -> list[tuple[str, str]]:
    """The rules that some step took, in their own order."""
    reached = {label for step in told.story.steps for label in step.moment.labels}
    return [(label, says) for label, says in told.rules.items() if label in reached]


def _held(story: Story) -> list[str]:
    """What some actor with a column has at some time, in words."""
    held = (each.moment.held.items() for each in story.steps)
    found = dict.fromkeys(what for items in held for who, what in items if who in story.lanes)
    return [*found]


def _rows(story: Story, departing: set[int]) -> list[dict[str, Any]]:
    lives = _lives(story)
    rows = []
    # Of this execution; the column of the times is its own, and they never go back.
    before: Step | None = None
    # The one before of those that are not hidden at first.
    shown: Step | None = None
    folded: list[Step] = []
    held: Mapping[str, str] = {}
    for number, step in enumerate(story.steps):
        held = step.moment.held if step.actor else held
        if step.is_minor:
            folded.append(step)
        rows.append(
            {
                "folded": "" if step.is_minor else _folded(folded),
                "time": _time(step) if step.actor else "",
                "is_same_time": before is not None and _time(before) == _time(step),
                "is_same_time_few": shown is not None and _time(shown) == _time(step),
                "lane": _lane(step, story),
                "text": _words(step, story),
                "code": _code(step, before, story),
                "lives": [first < number < last for first, last in lives],
                "held": held,
                "there": step.there or "",
                "there_time": _time_there(step),
                "is_same": bool(step.actor) and step.there is not None,
                "is_minor": step.is_minor,
                "is_violation": step.is_violation,
                "is_first_difference": step.is_first_difference,
                "departs": any(each.index in departing for each in step.moment.choices),
            }
        )
        if step.is_violation:
            held = {}
        if not step.is_minor:
            folded.clear()
        if step.actor:
            before = step
            shown = shown if step.is_minor else step
    return rows


def _folded(steps: list[Step]) -> str:
    """What of a run of steps is shown while they are hidden: how many, and whose code they ran."""
    if len(steps) < FOLDED_MIN:
        return ""
    libraries = {each.moment.library for each in steps}
    of = "" if "" in libraries else f" of {', '.join(sorted(libraries))}"
    return f"{len(steps)} steps{of}"


FOLDED_MIN = 3


def _words(step: Step, story: Story) -> str:
    """What the row says; of the violation also what was seen, or should have held."""
    if step.is_violation and story.property:
        return f"{step.text}: {story.seen or story.property}"
    return step.text


def _last_acts(story: Story) -> list[dict[str, Any]]:
    """What each actor did last before the violation, in order, and that: it is short, and tells
    who stands where."""
    last = {
        step.actor: number
        for number, step in enumerate(story.steps)
        if step.actor not in ("", "log") and not step.is_minor and not step.is_violation
    }
    violation = [number for number, step in enumerate(story.steps) if step.is_violation]
    return [
        {
            "step": number,
            "time": _time(story.steps[number]),
            "actor": "" if number in violation else story.steps[number].actor,
            "text": _with_what_it_did_at_once(story, number),
        }
        for number in [*sorted(last.values()), *violation]
    ]


def _with_what_it_did_at_once(story: Story, number: int) -> str:
    """A last act with the one before it of the same actor and instant, both recorded: `is answered
    with 400; has its whole answer`."""
    step, words = story.steps[number], _words(story.steps[number], story)
    own = (each for each in reversed(story.steps[:number]) if each.actor == step.actor)
    before = next((each for each in own if not each.is_minor), None)
    if step.is_violation or before is None or before.at != step.at:
        return words
    return f"{before.text}; {words}"


def _led_there(story: Story) -> list[dict[str, Any]]:
    """The departures, and the last acts of those that the observation names, in their order."""
    departures = [
        {
            "step": _step_of_choice(story, each.index),
            "choice": each.index,
            "time": each.time,
            "actor": "departure",
            "text": each.words,
        }
        for each in story.departures[:LED_MAX]
    ]
    known = {each["step"] for each in departures}
    acts = [
        each
        for each in _last_acts(story)
        if each["actor"] and each["actor"] in story.seen and each["step"] not in known
    ]
    return sorted([*departures, *acts[-LED_MAX:]], key=lambda each: each["step"])


def _step_of_choice(story: Story, index: int) -> int:
    """Before which step it was made."""
    at = (
        number
        for number, step in enumerate(story.steps)
        if any(each.index == index for each in step.moment.choices)
    )
    return next(at, 0)


# Of each of both.
LED_MAX = 4


def _last_changes(story: Story) -> list[dict[str, str]]:
    """Values at the violation that were others after the row above it, as far as it is shown."""
    violation = next((at for at, each in enumerate(story.steps) if each.is_violation), None)
    if violation is None:
        return []
    above = (at for at in range(violation - 1, -1, -1) if _is_shown(story.steps[at]))
    after = next((_next_own(story, at) for at in above), violation)
    before, now = (story.steps[at].moment.values for at in (after, violation))
    return [
        {"owner": owner, "name": name, "before": before[owner, name], "now": text}
        for (owner, name), text in now.items()
        if before.get((owner, name), text) != text
    ][:LED_MAX]


def _is_shown(step: Step) -> bool:
    return bool(step.actor) and not step.is_minor


def _next_own(story: Story, number: int) -> int:
    """The next row of this execution, whose values are those after the one at `number`."""
    return next(at for at in range(number + 1, len(story.steps)) if story.steps[at].actor)


def _time(step: Step) -> str:
    return f"{step.at:.3f}"


def _time_there(step: Step) -> str:
    """When the passing execution is there, unless that is the time of the row."""
    if step.there_at is None or (step.actor and step.there_at == step.at):
        return ""
    return f"{step.there_at:.3f}"


def _code(step: Step, before: Step | None, story: Story) -> str:
    """The line of the program where it stands, where that is not the same as before."""
    place = step.moment.place
    if place is None or not step.actor:
        return ""
    if before is not None and (before.actor, before.moment.place) == (step.actor, place):
        return ""
    line = story.sources.get(place.file, {}).get(place.line, "").strip()
    # The first line of a function, or of a call over several lines, says nothing.
    return "" if line.endswith("(") or line.startswith(("def ", "async def ", "@")) else line


def _lanes(story: Story) -> list[dict[str, Any]]:
    """few_at: which it is of those that are shown at first; a minor lane has minor steps alone."""
    shown = {each.actor for each in story.steps if not each.is_minor}
    few = [lane for lane in story.lanes if lane in shown]
    return [
        {
            "name": lane,
            "is_minor": lane not in shown,
            "few_at": few.index(lane) + 1 if lane in shown else 0,
        }
        for lane in story.lanes
    ]


def _lane(step: Step, story: Story) -> int | None:
    """Its number; of a violation that no actor found the program's, or the first that is shown;
    None where it is another's."""
    if not step.actor:
        return None
    if step.actor in story.lanes:
        return story.lanes.index(step.actor)
    shown = [number for number, lane in enumerate(_lanes(story)) if not lane["is_minor"]]
    programs = [number for number in shown if story.lanes[number] == "program"]
    return next(iter(programs or shown), 0)


def _lives(story: Story) -> list[tuple[int, int]]:
    """Of each lane, its first and its last step."""
    lives = []
    for lane in story.lanes:
        own = [number for number, step in enumerate(story.steps) if step.actor == lane]
        lives.append((own[0], own[-1]))
    return lives


def causes(story: Story, *, is_few: bool) -> list[int | None]:
    """For each row the one from which an arrow leads to it, if one does.

    is_few: minor rows are hidden; then an arrow begins where a hidden row of the same step, or the
    cause of that, is to be seen. Only the first row of a step has one, and whom it cancels.
    """
    steps = story.steps
    shown = [bool(each.actor) and not (is_few and each.is_minor) for each in steps]
    # The last of each step of the loop that is shown, so far.
    last_of: dict[int, int] = {}
    causes: list[int | None] = []
    for number, step in enumerate(steps):
        moment = step.moment
        is_first = moment.step not in last_of
        cause = _shown_cause(story, moment, shown) if shown[number] else None
        is_of_step = cause is not None and steps[cause].moment.step == moment.step
        if cause is None or steps[cause].actor == step.actor or not (is_first or is_of_step):
            cause = None
        causes.append(cause)
        if shown[number]:
            last_of[moment.step] = number
    return causes


def _shown_cause(story: Story, moment: Moment, shown: list[bool]) -> int | None:
    seen: set[int] = set()
    while moment.cause is not None and moment.cause not in seen:
        seen.add(moment.cause)
        number = story.numbers.get(moment.cause)
        if number is None:
            return None
        cause = story.steps[number].moment
        if shown[number]:
            return number
        before = range(number - 1, -1, -1)
        of_step = (at for at in before if shown[at] and story.steps[at].moment.step == cause.step)
        at = next(of_step, None)
        if at is not None and cause.step != moment.step:
            return at
        moment = cause
    return None


def changed_by(story: Story) -> list[list[Change]]:
    """Of each row what it changes: what the next one finds, since it is noted before its step."""
    own = [number for number, each in enumerate(story.steps) if each.actor]
    changed: list[list[Change]] = [[] for _ in story.steps]
    before: Values = {}
    for number, after in zip(own, [*own[1:], *own[-1:]], strict=True):
        now = story.steps[after].moment.values
        changed[number] = changes(before, now)
        before = now
    return changed


def _data(
    step: Step,
    words: str,
    few: int | None,
    all_of_them: int | None,
    changed: Sequence[Change],
) -> dict[str, Any]:
    """What the page shows of a step that is selected, and from where arrows lead to it."""
    moment = step.moment
    return {
        "actor": step.actor,
        "text": words or step.there or "",
        "causes": [few, all_of_them],
        "place": _place(moment.place),
        "choices": [_choice(each) for each in moment.choices],
        "labels": moment.labels,
        "tasks": moment.tasks,
        "ready": moment.ready,
        "held": [f"{actor}: {what}" for actor, what in moment.held.items()],
        "timers": moment.timers,
        "changed": [(each.owner, each.name, each.text) for each in changed],
    }


def _place(place: Place | None) -> tuple[str, int, str] | None:
    return None if place is None else (_path(place.file), place.line, place.function)


def _path(file: str) -> str:
    """As seen from here, where it lies below."""
    here = os.getcwd() + os.sep
    return file.removeprefix(here)


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "index": choice.index,
        "kind": choice.kind,
        "options": choice.options,
        "taken": choice.taken,
        "cost": choice.cost,
    }
