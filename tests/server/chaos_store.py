"""A store in trouble: a Valkey with a replica, and proxies whose connections can be cut."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.server import valkey_server


class Proxy:
    """In front of the store, one for each worker: its connections can be cut."""

    def __init__(self, target: list[int]) -> None:
        self._target = target
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dead_until = 0.0
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    def cut(self, for_s: float) -> None:
        self._dead_until = time.monotonic() + for_s
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if time.monotonic() < self._dead_until:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target[0])
        except OSError:
            writer.transport.abort()
            return
        self._open |= {writer, back}
        with suppress(OSError):
            await asyncio.gather(self._copy(reader, back), self._copy(there, writer))
        for each in (writer, back):
            self._open.discard(each)
            each.transport.abort()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        raise ConnectionResetError


class Valkeys:
    """A primary and its replica; `port` is that of the primary, in a list that proxies look at."""

    def __init__(self, done: Counter[str], folder: str, history: Path) -> None:
        self._done = done
        self._history = history
        self._folder = folder
        self.port = [0]
        self._primary: asyncio.subprocess.Process | None = None
        self._replica: asyncio.subprocess.Process | None = None
        self._replica_port = 0

    async def start(self) -> None:
        self._primary, self.port[0] = await self._server()
        self._replica, self._replica_port = await self._server(self.port[0])

    async def restart(self) -> None:
        """Without what it knew."""
        self._done["restart of the store"] += 1
        self._note("restart")
        await self.end()
        await self.start()

    async def fail_over(self) -> None:
        """The primary dies; the replica takes over with what it has, and gets one of its own."""
        self._done["fail-over"] += 1
        self._note("fail_over")
        assert self._primary is not None
        self._primary.kill()
        await self._primary.wait()
        await _command(self._replica_port, b"REPLICAOF NO ONE\r\n")
        self._primary, self.port[0] = self._replica, self._replica_port
        self._replica, self._replica_port = await self._server(self.port[0])

    def _note(self, what: str) -> None:
        with self._history.open("a") as file:
            file.write(f"{time.monotonic():.6f} {what} - 0 store\n")

    async def end(self) -> None:
        for process in (self._primary, self._replica):
            if process is not None:
                process.kill()
                await process.wait()

    async def _server(self, primary: int = 0) -> tuple[asyncio.subprocess.Process, int]:
        program = valkey_server.program()
        assert program is not None
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        options += ["--repl-diskless-sync-delay", "0", "--dir", self._folder]
        if primary:
            options += ["--replicaof", f"127.0.0.1 {primary}"]
        process = await asyncio.create_subprocess_exec(
            str(program), *options, stdout=asyncio.subprocess.DEVNULL
        )
        for _ in range(3000):
            with suppress(OSError):
                if await _command(port, b"PING\r\n") == b"+PONG":
                    return process, port
            await asyncio.sleep(0.01)
        raise AssertionError(f"no answer from {program} on port {port} within 30 s")


async def _command(port: int, text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.readline()
    writer.close()
    return answer.strip()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port
