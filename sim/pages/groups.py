"""Counterexamples of one cause: the same property does not hold, and the same line went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sim.pages.story import Story


@dataclass(frozen=True, slots=True)
class Group:
    """numbers: which of the counterexamples they are, the one that is shown first. line: the one
    that went wrong, `FILE:LINE`; empty where none is told of."""

    numbers: list[int]
    line: str


def grouped(stories: Sequence[Story]) -> list[Group]:
    """In the order in which the first of each comes. What passes is like nothing else."""
    groups: dict[object, Group] = {}
    for number, story in enumerate(stories):
        place = _place(story)
        where = (place or story.where) if story.property else ""
        cause = (story.property, where) if where else number
        line = "" if place is None else f"{Path(place[0]).name}:{place[1]}"
        groups.setdefault(cause, Group([], line)).numbers.append(number)
    return list(groups.values())


def _place(story: Story) -> tuple[str, int] | None:
    """File and line that the first fact tells of first."""
    marks = (mark for fact in story.facts for mark in fact.marks)
    first = next(marks, None)
    return None if first is None else (first.file, first.line)
