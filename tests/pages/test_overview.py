"""All events beside the chart: to scale, each with what it is, and in plain SVG."""

from __future__ import annotations

import asyncio
from typing import Any

from sim import World, explore
from sim.kernel.execution import Program
from sim.pages.chart import lanes_of
from sim.pages.overview import _round_step, overview_of
from sim.pages.page import Page, Told
from sim.pages.story import Story, story_of
from tests.pages.programs import slot_that_is_lost


async def waits_long(world: World) -> None:
    """Two things at once, nothing for three quarters of the time, and the end."""
    world.record("begins", actor="b")
    world.shows(lambda: {"a": "has it"} if 0.5 < world.now < 3 else {})
    for at, who in ((1.0, "a"), (0.0, "b"), (3.0, "a")):
        await asyncio.sleep(at)
        world.record("is here", actor=who)
    world.check(False, "never")


def _overview(program: Program) -> tuple[Story, dict[str, Any] | None]:
    report = explore(program)
    assert report.counterexample is not None
    story = story_of(program, report.counterexample)
    return story, overview_of(story, lanes_of(story))


def test_time_is_a_scale() -> None:
    """What comes after a quarter of the time stands a quarter on, whatever the rows between."""
    _, shown = _overview(waits_long)
    assert shown is not None
    places = {(each["says"]): each["at"] for each in shown["marks"]}
    margin = shown["margin"]
    quarter = margin + (100 - 2 * margin) / 4
    assert places["1.000 s, a: is here"] == places["1.000 s, b: is here"] == quarter
    assert places["4.000 s, a: is here"] == shown["violation"] == 100 - margin


def test_every_event_is_there_once() -> None:
    """As many marks as steps of this execution, and the violation is a line."""
    story, shown = _overview(waits_long)
    assert shown is not None
    own = [number for number, each in enumerate(story.steps) if each.actor]
    assert [each["step"] for each in shown["marks"]] == own[:-1]
    assert story.steps[own[-1]].is_violation


def test_what_is_held_is_as_long_as_it_is_held() -> None:
    """From the first event at which it is to the first at which it is no more."""
    _, shown = _overview(waits_long)
    assert shown is not None
    (held,) = shown["held"]
    margin = shown["margin"]
    assert held["from"] == margin + (100 - 2 * margin) / 4
    assert round(held["from"] + held["width"], 2) == 100 - margin


def test_each_actor_has_a_row_with_its_name() -> None:
    """Its events stand in that row; what has no column of its own is together in the last."""
    _, shown = _overview(waits_long)
    assert shown is not None
    assert {"a", "b"} < set(shown["names"])
    of_row = {shown["names"].index(who) * shown["row"]: who for who in ("a", "b")}
    marks = [each for each in shown["marks"] if each["y"] in of_row]
    assert len(marks) > 2
    assert all(f"s, {of_row[each['y']]}: " in each["says"] for each in marks)
    assert all(each["y"] < shown["height"] for each in shown["marks"])


def test_one_instant_needs_none() -> None:
    """Where all happens at once there is nothing to see."""
    _, shown = _overview(slot_that_is_lost)
    assert shown is None


def test_times_on_the_axis_are_round() -> None:
    """1, 2 or 5 of a power of ten, and no finer than was asked for."""
    steps = [_round_step(each) for each in (0.0009, 0.011, 0.3, 0.9, 1.0, 3.7, 70.0)]
    assert [f"{each:g}" for each in steps] == ["0.001", "0.02", "0.5", "1", "1", "5", "100"]


def test_it_stands_in_the_page_without_scripts() -> None:
    """As SVG with a text for each event, which hides nothing that a program says."""
    report = explore(waits_long)
    assert report.counterexample is not None
    told = Told.of("it", story_of(waits_long, report.counterexample))
    html = Page("it", report.verdict, stories=[told]).html
    assert html.count("<title>") == 1 + sum(bool(each.actor) for each in told.story.steps) - 1
    assert "<title>4.000 s, a: is here</title>" in html
    assert 'aria-label="all events on one axis of time, to 4.000 s"' in html
