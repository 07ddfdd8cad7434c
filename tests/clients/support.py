"""Shared by the tests with real clients: a server process, what goes over its wire, installs."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.server.support import Output, address_in, process

HERE = Path(__file__).parent
# Where `python -m tests.clients.install` puts what it installs.
CACHE = Path(os.environ.get("ONESTREAM_CLIENTS", Path.home() / ".cache/onestream-clients"))
# For a client's whole program: an upper bound against hanging, which decides nothing.
PROGRAM_S = 600
# Real clients see pings and a silence, and nobody waits long for either.
PING_S = 0.05
PAUSE_S = 0.4

T = TypeVar("T")
_REQUEST = re.compile(rb"(?:GET|HEAD|POST|OPTIONS) \S+ HTTP/1\.[01]\r\n")


@contextmanager
def in_thread(made: Callable[[], AbstractAsyncContextManager[T]]) -> Iterator[T]:
    """Enters an asynchronous context in a loop of its own, in a thread, while the block runs."""
    entered: Any = threading.Event()
    box: dict[str, Any] = {}

    async def main() -> None:
        box["loop"], box["stop"] = asyncio.get_running_loop(), asyncio.Event()
        try:
            async with made() as box["value"]:
                entered.set()
                await box["stop"].wait()
        finally:
            entered.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    entered.wait()
    try:
        yield box["value"]
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(20)
        # A fake that is broken off amid hundreds of connections may leave sockets that its loop had
        # no turn to close; a later test would be blamed for them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


# ---- the wire -------------------------------------------------------------------------------


@dataclass
class Wire:
    """A relay of bytes before the server: it changes nothing, and keeps what clients send."""

    url: str = ""
    connections: list[bytearray] = field(default_factory=list)

    def requests(self, session: str) -> list[bytes]:
        """The requests that name this session in their header, each with its body."""
        named = re.compile(rb"(?i)\r\nx-session-id: *" + re.escape(session.encode()) + rb"\r\n")
        return [one for one in self._requests() if named.search(one)]

    def posts(self, session: str, text: str = "") -> int:
        """How many prompts of the session were posted whose body holds this text."""
        requests = self.requests(session)
        return sum(one.startswith(b"POST ") and text.encode() in one for one in requests)

    def _requests(self) -> Iterator[bytes]:
        for sent in list(self.connections):
            data = bytes(sent)
            starts = [match.start() for match in _REQUEST.finditer(data)]
            for start, end in pairwise([*starts, len(data)]):  # none, if it sent nothing
                yield data[start:end]


@asynccontextmanager
async def relaying(host: str, port: int) -> AsyncIterator[Wire]:
    """A Wire on a free port, to the server at host and port."""
    wire = Wire()
    handlers: set[asyncio.Task[Any]] = set()

    async def pump(reader: Any, writer: Any, keep: bytearray | None) -> None:
        try:
            while data := await reader.read(65536):
                if keep is not None:
                    keep += data
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except OSError:
            writer.transport.abort()

    async def connected(reader: Any, writer: Any) -> None:
        handlers.add(cast("asyncio.Task[Any]", asyncio.current_task()))
        sent = bytearray()
        wire.connections.append(sent)
        try:
            up_reader, up_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()
            return
        back = asyncio.create_task(pump(up_reader, writer, None))
        forth = asyncio.create_task(pump(reader, up_writer, sent))
        try:
            # A server that has closed, or reset, is through with this connection.
            await asyncio.wait({back, forth}, return_when=asyncio.FIRST_COMPLETED)
            if forth.done():
                up_writer.transport.abort() if not back.done() else None
            await asyncio.wait({back})
        finally:
            for task in (back, forth):
                task.cancel()
            for each in (writer, up_writer):
                each.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with server:
        wire.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield wire
    # A client may keep its connection for the next request; nothing of it outlives this loop.
    await _ended(handlers)


async def _ended(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# ---- the server -----------------------------------------------------------------------------


@dataclass
class Served:
    """`onestream serve` as a process, its fake Ollama, and the wire that clients are sent to."""

    url: str
    direct_url: str
    wire: Wire
    fake: FakeOllama
    ollama_url: str
    output: Output
    pid: int


@contextmanager
def served(**environment: str) -> Iterator[Served]:
    """The server's own command in front of a fake Ollama that takes no time but one silence."""
    fake = FakeOllama(
        replace(profile_named("instant"), pause_s=PAUSE_S, num_parallel=8), wall_clock_ns
    )
    settings = {"JARVIS_PING_SECONDS": str(PING_S), "JARVIS_DEFAULT_MODEL": "fake:normal"}
    with (
        in_thread(lambda: running(fake)) as front,
        process(
            *("-m", "sim.cli", "serve", "--port", "0"),
            **{"OLLAMA_HOST": front.base_url, **settings, **environment},
        ) as child,
    ):
        output = Output(child)
        url = address_in(output.wait_for("onestream listens on", within_s=120))
        host, port = url.removeprefix("http://").split(":")
        with in_thread(lambda: relaying(host, int(port))) as wire:
            yield Served(wire.url, url, wire, fake, front.base_url, output, child.pid)


# ---- clients --------------------------------------------------------------------------------


def need(path: str | Path, what: str) -> str:
    """The path of a program, or of something installed; skips the test if it is not there."""
    found = shutil.which(path) if isinstance(path, str) else (path.exists() and str(path))
    if not found:
        pytest.skip(f"{what} is not installed: python3 -m uv run python -m tests.clients.install")
    return str(found)


def python_of(name: str) -> str:
    """The interpreter of a client's own environment."""
    return need(CACHE / name / "bin" / "python", name)


def node_modules() -> Path:
    """The folder with Node's clients and copies of our programs."""
    need("node", "Node")
    return Path(need(CACHE / "node" / "node_modules", "the clients of Node")).parent


def node_program(name: str) -> list[str]:
    """The command for one of our programs for Node; it has to be next to its modules."""
    folder = node_modules()
    for source in (HERE / "node").glob("*.mjs"):
        copy = folder / source.name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            shutil.copyfile(source, copy)
    return [need("node", "Node"), str(folder / name)]


def run_program(*command: str, **environment: str) -> list[Any]:
    """Runs a client's program to its end; the JSON values that it prints, one a line."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        env={**os.environ, "NO_PROXY": "127.0.0.1", **environment},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return [json.loads(line) for line in lines]
