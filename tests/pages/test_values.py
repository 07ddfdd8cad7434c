"""Values at a step: what the program shows, or its variables, and what a step changed."""

from __future__ import annotations

import asyncio
import sys
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from sim import World, explore
from sim.kernel.execution import Program
from sim.pages.chart import changed_by
from sim.pages.page import Page, Told
from sim.pages.story import Story, story_of
from sim.pages.values import TEXT_MAX, Change, changes, text_of
from sim.replay import subject_of
from tests.pages.programs import two_withdrawals


def _story(program: Program) -> Story:
    report = explore(program)
    assert report.counterexample is not None
    return story_of(program, report.counterexample)


def _last(story: Story) -> dict[tuple[str, str], str]:
    """What stands at the violation."""
    return next(each.moment.values for each in story.steps if each.is_violation)


class Account:
    def __init__(self) -> None:
        self.balance = 100
        self.waiting: deque[str] = deque()

    async def withdraw(self, world: World) -> None:
        self.waiting.append("me")
        await world.outside("the bank confirms")
        self.balance -= 10
        world.check(self.balance == 100, "nothing is taken")


async def object_that_changes(world: World) -> None:
    """What changes is an attribute."""
    await Account().withdraw(world)


class Hostile:
    """What asks it anything fails."""

    def __init__(self) -> None:
        object.__setattr__(self, "kept", 1)

    def __repr__(self) -> str:
        raise AssertionError("asked for its text")

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    @property
    def asked(self) -> int:
        raise AssertionError("asked for a property")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("compared")

    __hash__ = object.__hash__


class HostileList(list[int]):
    def __iter__(self) -> Any:
        raise AssertionError("iterated")

    def __len__(self) -> int:
        raise AssertionError("counted")


class HostileDict(dict[str, int]):
    def items(self) -> Any:
        raise AssertionError("iterated")


def test_a_step_has_the_values_after_it_and_what_it_changed() -> None:
    """A variable of the program that two tasks share stands once, and is told where it changes."""
    story = _story(two_withdrawals)
    told = {
        (each.owner, each.name): []  # type: ignore[var-annotated]
        for changed in changed_by(story)
        for each in changed
    }
    for changed in changed_by(story):
        for each in changed:
            told[each.owner, each.name].append(each.text)
    assert told["program", "balance"] == ["100", "90"]
    assert told["withdraw 1", "seen"] == ["100", None]
    assert [owner for owner, name in told if name == "balance"] == ["program"]


def test_attributes_of_an_object_stand_under_its_class() -> None:
    """Of `self`, whose method stands somewhere, at the violation with what they are then."""
    values = _last(_story(object_that_changes))
    assert values["Account", "balance"] == "90"
    assert values["Account", "waiting"] == "['me']"
    assert not any(name in ("self", "world") for _, name in values)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (lambda: Hostile(), "Hostile(kept=1)"),
        (lambda: HostileList([1, 2]), "[1, 2]"),
        (lambda: HostileDict(a=1), "{'a': 1}"),
        (lambda: [Hostile()], "[Hostile(kept=1)]"),
    ],
)
def test_nobody_is_asked(made: Callable[[], object], text: str) -> None:
    """No `__repr__`, property, `__getattribute__` or method of a subclass runs for its text."""
    assert text_of(made()) == text


class Colour(Enum):
    RED = 1


@dataclass(slots=True)
class Slotted:
    at: int
    unset: int


def _with_one_slot() -> Slotted:
    slotted = Slotted(1, 2)
    del slotted.unset
    return slotted


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, (2, None)]}, "{'a': [1, (2, None)]}"),
        (deque("ab"), "['a', 'b']"),
        ({"b", "a"}, "{'a', 'b'}"),
        (OrderedDict(a=1), "{'a': 1}"),
        (defaultdict(list, a=[]), "{'a': []}"),
        (list(range(9)), "[0, 1, 2, 3, 4, 5, …]"),
        ([[[[1]]]], "[[[[…]]]]"),
        (Colour.RED, "Colour.RED"),
        (_with_one_slot(), "Slotted(at=1)"),
        (0.1 + 0.2, "0.3"),
        (2**400, "an int of 401 bits"),
        (ValueError("no"), "ValueError"),
        (sys, "module"),
        (iter([1]), "list_iterator"),
        ((each for each in ()), "generator"),
    ],
)
def test_a_value_as_text(value: object, text: str) -> None:
    """Containers by their contents, to some depth and number; of a class what its objects have."""
    assert text_of(value) == text


