"""The lines that facts speak of, each within its function: what is shown of the source."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sim.counterexamples.accesses import Function, accesses_of
from sim.counterexamples.facts import Fact, Mark

EXCERPTS_MAX = 3
AROUND = 4
FIRST_LINES = 6
# Of a function of up to as many lines all are shown.
WHOLE_MAX = 30


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
    return [_excerpt(marks) for marks in list(of_functions.values())[:EXCERPTS_MAX]]


def _function_of(mark: Mark) -> Function:
    """Of a line outside of any function: the module."""
    found = accesses_of(mark.file).function_at(mark.line)
    return found or Function("the module", 1, len(linecache.getlines(mark.file)))


def _around(line: int, function: Function) -> range:
    """Of a line that begins the function, what it does first."""
    if line != function.first:
        return range(line - AROUND, line + AROUND + 1)
    return range(line, max(line, function.said.stop - 1) + FIRST_LINES + 1)


def _excerpt(marks: Sequence[Mark]) -> Excerpt:
    function, file = _function_of(marks[0]), marks[0].file
    says: dict[int, list[str]] = {}
    for mark in marks:
        if mark.says not in says.setdefault(mark.line, []):
            says[mark.line].append(mark.says)
    source = linecache.getlines(file)
    last = min(function.last, len(source))
    wanted = sorted(
        {
            line
            for marked in says
            for line in _around(marked, function)
            if function.first <= line <= last and line not in function.said
        }
        | {function.first}
    )
    whole = [each for each in range(function.first, last + 1) if each not in function.said]
    if len(whole) <= WHOLE_MAX:
        wanted = whole
    lines: list[tuple[int, str] | None] = []
    before = None
    for line in wanted:
        if before is not None and line == before + 2 and line - 1 not in function.said:
            lines.append((line - 1, source[line - 2].rstrip("\n")))
        elif before is not None and line > before + 1:
            lines.append(None)
        lines.append((line, source[line - 1].rstrip("\n")))
        before = line
    return Excerpt(file, function.name, tuple(lines), dict(sorted(says.items())))
