"""What a connection may cost: heads, idling, tiny chunks, answers that nobody reads, numbers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from server import http_protocol
from server.http_limits import (
    CONNECTIONS_MIN,
    HEAD_MAX_BYTES,
    PIECE_BYTES,
    TURNED_AWAY_MAX,
    WIRE_FREE_BYTES,
    FewComplaints,
    connections_max,
)
from server.http_protocol import ACCEPTS_MAX, HttpProtocol
from tests.limits import HANGS_S
from tests.server.support import PATIENCE_S, free_socket, run_async, settings, stack, until

pytestmark = pytest.mark.socket

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
CHUNKED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer devkey\r\n"
    b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
)
Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connected(url: str, count: int = 1) -> AsyncIterator[list[Pair]]:
    host, _, port = url.removeprefix("http://").partition(":")
    pairs = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    try:
        yield pairs
    finally:
        for _, writer in pairs:
            writer.transport.abort()


async def is_closed(reader: asyncio.StreamReader) -> bool:
    try:
        async with asyncio.timeout(HANGS_S):
            while await reader.read(65536):
                pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


@pytest.mark.parametrize("sent", [b"", b"GET /heal", HEALTH, HEALTH + b"GET /heal"])
def test_a_head_that_does_not_come_ends_its_connection(
    sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle from the start, within a head, after an answer, and within the head after that."""
    monkeypatch.setattr(HttpProtocol, "head_s", 0.1)

    async def main() -> None:
        async with stack() as server, connected(server.url, 1) as [(reader, writer)]:
            for connection in server.uvicorn.server_state.connections:
                connection.timeout_keep_alive = 0.1  # type: ignore[union-attr]
            writer.write(sent)
            assert await is_closed(reader)

    run_async(main())


def test_a_head_that_trickles_has_no_longer_than_one_that_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A byte now and then does not put the limit off."""
    monkeypatch.setattr(HttpProtocol, "head_s", 0.3)

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:

            async def trickle() -> None:
                while True:
                    writer.write(b"x")
                    await asyncio.sleep(0.02)

            task = asyncio.create_task(trickle())
            assert await is_closed(reader)
            task.cancel()

    run_async(main())


def test_a_request_under_way_has_no_limit_for_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer may take longer than a head may."""
    monkeypatch.setattr(HttpProtocol, "head_s", 0.1)

    async def main() -> None:
        async with stack("instant", {"prompt_eval_s": 0.5}) as server:
            assert (await server.post({"prompt": "x"})).status_code == 200

    run_async(main())


