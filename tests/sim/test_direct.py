"""Tasks and futures that are made by `asyncio.Task(…)` and `asyncio.Future()`, not by the loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore
from sim.counterexamples.steps import step_of
from sim.schedulers import NaturalOrder
from tests.executed import executed

COUNT = 6


async def tasks_in_a_set(world: World) -> None:
    """They are cancelled in the order of the set, which on stock is that of their addresses."""
    ends = []

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(9)
        finally:
            ends.append(number)

    tasks = {asyncio.Task(child(each)) for each in range(COUNT)}
    await world.outside("it ends")
    await asyncio.sleep(0.1)
    for each in tasks:
        each.cancel()
    await asyncio.wait(tasks)
    world.record(f"{ends}")
    world.check(len(ends) == COUNT, "each ends")


async def futures_in_a_set(world: World) -> None:
    """Those who wait go on in the order of the set."""
    futures = {asyncio.Future[None](): each for each in range(COUNT)}
    ends = []

    async def waits(future: asyncio.Future[None]) -> None:
        await future
        ends.append(futures[future])

    async with asyncio.TaskGroup() as group:
        for each in futures:
            group.create_task(waits(each))
        await world.outside("it comes")
        for each in set(futures):
            each.set_result(None)
    world.record(f"{ends}")
    world.check(len(ends) == COUNT, "each ends")


async def gathered_in_a_set(world: World) -> None:
    """What `asyncio.gather` returns is a future as well, of a class of its own."""
    gathered = {asyncio.gather(world.outside(f"{each}")): each for each in range(COUNT)}
    ends = [gathered[each] for each in set(gathered)]
    for each in gathered:
        each.cancel()
    await asyncio.wait(gathered)
    world.record(f"{ends}")
    world.check(len(ends) == COUNT, "each ends")


@pytest.mark.parametrize("program", [tasks_in_a_set, futures_in_a_set, gathered_in_a_set])
def test_a_set_of_them_has_an_order(program: Callable[[World], object]) -> None:
    """By their addresses, two executions of one schedule would differ, and nothing be proved."""
    report = explore(program, max_executions=30)
    assert report.verdict == "proved" or "the limit of 30 executions" in report.reason, report.text
    assert "nondeterminism" not in report.text and "survived" not in report.text, report.text


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_of_a_library_is_numbered_as_the_others() -> None:
    """As aiohttp makes its own: asyncio would count it among those of the process."""

    async def program(world: World) -> None:
        async def answers() -> None:
            await world.outside("an answer", latest=0)

        loop = asyncio.get_running_loop()
        eager = asyncio.Task(answers(), loop=loop, eager_start=True)
        tasks = [eager, asyncio.create_task(answers()), asyncio.Task(answers())]
        world.check(
            [each.get_name() for each in tasks] == ["Task-1", "Task-2", "Task-3"], "as they came"
        )
        await asyncio.gather(*tasks)

    assert explore(program).verdict == "proved"


def test_a_factory_that_calls_the_class_makes_each_task_once() -> None:
    """The loop's list of its tasks has it one time, though both see it made."""

    async def program(world: World) -> None:
        world.loop.set_task_factory(lambda loop, coro, **options: asyncio.Task(coro, **options))
        task = asyncio.create_task(asyncio.sleep(0))
        world.check([each is task for each in world.loop.tasks].count(True) == 1, "it is one")
        await task

    assert explore(program).verdict == "proved"


class OfProgram(asyncio.Task[str]):
    pass


async def tasks_of_a_class_of_its_own(world: World) -> None:
    """What a program that instruments its tasks does."""
    world.loop.set_task_factory(lambda loop, coro, **named: OfProgram(coro, loop=loop, **named))

    async def answer(name: str) -> str:
        await world.outside(name)
        return name

    both = await asyncio.gather(answer("one"), answer("other"))
    world.check(both == ["one", "other"], "each has its answer")


