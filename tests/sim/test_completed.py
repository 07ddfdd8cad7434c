"""`asyncio.as_completed` of coroutines, of which asyncio makes a set."""

from __future__ import annotations

import asyncio

import pytest

from sim import World, explore
from sim.export.file import NotExportable

COUNT = 5


async def begin_in_any_order(world: World) -> None:
    """asyncio promises none; on stock it is that of the coroutines' addresses."""
    begun: list[int] = []

    async def fetch(number: int) -> int:
        begun.append(number)
        await asyncio.sleep(0.1)
        return number

    got = [await each for each in asyncio.as_completed([fetch(each) for each in range(COUNT)])]
    world.check(sorted(got) == sorted(begun) == [*range(COUNT)], "each is there")


def test_coroutines_begin_in_the_same_order_in_each_execution() -> None:
    """By their addresses two executions would differ, and nothing be proved."""
    report = explore(begin_in_any_order)
    assert report.verdict == "proved", report.text
    assert "with sets of tasks in one order (32 executions looked at others)" in report.claim


def test_other_orders_are_looked_at() -> None:
    """What hangs on the list's order is refuted, though a search keeps to it."""

    async def program(world: World) -> None:
        first: list[int] = []

        async def fetch(number: int) -> None:
            first.append(number)

        for each in asyncio.as_completed([fetch(each) for each in range(COUNT)]):
            await each
        world.check(first == [*range(COUNT)], "in the list's order")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "found by another order of sets of tasks" in report.text
    assert report.counterexample is not None
    with pytest.raises(NotExportable, match="make tasks of them before"):
        report.counterexample.export(program)


async def as_on_stock() -> None:
    """What it refuses, when it begins, and its time limit."""
    assert [*asyncio.as_completed([])] == []
    with pytest.raises(TypeError, match=r"an iterable of (futures|awaitables), not Future"):
        [*asyncio.as_completed(asyncio.get_running_loop().create_future())]  # type: ignore[call-overload]
    task = asyncio.create_task(asyncio.sleep(0, 1))
    assert [await each for each in asyncio.as_completed([task, task])] == [1]
    late = asyncio.create_task(asyncio.sleep(9))
    (too_late,) = asyncio.as_completed([late], timeout=0.01)
    with pytest.raises(TimeoutError):
        await too_late
    late.cancel()


def test_it_is_asyncios_own_but_for_the_order() -> None:
    """The same program holds on stock."""
    asyncio.run(as_on_stock())

    async def program(world: World) -> None:
        await as_on_stock()

    assert explore(program).verdict == "proved"


def test_a_followed_task_has_asyncios_name() -> None:
    """A program that shows its tasks is the same whether an execution is traced or not."""
    seen: set[str] = set()

    async def program(world: World) -> None:
        task = asyncio.create_task(world.outside("anything"))
        future = asyncio.get_running_loop().create_future()
        seen.update({type(task).__name__, type(future).__name__, repr(future)})
        await task

    for strategy in ("staged", "reduced"):
        assert explore(program, strategy=strategy).verdict == "proved"
    assert seen == {"Task", "Future", "<Future pending>"}
