"""mlx-openai-server#269: a worker thread goes on generating for a client that has left.

The worker is one thread; it generates chunk after chunk into a queue that an asynchronous generator
reads. When the client leaves, the reader ends, and nothing stops the thread: it generates to the
end of an answer that nobody reads, and the next request waits for as long. Any version: a misuse; a
thread cannot be stopped from outside. Here an answer is 3 chunks of a second each; the next client
may wait for the current chunk.

The fixed reader sets a flag on its way out, and the thread looks at it between two chunks.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import aclosing, suppress

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World

CHUNKS = 3
CHUNK_S = 1.0


async def stream(pool: Executor) -> AsyncIterator[int]:
    async for chunk in _stream(pool, is_cancelled=lambda: False):
        yield chunk


async def stream_fixed(pool: Executor) -> AsyncIterator[int]:
    cancelled = threading.Event()
    try:
        async for chunk in _stream(pool, is_cancelled=cancelled.is_set):
            yield chunk
    finally:
        cancelled.set()


async def _stream(pool: Executor, is_cancelled: Callable[[], bool]) -> AsyncIterator[int]:
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[int] = asyncio.Queue()

    def generate() -> None:
        for chunk in range(CHUNKS):
            if is_cancelled():
                return
            time.sleep(CHUNK_S)
            loop.call_soon_threadsafe(chunks.put_nowait, chunk)

    pool.submit(generate)
    for _ in range(CHUNKS):
        yield await chunks.get()


async def program(world: World) -> None:
    await _two_clients(world, stream)


async def fixed(world: World) -> None:
    await _two_clients(world, stream_fixed)


async def _two_clients(world: World, streaming: Callable[[Executor], AsyncIterator[int]]) -> None:
    pool = world.executor(threads_max=1)

    async def read() -> None:
        async with aclosing(streaming(pool)) as chunks:  # type: ignore[type-var]
            async for _ in chunks:
                pass

    first = asyncio.create_task(read(), name="first client")
    await world.outside("the first client leaves", latest=0.5)
    world.reached("the first client has left")
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    asked_at = world.now
    async with aclosing(streaming(pool)) as chunks:  # type: ignore[type-var]
        await anext(chunks)
    waited_s = world.now - asked_at
    world.check(
        waited_s < 2.5 * CHUNK_S,
        "a client waits for the chunk under way and its own, not for an answer nobody reads",
        f"{waited_s:.1f} s",
    )


BUG = HistoricalBug(
    id="mlx-openai-server#269",
    title="a thread generates for a client that has left",
    link="https://github.com/cubist38/mlx-openai-server/issues/269",
    program=program,
    fixed=fixed,
    labels=("the first client has left",),
)