def test_a_task_of_a_factory_has_one_name() -> None:
    """asyncio numbers it in the process first: then its first step was another's, in each execution
    another, and the first program of a process was called nondeterministic."""
    for _ in range(2):  # The numbers of the second are others for certain.
        traced = executed(tasks_of_a_class_of_its_own, NaturalOrder(), traced=True)
    actors = {step_of(line).actor for line in traced.steps}
    assert actors == {"program", "Task-1", "Task-2", "loop"}, traced.steps
    assert explore(tasks_of_a_class_of_its_own).verdict == "proved"


async def tasks_named_by_a_factory() -> None:
    def named(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        task = OfProgram(coro, loop=loop, **options)
        if is_naming:
            task.set_name("by the factory")
        return task

    asyncio.get_running_loop().set_task_factory(named)
    for is_naming in (True, False):
        task = asyncio.create_task(asyncio.sleep(0))
        assert (task.get_name() == "by the factory") is is_naming
        assert task.get_name().startswith("Task-") is not is_naming
        await task


@pytest.mark.skipif(sys.version_info[:2] == (3, 13), reason="3.13 names each anew, as None")
def test_a_factory_may_name_its_tasks() -> None:
    """The name is asyncio's own only where neither the factory nor the caller gave one."""

    async def program(world: World) -> None:
        await tasks_named_by_a_factory()

    asyncio.run(tasks_named_by_a_factory())
    assert explore(program).verdict == "proved"


async def classes_as_on_stock() -> None:
    """What a program may ask of the two classes, and of its own that it derives from them."""

    class OfTask(asyncio.Task[int]):
        def __init__(self, coro: object, *, loop: asyncio.AbstractEventLoop) -> None:
            super().__init__(coro, loop=loop)  # type: ignore[arg-type]
            self.mark = 1

    class OfFuture(asyncio.Future[int]):
        pass

    loop = asyncio.get_running_loop()
    made = asyncio.create_task(asyncio.sleep(0, 1))
    direct: asyncio.Task[int] = asyncio.Task(asyncio.sleep(0, 1))
    own, future, own_future = OfTask(asyncio.sleep(0, 1), loop=loop), asyncio.Future(), OfFuture()
    for task in (made, direct, own):
        assert isinstance(task, asyncio.Task) and isinstance(task, asyncio.tasks.Task)
        assert isinstance(task, asyncio.Future) and not isinstance(task, OfFuture)
    assert isinstance(own, OfTask) and own.mark == 1
    assert not isinstance(made, OfTask) and not isinstance(direct, OfTask)
    for each in (future, own_future, loop.create_future()):
        assert isinstance(each, asyncio.futures.Future) and not isinstance(each, asyncio.Task)
    assert not isinstance(future, OfFuture) and isinstance(own_future, OfFuture)
    assert issubclass(OfTask, asyncio.Task) and not issubclass(asyncio.Task, OfTask)
    assert issubclass(asyncio.Task, asyncio.Future) and not issubclass(int, asyncio.Future)
    assert repr(asyncio.Task) == "<class '_asyncio.Task'>", repr(asyncio.Task)
    assert repr(future) == "<Future pending>", repr(future)
    assert asyncio.current_task() in asyncio.all_tasks()
    assert {made, direct, own} <= asyncio.all_tasks()
    with pytest.raises(TypeError, match="a coroutine was expected, got 3"):
        asyncio.Task(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        asyncio.Future(3)  # type: ignore[call-arg, arg-type]
    assert await asyncio.gather(made, direct, own) == [1, 1, 1]


def test_their_classes_are_as_on_stock() -> None:
    """`isinstance`, `issubclass`, classes of one's own, their words and their errors."""
    asyncio.run(classes_as_on_stock())

    async def program(world: World) -> None:
        await classes_as_on_stock()

    report = explore(program)
    assert report.verdict != "refuted" and report.verdict != "error", report.text


def test_afterwards_they_are_asyncios_own() -> None:
    """An exploration leaves the process as it was."""
    before = asyncio.Task, asyncio.Future, asyncio.tasks.Task, asyncio.futures.Future
    explore(tasks_in_a_set, max_executions=1)
    assert before == (asyncio.Task, asyncio.Future, asyncio.tasks.Task, asyncio.futures.Future)
