"""Cancels that come at a bad moment: aiorwlock#67, and what hid it from explore."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from sim import World
from tests.sim.reported.base import OnStock, Reported


class YieldingLock:
    """aiorwlock 0.6 in small: takes the lock, and lets others run before it says so."""

    def __init__(self) -> None:
        self.is_taken = False
        self._waiters: list[asyncio.Future[None]] = []

    async def __aenter__(self) -> None:
        while self.is_taken:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            await waiter
        self.is_taken = True
        # A cancel here, and __aexit__ is never called.
        await asyncio.sleep(0)

    async def __aexit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        self.is_taken = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)


class FixedLock(YieldingLock):
    """As aiorwlock 1.0."""

    async def __aenter__(self) -> None:
        try:
            await super().__aenter__()
        except asyncio.CancelledError:
            self.release()
            raise


class Victim:
    """A task that takes the lock and then waits for an answer, and the lock afterwards."""

    def __init__(self, world: World, lock: YieldingLock) -> None:
        self.world, self.lock = world, lock

    def begin(self) -> asyncio.Task[None]:
        return asyncio.create_task(self._run(), name="victim")

    async def _run(self) -> None:
        async with self.lock:
            await self.world.outside("the answer comes", latest=1)

    async def is_over(self, task: asyncio.Task[None]) -> None:
        with suppress(asyncio.CancelledError):
            await task
        self.world.check(not self.lock.is_taken, "the lock is free")


def leaves_directly(lock: Callable[[], YieldingLock]) -> Callable[[World], Awaitable[None]]:
    """f09, and b01 entering_callback: the poll's own iteration cancels, as connection_lost does."""

    async def program(world: World) -> None:
        victim = Victim(world, lock())
        task = victim.begin()
        await world.outside("the client leaves", call=task.cancel, latest=1)
        await victim.is_over(task)

    return program


def leaves_by_a_waiter(lock: Callable[[], YieldingLock]) -> Callable[[World], Awaitable[None]]:
    """f09 as reported, and b01 entering: a coroutine that waits for the event cancels.

    It goes on one iteration after the poll, when the lock is entered; so it is on stock.
    """

    async def program(world: World) -> None:
        victim = Victim(world, lock())
        task = victim.begin()
        await world.outside("the client leaves", latest=1)
        task.cancel()
        await victim.is_over(task)

    return program


def canceller_first(lock: Callable[[], YieldingLock]) -> Callable[[World], Awaitable[None]]:
    """b01 entering_canceller_first: who waits from the beginning cancels a later task."""

    async def program(world: World) -> None:
        victim = Victim(world, lock())
        task: asyncio.Task[None] | None = None

        async def canceller() -> None:
            await world.outside("the victim is cancelled", latest=1)
            if task is not None:
                task.cancel()

        other = asyncio.create_task(canceller(), name="canceller")
        await world.outside("a request comes", latest=1)
        task = victim.begin()
        await victim.is_over(task)
        await other

    return program


def offered(lock: Callable[[], YieldingLock]) -> Callable[[World], Awaitable[None]]:
    """b01 entering_offered: a cancel before any of its steps."""

    async def program(world: World) -> None:
        victim = Victim(world, lock())
        task = victim.begin()
        world.offer_cancels(lambda each: each is task)
        await victim.is_over(task)

    return program


async def keeps_the_lock(world: World) -> None:
    """f01: a cancel while it sleeps keeps the lock for ever."""
    lock = asyncio.Lock()

    async def victim() -> None:
        await lock.acquire()
        await asyncio.sleep(1e-4)
        lock.release()

    await asyncio.wait([asyncio.create_task(victim(), name="victim")])
    world.check(not lock.locked(), "the lock is free")


async def keeps_the_lock_and_is_offered(world: World) -> None:
    """f01, with the call that it is inconclusive without."""
    world.offer_cancels()
    await keeps_the_lock(world)


_EVERYWHERE = {"strategy": "cancel everywhere"}
_HOLDS, _MAY_FAIL, _NOT_RUN = OnStock.HOLDS, OnStock.MAY_FAIL, OnStock.NOT_RUN

PROGRAMS = [
    Reported("b01, f09", "leaves directly", leaves_directly(YieldingLock), "refuted", _MAY_FAIL),
    Reported("b01, f09", "… fixed", leaves_directly(FixedLock), "proved", _HOLDS),
    Reported("b01, f09", "leaves by a waiter", leaves_by_a_waiter(YieldingLock), "proved", _HOLDS),
    Reported("b01", "canceller first", canceller_first(YieldingLock), "refuted", _MAY_FAIL),
    Reported("b01", "… fixed", canceller_first(FixedLock), "proved", _HOLDS),
    # The system cancels nothing by itself: run without, it holds.
    Reported("b01", "offered", offered(YieldingLock), "refuted", _NOT_RUN),
    Reported("b01", "… fixed", offered(FixedLock), "proved", _NOT_RUN),
    Reported(
        "f01",
        "cancel everywhere",
        keeps_the_lock,
        "inconclusive",
        _HOLDS,
        words=("no task was cancelled", "world.offer_cancels()"),
        options=_EVERYWHERE,
    ),
    Reported(
        "f01", "… offered", keeps_the_lock_and_is_offered, "refuted", _NOT_RUN, options=_EVERYWHERE
    ),
]
