"""A worker of the chaos test, a process: production's registry and store, prompts, and a history.

    python -m tests.server.chaos_worker STORE NAME HISTORY SEED

Each line of the history is `TIME WHAT SESSION TOKEN NAME/TRACE_ID`: TIME is CLOCK_MONOTONIC, which
all processes of the machine share, read before what it stands for. A line is one write.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import sys
import time
from functools import partial
from pathlib import Path

from registry import Strategy, Stream, StreamError
from registry.lease_records import LeaseLimits
from registry.wording import TIMEOUT_ON_CANCEL
from server.stores.leased_registry import LeasedRegistry
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore
from server.stores.store import SessionStore, StoreUnreachable

LIMITS = LeaseLimits(lease_ms=1_500, margin_ms=200, grace_ms=500)
RENEW_S, POLL_S, CALL_S = 0.4, 0.1, 0.3
SESSIONS = ("a", "b", "c")
CHUNK_S = 0.01
STRATEGIES = (Strategy.INTERRUPT,) * 6 + (Strategy.ENQUEUE, Strategy.REJECT)


class History:
    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def say(self, at: float, what: str, session: str, token: int, stream: str) -> None:
        os.write(self._file, f"{at:.6f} {what} {session} {token} {stream}\n".encode())


class OverlapLines(logging.Handler):
    """The log lines that say whose place was taken go to the history."""

    def __init__(self, history: History) -> None:
        super().__init__(logging.INFO)
        self._history = history

    def emit(self, record: logging.LogRecord) -> None:
        event, _, rest = record.getMessage().partition(" ")
        if event == TIMEOUT_ON_CANCEL:
            fields = dict(word.partition("=")[::2] for word in rest.split())
            self._history.say(time.monotonic(), "timeout", fields["session"], 0, fields["trace"])


class Worker:
    def __init__(self, store: SessionStore, name: str, history: History, seed: int) -> None:
        self.registry = LeasedRegistry(
            store, name, clock=time.monotonic, queue_s=5.0, renew_s=RENEW_S, poll_s=POLL_S
        )
        self.name = name
        self._history = history
        self._chance = random.Random(seed)
        self.tasks: set[asyncio.Task[None]] = set()

    async def prompts(self) -> None:
        """Without end, until the process is killed."""
        number = 0
        while True:
            number += 1
            prompt = self._prompt(f"{self.name}.{number}", self._chance.choice(SESSIONS))
            task = asyncio.create_task(prompt)
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
            await asyncio.sleep(self._chance.uniform(0.05, 1.2))

    async def _prompt(self, trace_id: str, session: str) -> None:
        chance = self._chance
        gate: asyncio.Future[Stream] = asyncio.get_running_loop().create_future()
        lasts_s, cleans_up_s = chance.uniform(0.2, 4), chance.choice((0.0, 0.05, 0.3, 1.0, 3.0))
        work = asyncio.create_task(self._stream(trace_id, session, gate, lasts_s, cleans_up_s))
        entry = {
            "trace_id": trace_id,
            "session_id": session,
            "strategy": chance.choice(STRATEGIES),
            "task": work,
        }
        self._history.say(time.monotonic(), "asks", session, 0, trace_id)
        asked = time.monotonic()
        try:
            async with asyncio.timeout(chance.choice((None, None, None, 1.0))):
                stream = await self.registry.register(entry)
        except (StreamError, TimeoutError) as exc:
            self._history.say(time.monotonic(), type(exc).__name__, session, 0, trace_id)
            work.cancel()
        else:
            token = stream.fencing_token or 0
            self._history.say(time.monotonic(), "let_in", session, token, trace_id)
            self._history.say(asked, "asked", session, token, trace_id)
            gate.set_result(stream)
        await asyncio.wait({work})

    async def _stream(
        self,
        trace_id: str,
        session: str,
        gate: asyncio.Future[Stream],
        lasts_s: float,
        cleans_up_s: float,
    ) -> None:
        stream = await gate
        token = stream.fencing_token or 0
        say = partial(self._history.say, session=session, token=token, stream=trace_id)
        try:
            begun = at = time.monotonic()
            stream.raise_if_stopped()
            say(at, "upstream")
            while at < begun + lasts_s:
                at = time.monotonic()
                stream.raise_if_stopped()
                say(at, "emit")
                await asyncio.sleep(CHUNK_S)
        except (StreamError, asyncio.CancelledError):
            say(time.monotonic(), "stopped")
        try:
            await asyncio.sleep(cleans_up_s)
        finally:
            # Also where it is stopped only now.
            say(time.monotonic(), "over")
        await self.registry.pop(trace_id)


async def main(address: str, name: str, path: str, seed: int) -> None:
    history = History(path)
    logger = logging.getLogger("onestream.registry")
    logger.setLevel(logging.INFO)
    logger.addHandler(OverlapLines(history))
    store: SessionStore
    if address.startswith("redis:"):
        store = RedisStore(address, LIMITS, name, call_s=CALL_S, health_s=1.0)
    else:
        store = SqliteStore(Path(address), LIMITS, name)
    worker = Worker(store, name, history, seed)
    while True:
        try:
            await worker.registry.start()
        except StoreUnreachable:
            await asyncio.sleep(POLL_S)
        else:
            break
    await worker.prompts()


if __name__ == "__main__":
    _, address_, name_, path_, seed_ = sys.argv
    asyncio.run(main(address_, name_, path_, int(seed_)))
