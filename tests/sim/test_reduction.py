"""One execution per class: the counts that are known, and the same answers as plain search."""

from __future__ import annotations

import asyncio
import contextlib
import math

import pytest

from sim import World, explore
from sim.exploration.report import Report
from sim.kernel.execution import Program
from sim.schedulers import DepthFirst, Reduced
from tests.sim.declared_programs import (
    RandomProgram,
    lastzero,
    prompts_of,
    readers,
    three_by_three,
)


def reduced(
    program: Program, *, linearises: bool = False, max_executions: int = 20_000
) -> tuple[Reduced, Report]:
    """The search and its verdict; without the further executions unless they are wanted."""
    search = Reduced(DepthFirst(), linearises=linearises)
    report = explore(program, strategy=search, max_executions=max_executions)
    return search, report


def counts(program: Program) -> tuple[int, int]:
    """How many classes there are, and how many executions were cut short."""
    search, report = reduced(program)
    assert search.unsupported_reason is None
    assert report.verdict == "proved", report.text
    assert report.executions == search.classes + search.cut
    return search.classes, search.cut


thorough, soak = pytest.mark.thorough, pytest.mark.soak


@pytest.mark.parametrize(
    "count", [1, 2, 3, 6, pytest.param(9, marks=thorough), pytest.param(12, marks=soak)]
)
def test_readers(count: int) -> None:
    """Each reader comes before or after the writer: 2ⁿ classes, and no execution more."""
    assert counts(readers(count)) == (2**count, 0)


@pytest.mark.parametrize(
    "count", [2, 3, 4, 5, pytest.param(8, marks=thorough), pytest.param(10, marks=soak)]
)
def test_lastzero(count: int) -> None:
    """(n + 3)·2ⁿ⁻² classes, and no execution more, where each step touches what it must."""
    assert counts(lastzero(count, step_by_step=True)) == ((count + 3) * 2 ** (count - 2), 0)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_lastzero_in_one_step(count: int) -> None:
    """A step that reads one place or several, by what it finds, has as many classes.

    Which places it will read is not known before, so some executions are cut short.
    """
    classes, cut = counts(lastzero(count, step_by_step=False))
    assert classes == (count + 3) * 2 ** (count - 2)
    assert cut < classes


@pytest.mark.parametrize(
    ("shared_steps", "classes"),
    [
        pytest.param((), 1, id="0"),
        pytest.param((1,), 6, id="1"),
        pytest.param((0, 1), 90, id="2"),
        pytest.param((0, 1, 2), 1680, id="3", marks=thorough),
    ],
)
def test_three_by_three(shared_steps: tuple[int, ...], classes: int) -> None:
    """3 × 3 steps: independent 1, one shared write each 3!, two 6!/(2!)³, all shared 9!/(3!)³."""
    assert counts(three_by_three(lambda step: step in shared_steps)) == (classes, 0)


def test_independent_sessions_of_the_registry_make_one_class() -> None:
    """Production's own code: what comes first matters only within a session."""
    for count in (2, 3, 4):
        names = [f"s{number}" for number in range(count)]
        assert counts(prompts_of(names)) == (1, 0)
        assert counts(prompts_of(["s"] * count)) == (math.factorial(count), 0)
    assert counts(prompts_of(["s1", "s1", "s2", "s2"])) == (4, 0)
    plain = explore(prompts_of(["s1", "s2", "s3"]), strategy="depth-first", max_executions=1000)
    assert plain.executions == 96


@pytest.mark.parametrize(
    "program", [three_by_three(lambda step: False), prompts_of(["a", "b", "c"])]
)
def test_who_ends_last_is_nobodys_choice(program: Program) -> None:
    """One class is one, whichever of a group of tasks ends last, in whichever order it runs."""
    for seed in range(20):
        report = explore(program, strategy="reduced", seed=seed, max_executions=100)
        assert report.verdict == "proved", report.reason


