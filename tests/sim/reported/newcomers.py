"""What somebody writes who has read the README alone: common bugs, each a kind of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from sim import World
from tests.sim.reported.base import OnStock, Reported


async def a_generator_is_left_open(world: World) -> None:
    """Its clean-up runs when it is collected, in a task of its own, and not where it is left."""
    closed = []

    async def rows() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            closed.append(True)

    left = rows()
    async for _ in left:
        break
    world.check(closed == [True], "the cursor is closed where the loop is left")


async def a_generator_is_closed(world: World) -> None:
    closed = []

    async def rows() -> AsyncIterator[int]:
        try:
            for number in range(3):
                await world.outside(f"row {number}", latest=0.01)
                yield number
        finally:
            closed.append(True)

    async with contextlib.aclosing(rows()) as found:
        async for number in found:
            if number == 1:
                break
    world.check(closed == [True], "the cursor is closed where the loop is left")


async def a_gather_leaves_the_others(world: World) -> None:
    """The first exception ends the gather, and not what it gathers."""
    done = []

    async def fails() -> None:
        await world.outside("one fails", latest=0.01)
        raise ConnectionError

    async def writes() -> None:
        await world.outside("the other is written", latest=0.01)
        done.append(True)

    with contextlib.suppress(ConnectionError):
        await asyncio.gather(fails(), writes())
    world.check(done == [True], "what was begun is done")


async def a_wait_without_a_predicate(world: World) -> None:
    """Who comes after the notification waits for another one."""
    condition = asyncio.Condition()

    async def waits() -> None:
        await world.outside("who waits comes", latest=0.01)
        async with condition:
            await condition.wait()

    async def notifies() -> None:
        await world.outside("it is ready", latest=0.01)
        async with condition:
            condition.notify()

    await asyncio.gather(waits(), notifies())


async def a_dict_grows_while_it_is_read(world: World) -> None:
    clients = {1: "a"}

    async def connects() -> None:
        await world.outside("a client connects", latest=0.01)
        clients[2] = "b"

    task = asyncio.create_task(connects())
    for _ in clients:
        await world.outside("a message is sent", latest=0.01)
    await task


async def a_group_of_one_who_swallows(world: World) -> None:
    """The group cancels its other task, which goes on: it waits for ever."""

    async def stubborn() -> None:
        while True:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(100)

    async def fails() -> None:
        raise ConnectionError

    async with asyncio.TaskGroup() as group:
        group.create_task(stubborn())
        group.create_task(fails())


PROGRAMS = [
    Reported("n1", "a generator left open", a_generator_is_left_open, "refuted", OnStock.FAILS),
    Reported("n1", "… closed", a_generator_is_closed, "proved", OnStock.HOLDS),
    Reported(
        "n2", "a gather leaves others", a_gather_leaves_the_others, "refuted", OnStock.MAY_FAIL
    ),
    Reported(
        "n3",
        "a wait without a predicate",
        a_wait_without_a_predicate,
        "refuted",
        OnStock.NOT_RUN,
        words=("waits in waits (tests/sim/reported/newcomers.py",),
    ),
    Reported(
        "n4",
        "a dict grows",
        a_dict_grows_while_it_is_read,
        "refuted",
        OnStock.MAY_FAIL,
        words=("dictionary changed size during iteration",),
    ),
    Reported(
        "n5",
        "who swallows a cancel",
        a_group_of_one_who_swallows,
        "refuted",
        OnStock.NOT_RUN,
        words=("the execution ends",),
    ),
]
