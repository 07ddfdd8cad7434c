"""What the server's speed is measured between, each a process of its own, pinned to a core.

    python -m tests.benchmarks.relays upstream|aiohttp|httpx [--chunks 3000] [--gap 0] [--to URL]

`upstream` answers every POST as Ollama does, with as many chunks, one every `gap` seconds; without
a gap all of them stand ready. The bare relays parse each line and encode it as an OpenAI message,
and do nothing else that the server does: no session, no limit, no key, no stop.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvicorn
from aiohttp import ClientSession, TCPConnector, web
from starlette.requests import Request
from starlette.responses import StreamingResponse

REPOSITORY = Path(__file__).parents[2]
# One core is the server's, the other one everybody else's.
SERVERS_CORE, OTHERS_CORE = 0, 1
# Connections that wait to be accepted, of a bare relay and of the upstream.
BACKLOG = 2048
# How many lines of a chunked answer without a gap are written at once.
LINES_AT_ONCE = 64
WORD = "word "
# LiteLLM's proxy, which has an environment of its own: where its program `litellm` is.
LITELLM = "ONESTREAM_LITELLM"
NDJSON_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
)


# ---- processes ------------------------------------------------------------------------------


class Process:
    """A process that has printed the address on which it listens."""

    def __init__(self, running: subprocess.Popen[str]) -> None:
        self._running = running
        self.url = ""
        assert running.stdout is not None
        for line in running.stdout:
            if "http://" in line:
                self.url = line[line.index("http://") :].split()[0]
                break
        assert self.url, "the process ended before it listened"
        # Nobody waits for a full pipe.
        threading.Thread(target=running.stdout.read, daemon=True).start()

    def cpu_s(self) -> float:
        """Processor time of all its threads, those that have ended included."""
        # What clock_getcpuclockid(3) answers on Linux.
        return time.clock_gettime((~self._running.pid << 3) | 2)

    def resident_kb(self) -> int:
        lines = Path(f"/proc/{self._running.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@contextmanager
def process(
    *arguments: str,
    core: int,
    env: Mapping[str, str] | None = None,
    program: str = sys.executable,
) -> Iterator[Process]:
    """A Python process on one core; ends with the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JARVIS_")}
    command = ["taskset", "-c", str(core), program, *arguments]
    with subprocess.Popen(
        command,
        env={**kept, "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            yield Process(running)
        finally:
            running.terminate()


@contextmanager
def upstream(chunks: int, gap_s: float) -> Iterator[Process]:
    arguments = ("upstream", "--chunks", str(chunks), "--gap", str(gap_s))
    with process("-m", "tests.benchmarks.relays", *arguments, core=OTHERS_CORE) as running:
        yield running


@contextmanager
def side(name: str, to: str, **settings: str) -> Iterator[Process]:
    """In front of `to`: the server with one of its clients (`async`, `thread`), a bare relay, or
    LiteLLM's proxy."""
    if name in ("async", "thread"):
        env = {"OLLAMA_HOST": to, "JARVIS_OLLAMA_CLIENT": name, **settings}
        with process("-m", "server", "--port", "0", core=SERVERS_CORE, env=env) as running:
            yield running
    elif name == "litellm":
        with litellm(to) as running:
            yield running
    else:
        arguments = ("-m", "tests.benchmarks.relays", name, "--to", to)
        with process(*arguments, core=SERVERS_CORE) as running:
            yield running


@contextmanager
def litellm(to: str) -> Iterator[Process]:
    """Takes most of a minute to start."""
    with TemporaryDirectory() as folder:
        to_ollama = {"model": "ollama_chat/m", "api_base": to}
        config = Path(folder, "config.json")
        config.write_text(
            json.dumps({"model_list": [{"model_name": "m", "litellm_params": to_ollama}]})
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        env = {
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_TELEMETRY": "False",
            # The upstream says the same word each time, which it takes for a model gone wrong.
            "REPEATED_STREAMING_CHUNK_LIMIT": "1000000",
            "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        }
        arguments = ("--config", str(config), "--host", "127.0.0.1", "--port", str(port))
        program = os.environ[LITELLM]
        with process(*arguments, core=SERVERS_CORE, env=env, program=program) as running:
            yield running


def installed(names: Iterable[str]) -> list[str]:
    """The sides that there are; says of others why they are left out."""
    if "litellm" in names and not os.environ.get(LITELLM):
        print(
            f"litellm: left out, as {LITELLM} does not say where its program is; in a virtual "
            f"environment of its own: pip install 'litellm[proxy]'"
        )
        return [name for name in names if name != "litellm"]
    return list(names)


# ---- the client -----------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """One prompt on a connection of its own: counts the chunks of its answer."""

    def __init__(self, number: int) -> None:
        body = json.dumps(
            {"model": "m", "stream": True, "messages": [{"role": "user", "content": str(number)}]}
        )
        self._request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer "
            f"devkey\r\nx-session-id: s{number}\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}"
        ).encode()
        self._marker = json.dumps(WORD)[:-1].encode()
        self._tail = b""
        self.begun_at = 0.0
        self.first_at: float | None = None
        self.chunks = 0
        self.is_whole = False
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.over: asyncio.Future[None] = loop.create_future()
        self.transport: Any = None
        # The end of what came, for who asks why it failed.
        self.last = b"not connected"

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.last = data[-300:]
        seen = self._tail + data
        self.chunks += seen.count(self._marker)
        # Shorter than a marker, so that none is counted twice.
        self._tail = seen[-len(self._marker) + 1 :]
        if self.chunks and self.first_at is None:
            self.first_at = time.perf_counter()
            self.first.set_result(None)
        self.is_whole = self.is_whole or b"[DONE]" in seen[-200:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def ask(url: str, number: int) -> Reader:
    """Sends a prompt and reads its answer to the end."""
    reader = await begin(url, number)
    await reader.over
    return reader


async def begin(url: str, number: int) -> Reader:
    """Sends a prompt in the session of this number."""
    reader = Reader(number)
    host, port = url.removeprefix("http://").split(":")
    reader.begun_at = time.perf_counter()
    try:
        await asyncio.get_running_loop().create_connection(lambda: reader, host, int(port))
    except OSError:
        reader.connection_lost(None)
    return reader


# ---- Ollama ---------------------------------------------------------------------------------


class Upstream(asyncio.Protocol):
    """Answers each POST with the same chunks."""

    def __init__(self, chunks: int, gap_s: float) -> None:
        self._left = self._chunks = chunks
        self._gap_s = gap_s
        self._received = b""
        self._may_write = True
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0] or 0)
        if end and len(body) >= length:
            self._received = body[length:]
            self._left = self._chunks
            self._transport.write(NDJSON_HEAD)
            self._go_on()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        if not self._gap_s:
            self._go_on()

    def _go_on(self) -> None:
        while self._left and self._may_write and not self._transport.is_closing():
            count = 1 if self._gap_s else min(LINES_AT_ONCE, self._left)
            self._left -= count
            self._transport.write(LINE * count)
            if self._gap_s and self._left:
                asyncio.get_running_loop().call_later(self._gap_s, self._go_on)
                return
        if not self._left and not self._transport.is_closing():
            self._left = -1
            self._transport.write(LAST_LINE + b"0\r\n\r\n")


def as_http_chunk(value: Any) -> bytes:
    line = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return b"%x\r\n%b\r\n" % (len(line), line)


OF_ALL = {"model": "m", "created_at": "2026-11-26T10:00:00.123456789Z"}
LINE = as_http_chunk({**OF_ALL, "message": {"role": "assistant", "content": WORD}, "done": False})
LAST_LINE = as_http_chunk(
    {
        **OF_ALL,
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 3,
        "eval_count": 5,
    }
)


async def run_upstream(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    made = lambda: Upstream(arguments.chunks, arguments.gap)  # noqa: E731
    server = await loop.create_server(made, "127.0.0.1", 0, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


# ---- bare relays ----------------------------------------------------------------------------


def asked(body: bytes) -> bytes:
    prompt = json.loads(body)
    return json.dumps({"model": prompt["model"], "messages": prompt["messages"]}).encode()


def message(line: bytes) -> bytes:
    """A line of Ollama's as a message of OpenAI's."""
    value = json.loads(line)
    said = value["message"]["content"]
    choice = {
        "index": 0,
        "delta": {"content": said},
        "finish_reason": "stop" if value["done"] else None,
    }
    chunk = {
        "id": "chatcmpl-0",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": value["model"],
        "choices": [choice],
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


async def run_aiohttp(arguments: argparse.Namespace) -> None:
    async def chat(request: web.Request) -> web.StreamResponse:
        content = asked(await request.read())
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        async with session.post(f"{arguments.to}/api/chat", data=content) as response:
            await answer.prepare(request)
            async for line in response.content:
                await answer.write(message(line))
        await answer.write(b"data: [DONE]\n\n")
        return answer

    # As many connections to Ollama as there are prompts; each prompt its own, as the server has it.
    async with ClientSession(connector=TCPConnector(limit=0, force_close=True)) as session:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", chat)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=BACKLOG)
        await site.start()
        announce(runner.addresses[0][1])
        await asyncio.Event().wait()


async def run_httpx(arguments: argparse.Namespace) -> None:
    async def chat(request: Request) -> StreamingResponse:
        content = asked(await request.body())

        async def messages() -> Any:
            async with client.stream("POST", "/api/chat", content=content) as response:
                async for line in response.aiter_lines():
                    yield message(line.encode())
            yield b"data: [DONE]\n\n"

        return StreamingResponse(messages(), media_type="text/event-stream")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await (await chat(Request(scope, receive)))(scope, receive, send)

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=arguments.to, limits=limits, timeout=None) as client:
        config = uvicorn.Config(
            app, port=0, lifespan="off", log_level="warning", http="h11", backlog=BACKLOG
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        announce(server.servers[0].sockets[0].getsockname()[1])
        await serving


def announce(port: int) -> None:
    print(f"http://127.0.0.1:{port}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("upstream", "aiohttp", "httpx"))
    parser.add_argument("--chunks", type=int, default=3_000)
    parser.add_argument("--gap", type=float, default=0.0)
    parser.add_argument("--to", default="")
    arguments = parser.parse_args()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    kinds = {"upstream": run_upstream, "aiohttp": run_aiohttp, "httpx": run_httpx}
    asyncio.run(kinds[arguments.kind](arguments))


if __name__ == "__main__":
    main()
