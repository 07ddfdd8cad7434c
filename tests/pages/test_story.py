"""What a page tells: steps, who caused them, how things stood, and what passes beside it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sim import World, explore
from sim.kernel.execution import Program
from sim.pages.chart import causes
from sim.pages.page import Told
from sim.pages.story import Step, Story, story_of
from sim.replay import subject_of
from tests.pages.programs import always_fails, late_or_not, slot_that_is_lost


def _story(program: Program, **options: object) -> Story:
    found = explore(program, **options).counterexample  # type: ignore[arg-type]
    assert found is not None
    return story_of(program, found)


def _step(story: Story, actor: str, text: str) -> Step:
    (step,) = [
        each for each in story.steps if (each.actor, each.text.split(" (")[0]) == (actor, text)
    ]
    return step


def test_a_departure_stands_where_it_was_taken() -> None:
    """The step has the choice point: its options, the natural one first, and what was taken."""
    story = _story(slot_that_is_lost)
    (departure,) = story.departures
    step = _step(story, "outside", "the client leaves")
    (choice,) = step.moment.choices
    assert choice.index == departure.index
    assert choice.options[:2] == ("the model answers", "the client leaves")
    assert (choice.taken, choice.cost) == (1, 1)


def test_a_step_shows_how_things_stood() -> None:
    """Each task with what it waits for, what is ready, and the line of the program."""
    story = _story(slot_that_is_lost)
    moment = _step(story, "outside", "the client leaves").moment
    waits = dict(moment.tasks)
    assert waits["answer"].endswith("for «the model answers»")
    assert waits["program"].endswith("for «the client leaves»")
    assert moment.place is not None
    assert (
        'world.outside("the client leaves")' in story.sources[moment.place.file][moment.place.line]
    )
    cancelled = _step(story, "answer", "is cancelled by program").moment
    assert cancelled.ready == ["a step of answer"]


def test_a_label_stands_at_each_step_that_reached_it() -> None:
    """Not at the first alone: a row of a protocol's table is taken again and again."""

    async def ticks(world: World) -> None:
        for number in range(3):
            await asyncio.sleep(1)
            world.reached("tick")
            world.record(f"tick {number}")
        world.check(False, "it goes on")

    labels = [each.moment.labels for each in _story(ticks).steps if each.text.startswith("tick")]
    assert labels == [["tick"]] * 3


def test_labels_stand_where_they_were_reached() -> None:
    """A label belongs to the step that reached it, and to no other."""
    story = _story(slot_that_is_lost)
    assert [each.moment.labels for each in story.steps if each.moment.labels] == [
        ["the client has left"]
    ]


def test_an_arrow_leads_from_what_caused_a_step() -> None:
    """From the event to the task that it wakes, and from who cancels to who is cancelled."""
    story = _story(slot_that_is_lost)
    arrows = {
        (story.steps[cause].text.split(" (")[0], step.text.split(" (")[0])
        for step, cause in zip(story.steps, causes(story, is_few=False), strict=True)
        if cause is not None
    }
    assert ("the client leaves", "goes on in slot_that_is_lost") in arrows
    assert ("goes on in slot_that_is_lost", "is cancelled by program") in arrows
    assert ("the model answers", "goes on in answer") in arrows


def test_a_moment_has_what_is_held_then() -> None:
    """As the program shows it, from row to row; to ask runs no line of the program's."""

    async def holds(world: World) -> None:
        held: dict[str, str] = {}

        def holding() -> dict[str, str]:
            return dict(held)

        world.shows(holding)
        world.record("waits", actor="a")
        held["a"] = "has the slot"
        world.record("goes on", actor="a")
        await asyncio.sleep(1)
        world.check(False, "it never ends")

    story = _story(holds)
    rows = [each.moment.held for each in story.steps if each.actor == "a" or each.is_violation]
    assert rows == [{}, {"a": "has the slot"}, {"a": "has the slot"}]
    functions = {each.moment.place.function for each in story.steps if each.moment.place}
    assert "holding" not in functions


@pytest.mark.parametrize(
    ("subject", "held"),
    [
        ("registry:racing_registers:quick_fix", {"p2": "is active", "p3": "is active"}),
        (
            "server:second_prompt.async:mutant-agent_is_not_ended_before_pop",
            dict.fromkeys(("p1", "agent-t1", "p2", "agent-t2"), "its call to Ollama is open"),
        ),
        (
            "cluster:pause:mutant-lease_is_dated_from_the_reply",
            dict.fromkeys(("v/1", "w/2"), "its gate is open"),
        ),
    ],
)
def test_what_overlaps_is_held_at_the_violation(subject: str, held: dict[str, str]) -> None:
    """Of each level the two that must not be so at once, of which one was before."""
    with subject_of(subject) as found:
        report = explore(found, strategy="departures", max_executions=300)
        assert report.counterexample is not None
        story = story_of(found.program, report.counterexample)
    (last,) = [each for each in story.steps if each.is_violation]
    assert last.moment.held == held
    assert any(each.moment.held for each in story.steps if not each.is_violation)


