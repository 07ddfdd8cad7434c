"""Programs whose counterexamples are looked at as pages."""

from __future__ import annotations

import asyncio

from sim import World

HOSTILE = "</script><img src=x onerror=alert(1)>"


async def slot_that_is_lost(world: World) -> None:
    """The client leaves as the model answers: nobody gives the slot back."""
    slots = asyncio.Semaphore(1)

    async def answer() -> None:
        await slots.acquire()
        await world.outside("the model answers")
        slots.release()

    task = asyncio.create_task(answer(), name="answer")
    await asyncio.sleep(0)
    await world.outside("the client leaves")
    task.cancel()
    await asyncio.wait([task])
    world.reached("the client has left")
    world.check(not slots.locked(), "the slot is free again")


async def always_fails(world: World) -> None:
    """No order of events passes."""
    await world.outside("it comes", latest=1)
    world.check(False, "it holds", "it does not")


async def hostile_names(world: World) -> None:
    """What a program calls its events, tasks and properties is text, whatever it looks like."""

    async def named() -> None:
        await world.outside(HOSTILE, latest=1)

    await asyncio.create_task(named(), name=HOSTILE)
    world.record(HOSTILE, actor=HOSTILE)
    world.check(False, HOSTILE, HOSTILE)


async def four_hundred_steps(world: World) -> None:
    """A long way to the violation, with timers, of several tasks."""

    async def ticks(number: int) -> None:
        for _ in range(50):
            await asyncio.sleep(0.01 * number)

    async with asyncio.TaskGroup() as group:
        for number in range(1, 9):
            group.create_task(ticks(number), name=f"clock {number}")
    world.check(False, "it never ends")


async def slot_that_is_kept(world: World) -> None:
    """The slot comes back in whatever order they come, and however late."""
    slots = asyncio.Semaphore(1)

    async def answer() -> None:
        async with slots:
            await world.outside("the model answers", latest=1)

    task = asyncio.create_task(answer(), name="answer")
    await asyncio.sleep(0)
    await world.outside("the client leaves", latest=1)
    task.cancel()
    await asyncio.wait([task])
    world.reached("the client has left")
    world.check(not slots.locked(), "the slot is free again")


async def late_or_not(world: World) -> None:
    """What is a second late here happens at once where it passes."""
    for name in ("one", "two"):
        is_late = world.choose(name, ["at once", "late"]) == "late"
        await asyncio.sleep(1.0 if is_late else 0.1)
        world.record(f"{name} is done", actor=name)
        world.reached("done")
        world.check(not is_late, "none is late")


async def two_withdrawals(world: World) -> None:
    """Both read before either writes."""
    balance = 100

    async def withdraw(name: str) -> None:
        nonlocal balance
        seen = balance
        await world.outside(f"the bank confirms {name}")
        balance = seen - 10

    await asyncio.gather(withdraw("a"), withdraw("b"))
    world.check(balance == 80, "both count")


async def many_lanes(world: World) -> None:
    """Eleven actors, and an execution that passes beside them."""
    for number in range(1, 12):
        world.record("is here", actor=f"agent-{number}")
    is_late = world.choose("agent-11", ["at once", "late"]) == "late"
    world.check(not is_late, "none is late")


async def with_a_bystander(world: World) -> None:
    """As `two_withdrawals`, and a third task waits for something else."""

    async def looks_on() -> None:
        cup = "full"
        await asyncio.Event().wait()
        world.record(cup)

    task = asyncio.create_task(looks_on(), name="looks on")
    await asyncio.sleep(0)
    await two_withdrawals(world)
    task.cancel()
