"""sqlalchemy#8145: a connection is not given back, since the cancel meets its clean-up, too.

`async with engine.connect()` gives the connection back on its way out, and that takes an `await`
(a rollback). In a task group of anyio, as behind any middleware of Starlette, a cancel is not an
event but a state: each further `await` within the scope is cancelled as well. So the rollback is
cut short, what comes after it never runs, and the pool counts a connection that nobody has. Any
version: a misuse.

The fixed block shields its way out in a task of its own, as SQLAlchemy does since this report. The
code below has SQLAlchemy's shape; the task group is anyio's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import anyio

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World


class Pool:
    def __init__(self, world: World) -> None:
        self.checked_out = 0
        self._world = world

    async def execute(self, statement: str) -> None:
        await self._world.outside(f"the database has done {statement}", latest=1)

    async def close_one(self) -> None:
        await self.execute("ROLLBACK")
        self.checked_out -= 1


@asynccontextmanager
async def connect(pool: Pool) -> AsyncIterator[None]:
    pool.checked_out += 1
    try:
        yield
    finally:
        await pool.close_one()


@asynccontextmanager
async def connect_fixed(pool: Pool) -> AsyncIterator[None]:
    pool.checked_out += 1
    try:
        yield
    finally:
        await asyncio.shield(asyncio.create_task(pool.close_one()))


async def program(world: World) -> None:
    await _run(world, connect)


async def fixed(world: World) -> None:
    await _run(world, connect_fixed)


async def _run(
    world: World, connecting: Callable[[Pool], AbstractAsyncContextManager[None]]
) -> None:
    pool = Pool(world)

    async def query() -> None:
        async with connecting(pool):
            await pool.execute("SELECT")

    async with anyio.create_task_group() as group:
        group.start_soon(query)
        await world.outside("the request is cancelled", latest=2)
        if pool.checked_out:
            world.reached("cancelled under way")
        group.cancel_scope.cancel()
    await asyncio.sleep(2)
    world.check(
        pool.checked_out == 0,
        "with every task over, no connection is checked out",
        f"{pool.checked_out} checked out",
    )


BUG = HistoricalBug(
    id="sqlalchemy#8145",
    title="a connection is lost when the cancel meets its clean-up",
    link="https://github.com/sqlalchemy/sqlalchemy/issues/8145",
    program=program,
    fixed=fixed,
    labels=("cancelled under way",),
)