@pytest.mark.parametrize("programs", [20, pytest.param(80, marks=thorough)])
def test_same_answers_as_plain_search(programs: int) -> None:
    """On random programs the reduced search comes to every end that plain search comes to.

    Among them are some where chains are too coarse, so that it falls back, and some where not.
    """
    fell_back, classes, executions = 0, 0, 0
    for seed in range(programs):
        program = RandomProgram(seed)
        plain = explore(program, strategy="depth-first", max_executions=150)
        if plain.verdict != "proved":
            continue
        search, report = reduced(program, linearises=True)
        assert report.verdict == "proved", f"seed {seed}: {report.text}"
        assert report.labels == plain.labels, f"seed {seed}: {program.scripts}"
        if search.unsupported_reason is not None:
            fell_back += 1
        else:
            classes += search.classes
            executions += plain.executions
    assert fell_back >= programs / 8
    assert classes >= programs / 4
    assert executions > 20 * classes


def test_a_violation_in_one_order_is_found() -> None:
    """What only one class shows is found, with a schedule that replays without the reduction."""

    async def program(world: World) -> None:
        seen = []

        async def actor(name: str) -> None:
            await world.outside(name)
            world.shared("seen").write()
            seen.append(name)

        await asyncio.gather(*(actor(name) for name in "abc"))
        world.check(seen != ["c", "a", "b"], "c, a, b is not the order")

    _, report = reduced(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    replayed = report.counterexample.replay(program)
    assert replayed.violation is not None
    assert replayed.violation.property == "c, a, b is not the order"


def test_a_wrong_declaration_is_an_error() -> None:
    """Actors that share more than they declare are found out by another linearisation."""

    async def program(world: World) -> None:
        seen = []

        async def actor(name: str) -> None:
            await world.outside(name)
            seen.append(name)

        await asyncio.gather(*(actor(name) for name in "abcdef"))
        world.reached("".join(seen))

    _, report = reduced(program, linearises=True)
    assert report.verdict == "error"
    assert "share more than" in report.reason


@pytest.mark.parametrize("end", ["result", "exception", "cancel"])
def test_a_future_ends_in_any_way(end: str) -> None:
    """A task goes on after a future that has a result, an exception, or was cancelled."""

    async def program(world: World) -> None:
        future = asyncio.get_running_loop().create_future()

        async def ends_it() -> None:
            await world.outside("end")
            match end:
                case "result":
                    future.set_result(None)
                case "exception":
                    future.set_exception(ValueError())
                case "cancel":
                    future.cancel()

        ending = asyncio.ensure_future(ends_it())
        with contextlib.suppress(ValueError, asyncio.CancelledError):
            await future
        await ending

    assert counts(program) == (1, 0)


@pytest.mark.parametrize("what", ["timer", "two steps", "thread", "late step"])
def test_falls_back_where_chains_are_too_coarse(what: str) -> None:
    """Clocks, threads and chains that others see in the middle are left to the plain search."""

    async def actor(world: World, name: str) -> None:
        await world.outside(name)
        world.shared("x").write()
        match what:
            case "timer":
                await asyncio.sleep(0.1)
            case "two steps":
                await asyncio.sleep(0)
                world.shared("x").write()
            case "thread":
                await asyncio.to_thread(int)
            case "late step":
                asyncio.get_running_loop().call_soon(world.shared("x").write)

    async def program(world: World) -> None:
        await asyncio.gather(actor(world, "a"), actor(world, "b"))

    search, report = reduced(program, max_executions=20)
    assert search.unsupported_reason is not None
    assert search.unsupported_reason in report.strategy
    assert report.executions > 2


def test_a_proof_names_what_it_assumes() -> None:
    """The declaration is the proof's assumption, so the verdict says what was declared."""

    async def program(world: World) -> None:
        async def work(name: str) -> None:
            await world.outside(name, latest=0.0)
            world.shared("balance").write()

        await asyncio.gather(work("a"), work("b"))

    _, report = reduced(program)
    assert report.claim == (
        "every class of schedules (2), if the actors share balance and asyncio's own objects alone"
    )
