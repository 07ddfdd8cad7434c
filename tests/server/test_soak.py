"""The soak: thousands of prompts that are cancelled, left and overtaken; then nothing is left.

    python -m pytest -m soak tests/server/test_soak.py -s

JARVIS_SOAK_ROUNDS and JARVIS_SOAK_SIGNALS set other numbers than 3,000 and 100.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import threading
import time
import types
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.shutdowns import GRACE_S, LAUNCHERS, exit_under_trouble, fake_ollama
from tests.server.support import CLIENTS, DEVKEY, RawClient, Stack, prompt, stack, until

pytestmark = [pytest.mark.socket, pytest.mark.soak]

ROUNDS = int(os.environ.get("JARVIS_SOAK_ROUNDS", "3000"))
SIGNALS = int(os.environ.get("JARVIS_SOAK_SIGNALS", "100"))
USERS = 8
MODES = (
    "normal",
    "normal",
    "hang-before-headers",
    "hang-midstream",
    "error",
    "error-midstream",
    "cut",
    "crash",
    "thinking",
    "unicode",
)


async def counts() -> dict[str, int]:
    """What can leak: open files and sockets, tasks, threads, and suspended generators."""
    gc.collect()
    objects = gc.get_objects()
    return {
        "sockets": _open_sockets(),
        "tasks": len(asyncio.all_tasks()),
        "threads": threading.active_count(),
        "generators": sum(
            isinstance(thing, types.AsyncGeneratorType) and thing.ag_frame is not None
            for thing in objects
        ),
        "coroutines": sum(
            isinstance(thing, types.CoroutineType) and thing.cr_frame is not None
            for thing in objects
        ),
    }


def _open_sockets() -> int:
    return sum(_is_socket(path) for path in Path("/proc/self/fd").iterdir())


def _is_socket(path: Path) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except FileNotFoundError:
        return False


class User:
    """Prompts one session at random: reads on, leaves, cancels, or prompts again at once."""

    def __init__(self, server: Stack, name: str, seed: int) -> None:
        self._server = server
        self._name = name
        self._random = random.Random(seed)
        self.outcomes: Counter[str] = Counter()
        self._overtaken: list[asyncio.Task[Any]] = []

    async def rounds(self, number: int) -> None:
        for _ in range(number):
            act = self._random.choice(
                (self.leave, self.leave, self.cancel, self.prompt_again, self.read)
            )
            await act()
        for task in self._overtaken:
            self.outcomes[f"overtaken {(await task).status_code}"] += 1

    def _body(self) -> dict[str, Any]:
        mode = self._random.choice(MODES)
        return prompt(
            "hello there",
            stream=self._random.random() < 0.8,
            model=f"fake:{mode}",
            session_id=self._name,
        )

    async def _moment(self) -> None:
        # From before the request is read to well into the stream.
        await asyncio.sleep(self._random.choice((0, 0, 0.001, 0.003, 0.01, 0.03)))

    async def leave(self) -> None:
        raw = RawClient(self._server.url)
        try:
            await raw.send(self._body(), half=self._random.random() < 0.1)
            await self._moment()
        finally:
            raw.close()
        self.outcomes["left"] += 1

    async def cancel(self) -> None:
        task = asyncio.create_task(self._server.post(self._body()))
        while not task.done():
            await self._moment()
            listed = (await self._server.http.get("/v1/streams")).json()["data"]
            for view in listed[:20]:
                if view["session_id"] == self._name and view["state"] != "ENDED":
                    path = f"/v1/streams/{view['trace_id']}/cancel"
                    await self._server.http.post(path)
        self.outcomes[f"cancelled {(await task).status_code}"] += 1

    async def prompt_again(self) -> None:
        self._overtaken.append(asyncio.create_task(self._server.post(self._body())))
        await self._moment()
        await self.read()

    async def read(self) -> None:
        body = {**self._body(), "model": "fake:normal"}
        answer = await self._server.post(body)
        self.outcomes[f"read {answer.status_code}"] += 1


@pytest.mark.parametrize("client", CLIENTS)
def test_soak_of_cancels_leaves_and_prompts(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """After all that, as many sockets, tasks, threads and generators as before the first."""

    async def main() -> None:
        changes = {"chunk_s": 0.001, "chunks": 30, "num_parallel": 1000, "calls_kept": 10}
        # A prompt that hangs and is overtaken by nobody ends by these.
        silence = {"first_chunk_seconds": 1.0, "stream_inactivity_seconds": 1.0}
        limits = {"ollama_client": client, "archive_max": 50, **silence}
        async with stack("instant", changes, **limits) as server:
            no_reuse = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(
                base_url=server.url, headers=DEVKEY, limits=no_reuse, timeout=60, trust_env=False
            ) as http:
                server.http, kept = http, server.http
                users = [User(server, f"user-{number}", seed=number) for number in range(USERS)]
                for user in users:
                    await user.read()
                await server.quiet()
                await until(lambda: not server.uvicorn.server_state.connections, "closed", 15)
                before = await counts()
                began = time.monotonic()
                await asyncio.gather(*(user.rounds(ROUNDS // USERS) for user in users))
                took_s = time.monotonic() - began
                await server.quiet()
                await until(lambda: not server.uvicorn.server_state.connections, "closed", 15)
                after = await counts()
                for _ in range(100):
                    if after == before:
                        break
                    await asyncio.sleep(0.05)
                    after = await counts()
                assert after == before
                server.http = kept
            assert server.registry.snapshot().sessions_kept == 0
            assert not server.service.connections
        outcomes: Counter[str] = sum((user.outcomes for user in users), Counter())
        with capsys.disabled():
            print(f"\nsoak, {client} client: {ROUNDS} rounds in {took_s:.1f} s")
            print(f"  {dict(sorted(outcomes.items()))}")
            print(f"  before {before}\n  after  {after}")

    asyncio.run(main())


def test_soak_of_signals(capsys: pytest.CaptureFixture[str]) -> None:
    """Every one of many servers in trouble is gone within the grace and a second."""
    cases = [
        (launcher, client, number)
        for launcher in LAUNCHERS
        for client in CLIENTS
        for number in (signal.SIGTERM, signal.SIGINT)
        if client == "thread" or launcher != "nothing wakes the thread"
    ]
    times: list[float] = []

    async def cycle(case: tuple[str, str, signal.Signals]) -> None:
        clients: list[RawClient] = []
        async with fake_ollama() as (fake, ollama):
            try:
                took_s, lines = await exit_under_trouble(*case, fake, ollama, clients)
            finally:
                for raw in clients:
                    raw.close()
        times.append(took_s)
        assert took_s < GRACE_S + 1, (case, took_s, lines)

    for index in range(SIGNALS):
        asyncio.run(cycle(cases[index % len(cases)]))
    times.sort()
    with capsys.disabled():
        print(
            f"\nsoak of signals: {len(times)} servers gone after at most {times[-1]:.2f} s "
            f"(median {times[len(times) // 2]:.2f} s, limit {GRACE_S + 1:g} s)"
        )
