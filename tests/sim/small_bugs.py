"""Small programs with a bug each, whose counterexamples are held to the letter.

The texts name lines of this file: see test_counterexample_texts.py for how they are written anew.
"""

from __future__ import annotations

import asyncio
import contextlib

from sim import World


async def deadlock(world: World) -> None:
    """Two transfers take the locks of their accounts in different orders."""
    savings, giro = asyncio.Lock(), asyncio.Lock()

    async def transfer(source: asyncio.Lock, target: asyncio.Lock) -> None:
        await world.outside("a transfer is ordered", latest=1)
        async with source:
            await asyncio.sleep(0)
            async with target:
                pass

    await asyncio.gather(transfer(savings, giro), transfer(giro, savings))


async def lost_update(world: World) -> None:
    """Two withdrawals read the balance before either writes it; an assert notices."""
    balance = 100

    async def withdraw() -> None:
        nonlocal balance
        seen = balance
        await world.outside("the bank confirms", latest=1)
        balance = seen - 10

    await asyncio.gather(withdraw(), withdraw())
    assert balance == 80, "both withdrawals count"


async def crossing(world: World) -> None:
    """A letter is handed over in the iteration in which the time of its reader is up."""
    letter: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    kept: list[str] = []

    async def postman() -> None:
        await world.outside("the letter comes", latest=2)
        if letter.cancelled():
            kept.append("letter")
        else:
            letter.set_result("letter")

    delivery = asyncio.create_task(postman(), name="postman")
    try:
        async with asyncio.timeout(1):
            kept.append(await letter)
    except TimeoutError:
        pass
    await delivery
    world.check(kept == ["letter"], "no letter is lost")


class Connection:
    def close(self) -> None:
        raise OSError("the disk is full")


async def failing_clean_up(world: World) -> None:
    """A task is cancelled in the middle of its work, and then its clean-up fails."""
    connection = Connection()

    async def work() -> None:
        try:
            await world.outside("the work is done", latest=5)
        finally:
            connection.close()

    task = asyncio.create_task(work(), name="worker")
    await world.outside("the user gives up", latest=1)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def dead_reader(world: World) -> None:
    """An answer comes when its caller has given up: the task that reads answers dies of it."""
    calls: list[asyncio.Future[None]] = []

    async def reader() -> None:
        while True:
            await world.outside("the answer to ADD", latest=3)
            calls.pop(0).set_result(None)

    async def call() -> None:
        calls.append(asyncio.get_running_loop().create_future())
        await calls[-1]

    reading = asyncio.create_task(reader(), name="reader")
    try:
        async with asyncio.timeout(1):
            await call()
    except TimeoutError:
        await call()
    reading.cancel()


async def failing_children(world: World) -> None:
    """Two of three tasks of a group fail in one iteration."""

    async def child(number: int) -> None:
        await world.outside(f"child {number} is answered", latest=1)
        if number:
            raise ValueError(number)

    async with asyncio.TaskGroup() as group:
        for number in range(3):
            group.create_task(child(number), name=f"child {number}")


async def raising_callback(world: World) -> None:
    """A timer gives an answer that the user has given already."""
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def give_up() -> None:
        answer.set_result("none")

    asyncio.get_running_loop().call_later(1, give_up)
    await world.outside("the user answers", latest=2)
    if not answer.done():
        answer.set_result("yes")
    await asyncio.sleep(2)


async def raising_thread(world: World) -> None:
    """A thread reads a setting that comes too late."""
    settings: dict[str, int] = {}

    def job() -> int:
        return settings["size"]

    async def reads_settings() -> None:
        await world.outside("the settings come", latest=1)
        settings["size"] = 1

    reading = asyncio.create_task(reads_settings(), name="settings")
    await asyncio.sleep(0.5)
    await asyncio.to_thread(job)
    await reading
