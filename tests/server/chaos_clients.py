"""Clients of a server in trouble: what they ask, what they are told, and a history of both."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field

import httpx

from tests.server.support import DEVKEY

SESSIONS = ("a", "b", "c")
STRATEGIES = ("interrupt",) * 6 + ("enqueue", "reject")
# Who has no answer by then will have none: an enqueued prompt waits 5 s, a lease takes 1.7 s.
HANGS_S = 90.0
# The end of a streamed answer that has none.
CUT = "cut without a message"


@dataclass(eq=False)
class Asked:
    """A prompt, and what came back: times are of CLOCK_MONOTONIC."""

    name: str
    session: str
    at: float
    trace_id: str = ""
    token: int = 0
    # When it was known to be let in, by its first piece of content.
    let_in: float = 0.0
    # When each piece was made, by the Ollama.
    pieces: list[float] = field(default_factory=list)
    end: str = ""
    over: float = 0.0
    is_broken: bool = False


class Clients:
    def __init__(self, url: str, seed: int) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=DEVKEY,
            timeout=HANGS_S,
            trust_env=False,
            # Each prompt comes to whichever worker takes it.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
        )
        self._chance = random.Random(seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self.prompts: list[Asked] = []

    async def ask_until(self, end: float) -> None:
        while time.monotonic() < end:
            self._begin(self._prompt())
            if self._chance.random() < 0.1:
                self._begin(self._cancel())
            await asyncio.sleep(self._chance.uniform(0.05, 0.5))
        await asyncio.wait(self._tasks)
        for task in self._tasks:
            task.result()
        await self._http.aclose()

    def _begin(self, work: Coroutine[object, object, None]) -> None:
        self._tasks.add(asyncio.create_task(work))

    async def _prompt(self) -> None:
        chance = self._chance
        asked = Asked(f"p.{len(self.prompts)}", chance.choice(SESSIONS), time.monotonic())
        self.prompts.append(asked)
        text = {"name": asked.name, "session": asked.session, "lasts_s": chance.uniform(0.2, 4)}
        body = {
            "model": "m",
            "stream": True,
            "messages": [{"role": "user", "content": json.dumps(text)}],
        }
        headers = {
            "x-session-id": asked.session,
            "x-session-strategy": chance.choice(STRATEGIES),
        }
        leaves_s = chance.choice((None, None, None, 1.0))
        try:
            async with asyncio.timeout(leaves_s):
                await self._read(asked, body, headers)
        except TimeoutError:
            asked.end = "has left"
        except httpx.TransportError as exc:
            asked.end, asked.is_broken = type(exc).__name__, True
        asked.over = time.monotonic()

    async def _read(self, asked: Asked, body: object, headers: dict[str, str]) -> None:
        async with self._http.stream(
            "POST", "/v1/chat/completions", json=body, headers=headers
        ) as answer:
            asked.trace_id = answer.headers["x-trace-id"]
            # An enqueued one has its head before its turn, and no token.
            asked.token = int(answer.headers.get("x-fencing-token", 0))
            if answer.status_code != 200:
                error = json.loads(await answer.aread())["error"]
                asked.end = f"{answer.status_code} {error['code']}"
                return
            asked.end = CUT
            async for line in answer.aiter_lines():
                self._take(asked, line)

    def _take(self, asked: Asked, line: str) -> None:
        _, _, data = line.partition("data: ")
        if data == "[DONE]":
            asked.end = "whole" if asked.end == CUT else asked.end
        elif data:
            message = json.loads(data)
            if "error" in message:
                asked.end = message["error"]["code"]
                return
            for choice in message["choices"]:
                for stamp in (choice["delta"].get("content") or "").split():
                    asked.let_in = asked.let_in or time.monotonic()
                    asked.pieces.append(float(stamp))

    async def _cancel(self) -> None:
        """By name, one that runs; whichever worker has it."""
        running = [each for each in self.prompts if each.trace_id and not each.over]
        if running:
            trace_id = self._chance.choice(running).trace_id
            # The worker that is asked may be killed.
            with suppress(httpx.TransportError):
                await self._http.post(f"/v1/streams/{trace_id}/cancel")
