"""What no program should do, and what is not one: a verdict or an error that says so."""

from __future__ import annotations

import asyncio
import functools
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from sim import World, explore, outcomes, run
from sim.kernel.errors import NotAProgram
from sim.schedulers import NaturalOrder

Program = Callable[[World], Awaitable[object]]


# ---- exits -----------------------------------------------------------------------------------


async def exits(world: World) -> None:
    sys.exit(3)


async def a_task_exits(world: World) -> None:
    async def leaves() -> None:
        raise SystemExit("enough")

    task = asyncio.create_task(leaves())
    await asyncio.sleep(1)
    await task


async def a_callback_exits(world: World) -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 2)
    await asyncio.sleep(1)


async def a_job_exits(world: World) -> None:
    await asyncio.to_thread(sys.exit, 4)


async def interrupts(world: World) -> None:
    raise KeyboardInterrupt


async def cleans_up_with_an_exit(world: World) -> None:
    async def leaves() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            sys.exit(5)

    asyncio.create_task(leaves(), name="leaves")  # noqa: RUF006
    await world.outside("the program ends", latest=1.0)


LEAVE = [exits, a_task_exits, a_callback_exits, a_job_exits, interrupts]


def leaves_stock(program: Any) -> bool:
    """Whether it ends stock asyncio with an exit or an interrupt, which no `except` there stops."""
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        asyncio.run(program(None))
    return True


@pytest.mark.parametrize("program", LEAVE)
def test_who_leaves_the_process_is_refuted(program: Program) -> None:
    """The exit ends stock asyncio's loop, wherever it is raised; here it refutes, and is named."""
    report = explore(program)
    assert leaves_stock(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "the program ends without an exception"
    assert ("KeyboardInterrupt" if program is interrupts else "SystemExit") in report.text


def test_who_leaves_while_it_is_drained_is_no_violation() -> None:
    """The draining is not part of an execution: what is raised in it ends nothing."""
    report = explore(cleans_up_with_an_exit)
    assert report.verdict == "proved", report.text


def test_an_exit_leaves_nothing_behind() -> None:
    """What else ran when a task left is drained: the next execution is as the first."""

    async def program(world: World) -> None:
        other = asyncio.create_task(asyncio.sleep(100))
        if world.choose("who", ["nobody", "somebody"]) == "somebody":
            sys.exit()
        other.cancel()

    report = explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.executions == 2
    assert run(program).violation is None


# ---- the world, misused ----------------------------------------------------------------------


async def chooses_among_none(world: World) -> None:
    world.choose("the size", [])


async def begins_in_the_past(world: World) -> None:
    await world.outside("it comes", earliest=-1)


async def has_nothing_to_call(world: World) -> None:
    await world.outside("it comes", 1)


async def ends_before_it_begins(world: World) -> None:
    world.signal(15, earliest=2, latest=1)


async def checks_a_sentence(world: World) -> None:
    world.check("both count", False)  # type: ignore[arg-type]


async def checks_a_coroutine(world: World) -> None:
    awaited = asyncio.sleep(0)
    try:
        world.check(awaited, "it holds")
    finally:
        awaited.close()


async def in_a_task(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(chooses_among_none(world))


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (chooses_among_none, "world.choose('the size', []) has no option"),
        (in_a_task, "world.choose('the size', []) has no option"),
        (checks_a_sentence, "world.check('both count', False) needs a condition"),
        (checks_a_coroutine, "'it holds') needs a condition, which is no coroutine"),
        (begins_in_the_past, "'it comes' has the window [-1.0, inf]"),
        (ends_before_it_begins, "'SIGTERM' has the window [2.0, 1.0]"),
        (has_nothing_to_call, "'it comes' has arguments (1,) and nothing to call"),
    ],
)
def test_a_misused_world_is_an_error_with_its_place(program: Program, says: str) -> None:
    """It says nothing of the program, so the verdict is an error: what is wrong, and where."""
    report = explore(program)
    assert report.verdict == "error"
    assert says.replace(".0", "") in report.reason.replace(".0", "")
    assert "(test_bad_programs.py:" in report.reason


def test_a_predicate_that_raises_is_a_violation() -> None:
    """It is asked between two callbacks, where nothing of the program's could catch it."""

    async def program(world: World) -> None:
        world.always("there is a share", lambda: 1 / 0 > 0)
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "ZeroDivisionError('division by zero'), in what is asked for «there is a share»" in (
        report.text
    )


# ---- what is no program ----------------------------------------------------------------------


async def takes_nothing() -> None:
    """The world is missing."""


async def takes_two(world: World, other: int) -> None:
    """One too many."""


def is_no_coroutine_function(world: World) -> int:
    return 3


async def yields(world: World) -> AsyncIterator[int]:
    yield 1


class Client:
    async def plays(self, world: World) -> None:
        """A method of a client."""


NO_PROGRAMS: dict[str, tuple[Any, str]] = {
    "without a parameter": (takes_nothing, "takes_nothing() cannot be called"),
    "with two": (takes_two, "missing a required argument: 'other'"),
    "an unbound method": (Client.plays, "missing a required argument: 'world'"),
    "a plain function": (is_no_coroutine_function, "it returns 3, and cannot be awaited"),
    "a generator": (yields, "it has a `yield`"),
    "a number": (3, "3 is not a program"),
    "nothing": (None, "None is not a program"),
}


@pytest.mark.parametrize("name", NO_PROGRAMS)
def test_what_is_no_program_is_a_bad_argument(name: str) -> None:
    """TypeError, which says what a program is; no verdict on what was never run."""
    program, says = NO_PROGRAMS[name]
    for calls in (
        lambda: explore(program),
        lambda: run(program),
        lambda: list(outcomes(program, NaturalOrder())),
    ):
        with pytest.raises(TypeError) as caught:
            calls()
        assert isinstance(caught.value, NotAProgram)
        assert says in str(caught.value)
        assert "async def" in str(caught.value)


def test_a_coroutine_is_no_program() -> None:
    """Who passes `program(world)` in place of `program` is told so, without a warning."""
    with pytest.raises(TypeError, match="give the function takes_nothing itself"):
        explore(takes_nothing())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "program",
    [
        Client().plays,
        functools.partial(takes_two, other=1),
        lambda world: Client().plays(world),
        lambda world: asyncio.sleep(0),
    ],
)
def test_whatever_returns_an_awaitable_is_a_program(program: Program) -> None:
    """A bound method, a partial, a function that returns a coroutine."""
    assert explore(program).verdict == "proved"


# ---- a loop that runs already ----------------------------------------------------------------


@pytest.mark.parametrize(
    "calls",
    [
        lambda: explore(exits),
        lambda: run(exits),
        lambda: next(outcomes(exits, NaturalOrder())),
    ],
)
def test_within_a_running_loop_it_is_refused(calls: Callable[[], object]) -> None:
    """One sentence says where to call it, and no coroutine is left that nobody awaits."""

    async def main() -> None:
        calls()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="in this thread a loop is running: call"):
            asyncio.run(main())
