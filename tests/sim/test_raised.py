"""How a counterexample shows an exception: its place, the program's line, and what led to it."""

from __future__ import annotations

import asyncio
import re
from asyncio import TaskGroup
from collections.abc import Callable

import pytest

from sim import World, explore
from sim.kernel.execution import Program
from sim.wrapped import wrapped


def seen_in(program: Program) -> str:
    """What was observed, in one line; the numbers of lines are left out."""
    report = explore(program, max_executions=500)
    assert report.counterexample is not None, report.text
    text = report.counterexample.text.partition("  seen:")[2]
    words = " ".join(re.split(r"\n(?=  checked in|departures:)", text)[0].split())
    return re.sub(r"(\w+\.py):\d+", r"\1", words)


HERE = "tests/sim/test_raised.py"


class Disk:
    def write(self) -> None:
        raise OSError("it is full")


def test_an_exception_of_the_library_names_the_programs_line() -> None:
    """An exception that arises in asyncio has its file, and the program's line behind it."""

    async def program(world: World) -> None:
        async with asyncio.timeout(1):
            await asyncio.Event().wait()

    assert seen_in(program) == (
        "TimeoutError() raised in __aexit__ (asyncio/timeouts.py), on behalf of program "
        f"({HERE} `async with asyncio.timeout(1):`)"
    )


def test_an_exception_of_the_programs_names_its_innermost_frame() -> None:
    """It is the frame that raised, and not the one that the exception left last."""

    async def program(world: World) -> None:
        Disk().write()

    assert seen_in(program) == (
        f"OSError('it is full') raised in write ({HERE} `raise OSError(\"it is full\")`)"
    )


def test_a_clean_up_that_fails_names_what_it_cleans_up() -> None:
    """The exception of a `finally` comes with the cancel during which it was raised."""

    async def program(world: World) -> None:
        async def work() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                Disk().write()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        await task

    assert seen_in(program) == (
        f"- OSError('it is full') raised in write ({HERE} `raise OSError(\"it is full\")`) "
        "- raised while this was handled: CancelledError() raised in sleep (asyncio/tasks.py), on "
        f"behalf of work ({HERE} `await asyncio.sleep(1)`)"
    )


def test_a_cause_is_named() -> None:
    """What an exception was raised from stands behind it."""

    async def program(world: World) -> None:
        try:
            Disk().write()
        except OSError as exc:
            raise RuntimeError("not saved") from exc

    assert seen_in(program) == (
        f"- RuntimeError('not saved') raised in program ({HERE} "
        '`raise RuntimeError("not saved") from exc`) - caused by: '
        f"OSError('it is full') raised in write ({HERE} `raise OSError(\"it is full\")`)"
    )


@pytest.mark.parametrize("count", [1, 2, 9])
def test_a_group_is_unfolded(count: int) -> None:
    """Each exception in it has its own place, also in a group within the group; not too many."""

    async def program(world: World) -> None:
        async def child(number: int) -> None:
            raise ValueError(number)

        async with TaskGroup() as outer:

            async def inner() -> None:
                async with TaskGroup() as group:
                    for number in range(count):
                        group.create_task(child(number))

            outer.create_task(inner())

    seen = seen_in(program)
    assert seen.startswith("- ExceptionGroup('unhandled errors in a TaskGroup') raised in _")
    assert f"on behalf of program ({HERE} `async with TaskGroup() as outer:`)" in seen
    shown = re.findall(rf"in the group: ValueError\((\d)\) raised in child \({HERE} `", seen)
    assert shown == [str(number) for number in range(min(count, 4))]
    assert ("- and 5 more in the group" in seen) == (count == 9)


def _finish(future: asyncio.Future[None]) -> None:
    future.set_result(None)


@pytest.mark.parametrize(
    ("callback", "named"),
    [
        (_finish, f"- _finish ({HERE}) raises - InvalidStateError"),
        (lambda future: _finish(future), f"- <lambda> ({HERE}"),
        (asyncio.Future.set_result, "- Future.set_result raises - TypeError"),
    ],
)
def test_a_callback_that_raises_is_named(callback: Callable[..., object], named: str) -> None:
    """By its name and where it is defined; what is written in C has its name."""

    async def program(world: World) -> None:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        asyncio.get_running_loop().call_soon(callback, done)
        await asyncio.sleep(1)

    assert seen_in(program).startswith(named)


