"""An Ollama that says when it was asked, and whether an older call of the session was over by then.

What it sends is stamped with the time, CLOCK_MONOTONIC, of which a message is made: who lets it
out does so later.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

CHUNK_S = 0.02
# Linux's, of all connections: both addresses, and the state.
_TABLE = Path("/proc/net/tcp")
_ESTABLISHED = "01"


@dataclass(eq=False)
class Call:
    name: str
    session: str
    lasts_s: float
    begun: float
    connection: socket.socket
    # When it was first seen to be over.
    over: float | None = None

    def look(self, now: float) -> None:
        """By what the kernel knows, not by what this loop has read."""
        if self.over is None and _is_closed(self.connection):
            self.over = now

    def end(self) -> None:
        """A call that was seen to be over may say its last word later: it was over before."""
        if self.over is None:
            self.over = time.monotonic()


class StampedOllama:
    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            yield

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                await self._answer(reader, writer)
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        _, _, after = head.partition("content-length:")
        body = await reader.readexactly(int(after.partition("\r\n")[0] or 0))
        asked = json.loads(json.loads(body)["messages"][-1]["content"])
        # A copy: the kernel's answers outlive the connection's end in this loop.
        own: socket.socket = writer.get_extra_info("socket")
        call = Call(**asked, begun=time.monotonic(), connection=socket.fromfd(own.fileno(), -1, -1))
        for older in self.calls:
            if older.session == call.session:
                older.look(call.begun)
        self.calls.append(call)
        try:
            await self._stream(writer, call)
        finally:
            call.end()
            call.connection.close()

    async def _stream(self, writer: asyncio.StreamWriter, call: Call) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/x-ndjson\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        while time.monotonic() < call.begun + call.lasts_s:
            self._say(writer, f"{time.monotonic():.6f} ")
            await writer.drain()
            await self._pause()
        # Before the end is sent: the session's next prompt may come as soon as that is read.
        call.end()
        self._say(writer, "", done=True)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def _pause(self) -> None:
        await asyncio.sleep(CHUNK_S)

    def _say(self, writer: asyncio.StreamWriter, text: str, *, done: bool = False) -> None:
        message = {"role": "assistant", "content": text}
        said = {"model": "m", "message": message, "done": done, "done_reason": "stop"}
        line = json.dumps(said).encode() + b"\n"
        writer.write(b"%x\r\n%s\r\n" % (len(line), line))


def _is_closed(connection: socket.socket) -> bool:
    """Whether its caller has closed it. What that sent may still be on its way: on a busy machine
    the kernel hands it on milliseconds later. So its own end is looked at, where the system shows
    it."""
    if connection.fileno() == -1:
        return True
    try:
        if connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b"":
            return True
    except BlockingIOError:
        pass
    except OSError:
        return True
    try:
        caller = connection.getpeername()
    except OSError:
        # It was reset this very moment.
        return True
    return _TABLE.exists() and not _is_established(caller, connection)


def _is_established(caller: tuple[str, int], connection: socket.socket) -> bool:
    pair = [f":{port:04X}" for port in (caller[1], connection.getsockname()[1])]
    for line in _TABLE.read_text().splitlines():
        words = line.split()
        if words[3] == _ESTABLISHED and all(map(str.endswith, words[1:3], pair)):
            return True
    return False
