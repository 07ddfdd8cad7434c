"""A page: what a command found, with its counterexamples, as one file of HTML without a network."""

from __future__ import annotations

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
from sim.pages.acts import last_acts, last_changes, led_there, led_title
from sim.pages.chart import (
    causes,
    changed_by,
    chart_rows,
    data_of,
    lanes_of,
    shown_path,
    words_of,
)
from sim.pages.groups import grouped
from sim.pages.overview import overview_of
from sim.pages.story import Story

_PARTS = Path(__file__).parent / "parts"


@dataclass(frozen=True, slots=True)
class Cell:
    """text: what it says. share: 0..1, drawn as a bar, or None. story: the number of the
    counterexample that it leads to. more: what opens below it."""

    text: str
    share: float | None = None
    story: int | None = None
    is_number: bool = False
    is_verdict: bool = False
    more: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """A row of a table."""

    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class Table:
    """is_below: it stands below the counterexamples, if there are some."""

    title: str
    columns: list[str]
    rows: list[Line]
    is_below: bool = False


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
    word, where what was looked at is not a program. is_plain: it is neither good news nor bad.
    """

    title: str
    verdict: Verdict
    reason: str = ""
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    stories: Sequence[Told] = ()
    text: str = ""
    said: str = ""
    is_plain: bool = False

    def write(self, file: str | Path) -> None:
        """Raises OSError where that cannot be written."""
        Path(file).write_text(self.html, encoding="utf-8")

    @property
    def html(self) -> str:
        shown = {
            "title": self.title,
            "verdict": str(self.verdict),
            "said": self.said or str(self.verdict),
            "tone": "plain" if self.is_plain else str(self.verdict),
            "reason": self.reason,
            "facts": self.facts,
            "tables": self.tables,
            "text": self.text,
            "stories": [_shown(each) for each in self.stories],
            "groups": grouped([each.story for each in self.stories]),
        }
        rendered: str = _template().render(page=shown, css=_part("page.css"), js=_scripts())
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


def _scripts() -> Any:
    from markupsafe import Markup

    return Markup().join(map(_part, ("overview.js", "search.js", "lanes.js", "page.js")))


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
    lanes = lanes_of(story)
    led = led_there(story)
    return {
        "name": told.name,
        "commands": told.commands,
        "rules": _taken(told),
        "about": told.about,
        "held": _held(story),
        "words": [each for each in GLOSSARY if _says(told, each[0])],
        "facts": [_sentence(each.sentence) for each in story.facts],
        "excerpts": [_excerpt(each) for each in story.excerpts],
        "named": _named(story),
        "last_acts": last_acts(story),
        "led_there": led,
        "led_title": led_title(story, led),
        "last_changes": last_changes(story),
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
        "rows": chart_rows(story, departing),
        "data": [
            data_of(each, words_of(each, story), few, all_of_them, changed)
            for each, few, all_of_them, changed in zip(
                story.steps,
                causes(story, is_few=True),
                causes(story, is_few=False),
                changed_by(story),
                strict=True,
            )
        ],
        "sources": {shown_path(file): lines for file, lines in story.sources.items()},
    }


def _sentence(text: str) -> str:
    """It begins with a capital letter, unless with a name."""
    first = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if first in ("the", "after", "broken") else text


def _excerpt(excerpt: Excerpt) -> dict[str, Any]:
    """Its lines without the indentation that all have; a gap has the number 0."""
    texts = [line[1] for line in excerpt.lines if line is not None and line[1].strip()]
    indent = min(map(_indent, texts), default=0)
    return {
        "file": shown_path(excerpt.file),
        "name": Path(excerpt.file).name,
        "function": excerpt.function,
        "marked": ", ".join(map(str, excerpt.says)),
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
    ("poll", "When the loop asks what has come from outside: once in each of its iterations."),
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
    texts += [each.words for each in story.departures]
    return any(term in text for text in texts)


def _named(story: Story) -> list[str]:
    """Whom the facts, or what was seen, name: their values come first."""
    said = " ".join([*(each.sentence for each in story.facts), story.seen])
    return [
        each for each in story.lanes if re.search(rf"(?<![\w/-]){re.escape(each)}(?![\w/-])", said)
    ]


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
