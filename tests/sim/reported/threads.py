"""Worker threads, and loops in them: asgiref#348, aiosqlite, FastAPI's `def` endpoints."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import aiosqlite
import httpx
from asgiref.sync import ThreadSensitiveContext, async_to_sync, sync_to_async
from fastapi import Depends, FastAPI
from pydantic import BaseModel

from sim import World
from tests.sim.reported.base import OnStock, Reported

LOCAL = threading.local()


async def a_local_of_the_loops_thread(world: World) -> None:
    """f06: a worker reads what only the loop's thread has set."""
    LOCAL.connection = "of the loop's thread"
    await asyncio.to_thread(lambda: LOCAL.connection)


async def a_worker_is_not_the_main_thread(world: World) -> None:
    """f06, the other way round."""

    def look() -> None:
        assert threading.current_thread() is not threading.main_thread(), "in the main thread"

    await asyncio.to_thread(look)


async def _sleeps(seconds: float) -> int:
    await asyncio.sleep(seconds)
    return 1


def a_loop_in_a_worker(seconds: float) -> Callable[[World], Awaitable[None]]:
    """f04: asyncio.run within a worker thread."""

    async def program(world: World) -> None:
        answer = await asyncio.to_thread(lambda: asyncio.run(_sleeps(seconds)))
        world.check(answer == 1, "it answers")

    return program


async def a_loop_in_a_loop(world: World) -> None:
    """f04: asyncio.run in the loop's own thread is an error of the program."""
    coroutine = _sleeps(0)
    try:
        asyncio.run(coroutine)
    finally:
        coroutine.close()


def below_a_view(pool_drives_itself: bool) -> Callable[[World], Awaitable[None]]:
    """b13: a view in the one thread for database work runs a loop, whose task needs the thread.

    asgiref 3.3.4 in small. The fixed one runs the work in the view's own thread.
    """

    async def program(world: World) -> None:
        written: list[str] = []
        with ThreadPoolExecutor(1) as pool:

            async def write() -> None:
                if pool_drives_itself:
                    written.append("row")
                else:
                    await asyncio.get_running_loop().run_in_executor(pool, written.append, "row")

            async def view() -> None:
                await asyncio.create_task(write())

            await asyncio.get_running_loop().run_in_executor(pool, lambda: asyncio.run(view()))
        world.check(written == ["row"], "it is written")

    return program


async def asgiref_below_a_view(world: World) -> None:
    """b13 with the asgiref that is installed, in which it is fixed."""
    written: list[str] = []

    async def io() -> None:
        await sync_to_async(written.append)("row")

    async def view_needs() -> None:
        await asyncio.create_task(io(), name="io")

    # With a thread of its own, which ends with it.
    async with ThreadSensitiveContext():
        await sync_to_async(lambda: async_to_sync(view_needs)())()
    world.check(written == ["row"], "it is written")


async def asgiref_plain(world: World) -> None:
    """b13 plain: two calls, one thread."""
    seen: list[int] = []
    async with ThreadSensitiveContext():
        await asyncio.gather(*(sync_to_async(seen.append)(number) for number in range(2)))
    world.check(sorted(seen) == [0, 1], "both ran")


async def asgiref_from_a_thread(world: World) -> None:
    """b13 sync_entry: a thread that calls async_to_sync."""
    answer = await asyncio.to_thread(lambda: async_to_sync(_sleeps)(1e-4))
    world.check(answer == 1, "it answers")


class FinishedQueue:
    """janus 1.1 in small: unfinished tasks, and an event that there are none."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.finished = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def put(self) -> None:
        self.unfinished += 1
        self.finished.clear()

    def task_done(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            self.finished.set()

    def task_done_of_thread(self) -> None:
        self.unfinished -= 1
        if not self.unfinished:
            # May land after the next put: the event is set though one is unfinished.
            self._loop.call_soon_threadsafe(self.finished.set)

    async def join(self) -> None:
        while self.unfinished:
            await self.finished.wait()


class FixedQueue(FinishedQueue):
    """As janus 1.2: who joins waits for the next notice."""

    async def join(self) -> None:
        while self.unfinished:
            self.finished.clear()
            await self.finished.wait()


def join_of_a_queue(queue: Callable[[], FinishedQueue]) -> Callable[[World], Awaitable[None]]:
    """b12: a put between a thread's task_done and its notice: join never gives the loop back."""

    async def program(world: World) -> None:
        tasks = queue()
        tasks.put()
        work = asyncio.create_task(asyncio.to_thread(tasks.task_done_of_thread), name="work")
        await world.outside("another comes", latest=1)
        tasks.put()
        joins = asyncio.create_task(tasks.join(), name="join")
        await world.outside("the other is done", latest=1)
        await work
        tasks.task_done()
        await joins

    return program


async def _first(cursor: aiosqlite.Cursor) -> tuple[int]:
    row = await cursor.fetchone()
    assert row is not None
    return tuple(row)