def test_chunks_of_one_byte_are_cut_off() -> None:
    """Beyond a start they have to carry what they cost."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            writer.write(CHUNKED)
            sent_bytes = 0
            while not writer.transport.is_closing() and sent_bytes < 8 * WIRE_FREE_BYTES:
                writer.write(b"1\r\nx\r\n" * 1000)
                sent_bytes += 6000
                await asyncio.sleep(0)
            assert await is_closed(reader)
            await until(lambda: not server.busy_connections(), "it is gone")

    run_async(main())


def test_a_chunked_body_is_parsed_in_pieces_and_whole() -> None:
    """Between two pieces the loop turns, nothing is lost, and what comes behind is answered."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            text = b'{"prompt":"' + b"x" * (20 * PIECE_BYTES) + b'"}'
            parts = [text[start : start + 1000] for start in range(0, len(text), 1000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
            writer.write(CHUNKED + body + b"0\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            assert server.fake.calls[0].prompt == "x" * (20 * PIECE_BYTES)
            writer.write(HEALTH)
            assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")

    run_async(main())


def test_two_lengths_end_the_connection() -> None:
    """With Content-Length and Transfer-Encoding what stands behind the body is not a request."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            both = CHUNKED.replace(b"\r\n\r\n", b"\r\ncontent-length: 5\r\n\r\n")
            writer.write(both + b"0\r\n\r\n" + HEALTH)
            data = await reader.read()
            assert data.count(b"HTTP/1.1 ") == 1

    run_async(main())


@pytest.mark.parametrize("pieces", [[b"\r\n"], [b"\r", b"\n\r", b"\n"]])
def test_empty_lines_before_a_request_are_ignored(pieces: list[bytes]) -> None:
    """RFC 9112, 2.2: before the first request, and before the next on the same connection."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            for _ in range(2):
                for piece in pieces:
                    writer.write(piece)
                    await asyncio.sleep(0)
                writer.write(HEALTH)
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
                await reader.readuntil(b"}}")

    run_async(main())


PROMPT = b'{"messages":[{"role":"user","content":"hi"}]}'
SIZED = (
    b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer devkey\r\n"
    b"content-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(PROMPT)
)


@pytest.mark.parametrize(
    "first",
    [
        SIZED + PROMPT,
        CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(PROMPT), PROMPT),
        HEALTH,
    ],
)
def test_an_empty_line_may_come_with_the_body_before_it(first: bytes) -> None:
    """As old clients send it: in one segment with the request before, and the one behind it."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            writer.write(first + b"\r\n" + HEALTH.replace(b"host", b"connection: close\r\nhost", 1))
            answers = await reader.read()
            assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [b"200", b"200"]

    run_async(main())


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (HEALTH.replace(b"host", b"x: " + b"a" * 70_000 + b"\r\nhost"), 431, "head_too_large"),
        (b"no request\r\n\r\n", 400, "invalid_http"),
        (b"\r\r\r" + HEALTH, 400, "invalid_http"),
    ],
)
def test_what_is_no_request_gets_an_error_as_others_do(sent: bytes, status: int, code: str) -> None:
    """JSON in OpenAI's shape that says what is wrong, and the connection is closed behind it."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            writer.write(sent)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status)
            assert json.loads(body)["error"]["code"] == code

    run_async(main())


@pytest.mark.parametrize("segment_bytes", [HEAD_MAX_BYTES + 1, HEAD_MAX_BYTES - 1, 20_000, 4099])
@pytest.mark.parametrize(("size", "status"), [(HEAD_MAX_BYTES, 200), (HEAD_MAX_BYTES + 1, 431)])
def test_a_head_has_its_limit_however_it_comes(size: int, status: int, segment_bytes: int) -> None:
    """In one segment or in several: to the byte."""
    more = b"connection: close\r\nx: "
    padding = b"a" * (size - len(HEALTH) - len(more) - len(b"\r\n"))
    head = HEALTH.replace(b"host", more + padding + b"\r\nhost", 1)
    assert len(head) == size

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, size, segment_bytes):
                writer.write(head[start : start + segment_bytes])
                await writer.drain()
                # What is in the kernel may be read as one: a look at the server comes between.
                await server.http.get("/healthz")
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 %d " % status), answer

    run_async(main())


def test_a_body_that_is_none_ends_its_request() -> None:
    """A chunk without a size gets a 400, the connection is closed, and no prompt is begun."""

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            writer.write(CHUNKED + b"no size\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body)["error"]["code"] == "invalid_http"
            assert await is_closed(reader)
            assert not server.fake.calls

    run_async(main())


def test_who_sends_no_request_is_held_no_longer_than_a_head(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that has its error, and neither closes nor stops sending, loses its connection."""
    monkeypatch.setattr(HttpProtocol, "head_s", 0.3)

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(reader, writer)]:
            writer.write(b"no request\r\n\r\n")
            await reader.read()

            async def goes_on() -> None:
                while True:
                    writer.write(b"x" * 1000)
                    await writer.drain()
                    await asyncio.sleep(0.01)

            with pytest.raises(ConnectionError):
                await asyncio.wait_for(goes_on(), HANGS_S)

    run_async(main())


def test_an_answer_that_nobody_reads_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever endpoint it is of: its connection goes when none of it was read for so long."""
    monkeypatch.setattr(HttpProtocol, "unread_s", 0.2)

    async def main() -> None:
        async with stack() as server, connected(server.url) as [(_, writer)]:
            monkeypatch.setattr(
                type(server.service), "streams", lambda self, owner: ["x" * 1000] * 20_000
            )
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(
                b"GET /v1/streams HTTP/1.1\r\nhost: localhost\r\n"
                b"authorization: Bearer devkey\r\n\r\n"
            )
            connections = server.uvicorn.server_state.connections
            await until(server.stalled, "the server waits for the client")
            await until(lambda: not connections, "the connection is given up")

    run_async(main())


def test_connections_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it, the connection that idled longest is closed; one that is being answered stays."""
    monkeypatch.setattr(HttpProtocol, "connections_max", 5)

    async def main() -> None:
        async with stack() as server:
            busy = asyncio.create_task(
                server.post({"prompt": "x", "model": "fake:hang-before-headers"})
            )
            await until(lambda: server.fake.calls, "it is running")
            async with connected(server.url, 20) as pairs:
                assert await is_closed(pairs[0][0])
                await until(
                    lambda: len(server.uvicorn.server_state.connections) <= 5, "there is room"
                )
                reader, writer = pairs[-1]
                writer.write(HEALTH)
                assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
                assert not busy.done()
            server.service.begin_shutdown()
            assert (await busy).status_code == 503

    run_async(main())


def test_a_connection_for_which_there_is_no_room_is_told_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all others are being answered: 503 with what to do, for some of them, no reset."""
    monkeypatch.setattr(HttpProtocol, "connections_max", 2)

    async def main() -> None:
        async with stack() as server:
            body = {"prompt": "x", "model": "fake:hang-before-headers"}
            busy = [asyncio.create_task(server.post(body | {"session_id": s})) for s in "ab"]
            await until(lambda: len(server.fake.calls) == 2, "both are being answered")
            async with connected(server.url, 3 * TURNED_AWAY_MAX) as pairs:
                answers = []
                for reader, writer in pairs:
                    writer.write(HEALTH)
                    try:
                        answers.append(await reader.read())
                    except ConnectionError:
                        answers.append(b"")
            told = [each for each in answers if each]
            # The machine decides how many had been read when others came.
            assert len(told) >= TURNED_AWAY_MAX
            for each in told:
                assert each.startswith(b"HTTP/1.1 503")
                assert b"retry-after: 1" in each
                assert b"2 connections are being answered" in each
                assert b"ulimit -n" in each
            assert not any(each.done() for each in busy)
            assert len(server.uvicorn.server_state.connections) == 2
            server.service.begin_shutdown()
            assert {(await each).status_code for each in busy} == {503}

    run_async(main())


def test_connections_leave_descriptors_for_ollama() -> None:
    """Half of what there is, since each prompt needs a second one; never none."""
    assert connections_max(1024) == 496
    assert connections_max(64) == 16
    assert connections_max(10) == CONNECTIONS_MIN


def test_asyncios_complaints_are_few(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred failed accepts are one line without a traceback; any other error is logged."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        others: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: others.append(context))
        loop.set_exception_handler(FewComplaints(loop))
        with caplog.at_level(logging.INFO):
            for _ in range(100):
                loop.call_exception_handler(
                    {
                        "message": "socket.accept() out of system resource",
                        "exception": OSError(24, "Too many open files"),
                    }
                )
            loop.call_exception_handler({"message": "something else"})
        (line,) = [entry for entry in caplog.records if "no_descriptors" in entry.message]
        assert "ulimit" in line.getMessage()
        assert line.exc_info is None
        assert [context["message"] for context in others] == ["something else"]

    run_async(main())


def test_the_limits_are_those_of_the_settings() -> None:
    """Whichever way uvicorn was started, but for a class of its user's; few accepts in a row."""

    async def main() -> None:
        from uvicorn.protocols.http.h11_impl import H11Protocol

        limits = settings(request_head_seconds=3.0, send_seconds=4.0)
        kinds: tuple[Any, ...] = ("auto", "h11", HttpProtocol)
        for http in kinds:
            server = uvicorn.Server(uvicorn.Config("server.app:app", http=http))
            http_protocol.use_for(server, limits)
            used: Any = server.config.http_protocol_class
            assert issubclass(used, HttpProtocol)
            assert (used.head_s, used.unread_s) == (3.0, 4.0)
            assert server.config.backlog == ACCEPTS_MAX
        server = uvicorn.Server(uvicorn.Config("server.app:app", http=H11Protocol))
        server.config.load_app = lambda: None  # type: ignore[method-assign]
        http_protocol.use_for(server, limits)
        assert server.config.backlog == 2048

    run_async(main())


@pytest.mark.socket
def test_connections_that_come_at_once_wait_in_the_kernel() -> None:
    """All are taken while the loop stands: one that is dropped comes again after a second, or 7."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nothing is asked")

    async def main() -> None:
        config = uvicorn.Config(app, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        http_protocol.use_for(server, settings())
        with free_socket() as listener, ExitStack() as clients:
            config.load()
            server.lifespan = config.lifespan_class(config)
            await server.startup([listener])
            await server.on_tick(1)
            for _ in range(2 * ACCEPTS_MAX):
                # Without a look by the loop: what the kernel does not take is not connected.
                client = clients.enter_context(socket.socket())
                client.settimeout(PATIENCE_S)
                client.connect(listener.getsockname())
            await server.shutdown([listener])

    run_async(main())
