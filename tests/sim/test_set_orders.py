"""Sets of tasks iterate by addresses on stock Python: a proof has looked at other orders."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from sim import World, explore
from sim.executors.processes import processes
from sim.exploration.progress import Progress
from sim.exploration.request import Request, explored
from sim.schedulers import DepartureBounded


async def named(world: World, *, count: int = 2) -> list[str]:
    """The names of tasks in the order in which a set of them iterates."""

    async def nothing() -> None:
        pass

    done, _ = await asyncio.wait([asyncio.create_task(nothing()) for _ in range(count)])
    return [task.get_name() for task in done]


async def relies_on_what_wait_returns(world: World) -> None:
    world.check(await named(world) == ["Task-1", "Task-2"], "the first comes first")


async def relies_on_a_set_of_its_own(world: World) -> None:
    tasks = {asyncio.create_task(asyncio.sleep(0), name=name) for name in "ab"}
    first = next(iter(tasks))
    await asyncio.wait(tasks)
    world.check(first.get_name() == "b", "b was made last")


async def relies_on_a_set_of_futures(world: World) -> None:
    made = [world.loop.create_future() for _ in range(2)]
    for future in made:
        future.set_result(None)
    world.check([*{*made}] == made, "futures keep their order")


async def relies_on_whom_a_group_cancels_first(world: World) -> None:
    cancelled: list[str] = []

    async def waits(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.append(name)

    async def fails() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits("a"))
            group.create_task(waits("b"))
            await asyncio.sleep(1)
            raise ValueError

    with pytest.raises(ExceptionGroup):
        await fails()
    world.check(cancelled == ["a", "b"], "a is cancelled first")


async def relies_on_a_weak_set(world: World) -> None:
    tasks = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
    world.check([*WeakSet(tasks)] == tasks, "the first made comes first")
    await asyncio.gather(*tasks)


RELY = [
    relies_on_a_weak_set,
    relies_on_what_wait_returns,
    relies_on_a_set_of_its_own,
    relies_on_a_set_of_futures,
    relies_on_whom_a_group_cancels_first,
]


@pytest.mark.parametrize("program", RELY)
def test_what_holds_in_one_order_alone_is_refuted(program: Any) -> None:
    """Stock Python has either order; the schedule carries it, so that it comes back."""
    report = explore(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert "set_order=" in report.counterexample.schedule or report.found_by == "natural"
    assert report.counterexample.replay(program).violation is not None


async def relies_on_nothing(world: World) -> None:
    world.check({*await named(world)} == {"Task-1", "Task-2"}, "both are there")


def test_a_claim_names_the_order_where_tasks_were_in_sets() -> None:
    """Not every order is run: a proof says in how many executions another one was."""
    report = explore(relies_on_nothing)
    assert report.verdict == "proved"
    assert "with sets of tasks in one order (32 executions looked at others)" in report.claim


async def has_no_sets(world: World) -> None:
    task = asyncio.create_task(asyncio.sleep(1))
    await asyncio.gather(task, asyncio.sleep(2))


async def writes_hashes_as_bytes(world: World) -> None:
    task, future = asyncio.create_task(asyncio.sleep(0)), world.loop.create_future()
    for each in {task, future}:
        hash(each).to_bytes(8, "big")
    await task


def test_no_hash_is_below_0_in_any_order() -> None:
    """As none by address is, so that a program may write it into bytes."""
    report = explore(writes_hashes_as_bytes)
    assert report.verdict == "proved", report.text
    assert "with sets of tasks in one order (32 executions looked at others)" in report.claim


def test_where_no_task_is_in_a_set_no_order_is_looked_at() -> None:
    """asyncio's own set of all tasks, and gather's dictionary, do not count."""
    report = explore(has_no_sets)
    assert report.verdict == "proved"
    assert "sets of tasks" not in report.reason


@pytest.mark.parametrize("is_isolated", [True, False], ids=["isolated", "two jobs"])
def test_it_is_looked_at_however_the_work_is_done(is_isolated: bool) -> None:
    """Also in processes of their own, and by several workers."""
    executor = None if is_isolated else processes(2)
    for program in (relies_on_what_wait_returns, relies_on_nothing):
        name = f"{__name__}:{program.__name__}"
        request = Request(name, "depth-first", budget_s=600, isolate=is_isolated)
        report = explored(request, Progress(None), executor=executor)
        if program is relies_on_nothing:
            assert report.verdict == "proved", report.text
            assert "(32 executions looked at others)" in report.claim
        else:
            assert report.verdict == "refuted", report.text


def test_it_is_decided_by_executions_and_not_by_a_clock() -> None:
    """Of a program that computes for long, too."""

    async def program(world: World) -> None:
        for _ in range(200_000):
            pass
        await relies_on_what_wait_returns(world)

    assert explore(program).verdict == "refuted"


def test_no_schedule_beyond_a_bound_refutes() -> None:
    """A proof with few departures looks at other orders in natural order alone."""

    async def program(world: World) -> None:
        await named(world)
        waits = asyncio.create_task(world.outside("it comes", latest=0.0))
        await asyncio.sleep(0.005)
        world.check(waits.done(), "it comes at once")

    assert explore(program).verdict == "refuted"
    report = explore(program, strategy=DepartureBounded(0))
    assert report.verdict == "proved", report.text
    assert "(16 executions looked at others)" in report.claim


def test_three_tasks_have_more_orders_than_two() -> None:
    """Not only the reverse is looked at."""
    seen: set[tuple[str, ...]] = set()

    async def program(world: World) -> None:
        seen.add(tuple(await named(world, count=3)))

    assert explore(program).verdict == "proved"
    assert len(seen) >= 5


def test_the_order_comes_back_on_stock_asyncio(tmp_path: Path) -> None:
    """An exported file has the order, too."""
    report = explore(relies_on_whom_a_group_cancels_first)
    assert report.counterexample is not None
    file = tmp_path / "test_it.py"
    file.write_text(report.counterexample.export(relies_on_whom_a_group_cancels_first))
    ended = subprocess.run([sys.executable, "-I", file], capture_output=True, timeout=60)
    assert ended.returncode == 1, ended.stdout + ended.stderr
