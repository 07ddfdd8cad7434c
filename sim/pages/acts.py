"""What stands above a counterexample's chart: what led there, and what changed last."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sim.pages.chart import time_of, words_of
from sim.pages.story import Step, Story


def last_acts(story: Story) -> list[dict[str, Any]]:
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
            "time": time_of(story.steps[number]),
            "actor": "" if number in violation else story.steps[number].actor,
            "text": _with_what_it_did_at_once(story, number),
        }
        for number in [*sorted(last.values()), *violation]
    ]


def _with_what_it_did_at_once(story: Story, number: int) -> str:
    """A last act with the one before it of the same actor and instant, both recorded: `is answered
    with 400; has its whole answer`."""
    step, words = story.steps[number], words_of(story.steps[number], story)
    own = (each for each in reversed(story.steps[:number]) if each.actor == step.actor)
    before = next((each for each in own if not each.is_minor), None)
    if step.is_violation or before is None or before.at != step.at:
        return words
    return f"{before.text}; {words}"


def led_there(story: Story) -> list[dict[str, Any]]:
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
        for each in last_acts(story)
        if each["actor"] and each["actor"] in story.seen and each["step"] not in known
    ]
    return sorted([*departures, *acts[-LED_MAX:]], key=lambda each: each["step"])


def led_title(story: Story, led: Sequence[dict[str, Any]]) -> str:
    """What the list of `led_there` has."""
    departures = "the departure" if story.departures_cost == 1 else "departures"
    natural = "natural order (what is due happens at once, nothing fails)"
    parts = [f"{departures} from {natural}"] if story.departures else []
    if any("choice" not in each for each in led):
        parts.append("the last steps of those that the violation names")
    title = ", and ".join(parts)
    return title[:1].upper() + title[1:]


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


def last_changes(story: Story) -> list[dict[str, str]]:
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
