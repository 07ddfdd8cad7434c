"""Shared by the attacks: a server process as the target, its figures, and hostile upstreams."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from sim.fake_ollama import FakeOllama, profile_named
from sim.fake_ollama.http_front import running, wall_clock_ns
from tests.clients.support import in_thread
from tests.server.support import Output, address_in, process

SERVE = ("-m", "sim.cli", "serve", "--port", "0")
HEALTH = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n"
# A server that takes nothing while it answers others this often takes no more.
ROUND_TRIPS = 20
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Victim:
    """A server process. Its figures are the kernel's, of the process and not of the machine."""

    url: str
    pid: int
    output: Output

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def processor_s(self) -> float:
        """Processor time of all its threads: other load on the machine does not count."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def _status_bytes(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024
        raise LookupError(name)

    def memory_bytes(self) -> int:
        return self._status_bytes("VmRSS")

    def peak_bytes(self) -> int:
        """The most memory since `forget_peak`, or since its start."""
        return self._status_bytes("VmHWM")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def client(self, key: str | None = "devkey") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    async def connect(self) -> Raw:
        return Raw(*await asyncio.open_connection("127.0.0.1", self.port))

    async def round_trip(self) -> None:
        """An answer to another client: the server has looked at every connection meanwhile."""
        answer = await (await self.connect()).exchange(HEALTH)
        assert status_of(answer) == 200


@dataclass
class Raw:
    """A connection on which any bytes can be sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def read_to_end(self) -> bytes:
        """All until the server closes; a reset counts as an end."""
        data = b""
        try:
            while part := await self.reader.read(65536):
                data += part
        except ConnectionError:
            pass
        return data

    async def read_head(self) -> bytes:
        return await self.reader.readuntil(b"\r\n\r\n")

    async def exchange(self, data: bytes) -> bytes:
        """Sends it and reads all of the answer: it should ask for a close."""
        with suppress(ConnectionError):
            await self.send(data)
        answer = await self.read_to_end()
        self.close()
        return answer

    def close(self) -> None:
        self.writer.transport.abort()


@contextmanager
def victim(*, upstream: str | None = None, **environment: str) -> Iterator[Victim]:
    """A server process before an address, or before a fake Ollama that takes no time."""

    @contextmanager
    def address() -> Iterator[str]:
        if upstream is not None:
            yield upstream
            return
        fake = FakeOllama(profile_named("instant"), wall_clock_ns)
        with in_thread(lambda: running(fake)) as front:
            yield front.base_url

    with (
        address() as ollama,
        process(
            *SERVE,
            **{"OLLAMA_HOST": ollama, "JARVIS_DEFAULT_MODEL": "fake:normal", **environment},
        ) as child,
    ):
        output = Output(child)
        url = address_in(output.wait_for("onestream listens on", within_s=120))
        yield Victim(url, child.pid, output)


def post(path: str, body: bytes, *headers: str, key: str | None = "devkey") -> bytes:
    """A POST as bytes, on a connection of its own; `host` may be one of the headers."""
    lines = [f"POST {path} HTTP/1.1", "connection: close", *headers]
    if not any(line.lower().startswith("host:") for line in headers):
        lines.append("host: 127.0.0.1")
    if key:
        lines.append(f"authorization: Bearer {key}")
    if not any(line.lower().startswith("content-type:") for line in headers):
        lines.append("content-type: application/json")
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def chat(*headers: str, key: str | None = "devkey", **body: Any) -> bytes:
    data = json.dumps({"prompt": "hello", **body}).encode()
    return post("/v1/chat/completions", data, *headers, key=key)


def status_of(answer: bytes) -> int:
    """The status of the first answer, 0 if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0


async def pour(server: Victim, raw: Raw, part: bytes, size_bytes: int) -> int:
    """Sends the part again and again until the size is sent, or the server stops reading.

    Returns how much the kernel took: a server that reads no more leaves it full.
    """
    transport = raw.writer.transport
    written = sent = in_vain = 0
    while sent < size_bytes and in_vain < ROUND_TRIPS and not transport.is_closing():
        if not transport.get_write_buffer_size():
            transport.write(part)
            written += len(part)
        if transport.get_write_buffer_size():
            await server.round_trip()
        else:
            # The loop looks whether the server has closed.
            await asyncio.sleep(0)
        before, sent = sent, written - transport.get_write_buffer_size()
        in_vain = 0 if sent > before else in_vain + 1
    return sent


# ---- hostile upstreams ----------------------------------------------------------------------

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def upstream(choose: Callable[[str], Reply]) -> Iterator[str]:
    """A TCP server that reads a request, and answers as `choose` says for the model it names."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = [one for one in head.lower().split(b"\r\n") if b"content-length:" in one]
            body = await reader.readexactly(int(length[0].split(b":")[1])) if length else b"{}"
            await choose(json.loads(body).get("model", ""))(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            # Over: the server has left, or the test has ended.
            pass
        finally:
            if not writer.transport.is_closing():
                writer.close()

    class Serving:
        async def __aenter__(self) -> str:
            self.server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=512)
            return f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"

        async def __aexit__(self, *_: object) -> None:
            self.server.close()
            under_way = asyncio.all_tasks() - {asyncio.current_task()}
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    with in_thread(Serving) as address:
        yield address


def reset(writer: asyncio.StreamWriter) -> None:
    """Ends the connection by a reset instead of an orderly end."""
    sock = writer.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    writer.transport.abort()
