"""Shared by the server's tests: a server and a fake Ollama on real ports, and bounded waits."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from server.app import create_app
from server.http_protocol import HttpProtocol
from server.service import Service
from server.settings import Settings
from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.limits import HANGS_S

REPOSITORY = Path(__file__).parents[2]
# How long a test waits for something that should come at once: only a bound on hanging, since a
# process may take long to start on a busy machine.
PATIENCE_S = 120.0
DEVKEY = {"authorization": "Bearer devkey"}
CLIENTS = ("async", "thread")


def settings(**changes: Any) -> Settings:
    """Settings of a test: nothing from the environment, no default model but the fake's."""
    return Settings(_env_file=None, **{"default_model": "fake:normal", **changes})


def prompt(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"prompt": text, **more}


def run_async(main: Coroutine[Any, Any, None], within_s: float = HANGS_S) -> None:
    """Runs a test's coroutine; one that hangs fails instead."""

    async def bounded() -> None:
        async with asyncio.timeout(within_s):
            await main

    asyncio.run(bounded())


async def until(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
    """Waits until the condition holds, looking often; fails with `what` if it never does."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s: {what}"
        await asyncio.sleep(0.002)


@dataclass
class Stack:
    """A server in front of a fake Ollama, both in this loop, on real ports."""

    url: str
    app: FastAPI
    fake: FakeOllama
    service: Service
    http: httpx.AsyncClient
    uvicorn: uvicorn.Server

    @property
    def registry(self) -> Any:
        return self.service.registry

    def states(self) -> list[str]:
        return [stream.state.name for stream in self.registry.snapshot().streams]

    def stalled(self) -> bool:
        """Whether the server waits for a client to read."""
        return any(conn.flow.write_paused for conn in self.uvicorn.server_state.connections)

    def busy_connections(self) -> int:
        """How many connections are open, without idle ones that wait for a next request."""
        connections: Any = self.uvicorn.server_state.connections
        return sum(
            conn.cycle is not None
            and not (conn.cycle.response_complete and not conn.flow.write_paused)
            for conn in connections
        )

    async def quiet(self) -> None:
        """Waits until there is no stream, and no upstream call."""
        await until(lambda: not self.states(), f"streams left: {self.registry.snapshot()}")
        await until(lambda: not self.fake.active_calls, f"calls left: {self.fake.active_calls}")

    async def post(self, body: Any, **more: Any) -> httpx.Response:
        return await self.http.post("/v1/chat/completions", json=body, **more)


@asynccontextmanager
async def stack(profile: str = "instant", changes: dict[str, Any] | None = None, **limits: Any):
    """A Stack; `changes` to the fake's profile, `limits` to the server's settings."""
    fake = FakeOllama(replace(profile_named(profile), **(changes or {})), wall_clock_ns)
    async with running(fake) as front:
        limits.setdefault("ollama_host", front.base_url)
        app = create_app(settings(**limits), signals=())
        async with serving(app) as (url, server):
            headers = {} if limits.get("api_keys") else DEVKEY
            async with httpx.AsyncClient(
                base_url=url, headers=headers, timeout=PATIENCE_S, trust_env=False
            ) as http:
                yield Stack(url, app, fake, app.state.service, http, server)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[tuple[str, uvicorn.Server]]:
    """The application under uvicorn, on a free port; yields its address and the server."""
    config = uvicorn.Config(
        app,
        port=0,
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=3,
    )
    server = uvicorn.Server(config)
    with free_socket() as listener:
        # Inherited by the connections: a client that doesn't read is felt after a few kilobytes.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        # What `serve` does, without its signal handlers and its looks at the clock every 0.1 s.
        config.load()
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", server
        finally:
            app.state.service.begin_shutdown()
            await server.shutdown([listener])


@contextmanager
def free_socket() -> Iterator[socket.socket]:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.bind(("127.0.0.1", 0))
        yield listener
    finally:
        listener.close()


def free_port() -> int:
    with free_socket() as listener:
        return int(listener.getsockname()[1])


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def address_in(line: str) -> str:
    """The address that a server prints when it listens."""
    found = re.search(r"http://[\w.:\[\]]*:\d+", line)
    assert found, line
    return found[0]


# ---- reading messages -----------------------------------------------------------------------


def events(text: str) -> list[Any]:
    """The messages of an SSE body: JSON values, `[DONE]` as text; comments are left out."""
    found: list[Any] = []
    for block in text.split("\n\n"):
        for line in block.split("\n"):
            if line.startswith("data: "):
                data = line.removeprefix("data: ")
                found.append(data if data == "[DONE]" else json.loads(data))
    return found


def content_of(found: list[Any]) -> str:
    """The text that the messages carry."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in found
        if isinstance(event, dict)
        for choice in event.get("choices", ())
    )


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape and no other."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    return body["error"]