def test_a_callback_of_an_outside_event_is_the_programs() -> None:
    """What `world.outside` calls is named, and not what stands for it in the simulator."""

    async def program(world: World) -> None:
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        await world.outside("the peer closes", done, call=_finish)

    assert seen_in(program).startswith(f"- _finish ({HERE}) raises - InvalidStateError")


def test_an_assertion_names_its_line() -> None:
    """An assertion with a sentence is checked where it stands, one without has its text."""

    async def with_sentence(world: World) -> None:
        assert not world.now + 1, "it is early"

    report = explore(with_sentence, max_executions=5)
    assert report.counterexample is not None
    checked = r"  checked in with_sentence \(tests/sim/test_raised.py:\d+ `assert not world.now"
    assert re.search(checked, report.counterexample.text)

    async def without(world: World) -> None:
        raise AssertionError

    assert seen_in(without) == (
        f"AssertionError() raised in without ({HERE} `raise AssertionError`)"
    )


def test_an_exception_whose_repr_raises() -> None:
    """It is named by its type; the report does not fail with it."""

    class Odd(Exception):
        def __repr__(self) -> str:
            raise ValueError

    async def program(world: World) -> None:
        raise Odd

    assert seen_in(program).startswith("Odd, whose repr raises ValueError raised in program")


# ---- the headline ----------------------------------------------------------------------------


def headline_of(program: Program) -> str:
    """The first line of the verdict, with its numbers of lines left out."""
    report = explore(program, max_executions=500)
    assert report.counterexample is not None, report.text
    words = report.reason.partition(" (")[0] + " (" + report.reason.split(" (")[1]
    assert f"violated at 0.000 s: {report.counterexample.headline}" in " ".join(
        report.counterexample.text.split()
    )
    return re.sub(r"(\w+\.py):\d+", r"\1", words)


def test_the_headline_says_which_exception_and_where() -> None:
    """Type, message and the program's line stand beside the sentence; the property stays."""

    async def program(world: World) -> None:
        Disk().write()

    assert headline_of(program) == (
        "the program ends without an exception: OSError('it is full') in write (test_raised.py)"
    )
    found = explore(program, max_executions=500).counterexample
    assert found is not None
    assert found.property == "the program ends without an exception"


def test_the_headline_of_a_group_names_its_first_leaf() -> None:
    """Not the group, whose message says nothing, and how many more there are."""

    async def program(world: World) -> None:
        async def fails(number: int) -> None:
            raise ValueError(number)

        async with TaskGroup() as group:
            for number in range(3):
                group.create_task(fails(number))

    assert headline_of(program).startswith(
        "the program ends without an exception: ExceptionGroup of ValueError(0) in fails "
    )
    found = explore(program, max_executions=500).counterexample
    assert found is not None
    assert found.headline.endswith(") and 2 more")


def test_a_long_message_is_cut_in_the_headline() -> None:
    """It is whole in what is seen."""

    async def program(world: World) -> None:
        raise KeyError("x" * 100)

    assert "x" * 60 not in headline_of(program)


def test_a_long_reason_begins_with_its_first_sentence() -> None:
    """What comes after it has lines of its own, of at most 100 columns; brackets stay whole."""
    first = "refuted: both count (3 executions, staged; hit: passes_max)"
    assert wrapped(f"{first}; {'more words ' * 20}")[0] == f"{first};"
    assert wrapped(first) == [first]
    assert max(map(len, wrapped(f"{first}; {'more words ' * 20}"))) <= 100
    assert wrapped(f"{first}\n  a command") == [first, "  a command"]
    long = "proved: " + "every schedule, " * 6 + "and no more"
    assert wrapped(f"{long} (3 executions)") == [*wrapped(long), "  (3 executions)"]
