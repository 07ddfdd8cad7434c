"""Programs whose state outlives an execution, as real modules have it."""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
import re
from collections.abc import Callable
from typing import ClassVar

from sim import World

LOCK = asyncio.Lock()
NARROW = asyncio.Lock()
SLOTS = asyncio.Semaphore(1)
counter = 0
hidden: list[str] = []
ids = itertools.count(1)
SEEN: dict[str, int] = {}


class Cache:
    """As aiocache's memory backend: one dict for all instances."""

    values: ClassVar[dict[str, str]] = {}

    async def get(self, world: World, key: str) -> str:
        if key not in self.values:
            await world.outside("the database answers", latest=1)
            self.values[key] = key
        return self.values[key]


async def lock_of_a_module(world: World) -> None:
    """Bound to the loop of the first execution, where two want it."""

    async def works(number: int) -> None:
        async with LOCK:
            await world.outside(f"{number}", latest=1)

    await asyncio.gather(works(1), works(2))


async def lock_that_is_rarely_contended(world: World) -> None:
    """Nobody waits for it in natural order; two do where the second comes first."""

    async def works(number: int, earliest: float) -> None:
        await world.outside(f"{number} comes", earliest=earliest, latest=2)
        async with NARROW:
            await asyncio.sleep(0.5)

    await asyncio.gather(works(1, 0), works(2, 1))


async def semaphore_that_leaks(world: World) -> None:
    """A violation that leaves it taken, so that no later execution gets that far."""
    await SLOTS.acquire()
    await world.outside("it comes", latest=1)
    world.check(world.choose("the answer", [1, 2]) == 1, "the answer is 1")
    SLOTS.release()


async def counts_executions(world: World) -> None:
    global counter
    counter += 1
    await world.outside("a", latest=1)
    await world.outside("b", latest=1)
    world.check(counter < 3, "the counter is small", str(counter))


async def cache_of_a_class(world: World) -> None:
    """The real violation needs an empty cache, which only the first execution has."""
    calls = 0

    async def fetches() -> None:
        nonlocal calls
        calls += "key" not in Cache.values
        await Cache().get(world, "key")

    await asyncio.gather(fetches(), fetches())
    world.check(calls < 2, "the database is asked once", f"{calls} times")


async def keeps_in_its_default(world: World, seen: list[int] = []) -> None:  # noqa: B006 - the point
    for _ in seen:
        await asyncio.sleep(1)
    seen.append(1)


async def changes_the_environment(world: World) -> None:
    if os.environ.get("ONESTREAM_TEST_SURVIVES"):
        await asyncio.sleep(1)
    os.environ["ONESTREAM_TEST_SURVIVES"] = "1"


async def numbers_its_tasks(world: World) -> None:
    """As psycopg_pool does: a counter of the module in the names, and nothing else."""

    async def works() -> None:
        await asyncio.sleep(1)

    async with asyncio.TaskGroup() as group:
        for _ in range(12):
            group.create_task(works(), name=f"worker-{next(ids)}")
    world.check(False, "the bug")


async def names_its_tasks_by_address(world: World) -> None:
    """As `repr` of an object has it; several of one kind, cancelled by their group."""
    ended: list[int] = []

    async def works(number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            ended.append(number)

    async def fails() -> None:
        await world.outside("it fails", latest=1)
        raise OSError

    kept = [object() for _ in range(12)]
    SEEN.clear()
    try:
        async with asyncio.TaskGroup() as group:
            for number, each in enumerate(kept):
                task = asyncio.get_running_loop().create_task(works(number), name=f"of {each!r}")
                group._tasks.add(task)  # type: ignore[attr-defined]
                task.add_done_callback(group._on_task_done)  # type: ignore[attr-defined]
            group.create_task(fails())
    except* OSError:
        pass
    for number in ended:
        await asyncio.sleep(number)


is_changed = False


async def changes_by_a_departure(world: World) -> None:
    """Natural order is the same until some execution has taken the second option."""
    global is_changed
    if is_changed:
        await asyncio.sleep(0)
    await world.outside("it comes", latest=1)
    for _ in range(3):
        is_changed = world.choose("the answer", [1, 2]) == 2 or is_changed


async def blocks_if_it_is_late(world: World) -> None:
    """A departure computes for longer than anybody waits."""
    await asyncio.sleep(0)
    if world.choose("the answer", [1, 2]) == 2:
        re.match("(a+)+$", "a" * 40 + "b")


async def blocks(world: World) -> None:
    await asyncio.sleep(0)
    re.match("(a+)+$", "a" * 40 + "b")


async def hides_in_a_global(world: World) -> None:
    """Each execution begins anew; but what decides is nowhere where states are read."""
    hidden.clear()

    async def work(name: str) -> None:
        await world.outside(name, latest=0.0)
        hidden.append(name)

    await asyncio.gather(work("a"), work("b"))
    await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("c", "d")))
    world.reached(f"{hidden[0]} was first")


last = ""
ORDER: list[str] = []


class Desk:
    """As a registry of a class."""

    last = ""


async def two_events(world: World, landed: Callable[[str], object]) -> None:
    """Whose order is forgotten by all that a state is read from, unless `landed` keeps it there."""

    async def waits(name: str) -> None:
        await world.outside(name, latest=0)
        landed(name)

    await asyncio.gather(waits("a"), waits("b"))
    await asyncio.sleep(1)
    await asyncio.gather(*(world.outside(name, latest=0) for name in "cd"))


async def forgets_the_order(world: World) -> None:
    await two_events(world, len)


async def keeps_the_order_in_a_module(world: World) -> None:
    """Each execution begins with the same, so that none survives."""
    global last
    last = ""

    def landed(name: str) -> None:
        global last
        last = name

    await two_events(world, landed)


async def keeps_the_order_in_a_list(world: World) -> None:
    ORDER.clear()
    await two_events(world, ORDER.append)


async def keeps_the_order_in_a_class(world: World) -> None:
    Desk.last = ""
    await two_events(world, lambda name: setattr(Desk, "last", name))


@functools.lru_cache(maxsize=1)
def newest(name: str) -> list[str]:
    return [name]


newest("a")


async def keeps_the_order_in_a_cache(world: World) -> None:
    """It is full, and in natural order always asked for the same."""
    newest(world.choose("which", ("a", "b")))
    await two_events(world, len)
    newest("a")


@functools.lru_cache(maxsize=1)
def settings() -> dict[str, str]:
    return {}


@functools.lru_cache(maxsize=9)
def parsed(name: str) -> list[str]:
    return [name]


settings()
parsed("a")
parsed("b")


async def asks_a_cache(world: World) -> None:
    """One has room, the other but one thing to keep."""
    await two_events(world, lambda name: parsed("a" if name == "b" else "b"))
    settings()
