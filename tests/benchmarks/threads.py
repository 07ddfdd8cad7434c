"""How many executions prove small programs with threads, as they are and with all switch points.

    python -m tests.benchmarks.threads [--max-executions 5000] [--all-switch-points] [PROGRAM…]

Each is proved by the default strategy, without the executions beside the search.
"""

from __future__ import annotations

import argparse
import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext

import anyio
import anyio.to_thread
import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from sim import World, explore
from sim.kernel.execution import Program
from tests.sim.switch_points import all_switch_points


async def to_thread(world: World) -> None:
    told = list[int]()
    await asyncio.gather(*(asyncio.to_thread(told.append, number) for number in (1, 2)))
    world.reached(str(told))


async def anyio_to_thread(world: World) -> None:
    told = list[int]()
    async with anyio.create_task_group() as group:
        for number in (1, 2):
            group.start_soon(anyio.to_thread.run_sync, told.append, number)
    world.reached(str(told))


async def fastapi_endpoints(world: World) -> None:
    app, told = FastAPI(), list[int]()

    @app.get("/{number}")
    def answer(number: int) -> int:
        told.append(number)
        return number

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answers = await asyncio.gather(client.get("/1"), client.get("/2"))
    world.check([each.json() for each in answers] == [1, 2], "each has its answer")
    world.reached(str(told))


async def portal_of_this_loop(world: World) -> None:
    async def call(number: int) -> int:
        return number

    async with BlockingPortal() as portal:
        calls = (asyncio.to_thread(portal.call, call, number) for number in (1, 2))
        world.check(await asyncio.gather(*calls) == [1, 2], "each has its answer")


async def portal_in_a_thread(world: World) -> None:
    async def call(number: int) -> int:
        return number

    def calls() -> int:
        with start_blocking_portal() as portal:
            futures = [portal.start_task_soon(call, number) for number in (1, 2)]
            return sum(each.result() for each in futures)

    world.check(await asyncio.to_thread(calls) == 3, "both are answered")


async def barrier(world: World) -> None:
    meet, told = threading.Barrier(2), list[int]()

    def job(number: int) -> None:
        meet.wait()
        told.append(number)

    await asyncio.gather(asyncio.to_thread(job, 1), asyncio.to_thread(job, 2))
    world.reached(str(told))


async def condition(world: World) -> None:
    changed, items, got = threading.Condition(), list[int](), list[int]()

    def takes() -> None:
        with changed:
            while not items:
                changed.wait()
            got.append(items.pop())

    def gives() -> None:
        with changed:
            items.append(1)
            changed.notify()

    await asyncio.gather(asyncio.to_thread(takes), asyncio.to_thread(gives))
    world.check(got == [1], "it is taken")


async def queue_of_two(world: World) -> None:
    items, got = queue.Queue[int](), list[int]()

    def gives() -> None:
        for number in (1, 2):
            items.put(number)

    def takes() -> None:
        got.extend((items.get(), items.get()))

    await asyncio.gather(asyncio.to_thread(takes), asyncio.to_thread(gives))
    world.check(got == [1, 2], "they come in order")


async def pool_map(world: World) -> None:
    told = list[int]()

    def job(number: int) -> int:
        told.append(number)
        return number

    with ThreadPoolExecutor(2) as pool:
        world.check(list(pool.map(job, (1, 2))) == [1, 2], "in order")
    world.reached(str(told))


async def pool_as_completed(world: World) -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(int, text) for text in "12"]
        world.reached(str([each.result() for each in as_completed(futures)]))


async def pool_of_three(world: World) -> None:
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(int, text) for text in "123"]
        world.reached(str([each.result() for each in as_completed(futures)]))


PROGRAMS: tuple[Program, ...] = (
    *(to_thread, anyio_to_thread, fastapi_endpoints, portal_of_this_loop, portal_in_a_thread),
    *(barrier, condition, queue_of_two, pool_map, pool_as_completed, pool_of_three),
)


def main() -> None:
    by_name: dict[str, Program] = {each.__name__: each for each in PROGRAMS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("programs", nargs="*", default=[*by_name], metavar="PROGRAM")
    parser.add_argument("--max-executions", type=int, default=5_000)
    parser.add_argument("--all-switch-points", action="store_true")
    given = parser.parse_args()
    points: Callable[[], object] = all_switch_points if given.all_switch_points else nullcontext
    for name in given.programs:
        with points():  # type: ignore[attr-defined]
            report = explore(by_name[name], max_executions=given.max_executions, thread_lines=False)
        print(f"{name:20} {report.verdict} {report.executions}", flush=True)


if __name__ == "__main__":
    main()
