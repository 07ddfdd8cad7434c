"""The lines that facts speak of, each within its function: what is shown of the source."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.counterexamples.accesses import Function, accesses_of
from sim.counterexamples.fact import Fact, Mark

EXCERPTS_MAX = 3
AROUND = 3
FIRST_LINES = 6
# All functions together have about as many lines: they are in view without scrolling.
LINES_MAX = 30
LINES_MIN = 7


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A function's lines that are shown: pairs of number and text, None where some are left out.
    says: what is said of a line, by its number."""

    file: str
    function: str
    lines: tuple[tuple[int, str] | None, ...]
    says: dict[int, list[str]]


def excerpts_of(facts: Iterable[Fact]) -> list[Excerpt]:
    """The functions that the marks stand in, with the lines around them."""
    of_functions: dict[tuple[str, int], list[Mark]] = {}
    for fact in facts:
        for mark in fact.marks:
            function = _function_of(mark)
            of_functions.setdefault((mark.file, function.first), []).append(mark)
    shown = list(of_functions.values())[:EXCERPTS_MAX]
    rooms = _rooms([len(_own(marks)[1]) for marks in shown])
    return [_excerpt(marks, most) for marks, most in zip(shown, rooms, strict=True)]


def _rooms(lengths: Sequence[int]) -> list[int]:
    """How many lines each of the functions has: the first stand whole, as far as the others have
    room for some."""
    rooms: list[int] = []
    for number, length in enumerate(lengths, 1):
        left = LINES_MAX - sum(rooms)
        rooms.append(min(length, left - LINES_MIN * (len(lengths) - number)))
    return rooms


def _own(marks: Sequence[Mark]) -> tuple[Function, list[int]]:
    """The function that they are in, and its lines without the docstring."""
    function = _function_of(marks[0])
    last = min(function.last, len(linecache.getlines(marks[0].file)))
    return function, [each for each in range(function.first, last + 1) if each not in function.said]


def _function_of(mark: Mark) -> Function:
    """Of a line outside of any function: the module."""
    found = accesses_of(mark.file).function_at(mark.line)
    return found or Function("the module", 1, len(linecache.getlines(mark.file)))


def _around(line: int, function: Function, around: int) -> range:
    """Of a line that begins the function, what it does first."""
    if line != function.first:
        return range(line - around, line + around + 1)
    first_lines = min(FIRST_LINES, around + 2)
    return range(line, max(line, function.said.stop - 1) + first_lines + 1)


def _wanted(marked: Iterable[int], own: Sequence[int], function: Function, most: int) -> list[int]:
    """All lines of a short function; else as much around each marked line as there is room for, and
    the marked lines in any case."""
    if len(own) <= most:
        return list(own)
    for around in range(AROUND, 0, -1):
        near = {line for each in marked for line in _around(each, function, around)}
        wanted = sorted((near & set(own)) | {function.first})
        if len(wanted) <= most:
            return wanted
    return sorted({*marked, function.first})


def _excerpt(marks: Sequence[Mark], most: int) -> Excerpt:
    function, own = _own(marks)
    file = marks[0].file
    says: dict[int, list[str]] = {}
    for mark in marks:
        if mark.says not in says.setdefault(mark.line, []):
            says[mark.line].append(mark.says)
    source = linecache.getlines(file)
    wanted = _wanted(says, own, function, most)
    lines: list[tuple[int, str] | None] = []
    before = None
    for line in wanted:
        if before is not None and line == before + 2 and line - 1 not in function.said:
            lines.append((line - 1, source[line - 2].rstrip("\n")))
        elif before is not None and line > before + 1:
            lines.append(None)
        lines.append((line, source[line - 1].rstrip("\n")))
        before = line
    if wanted[-1] < own[-1]:
        lines.append(None)
    return Excerpt(file, function.name, tuple(lines), dict(sorted(says.items())))
