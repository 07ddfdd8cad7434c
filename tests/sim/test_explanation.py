"""How a counterexample reads: lanes, the first difference, who waits for whom, who spins."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest

from sim import World, explore
from sim.check import check
from sim.execution import Program
from sim.explanation import LINES_MAX, WIDTH_MAX


def text_of(program: Program) -> str:
    report = explore(program, max_executions=5000)
    assert report.counterexample is not None, report.text
    return report.counterexample.text


def assert_fits(text: str) -> None:
    """Only the schedule in the last line may run over."""
    *lines, last = text.splitlines()
    assert len(lines) < LINES_MAX
    assert max(map(len, lines)) <= WIDTH_MAX
    assert last.startswith("replay: onestream replay os1/")


def actors(count: int, lines_each: int) -> Program:
    async def program(world: World) -> None:
        for serial in range(lines_each):
            for number in range(count):
                world.record(f"does its part {serial} " + "and more " * serial, actor=f"a{number}")
        world.check(False, "never so")

    return program


@pytest.mark.parametrize("count", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("lines_each", [1, 12])
def test_fits_a_screen(count: int, lines_each: int) -> None:
    """At most 40 lines of 100 columns, for one actor and for thirty, whatever they do."""
    text = text_of(actors(count, lines_each))
    assert_fits(text)
    assert "VIOLATED" in text
    if count * lines_each > LINES_MAX:
        assert "lines before" in text


def test_each_actor_has_its_lane() -> None:
    """What an actor did begins in the column under its name; who shares a lane is named."""
    lines = text_of(actors(3, 2)).splitlines()
    header = next(line for line in lines if "a0" in line and "a2" in line)
    for name in ("a0", "a1", "a2"):
        column = header.index(name)
        mine = [line for line in lines if line[column:].startswith("does its part")]
        assert len(mine) == 2
    crowd = text_of(actors(30, 1))
    assert "a29: does its part" in crowd


def test_published_registries_explained_in_a_screen() -> None:
    """Every counterexample of the published registries fits, at both levels."""
    texts = []
    for level, name in (("registry", "racing_registers"), ("server", "hung_upstream.thread")):
        verdict = check(level=level, scenario=name, registry="quick_fix")
        texts += [each.report.counterexample for each in verdict.results]
    assert [each is not None for each in texts] == [True, True]
    for found in texts:
        assert found is not None
        assert_fits(found.text)


def test_the_first_difference_from_a_passing_execution() -> None:
    """It names what the passing execution does otherwise, and where the two part."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def actor(name: str) -> None:
            await world.outside(f"{name} comes")
            world.record("goes", actor=name)
            order.append(name)

        await asyncio.gather(actor("a"), actor("b"))
        world.check(order == ["a", "b"], "a goes first")

    text = text_of(program)
    assert_fits(text)
    assert "departures (1 in" in text
    assert "nearest passing execution (without the departure that «b comes»" in text
    assert "first difference, after 0 lines that are the same" in text
    assert "here:  0.000 s, outside: b comes" in text
    assert "there: 0.000 s, outside: a comes" in text


def test_a_natural_violation_has_a_passing_neighbour_with_a_departure() -> None:
    """Where natural order itself violates, one departure more may pass, and is told."""

    async def program(world: World) -> None:
        order: list[str] = []

        async def actor(name: str) -> None:
            await world.outside(f"{name} comes")
            order.append(name)

        await asyncio.gather(actor("a"), actor("b"))
        world.check(order == ["b", "a"], "b goes first")

    text = text_of(program)
    assert "none: it happens in natural order" in text
    assert "nearest passing execution (with one departure" in text


def test_no_passing_execution_is_said() -> None:
    """What always fails has no passing neighbour, and the text does not make one up."""
    assert "no passing execution is near: 0 were tried" in text_of(actors(1, 1))


def test_a_deadlock_names_the_circle() -> None:
    """Two locks taken in different orders: who waits, in which line, for whom, and the circle."""

    async def program(world: World) -> None:
        first, second = asyncio.Lock(), asyncio.Lock()

        async def actor(name: str, one: asyncio.Lock, other: asyncio.Lock) -> None:
            await world.outside(name)
            async with one:
                await asyncio.sleep(0)
                async with other:
                    pass

        async with asyncio.TaskGroup() as group:
            group.create_task(actor("a", first, second), name="a")
            group.create_task(actor("b", second, first), name="b")

    text = " ".join(text_of(program).split())
    assert "a waits in actor (test_explanation.py:" in text
    assert "`async with other:`) for b" in text
    assert "in a circle: a → b → a" in text


def test_tasks_that_await_each_other_are_a_circle() -> None:
    """A circle of tasks that await each other is told as one."""

    async def program(world: World) -> None:
        tasks: dict[str, asyncio.Task[None]] = {}

        async def actor(other: str) -> None:
            await asyncio.sleep(0)
            await tasks[other]

        for name, other in ("ab", "bc", "ca"):
            tasks[name] = asyncio.create_task(actor(other), name=name)
        await asyncio.wait(tasks.values())

    text = " ".join(text_of(program).split())
    assert "in a circle: a → b → c → a" in text


def test_a_livelock_names_who_spins() -> None:
    """Who polls without end is named, with how often it ran, and its line."""

    async def program(world: World) -> None:
        done: list[bool] = []

        async def poller() -> None:
            while not done:  # noqa: ASYNC110 - a livelock is meant
                await asyncio.sleep(0)

        await asyncio.create_task(poller(), name="poller")

    text = " ".join(text_of(program).split())
    assert "poller ran 200 times" in text
    assert "poller waits in poller (test_explanation.py:" in text


def test_where_it_was_checked() -> None:
    """The text names the place of the check that failed."""
    assert "checked in program (test_explanation.py:" in text_of(actors(1, 1))


def test_the_counterexample_of_the_readme() -> None:
    """README shows what the command prints, but for the digest and the number of the line."""
    verdict = check(scenario="racing_registers", registry="quick_fix")
    found = verdict.results[0].report.counterexample
    assert found is not None
    *lines, replay = found.text.splitlines()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert _without_numbers("\n".join(lines)) in _without_numbers(readme)
    assert replay.rpartition("/")[0].rpartition("/")[0] in readme


def _without_numbers(text: str) -> str:
    return re.sub(r"(\.py):\d+", r"\1", text)