class RawClient:
    """An HTTP client that reads only when it is called to."""

    def __init__(self, url: str, *, receive_bytes: int | None = None) -> None:
        self._address = httpx.URL(url)
        self._sock = socket.socket()
        if receive_bytes is not None:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._sock.setblocking(False)

    async def send(self, body: Any, *, half: bool = False, headers: str = "") -> None:
        """Sends a prompt; with `half` only the first half of its body."""
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self._sock, (self._address.host, self._address.port))
        data = json.dumps(body).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
            f"authorization: Bearer devkey\r\n"
            f"content-type: application/json\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
        )
        await loop.sock_sendall(
            self._sock, head.encode() + data[: len(data) // 2 if half else None]
        )

    async def read_until(self, part: bytes) -> bytes:
        """Reads until `part` has come; returns all that has come."""
        data = b""
        while part not in data:
            more = await asyncio.get_running_loop().sock_recv(self._sock, 65536)
            assert more, f"the connection ended before {part!r}: {data[-300:]!r}"
            data += more
        return data

    async def read_to_end(self) -> bytes:
        """Reads until the server closes; a reset counts as an end."""
        data = b""
        try:
            while more := await asyncio.get_running_loop().sock_recv(self._sock, 65536):
                data += more
        except ConnectionResetError:
            pass
        return data

    def close(self) -> None:
        self._sock.close()


# ---- processes ------------------------------------------------------------------------------


SIGNALS_OF_TERMINALS = (signal.SIGHUP, signal.SIGINT)


def are_signals_ignored() -> bool:
    """As under nohup, or in the background of a shell; a child would ignore them as well."""
    return any(signal.getsignal(each) is signal.SIG_IGN for each in SIGNALS_OF_TERMINALS)


def with_default_signals() -> None:
    for each in SIGNALS_OF_TERMINALS:
        signal.signal(each, signal.SIG_DFL)


@contextmanager
def process(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process in the repository; killed at the end, with all that it has begun.

    Those are of its group: workers that outlive it would keep its output open.
    """
    env = {name: value for name, value in os.environ.items() if not name.startswith("JARVIS_")}
    child = subprocess.Popen(
        [sys.executable, *command],
        cwd=REPOSITORY,
        env={**env, "PYTHONUNBUFFERED": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=with_default_signals if are_signals_ignored() else None,
        process_group=0,
    )
    try:
        yield child
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate(timeout=PATIENCE_S)


class Output:
    """Reads what a process prints, in a thread, so that it can be waited for."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self._changed = threading.Condition()
        self._lines: list[str] = []
        self._is_over = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        try:
            for line in self._child.stdout:
                with self._changed:
                    self._lines.append(line.rstrip("\n"))
                    self._changed.notify_all()
        except ValueError:
            pass  # closed by the test's end
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def lines(self) -> list[str]:
        with self._changed:
            return list(self._lines)

    def is_over_within(self, seconds: float) -> bool:
        """Whether all processes that could print have ended."""
        with self._changed:
            return self._changed.wait_for(lambda: self._is_over, timeout=seconds)

    def wait_for(self, part: str, number: int = 1, *, within_s: float = PATIENCE_S) -> str:
        """The first line that holds `part`, or the second, and so on."""

        def found() -> str | None:
            lines = [line for line in self._lines if part in line]
            return lines[number - 1] if len(lines) >= number else None

        with self._changed:
            self._changed.wait_for(lambda: found() or self._is_over, timeout=within_s)
            line = found()
        assert line is not None, f"{part!r} was not printed:\n" + "\n".join(self._lines)
        return line
