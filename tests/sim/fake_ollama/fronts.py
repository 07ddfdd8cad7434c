"""The fronts that the contract suite runs on: each sends HTTP requests and returns the answers.

To add a front, write a class with `ask` and `ask_all`, and name it in `FRONTS` and `front` of
conftest.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from sim import World, run
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from sim.fake_ollama.simulated import EPOCH_NS, SimOllama, SimSocket
from tests.limits import HANGS_S
from tests.sim.fake_ollama.driver import WithBody, chat

SIM_URL = "http://ollama:11434"

CONTRACT_PROFILE = replace(
    profile_named("instant"),
    chunks=6,
    thinking_chunks=2,
    slow_chunks=50,
    slow_chunk_s=0.02,
    slow_load_s=0.6,
    busy_s=0.6,
)


class Thread:
    """The fake on a real port, in an event loop of its own in another thread."""

    def __init__(self, fake: FakeOllama) -> None:
        self.fake = fake
        self.base_url = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with running(self.fake) as front:
            self.base_url = front.base_url
            self._ready.set()
            await self._stop.wait()

    def __enter__(self) -> Thread:
        self._thread.start()
        assert self._ready.wait(HANGS_S)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(HANGS_S)
        assert not self._thread.is_alive()


@dataclass(frozen=True)
class Ask:
    """One HTTP request. The client leaves after some segments, or when nothing comes."""

    method: str
    path: str
    body: object = None
    content: bytes | None = None
    leave_after: int | None = None
    patience_s: float | None = None

    @property
    def sent(self) -> bytes:
        if self.content is not None:
            return self.content
        return b"" if self.body is None else json.dumps(self.body).encode()


@dataclass
class Reply(WithBody):
    """The answer. `ending` is eof, broken (the connection), left or silent (the client)."""

    status: int | None = None
    content_type: str | None = None
    segments: list[bytes] = field(default_factory=list)
    ending: str = ""


class Front:
    """What a contract test may use. `fake` is None where it is out of reach."""

    is_real = False
    fake: FakeOllama | None = None

    def model(self, mode: str) -> str:
        return f"fake:{mode}"

    def post(self, path: str, body: object = None, **how: Any) -> Ask:
        return Ask("POST", path, body, **how)

    def chat(self, mode: str, prompt: str = "why is the sky blue", **fields: Any) -> Ask:
        """A chat request; `leave_after` and `patience_s` go to the Ask, the rest to the body."""
        how = {name: fields.pop(name) for name in ("leave_after", "patience_s") if name in fields}
        return self.post("/api/chat", chat(self.model(mode), prompt, **fields), **how)

    def get(self, path: str) -> Ask:
        return Ask("GET", path)

    def ask(self, ask: Ask) -> Reply:
        return self.ask_all([ask])[0]

    def ask_all(self, asks: Sequence[Ask]) -> list[Reply]:
        """Ask all at the same time."""
        raise NotImplementedError


class HttpAsync(Front):
    """httpx.AsyncClient and the HTTP front in one event loop."""

    def __init__(self) -> None:
        self.fake = FakeOllama(CONTRACT_PROFILE, wall_clock_ns)

    def ask_all(self, asks: Sequence[Ask]) -> list[Reply]:
        async def main() -> list[Reply]:
            assert self.fake is not None
            async with asyncio.timeout(HANGS_S), running(self.fake) as front:
                return list(await asyncio.gather(*(ask_async(front.base_url, a) for a in asks)))

        return asyncio.run(main())


class HttpBlocking(Front):
    """httpx.Client against the HTTP front in another thread, or against a real Ollama."""

    def __init__(self, base_url: str, fake: FakeOllama | None, real_model: str = "") -> None:
        self.base_url = base_url
        self.fake = fake
        self.is_real = fake is None
        self._real_model = real_model

    def model(self, mode: str) -> str:
        return self._real_model or super().model(mode)

    def ask_all(self, asks: Sequence[Ask]) -> list[Reply]:
        with ThreadPoolExecutor(len(asks)) as threads:
            return list(threads.map(lambda ask: ask_blocking(self.base_url, ask), asks))


class Simulated(Front):
    """The fake in virtual time: each `ask_all` is one natural execution, on one and the same fake.

    As with a real server, time goes on from one execution to the next.
    """

    def __init__(self) -> None:
        self._ended_ns = EPOCH_NS
        self._world: World | None = None
        self.fake = FakeOllama(CONTRACT_PROFILE, self._now_ns)

    def ask_all(self, asks: Sequence[Ask]) -> list[Reply]:
        replies: list[Reply] = []

        async def program(world: World) -> None:
            self._world = world
            ollama = SimOllama(world.loop, CONTRACT_PROFILE)
            assert self.fake is not None
            ollama.fake = self.fake
            ask_one = self.client(world, ollama)
            replies.extend(await asyncio.gather(*map(ask_one, asks)))
            self._ended_ns, self._world = self._now_ns(), None

        outcome = run(program)
        assert (outcome.error, outcome.violation) == (None, None)
        return replies

    def client(self, world: World, ollama: SimOllama) -> Callable[[Ask], Awaitable[Reply]]:
        """What sends one request in this execution."""
        raise NotImplementedError

    def _now_ns(self) -> int:
        return self._ended_ns + (round(self._world.now * 1e9) if self._world else 0)


class SimAsync(Simulated):
    """httpx.AsyncClient over the asynchronous transport."""

    def client(self, world: World, ollama: SimOllama) -> Callable[[Ask], Awaitable[Reply]]:
        return lambda ask: ask_async(SIM_URL, ask, ollama.transport())


class SimBlocking(Simulated):
    """httpx.Client over the blocking transport, each in a simulated worker thread."""

    def client(self, world: World, ollama: SimOllama) -> Callable[[Ask], Awaitable[Reply]]:
        executor = world.executor()

        def ask_one(ask: Ask) -> Awaitable[Reply]:
            transport = ollama.blocking_transport(NobodyWakes())
            return world.loop.run_in_executor(executor, ask_blocking, SIM_URL, ask, transport)

        return ask_one


class NobodyWakes:
    """Holds a thread's socket and never shuts it."""

    def hold(self, sock: SimSocket, /) -> None:
        pass