def test_actors_are_called_alike_everywhere() -> None:
    """In rows, departures, choices and what passes by the names that a reader knows."""
    report = explore(slot_that_is_lost)
    assert report.counterexample is not None
    renamed = story_of(
        slot_that_is_lost, report.counterexample, lambda text, _: text.replace("client", "caller")
    )
    choices = [
        option for step in renamed.steps for each in step.moment.choices for option in each.options
    ]
    said = [each.words for each in renamed.departures] + [each.text for each in renamed.steps]
    assert "«the caller leaves» lands before «the model answers»" in said
    assert "the caller leaves" in said
    assert "the caller leaves" in choices
    assert not any("client" in text for text in [*said, *choices, renamed.passing])


def test_what_passes_stands_beside_it() -> None:
    """The same steps share a row; one that only the passing execution takes has its own."""
    story = _story(slot_that_is_lost)
    assert story.passing == "without departure 1"
    first = next(each for each in story.steps if each.is_first_difference)
    assert first.text == "the client leaves"
    alone = [each.there for each in story.steps if not each.actor]
    assert "answer: ends" in alone
    assert story.steps[0].there == f"{story.steps[0].actor}: {story.steps[0].text}"


def test_nothing_passes_where_nothing_can() -> None:
    """Then no row has anything beside it."""
    story = _story(always_fails)
    assert story.passing == ""
    assert {each.there for each in story.steps} == {None}
    assert story.seen == "it does not"


def test_what_only_the_passing_execution_does_is_hidden_where_it_is_ordinary() -> None:
    """It stands among all steps; what it records is shown, and so is the first difference."""
    report = explore(late_or_not)
    assert report.counterexample is not None
    there = [each for each in story_of(late_or_not, report.counterexample).steps if not each.actor]
    assert any(each.is_minor for each in there)
    assert all("goes on" in str(each.there) for each in there if each.is_minor)


def test_an_isolated_counterexample_tells_the_same() -> None:
    """It is replayed in a fork of its own, and what it tells comes back."""
    isolated, plain = (_story(slot_that_is_lost, isolate=each) for each in (True, False))
    assert isolated.steps == plain.steps
    assert isolated.departures == plain.departures


def test_the_violation_is_the_last_step() -> None:
    """At the line that checked it, in the lane of who did."""
    last = _story(always_fails).steps[-1]
    assert last.is_violation
    assert last.actor == "program"
    assert last.moment.place is not None
    assert last.moment.place.function == "always_fails"


def test_rows_of_tasks_are_minor_where_the_program_records_its_own() -> None:
    """They are hidden at first, as in the text; an arrow then begins where something is seen."""

    async def program(world: World) -> None:
        await world.outside("it comes")
        world.record("has come", actor="door")
        world.check(False, "nobody comes")

    story = _story(program)
    assert [each.text for each in story.steps if not each.is_minor] == [
        "it comes",
        "has come",
        "VIOLATED",
    ]
    few = causes(story, is_few=True)
    has_come = next(at for at, each in enumerate(story.steps) if each.text == "has come")
    assert story.steps[few[has_come] or -1].text in ("it comes", "VIOLATED")
    assert Told.of("", story).commands[0][1].startswith("onestream replay ")


def test_a_thread_stands_at_its_own_line() -> None:
    """And not where the thread that let it go on stands."""

    async def program(world: World) -> None:
        seen: list[int] = []
        thread = threading.Thread(target=_appends, args=(seen,))
        thread.start()
        thread.join()
        world.check(len(seen) > 1, "two were seen")

    story = _story(program)
    places = {
        each.text.split(" ")[0]: each.moment.place and each.moment.place.function
        for each in story.steps
        if each.actor.startswith("Thread-")
    }
    assert places == {"begins": "_appends", "ends": "_appends"}


def _appends(seen: list[int]) -> None:
    seen.append(1)


def test_a_deadlock_stands_at_no_line_of_who_started_it() -> None:
    """Nobody runs when nothing can go on: what each task waits for says where."""

    async def program(world: World) -> None:
        await asyncio.Event().wait()

    last = _story(program).steps[-1]
    assert last.is_violation
    assert last.moment.place is None
    assert last.moment.tasks[0][1].startswith("waits in program")
