"""A trace as a sequence chart in text: a column for each actor, a row for each step.

A row has one text, which begins in its actor's column and may run over the columns after it; the
bars show from when to when the other actors take part.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, replace

from sim.kernel.world import VIOLATED, TraceLine

WIDTH_MAX = 100
COLUMNS_MAX = 12
TIME_WIDTH = 9
# Stands in the row where a passing execution goes another way.
MARK = "≠"

OTHERS = "others"
# What stands to the left and to the right of the actors.
OUTSIDE = "outside"
_LAST = "log"
_BEGIN = TIME_WIDTH + 3
_COLUMN_WIDTH_MIN = 4
_TEXT_WIDTH_MIN = 34
_OTHER_WIDTH_MAX = 12
_ROW_LINES_MAX = 3
# With fewer there is room for the end only.
_MARKED_FROM_LINES = 7


@dataclass(frozen=True, slots=True)
class _Row:
    """Consecutive steps with the same text. number: of the first of them in the trace."""

    number: int
    line: TraceLine
    times: int = 1

    @property
    def text(self) -> str:
        return self.line.text + (f" ({self.times}×)" if self.times > 1 else "")


def chart(
    trace: list[TraceLine], marked: int | None, lines_max: int, wrapped: Container[int] = ()
) -> list[str]:
    """The header and a line for each step, at most `lines_max` of at most WIDTH_MAX columns.

    marked: the number of the line that gets the MARK, or None. If there are too many lines, the
    first are left out, except those around the mark. wrapped: the numbers of the lines whose text
    goes on in the next line if it is long; that of others is cut.
    """
    rows = _rows(trace, marked)
    columns = _columns(_actors(rows), rows)
    drawn: list[str] = []
    marked_line = None
    for row, lines in zip(rows, _drawn(rows, columns, marked, wrapped), strict=True):
        if row.number == marked:
            marked_line = len(drawn)
        drawn += lines
    if marked_line is None:
        marked_line = len(drawn)
    header = [" "] * WIDTH_MAX
    for (name, column), end in zip(columns.items(), _ends(columns), strict=True):
        header[column:end] = _cut_name(name, end - column - 1).ljust(end - column)
    names = ["".join(header).rstrip()] if columns else []
    return [*names, *_once(_fitting(drawn, marked_line, lines_max - 1))]


def _rows(trace: list[TraceLine], marked: int | None) -> list[_Row]:
    rows: list[_Row] = []
    for number, line in enumerate(trace):
        if rows and number != marked and _is_again(rows[-1].line, line):
            rows[-1] = replace(rows[-1], times=rows[-1].times + 1)
        else:
            rows.append(_Row(number, line))
    return rows


def _is_again(before: TraceLine, line: TraceLine) -> bool:
    return (before.actor, before.text, _time(before)) == (line.actor, line.text, _time(line))


def _time(line: TraceLine) -> str:
    return f"{line.at:{TIME_WIDTH}.3f}"


def _actors(rows: list[_Row]) -> list[str]:
    """Of the columns from left to right: the outside, the actors by their first step, the log; the
    least involved actors share one column."""
    # An actor that does nothing but find the violation needs no column.
    counts = Counter(row.line.actor for row in rows if row.line.text != VIOLATED)
    order = sorted(counts, key=lambda actor: (actor != OUTSIDE, actor == _LAST))
    if len(order) <= COLUMNS_MAX:
        return order
    place = {actor: at for at, actor in enumerate(order)}
    kept = sorted(order, key=lambda actor: (-counts[actor], place[actor]))[: COLUMNS_MAX - 1]
    actors = [actor for actor in order if actor in kept]
    actors.insert(len(actors) - (actors[-1] == _LAST), OTHERS)
    return actors


def _columns(actors: list[str], rows: list[_Row]) -> dict[str, int]:
    """Where each column begins: as wide as its name, and then as its texts where there is room."""
    if not actors:
        return {}
    wanted = dict.fromkeys(actors, 0)
    for row in rows:
        if row.line.actor in wanted:
            wanted[row.line.actor] = max(wanted[row.line.actor], len(row.text) + 2)
    widths = {actor: len(actor) + 2 for actor in actors[:-1]}
    room = WIDTH_MAX - _BEGIN - sum(widths.values())
    while room < _TEXT_WIDTH_MIN and max(widths.values()) > _COLUMN_WIDTH_MIN:
        widths[max(widths, key=lambda actor: widths[actor])] -= 1
        room += 1
    room -= max(_TEXT_WIDTH_MIN, wanted[actors[-1]])
    while room > 0 and (narrow := [actor for actor in widths if widths[actor] < wanted[actor]]):
        widths[min(narrow, key=lambda actor: widths[actor])] += 1
        room -= 1
    columns, column = {}, _BEGIN
    for actor in actors:
        columns[actor] = column
        column += widths.get(actor, 0)
    return columns


def _ends(columns: dict[str, int]) -> list[int]:
    return [*list(columns.values())[1:], WIDTH_MAX] if columns else []


def _drawn(
    rows: list[_Row], columns: dict[str, int], marked: int | None, wrapped: Container[int]
) -> list[list[str]]:
    """Of each row its line, or its lines."""
    actor_of = [_actor_of(row, columns) for row in rows]
    first = {actor: at for at, actor in reversed(list(enumerate(actor_of)))}
    last = {actor: at for at, actor in enumerate(actor_of)}
    drawn = []
    for at, (row, actor) in enumerate(zip(rows, actor_of, strict=True)):
        blank = list(_time(row.line).ljust(WIDTH_MAX))
        for other, column in columns.items():
            if other != actor and first.get(other, at) < at < last.get(other, at):
                blank[column] = "│"
        column = columns[actor] if actor is not None else _BEGIN
        width = WIDTH_MAX - column
        text = _text(row, actor)
        texts = _wrapped(text, width) if row.number in wrapped else [_cut(text, width)]
        lines = [_with_text(blank, column, each) for each in texts]
        if row.number == marked:
            lines[0] = lines[0][: TIME_WIDTH + 1] + MARK + lines[0][TIME_WIDTH + 2 :]
        drawn.append(lines)
    return drawn


def _with_text(blank: list[str], column: int, text: str) -> str:
    line = list(blank)
    # A space after the text keeps it apart from the next bar.
    line[column : column + len(text) + 1] = [*text, " "][: WIDTH_MAX - column]
    return "".join(line).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        width,
        subsequent_indent="  ",
        max_lines=_ROW_LINES_MAX,
        placeholder=" …",
        break_on_hyphens=False,
    )


def _actor_of(row: _Row, columns: dict[str, int]) -> str | None:
    if row.line.actor in columns:
        return row.line.actor
    return OTHERS if OTHERS in columns and row.line.text != VIOLATED else None


def _text(row: _Row, actor: str | None) -> str:
    if actor == OTHERS:
        return f"{_cut(row.line.actor, _OTHER_WIDTH_MAX)}: {row.text}"
    return row.text


def _fitting(lines: list[str], marked: int, lines_max: int) -> list[str]:
    """The end says what went wrong and the mark where, so the other lines are left out."""
    if len(lines) <= lines_max:
        return lines
    end = len(lines) - lines_max + 1
    if marked >= end or lines_max < _MARKED_FROM_LINES:
        return [_left_out(end), *lines[end:]]
    begin = max(0, marked - 1)
    around = lines[begin : marked + 3]
    end = len(lines) - (lines_max - len(around) - 1 - (begin > 0))
    before = [_left_out(begin)] if begin else []
    return [*before, *around, _left_out(end - begin - len(around)), *lines[end:]]


def _once(lines: list[str]) -> list[str]:
    """The time is printed only where it differs from the line before."""
    times = [line[:TIME_WIDTH] for line in lines]
    return [
        " " * TIME_WIDTH + line[TIME_WIDTH:] if time == before else line
        for line, time, before in zip(lines, times, ["", *times], strict=False)
    ]


def _left_out(count: int) -> str:
    return " " * _BEGIN + f"… {count} line{'s' * (count > 1)} left out"


def _cut_name(name: str, width: int) -> str:
    """With the number that tells it from others of its name: `AnyIO worker… (2)`."""
    head, opened, number = name.rpartition(" (")
    if len(name) <= width or not opened or not number.rstrip(")").isdecimal():
        return _cut(name, width)
    return _cut(head, width - len(opened + number)) + opened + number


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"
