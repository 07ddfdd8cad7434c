"""What it costs that several workers share their sessions: admission, and the store's work.

    python3 -m uv run python -m tests.benchmarks.workers [--prompts 200] [--streams 1000]

Admission: from the prompt that supersedes to its first chunk, in one process and from one worker to
another, each worker a process of its own. The store's work: streams that only hold their sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from redis.asyncio import Redis

from registry.lease_records import LeaseOperation, Reply
from server.opening import limits_of
from server.stores.leased_registry import LeasedRegistry
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore
from sim.fake_ollama import FakeOllama, Profile
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server import valkey_server
from tests.server.support import DEVKEY, Output, address_in, process, prompt, settings
from tests.server.workers import settle_valkey, settled_file

ENDLESS = Profile(load_s=0, prompt_eval_s=0, chunk_s=0.02, chunks=2_000, num_parallel=64)
HOLD_S = 10.0


# ---- admission ------------------------------------------------------------------------------


async def admission(prompts: int) -> None:
    async with running(FakeOllama(ENDLESS, wall_clock_ns)) as ollama:
        for name in ("one process", "sqlite", "valkey"):
            async with servers(name, ollama.base_url) as urls:
                times = sorted(await supersede(urls, prompts))
            p99 = times[int(len(times) * 0.99)]
            print(f"{name}: p50 {statistics.median(times):.1f} ms, p99 {p99:.1f} ms", flush=True)


@asynccontextmanager
async def servers(name: str, ollama: str) -> AsyncIterator[list[str]]:
    """Their addresses: one, or two that share a store."""
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        more = {"OLLAMA_HOST": ollama}
        if name == "sqlite":
            more["JARVIS_SESSIONS"] = await settled_file(folder)
        elif name == "valkey":
            more["JARVIS_SESSIONS"] = exits.enter_context(valkey_server.running())
            await settle_valkey(more["JARVIS_SESSIONS"])
        count = 1 if name == "one process" else 2
        outputs = [
            Output(exits.enter_context(process("-m", "server", "--port", "0", **more)))
            for _ in range(count)
        ]
        yield [
            address_in(await asyncio.to_thread(each.wait_for, "onestream listens on"))
            for each in outputs
        ]


async def supersede(urls: list[str], prompts: int) -> list[float]:
    """Each prompt stops the one before it; milliseconds to its first chunk."""
    times: list[float] = []
    streams: list[asyncio.Task[None]] = []
    async with httpx.AsyncClient(headers=DEVKEY, timeout=60, trust_env=False) as http:
        for number in range(prompts + 1):
            begun = asyncio.Event()
            url = urls[number % len(urls)]
            before = time.perf_counter()
            streams.append(asyncio.create_task(read(http, url, str(number), begun)))
            await begun.wait()
            if number:
                times.append((time.perf_counter() - before) * 1000)
                await streams[-2]
        streams[-1].cancel()
        await asyncio.wait({streams[-1]})
    return times


async def read(http: httpx.AsyncClient, url: str, text: str, begun: asyncio.Event) -> None:
    body = prompt(text, stream=True, model="fake:normal")
    async with http.stream("POST", f"{url}/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if '"content":"w' in line or '"content":" ' in line or '"error"' in line:
                begun.set()


# ---- the store's work -----------------------------------------------------------------------


class Counted:
    """A store that counts its operations."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.operations = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def ask(self, operation: LeaseOperation) -> Reply:
        self.operations += 1
        return await self._store.ask(operation)


async def held(name: str, streams: int) -> None:
    """Streams of one worker, of this number, hold their sessions for a while."""
    limits = limits_of(settings())
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))
        url = ""
        if name == "sqlite":
            path = Path((await settled_file(folder)).removeprefix("sqlite:"))
            store = Counted(SqliteStore(path, limits, "w"))
        else:
            url = exits.enter_context(valkey_server.running())
            await settle_valkey(url)
            # What it costs, also on a machine that computes something else.
            store = Counted(RedisStore(url, limits, "w", call_s=5))
        registry = LeasedRegistry(store, "w", clock=time.monotonic, queue_s=60)
        await registry.start()
        tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(streams)]
        begun = time.perf_counter()
        for number, task in enumerate(tasks):
            entry = {"trace_id": f"t{number}", "session_id": f"s{number}", "task": task}
            await registry.register(entry)
        registered_s = time.perf_counter() - begun
        before, store_before, cpu = store.operations, await cpu_of(url), cpu_s()
        await asyncio.sleep(HOLD_S)
        operations, cpu = store.operations - before, cpu_s() - cpu
        store_cpu = await cpu_of(url) - store_before
        lost = sum(not registry.may_emit(f"t{n}", r) for n, r in tokens(registry).items())
        for task in tasks:
            task.cancel()
        await registry.close()
        await registry.end()
    print(
        f"{name}, {streams} streams: registered in {registered_s:.2f} s; "
        f"{operations / HOLD_S:.0f} operations/s, {operations / HOLD_S / streams:.2f} per stream "
        f"and second; {cpu / HOLD_S:.1%} of a core in the worker, "
        f"{store_cpu / HOLD_S:.1%} in the store; {lost} leases lost",
        flush=True,
    )


def tokens(registry: LeasedRegistry) -> dict[int, int]:
    found = {}
    for view in registry.snapshot().streams:
        assert view.fencing_token is not None
        found[int(view.trace_id[1:])] = view.fencing_token
    return found


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def cpu_of(url: str) -> float:
    """Seconds that the server has computed; 0 without one."""
    if not url:
        return 0.0
    async with Redis.from_url(url) as client:
        info = await client.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--streams", type=int, default=1000)
    arguments = parser.parse_args()
    if arguments.prompts:
        await admission(arguments.prompts)
    for name in ("sqlite", "valkey"):
        await held(name, arguments.streams)


if __name__ == "__main__":
    asyncio.run(main())
