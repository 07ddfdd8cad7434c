"""What strangers can do without a key: send bytes, trickle heads, and hold connections open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

import pytest

from tests.attack.support import Victim, chat, pour, status_of, victim
from tests.limits import HANGS_S
from tests.server.support import run_async

pytestmark = [pytest.mark.attack, pytest.mark.socket]

MIB = 1024 * 1024
READ_MAX_BYTES = 64 * 1024
# Both ends of a connection buffer in the kernel what nobody has read: measured up to 6 MiB.
KERNEL_BYTES = 8 * MIB
PART = b"x" * 65536
OPEN_PATHS = ("/healthz", "/", "/foo", "/v1/chat/completions", "/docs")


@pytest.fixture(scope="module")
def server() -> Iterator[Victim]:
    """One for all: none of these may leave a trace in it."""
    with victim(JARVIS_BODY_SECONDS="3") as one:
        yield one


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[Victim]:
    with victim(JARVIS_REQUEST_HEAD_SECONDS="0.3") as one:
        yield one


async def is_well(server: Victim) -> None:
    raw = await server.connect()
    assert status_of(await raw.exchange(chat())) == 200


@pytest.mark.parametrize("path", OPEN_PATHS)
def test_a_body_without_a_key_is_not_read(server: Victim, path: str) -> None:
    """Of 24 unfinished bodies of 32 MB nothing is kept, whatever the path."""

    async def main() -> None:
        await is_well(server)
        before_bytes = server.memory_bytes()
        head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 33554432\r\n\r\n"
        raws = [await server.connect() for _ in range(24)]
        for raw in raws:
            with contextlib.suppress(ConnectionError):
                await raw.send(head.encode())
        sent = await asyncio.gather(*(pour(server, raw, PART, 16 * MIB) for raw in raws))
        took_bytes = server.memory_bytes() - before_bytes
        print(f"sent {max(sent) / MIB:.1f} MiB at most, took {took_bytes / MIB:.1f} MiB")
        assert took_bytes < 24 * READ_MAX_BYTES * 4 + 16 * MIB
        await is_well(server)
        for raw in raws:
            raw.close()

    run_async(main(), HANGS_S)


@pytest.mark.parametrize("key", [None, "wrong"])
def test_tiny_chunks_without_a_key_are_no_work(server: Victim, key: str | None) -> None:
    """A stranger's stream of one-byte chunks is cut off, and costs little processor time."""

    async def main() -> None:
        await is_well(server)
        raw = await server.connect()
        named = f"authorization: Bearer {key}\r\n" if key else ""
        await raw.send(
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\n{named}"
            "transfer-encoding: chunked\r\n\r\n".encode()
        )
        before_s = server.processor_s()
        chunks = b"1\r\nx\r\n" * 10_000
        sent = await pour(server, raw, chunks, 100 * len(chunks))
        worked_s = server.processor_s() - before_s
        print(f"took {sent / MIB:.1f} MiB in {worked_s:.2f} s of work")
        # 64 KiB of them are 11,000 chunks.
        assert worked_s < 1.0
        raw.close()
        await is_well(server)

    run_async(main(), HANGS_S)


@pytest.mark.parametrize(
    "beginning",
    [b"", b"G", b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n", b"\r\n\r\n"],
    ids=["silent", "one letter", "half a head", "blank lines"],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    hasty_server: Victim, beginning: bytes
) -> None:
    """A connection without a whole head is closed by its deadline, not by its client."""

    async def main() -> None:
        raw = await hasty_server.connect()
        await raw.send(beginning)
        await raw.read_to_end()
        raw.close()

    run_async(main(), HANGS_S)


def test_a_head_that_trickles_is_not_waited_for(hasty_server: Victim) -> None:
    """A letter now and then, between answers to others, does not put the deadline off."""

    async def main() -> None:
        raw = await hasty_server.connect()

        async def trickle() -> None:
            with contextlib.suppress(ConnectionError):
                await raw.send(b"GET /healthz HTTP/1.1\r\nx-slow: ")
                while not raw.writer.is_closing():
                    await raw.send(b"a")
                    await hasty_server.round_trip()

        trickling = asyncio.create_task(trickle())
        await raw.read_to_end()
        raw.close()
        await trickling

    run_async(main(), HANGS_S)


def test_a_used_connection_that_idles_is_closed(hasty_server: Victim) -> None:
    """After an answer, too, a connection is not kept for ever."""

    async def main() -> None:
        raw = await hasty_server.connect()
        await raw.send(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        await raw.read_head()
        # uvicorn's own limit for those is 5 s.
        await raw.read_to_end()
        raw.close()

    run_async(main(), HANGS_S)


def test_a_long_head_is_refused(server: Victim) -> None:
    """A head without end is answered and closed after a bounded number of bytes."""

    async def main() -> None:
        for beginning in (b"GET /", b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n"):
            raw = await server.connect()
            before_bytes = server.memory_bytes()
            await raw.send(beginning)
            sent = await pour(server, raw, PART, 64 * MIB)
            assert sent < KERNEL_BYTES, (beginning, sent)
            assert server.memory_bytes() - before_bytes < 8 * MIB
            raw.close()
        await is_well(server)

    run_async(main(), HANGS_S)
