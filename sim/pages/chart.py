"""The rows of a counterexample's chart: lanes, folds, arrows, and what each of them changes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from sim.pages.story import Step, Story
from sim.pages.values import Change, Values, changes
from sim.pages.watched import Choice, Moment, Place


def chart_rows(story: Story, departing: set[int]) -> list[dict[str, Any]]:
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
                "time": time_of(step) if step.actor else "",
                "is_same_time": before is not None and time_of(before) == time_of(step),
                "is_same_time_few": shown is not None and time_of(shown) == time_of(step),
                "lane": _lane(step, story),
                "text": words_of(step, story),
                "code": _code(step, before, story),
                "told": step.told,
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
    begun = (_begun(story, is_few=each) for each in (True, False))
    for row, few, every in zip(rows, *begun, strict=True):
        row["begins"] = {who: "" for who in few & every}
        row["begins"] |= {who: "few-only" for who in few - every}
        row["begins"] |= {who: "all-only" for who in every - few}
    return rows


def _begun(story: Story, *, is_few: bool) -> list[set[str]]:
    """Of each row who has something once it is over, and had not before: a row is noted before its
    step. is_few: minor rows are hidden."""
    begun: list[set[str]] = [set() for _ in story.steps]
    own = [at for at, each in enumerate(story.steps) if each.actor]
    shown = [at for at in own if not (is_few and story.steps[at].is_minor)]
    for at, after in pairwise(shown):
        begun[at] = set(story.steps[after].moment.held) - set(story.steps[at].moment.held)
    return begun


def _folded(steps: list[Step]) -> str:
    """What of a run of steps is shown while they are hidden: how many, and whose code they ran."""
    if len(steps) < FOLDED_MIN:
        return ""
    libraries = {each.moment.library for each in steps}
    of = "" if "" in libraries else f" of {', '.join(sorted(libraries))}"
    return f"{len(steps)} steps{of}"


FOLDED_MIN = 3


def words_of(step: Step, story: Story) -> str:
    """What the row says; of the violation also what was seen, or should have held."""
    if step.is_violation and story.property:
        return f"{step.text}: {story.seen or story.property}"
    return step.text


def time_of(step: Step) -> str:
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


def lanes_of(story: Story) -> list[dict[str, Any]]:
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
    shown = [number for number, lane in enumerate(lanes_of(story)) if not lane["is_minor"]]
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


def data_of(
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
    return None if place is None else (shown_path(place.file), place.line, place.function)


def shown_path(file: str) -> str:
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
