"""Several workers that share their sessions, each a whole server on a port of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from server.app import create_app
from server.opening import limits_of
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore, monotonic_ms
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server import valkey_server
from tests.server.support import DEVKEY, PATIENCE_S, Stack, serving, settings

# By default a call has half a second: on a machine that does something else it is too late.
UNHURRIED = {"lease_seconds": 120.0, "sessions_call_seconds": 30.0}
ENDLESS = {"chunk_s": 0.02, "chunks": 5_000, "num_parallel": 64}


@asynccontextmanager
async def workers(
    sessions: str, count: int = 2, changes: dict[str, Any] | None = None, **limits: Any
) -> AsyncIterator[list[Stack]]:
    """This number of them, in this loop, in front of one fake Ollama that answers without end."""
    fake = FakeOllama(
        replace(profile_named("instant"), **{**ENDLESS, **(changes or {})}), wall_clock_ns
    )
    async with AsyncExitStack() as exits:
        front = await exits.enter_async_context(running(fake))
        limits.setdefault("ollama_host", front.base_url)
        stacks = []
        for _ in range(count):
            app = create_app(settings(sessions=sessions, **limits), signals=())
            url, server = await exits.enter_async_context(serving(app))
            headers = {} if limits.get("api_keys") else DEVKEY
            http = await exits.enter_async_context(
                httpx.AsyncClient(
                    base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False
                )
            )
            stacks.append(Stack(url, app, fake, app.state.service, http, server))
        yield stacks


@asynccontextmanager
async def sharing(store: str, folder: Path, **limits: Any) -> AsyncIterator[list[Stack]]:
    """Two workers with a store of this kind, whose lateness decides nothing."""
    limits = UNHURRIED | limits
    async with settled(store, folder, **limits) as sessions, workers(sessions, **limits) as stacks:
        yield stacks


@asynccontextmanager
async def settled(store: str, folder: Path, **limits: Any) -> AsyncIterator[str]:
    """JARVIS_SESSIONS of a store of this kind, `sqlite` or `valkey`, whose quarantine is over."""
    if store == "sqlite":
        yield await settled_file(folder, **limits)
        return
    with valkey_server.running() as url:
        await settle_valkey(url, **limits)
        yield url


async def settle_valkey(url: str, **limits: Any) -> None:
    leases = limits_of(settings(**limits))
    age_ms = leases.quarantine_ms + 1000
    now_ms = wall_clock_ns() // 1_000_000
    seed = RedisStore(url, leases, "seed", now_ms=lambda: now_ms - age_ms)
    await seed.start()
    await seed.close()


async def settled_file(folder: Path, **limits: Any) -> str:
    """JARVIS_SESSIONS of a file whose quarantine is over: it is old enough."""
    path = folder / "shared" / "sessions.sqlite"
    leases = limits_of(settings(**limits))
    age_ms = leases.quarantine_ms + 1000
    store = SqliteStore(path, leases, "seed", now_ms=lambda: monotonic_ms() - age_ms)
    await store.start()
    await store.close()
    return f"sqlite:{path}"
