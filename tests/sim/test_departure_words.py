"""Departures in sentences, and how events of one name are told apart."""

from __future__ import annotations

import asyncio
import re

from sim import World, explore
from sim.counterexamples.departures import Words, steps_of
from sim.kernel.execution import Program
from sim.kernel.recording import Departure, EventName
from sim.kernel.schedule import NO_MORE


def landing(chosen: str, *passed_over: str, cost: int = 0) -> Departure:
    events = tuple(EventName(name, 1) for name in passed_over)
    return Departure(0, 1, "landing", 0.0, EventName(chosen, 1), events, cost)


def waiting(*kept: str, cost: int = 0) -> Departure:
    return landing(NO_MORE.name, *kept, cost=cost)


def sentence(*departures: Departure, shared: frozenset[str] = frozenset()) -> str:
    (step,) = steps_of(list(departures))
    return Words(shared).of_step(step)


def test_what_lands_during_a_wait_comes_in_its_order() -> None:
    """First what is kept waiting, then what lands meanwhile, and before which of the others."""
    assert sentence(
        waiting("third comes", "the second is cancelled", cost=1),
        landing("the second is cancelled", "third comes"),
        landing("first is through", "third comes"),
    ) == (
        "«third comes» and «the second is cancelled» are kept waiting for one poll; then «the "
        "second is cancelled» and «first is through» land before «third comes»"
    )


def test_who_waits_for_how_long() -> None:
    """Events that wait for different numbers of polls are named apart, as are two waits in one."""
    assert sentence(waiting("a", cost=1), waiting("a", "b"), waiting("a", "b", "c")) == (
        "«a» is kept waiting for 3 polls, «b» for 2 polls, «c» for one poll"
    )
    assert sentence(waiting("a", "b", cost=1), landing("b", "a"), waiting("a")) == (
        "«a» and «b» are kept waiting for one poll; then «b» lands before «a»; then «a» is kept "
        "waiting for one poll"
    )


def test_what_lands_later_all_the_same_is_not_overtaken() -> None:
    """Of c and then b, which land before a, c has not overtaken b in the end."""
    first, then = landing("c", "a", "b"), landing("b", "a")
    assert sentence(waiting("a", "b", "c", cost=1), first, then).endswith(
        "; then «c» and «b» land before «a»"
    )
    assert sentence(landing("e", "a", "b", "c", "d", cost=1)) == (
        "«e» lands before «a», «b», «c» and 1 more"
    )


def test_events_of_one_name_are_numbered() -> None:
    """In the order in which they were announced, and alike in departures, rows and differences."""

    async def program(world: World) -> None:
        answers: list[int] = []

        async def asks(number: int) -> None:
            await world.outside("the answer to ADD")
            answers.append(number)

        async def other() -> None:
            await world.outside("another comes")

        await asyncio.gather(asks(1), other(), asks(2))
        world.check(answers == [1, 2], "answers come in the order of their questions")

    lines = text_of(program).splitlines()
    overtakes = "«the answer to ADD #2» lands before «the answer to ADD #1» and «another comes»"
    assert f"  1. at 0.000 s: {overtakes}" in lines
    rows = [" ".join(re.split(r"[ │]+", line[9:])).strip() for line in lines]
    assert "≠ the answer to ADD #2" in rows
    assert "the answer to ADD #1" in rows
    assert "  here:  0.000 s, outside: the answer to ADD #2" in lines
    assert "another comes" in rows, "what has a name of its own has no number"


def test_a_name_that_only_the_passing_execution_repeats_is_numbered_in_both() -> None:
    """Otherwise the two would differ in a name."""

    async def program(world: World) -> None:
        await world.outside("the answer comes")
        world.check(world.choose("the answer", ["no", "yes"]) == "yes", "it is yes")
        await world.outside("the answer comes")

    text = text_of(program)
    assert "the answer comes #1" in text
    assert "there: 0.000 s, outside: the answer comes #2" in text


def text_of(program: Program) -> str:
    report = explore(program, max_executions=2000)
    assert report.counterexample is not None, report.text
    return report.counterexample.text