def _client_options(base_url: str, ask: Ask, transport: object) -> dict[str, Any]:
    """No proxy and no certificates: the addresses are plain http, and mostly local."""
    return {
        "base_url": base_url,
        "timeout": 60.0 if ask.patience_s is None else ask.patience_s,
        "verify": False,
        "trust_env": False,
        "transport": transport,
    }


async def ask_async(
    base_url: str, ask: Ask, transport: httpx.AsyncBaseTransport | None = None
) -> Reply:
    reply = Reply()
    async with httpx.AsyncClient(**_client_options(base_url, ask, transport)) as client:
        with _endings(reply):
            async with client.stream(ask.method, ask.path, content=ask.sent) as response:
                _note_head(reply, response)
                async for segment in response.aiter_raw():
                    reply.segments.append(segment)
                    if len(reply.segments) == ask.leave_after:
                        reply.ending = "left"
                        return reply
                reply.ending = "eof"
    return reply


def ask_blocking(base_url: str, ask: Ask, transport: httpx.BaseTransport | None = None) -> Reply:
    reply = Reply()
    with (
        httpx.Client(**_client_options(base_url, ask, transport)) as client,
        _endings(reply),
        client.stream(ask.method, ask.path, content=ask.sent) as response,
    ):
        _note_head(reply, response)
        for segment in response.iter_raw():
            reply.segments.append(segment)
            if len(reply.segments) == ask.leave_after:
                reply.ending = "left"
                return reply
        reply.ending = "eof"
    return reply


@contextlib.contextmanager
def _endings(reply: Reply) -> Iterator[None]:
    try:
        yield
    except httpx.ReadTimeout:
        reply.ending = "silent"
    except httpx.RemoteProtocolError:
        reply.ending = "broken"


def _note_head(reply: Reply, response: httpx.Response) -> None:
    reply.status = response.status_code
    reply.content_type = response.headers["content-type"]
