"""Limits that forget or block: limits#277 and asynciolimiter#17."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from sim import World
from tests.sim.reported.base import OnStock, Reported


class MovingWindow:
    """limits 5.2 in small: hits in memory, of which a task drops those that are too old."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.hits: list[int] = []
        self.lock = asyncio.Lock()
        self.cleaner: asyncio.Task[None] | None = None

    async def _recent(self) -> int:
        """How many are recent: counted in a thread. None is old here."""
        return await asyncio.to_thread(len, self.hits)

    async def clean(self) -> None:
        recent = await self._recent()
        # Hits that came meanwhile are cut off.
        async with self.lock:
            self.hits = self.hits[:recent]

    async def hit(self, number: int) -> bool:
        if self.cleaner is None or self.cleaner.done():
            self.cleaner = asyncio.create_task(self.clean(), name=f"cleaner {number}")
        async with self.lock:
            if len(self.hits) >= self.limit:
                return False
            self.hits.append(number)
            return True


class FixedMovingWindow(MovingWindow):
    """As limits 5.3: counted under the lock as well."""

    async def clean(self) -> None:
        async with self.lock:
            self.hits = self.hits[: await self._recent()]


def three_requests(
    window: Callable[[int], MovingWindow],
) -> Callable[[World], Awaitable[None]]:
    """Three requests come, of which two are allowed."""

    async def program(world: World) -> None:
        limiter = window(2)
        allowed: list[int] = []

        async def request(number: int) -> None:
            await world.outside(f"request {number} comes", latest=0)
            if await limiter.hit(number):
                allowed.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(request(number), name=f"request {number}")
        if limiter.cleaner is not None:
            await limiter.cleaner
        world.check(len(allowed) == 2, "two of three requests are allowed", f"{allowed}")

    return program


class LeakyBucket:
    """asynciolimiter 1.1.1 in small: leaks one call each `interval_s`, as long as one is in it."""

    def __init__(self, capacity: int, interval_s: float) -> None:
        self.capacity, self.interval_s = capacity, interval_s
        self.level = 0
        self.waiters: deque[asyncio.Future[None]] = deque()
        self.timer: asyncio.TimerHandle | None = None

    def _arm(self) -> None:
        self.timer = asyncio.get_running_loop().call_later(self.interval_s, self._leak)

    def _leak(self) -> None:
        self.level -= 1
        if self.waiters:
            self.waiters.popleft().set_result(None)
            self.level += 1
        if self.level == 0:
            self._is_empty()
            return
        self._arm()

    def _is_empty(self) -> None:
        """`timer` stays set: nobody arms the next one."""

    async def wait(self) -> None:
        if self.timer is None:
            self._arm()
        if self.level < self.capacity:
            self.level += 1
            return
        self.waiters.append(asyncio.get_running_loop().create_future())
        await self.waiters[-1]


class FixedLeakyBucket(LeakyBucket):
    """As asynciolimiter 1.1.2."""

    def _is_empty(self) -> None:
        self.timer = None


def calls_in_a_row(
    bucket: Callable[[int, float], LeakyBucket],
) -> Callable[[World], Awaitable[None]]:
    """A call blocks for ever where the bucket was empty before it."""

    async def program(world: World) -> None:
        limiter = bucket(1, 0.002)
        for number in range(3):
            await limiter.wait()
            await world.outside(f"answer {number} comes", latest=0.005)
        world.reached("all through")

    return program


_STATES = {"strategy": "states", "labels": ["all through"]}
# Random executions find it soon; depth-first comes to it after some 20,000.
_FEW = {"strategy": "portfolio"}

PROGRAMS = [
    Reported(
        "b02", "limits#277", three_requests(MovingWindow), "refuted", OnStock.MAY_FAIL, options=_FEW
    ),
    Reported(
        "b02",
        "… fixed",
        three_requests(FixedMovingWindow),
        "proved",
        OnStock.HOLDS,
        departures=1,
    ),
    Reported(
        "b03",
        "asynciolimiter#17",
        calls_in_a_row(LeakyBucket),
        "refuted",
        OnStock.MAY_FAIL,
        words=("no deadlock",),
        options=_STATES,
    ),
    Reported(
        "b03", "… fixed", calls_in_a_row(FixedLeakyBucket), "proved", OnStock.HOLDS, options=_STATES
    ),
]