def test_a_long_value_is_cut() -> None:
    """To what a page can show, however long it is."""
    assert len(text_of("x" * 10_000)) == TEXT_MAX
    assert len(text_of({str(each) * 50: "y" * 1_000 for each in range(5)})) == TEXT_MAX


def test_what_is_gone_is_told() -> None:
    """Before what is new, and what stays as it is not at all."""
    before = {("a", "x"): "1", ("a", "y"): "2", ("b", "z"): "3"}
    now = {("a", "x"): "1", ("a", "y"): "4"}
    assert changes(before, now) == [Change("b", "z", None), Change("a", "y", "4")]


async def asyncios_own(world: World) -> None:
    """A future, an event, a lock and a semaphore, each in a state."""
    future = world.loop.create_future()  # noqa: F841
    event, lock, slots = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2)
    event.set()
    await lock.acquire()
    await slots.acquire()
    world.check(False, "never")


def test_what_asyncio_has_is_told_by_its_state() -> None:
    """Whether it is done, set, locked, and how much of it is free."""
    values = {name: text for (_, name), text in _last(_story(asyncios_own)).items()}
    assert values == {
        "future": "future, pending",
        "event": "set",
        "lock": "locked",
        "slots": "1 free",
    }


@pytest.mark.parametrize(
    ("subject", "name", "text"),
    [
        (
            "registry:second_prompt:mutant-second_is_let_in_beside_the_first",
            "p1",
            "ACTIVE, session s, token 1",
        ),
        ("cluster:pause:mutant-lease_is_dated_from_the_reply", "v/1", "gate open: lease until"),
        (
            "cluster:pause:mutant-lease_is_dated_from_the_reply",
            "store, session s",
            "w/2 holds it until",
        ),
    ],
)
def test_the_bench_shows_its_table(subject: str, name: str, text: str) -> None:
    """The streams of a registry with their states; the store's record and each worker's gate."""
    with subject_of(subject) as found:
        report = explore(found.program, strategy="departures", max_executions=300)
        assert report.counterexample is not None
        story = story_of(found.program, report.counterexample)
    assert _last(story)["", name].startswith(text)


class Thing:
    pass


async def thing_that_is_dropped(world: World) -> None:
    """It is gone in the step in which the program drops it."""
    thing = Thing()
    kept = weakref.ref(thing)
    await world.outside("it comes")
    del thing
    world.check(kept() is not None, "it is kept")


def test_to_look_at_a_variable_keeps_nothing_alive() -> None:
    """Before 3.13 what is read of a frame's variables stays in it: then the page does without."""
    story = _story(thing_that_is_dropped)
    assert any(each.is_violation for each in story.steps)


def test_what_changed_last_stands_above_the_chart() -> None:
    """What it was and what it is, as text, unless a row that is shown has changed it."""

    async def shut_and_open(world: World) -> None:
        gate = ["shut"]
        world.shows(dict, lambda: {"gate": gate[0], **({"new": "1"} if gate[0] == "open" else {})})
        await world.outside("it is opened", latest=1)
        world.record("opens", actor="a")
        gate[0] = "open"
        world.check(False, "the gate stays shut")

    report = explore(shut_and_open)
    assert report.counterexample is not None
    story = story_of(shut_and_open, report.counterexample)
    before = story.steps[-2].moment.values["", "gate"], story.steps[-1].moment.values["", "gate"]
    assert before == ("shut", "open")
    html = Page("it", report.verdict, stories=[Told.of("it", story)]).html
    assert "Changed in its last step" not in html

    async def opened_in_between(world: World) -> None:
        gate = ["shut"]
        world.shows(dict, lambda: {"gate": gate[0]})
        world.record("is shut", actor="a")
        world.record("is shut still", actor="a")
        world.record("opens", actor="b", is_chatter=True)
        gate[0] = "open"
        world.record("is open", actor="b", is_chatter=True)
        world.check(False, "the gate stays shut")

    report = explore(opened_in_between)
    assert report.counterexample is not None
    story = story_of(opened_in_between, report.counterexample)
    html = Page("it", report.verdict, stories=[Told.of("it", story)]).html
    assert "<b> gate</b> <span><del>shut</del> → open</span>" in html
