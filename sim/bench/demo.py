"""`onestream demo`: the note's two-prompt test on a real server, with real HTTP, narrated."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import httpx

from server.run import serve
from server.settings import Settings
from sim.fake_ollama import FakeOllama, Profile
from sim.fake_ollama.http_front import running, wall_clock_ns

_PROFILE = Profile(load_s=0.2, chunk_s=0.1, chunks=20, slow_chunk_s=0.1)
_KEY = {"Authorization": "Bearer devkey"}
_LOGGER = "onestream.registry"
# Prompt 1 never gets this far by itself; a server that hangs would take all of it.
_PATIENCE_S = 30.0
# The note's log lines, in the note's order, up to the end of prompt 2.
_ORDER = [
    "stream_start",
    "stream_cancelled",
    "prev_stream_finished_cleanly",
    "stream_end",
    "stream_start",
    "stream_end",
]


@dataclass(frozen=True, slots=True)
class Act:
    """One state in which prompt 1 may be when prompt 2 comes."""

    title: str
    model: str


_ACTS = (
    Act("prompt 2 is sent while prompt 1 still streams", "fake:slow"),
    Act("the same, and Ollama has gone silent in the middle of prompt 1", "fake:hang-midstream"),
    Act("the same, and Ollama has not even answered prompt 1", "fake:hang-before-headers"),
)


class _LogLines(logging.Handler):
    """Prints the registry's log lines as they come, and keeps them to be judged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._more = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._more.set()
        print(f"    log | {record.getMessage()}", flush=True)

    async def has(self, count: int) -> None:
        """Waits until there are `count` lines, but not for ever."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                while len(self.lines) < count:
                    self._more.clear()
                    await self._more.wait()


def demo() -> int:
    """0 if every act went as the note says, else 1."""
    log = _LogLines()
    logger = logging.getLogger("onestream")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        return asyncio.run(_play(log))
    finally:
        logger.removeHandler(log)


async def _play(log: _LogLines) -> int:
    failures: list[str] = []
    async with _server() as base_url, httpx.AsyncClient(base_url=base_url, timeout=None) as client:
        print(f"onestream listens on {base_url}, with a fake Ollama behind it\n")
        for number, act in enumerate(_ACTS, 1):
            print(f"{number}. {act.title}")
            log.lines.clear()
            failures += await _play_act(act, client, log)
            print()
    if failures:
        print("NOT as the note promises: " + "; ".join(failures))
        return 1
    print("as the note promises: no hang, one stream at a time, log lines in the note's order")
    return 0


async def _play_act(act: Act, client: httpx.AsyncClient, log: _LogLines) -> list[str]:
    print(curl_line(client.base_url, act.model, "very long task") + " &")
    begun = asyncio.Event()
    first = asyncio.create_task(_prompt(client, act.model, "very long task", begun))
    if act.model == "fake:hang-before-headers":
        await log.has(1)
    else:
        await begun.wait()
    print(curl_line(client.base_url, "fake:latest", "new task"))
    second = asyncio.create_task(_prompt(client, "fake:latest", "new task", asyncio.Event()))
    await asyncio.wait({first, second}, timeout=_PATIENCE_S)
    if not (first.done() and second.done()):
        first.cancel()
        second.cancel()
        return [f"{act.title}: it hangs"]
    await log.has(len(_ORDER))
    print(f"    prompt 1 got {first.result()}")
    print(f"    prompt 2 got {second.result()}")
    return _judge(act, log.lines, first.result(), second.result())


def _judge(act: Act, lines: Sequence[str], first: str, second: str) -> list[str]:
    order = [line.split()[0] for line in lines]
    failures = []
    if order != _ORDER:
        failures.append(f"{act.title}: the log has {order}")
    if "superseded" not in first:
        failures.append(f"{act.title}: prompt 1 got {first}")
    if not second.endswith("[DONE]") or "error" in second:
        failures.append(f"{act.title}: prompt 2 got {second}")
    return failures


async def _prompt(client: httpx.AsyncClient, model: str, prompt: str, begun: asyncio.Event) -> str:
    """The answer in words; `begun` is set at the second chunk."""
    request = {"prompt": prompt, "stream": True, "model": model}
    chunks = 0
    end = "the end of the body"
    async with client.stream(
        "POST", "/v1/chat/completions", json=request, headers=_KEY
    ) as response:
        if response.status_code != 200:
            error = json.loads(await response.aread())["error"]
            return f"status {response.status_code}, code {error['code']}"
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            data = line.removeprefix("data: ")
            if data == "[DONE]":
                end = f"{end}, then [DONE]" if end.startswith("error") else "[DONE]"
            elif "error" in (message := json.loads(data)):
                end = f"error code {message['error']['code']}"
            else:
                chunks += 1
                if chunks == 2:
                    begun.set()
    return f"{chunks} chunks, then {end}"


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(
        serve(Settings(), port=0, ollama=embedded_fake(_PROFILE), on_started=started.set_result)
    )
    await asyncio.wait((server, started), return_when=asyncio.FIRST_COMPLETED)
    if server.done():
        server.result()
    try:
        yield started.result()
    finally:
        server.cancel()
        await asyncio.wait({server})


@asynccontextmanager
async def embedded_fake(profile: Profile) -> AsyncIterator[str]:
    """A fake Ollama in the running loop, on a free port; yields its address."""
    async with running(FakeOllama(profile, wall_clock_ns)) as front:
        yield front.base_url


def curl_line(base_url: object, model: str, prompt: str) -> str:
    body = json.dumps({"prompt": prompt, "stream": True, "model": model})
    return (
        f"  $ curl -N {base_url}/v1/chat/completions -H 'Authorization: Bearer devkey' "
        f"-H 'Content-Type: application/json' -d '{body}'"
    )