async def aiosqlite_loses_an_update(world: World) -> None:
    """r2: a connection is a thread; two coroutines read before either writes."""
    async with aiosqlite.connect(":memory:") as db:
        await db.execute("create table t (n integer)")
        await db.execute("insert into t values (100)")

        async def withdraw(amount: int) -> None:
            async with db.execute("select n from t") as cursor:
                (seen,) = await _first(cursor)
            await db.execute("update t set n = ?", (seen - amount,))

        await asyncio.gather(withdraw(10), withdraw(20))
        async with db.execute("select n from t") as cursor:
            (left,) = await _first(cursor)
    world.check(left == 70, "both count", str(left))


async def sqlite_by_to_thread(world: World) -> None:
    """r2: the standard library's sqlite3."""
    db = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        db.execute("create table t (n integer)")
        db.execute("insert into t values (100)")

        async def withdraw(amount: int) -> None:
            (seen,) = await asyncio.to_thread(lambda: db.execute("select n from t").fetchone())
            await asyncio.to_thread(lambda: db.execute("update t set n = ?", (seen - amount,)))

        await asyncio.gather(withdraw(10), withdraw(20))
        (left,) = db.execute("select n from t").fetchone()
    finally:
        db.close()
    world.check(left == 70, "both count", str(left))


class Transfer(BaseModel):
    amount: int


def _application(world: World, lock: asyncio.Lock | None, is_async: bool) -> FastAPI:
    app = FastAPI()
    app.state.balance = 100

    async def account() -> object:
        return app.state

    async def withdrawn(transfer: Transfer) -> bool:
        seen = app.state.balance
        await world.outside("the audit log answers", latest=0.1)
        app.state.balance = seen - transfer.amount
        return bool(seen >= transfer.amount)

    async def withdraw(transfer: Transfer, held: object = Depends(account)) -> bool:
        if lock is None:
            return await withdrawn(transfer)
        async with lock:
            return await withdrawn(transfer)

    def withdraw_in_a_thread(transfer: Transfer, held: object = Depends(account)) -> bool:
        seen = app.state.balance
        threading.Event().wait(0.001)
        app.state.balance = seen - transfer.amount
        return bool(seen >= transfer.amount)

    app.post("/withdraw")(withdraw if is_async else withdraw_in_a_thread)
    return app


def two_withdrawals(*, locked: bool, is_async: bool) -> Callable[[World], Awaitable[None]]:
    """r1: two requests at once to an application in memory."""

    async def program(world: World) -> None:
        app = _application(world, asyncio.Lock() if locked else None, is_async)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            posts = (client.post("/withdraw", json={"amount": 80}) for _ in range(2))
            given = [each.json() for each in await asyncio.gather(*posts)]
        world.check(sorted(given) == [False, True], "one of two is given", f"{given}")

    return program


_HOLDS, _MAY_FAIL, _FAILS, _NOT_RUN = OnStock
PROGRAMS = [
    Reported("f06", "a local", a_local_of_the_loops_thread, "refuted", _FAILS, ("AttributeError",)),
    Reported("f06", "identity", a_worker_is_not_the_main_thread, "proved", _HOLDS),
    Reported("f04", "a loop, no time", a_loop_in_a_worker(0), "proved", _HOLDS),
    Reported("f04", "a loop, some time", a_loop_in_a_worker(0.01), "proved", _HOLDS),
    Reported("f04", "a loop in a loop", a_loop_in_a_loop, "refuted", _FAILS, ("RuntimeError",)),
    Reported("b13", "asgiref#348", below_a_view(False), "refuted", _NOT_RUN, ("no deadlock",)),
    Reported("b13", "… fixed", below_a_view(True), "proved", _HOLDS),
    Reported("b13", "asgiref, newest", asgiref_below_a_view, "proved", _HOLDS, departures=1),
    Reported("b13", "asgiref, plain", asgiref_plain, "proved", _HOLDS, departures=1),
    Reported("b13", "asgiref, a view", asgiref_below_a_view, "proved", _HOLDS, departures=1),
    Reported("b13", "asgiref, a thread", asgiref_from_a_thread, "proved", _HOLDS, departures=2),
    Reported(
        "b12",
        "janus#715",
        join_of_a_queue(FinishedQueue),
        "refuted",
        _NOT_RUN,
        ("each step gives the loop back",),
        {"step_lines_max": 20_000},
    ),
    Reported("b12", "… fixed", join_of_a_queue(FixedQueue), "proved", _HOLDS, departures=1),
    Reported("r2", "aiosqlite", aiosqlite_loses_an_update, "refuted", _MAY_FAIL),
    Reported("r2", "sqlite3, to_thread", sqlite_by_to_thread, "refuted", _MAY_FAIL),
    Reported("r1", "FastAPI", two_withdrawals(locked=False, is_async=True), "refuted", _MAY_FAIL),
    Reported("r1", "… locked", two_withdrawals(locked=True, is_async=True), "proved", _HOLDS),
    Reported(
        "r1",
        "… `def` endpoints",
        two_withdrawals(locked=False, is_async=False),
        "refuted",
        _MAY_FAIL,
    ),
]
