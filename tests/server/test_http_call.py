"""Both clients' transports: what answers mean, on simulated sockets, and their limits."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, cast

import httpx
import pytest

from registry import StopSignal, Stream, StreamSuperseded
from server.http_answer import HEAD_MAX_BYTES
from server.http_call import PIECE_BYTES, UNREAD_MAX_BYTES, CallTransport
from server.ollama import Chunk, OllamaRequest, broken_error
from server.ollama_async import AsyncOllama
from server.wakeable import Wake, WakeableTransport
from sim import World, run

OK = b"HTTP/1.1 200 OK\r\n"
TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 4\r\n\r\nevil"
SWITCHING = b"HTTP/1.1 101 Switching\r\nupgrade: x\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

Ask = Callable[..., Coroutine[Any, Any, tuple[int, bytes]]]


def answered(
    *pieces: bytes, then: str = "close", content: bytes = b"", asks: Ask | None = None
) -> Any:
    """What one call makes of an upstream that says these pieces: status and body, or the error."""
    found: list[Any] = []

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.01)
            if then == "hang":
                await reader.read()
            elif then == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
            writer.close()

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        try:
            found.append(await (asks or asked)(content))
        except httpx.HTTPError as exc:
            found.append(exc)
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None, outcome.violation
    assert outcome.error is None, outcome.error
    return found[0]


async def asked_in_thread(content: bytes = b"", **headers: str) -> tuple[int, bytes]:
    """The same with the blocking client's transport."""

    def call() -> tuple[int, bytes]:
        request = httpx.Request("POST", "http://127.0.0.1/x", content=content, headers=headers)
        response = WakeableTransport(Wake(StopSignal()), None).handle_request(request)
        try:
            return response.status_code, b"".join(response.iter_raw())
        finally:
            response.close()

    return await asyncio.to_thread(call)


async def asked(content: bytes = b"", **headers: str) -> tuple[int, bytes]:
    request = httpx.Request("POST", "http://127.0.0.1/x", content=content, headers=headers)
    response = await CallTransport(None, None).handle_async_request(request)
    try:
        return response.status_code, b"".join([each async for each in response.aiter_raw()])
    finally:
        await response.aclose()


BOTH = pytest.mark.parametrize("asks", [asked, asked_in_thread])


@BOTH
@pytest.mark.parametrize(
    ("pieces", "then", "expected"),
    [
        ([OK + b"content-length: 2\r\n\r\nab"], "hang", (200, b"ab")),
        ([OK + b"content-length: 2\r\n\r\nabHTTP/1.1 nonsense"], "hang", (200, b"ab")),
        ([OK + b"content-length: 2\r\n\r\nab" + TIMED_OUT], "hang", (200, b"ab")),
        ([CHUNKED + b"2\r\nab\r\n0\r\n\r\n" + TIMED_OUT], "hang", (200, b"ab")),
        ([OK + b"transfer-encoding: gzip\r\n\r\na", b"b"], "close", (200, b"ab")),
        (
            [OK + b"transfer-encoding: gzip, Chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"],
            "hang",
            (200, b"a"),
        ),
        ([CHUNKED + b"1\r\na\r\n", b"1;x=y\r\nb\r\n0\r\nt: x\r\n\r\n"], "hang", (200, b"ab")),
        ([b"HTTP/1.0 200 OK\r\n\r\na", b"b"], "close", (200, b"ab")),
        (
            [b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"content-length: 1\r\n\r\na"],
            "hang",
            (200, b"a"),
        ),
        ([b"HTTP/1.1 103 Early\r\nl: x\r\n\r\n" + CHUNKED + b"0\r\n\r\n"], "hang", (200, b"")),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], "hang", (204, b"")),
        ([b"HTTP/1.1 503 Busy\r\ncontent-length: 1\r\n\r\nb"], "close", (503, b"b")),
    ],
)
@pytest.mark.parametrize("by_bytes", [False, True])
def test_an_answer_is_read_to_its_end(
    pieces: list[bytes], then: str, expected: Any, by_bytes: bool, asks: Ask
) -> None:
    """By its length, its chunks or its connection's end, in any pieces; trailers say nothing."""
    if by_bytes:
        pieces = [bytes([each]) for piece in pieces for each in piece]
    assert answered(*pieces, then=then, asks=asks) == expected


@BOTH
@pytest.mark.parametrize(
    ("pieces", "then", "error"),
    [
        ([], "close", httpx.RemoteProtocolError),
        ([], "reset", httpx.ReadError),
        ([OK], "close", httpx.RemoteProtocolError),
        ([CHUNKED + b"5\r\nab"], "close", httpx.RemoteProtocolError),
        ([CHUNKED + b"1\r\na\r\n"], "reset", httpx.ReadError),
        ([OK + b"content-length: 5\r\n\r\nab"], "close", httpx.RemoteProtocolError),
        ([b"HTTP/1.0 200 OK\r\n\r\na"], "reset", httpx.ReadError),
        ([b"SSH-2.0-x\r\n"], "hang", httpx.RemoteProtocolError),
        ([CHUNKED + b"zz\r\n"], "hang", httpx.RemoteProtocolError),
        ([SWITCHING + b"\r\n"], "hang", httpx.RemoteProtocolError),
        ([SWITCHING + b"connection: upgrade\r\n\r\n"], "hang", httpx.RemoteProtocolError),
        (
            [SWITCHING + b"\r\n" + OK + b"content-length: 0\r\n\r\n"],
            "hang",
            httpx.RemoteProtocolError,
        ),
        ([OK + b"a: " + b"x" * 2 * HEAD_MAX_BYTES], "hang", httpx.RemoteProtocolError),
        (
            [CHUNKED + b"0\r\n", b"a: " + b"x" * 2 * HEAD_MAX_BYTES],
            "hang",
            httpx.RemoteProtocolError,
        ),
        ([CHUNKED + b"0\r\n", b"a: b\r\n" * HEAD_MAX_BYTES], "hang", httpx.RemoteProtocolError),
        ([CHUNKED + b"1;", b"x" * 2 * HEAD_MAX_BYTES], "hang", httpx.RemoteProtocolError),
        ([CHUNKED.replace(b"chunked", b"chunked, x") + b"a"], "reset", httpx.ReadError),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" * HEAD_MAX_BYTES], "hang", httpx.RemoteProtocolError),
    ],
)
def test_what_is_no_whole_answer_is_an_error(
    pieces: list[bytes], then: str, error: type[Exception], asks: Ask
) -> None:
    """Cut, reset, not HTTP, or a head without end: never an answer that looks complete."""
    assert isinstance(answered(*pieces, then=then, asks=asks), error)


@BOTH
@pytest.mark.parametrize(
    ("pieces", "code"),
    [
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "upstream_not_understood"),
        # An alert of TLS, to who asks without it.
        ([b"\x15\x03\x03\x00\x02\x02\x28"], "upstream_not_understood"),
        ([b"-ERR unknown command\r\n"], "upstream_not_understood"),
        # It is HTTP, as its sentence does not deny.
        ([OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n"], "upstream_not_understood"),
        ([CHUNKED + b"zz\r\n"], "cut"),
        ([OK], "cut"),
    ],
)
def test_what_speaks_no_http_is_no_answer_that_was_cut(
    pieces: list[bytes], code: str, asks: Ask
) -> None:
    """Its error says where to look, instead of a text so far that there never was."""
    error = broken_error("http://127.0.0.1", answered(*pieces, asks=asks))
    assert (error.status, error.code) == (502, code)
    said = "http://127.0.0.1 speaks no HTTP that can be read ("
    assert (said in error.message) == (code != "cut")


@pytest.mark.parametrize(
    ("then", "asks"), [("hang", asked), ("close", asked), ("close", asked_in_thread)]
)
def test_an_error_before_the_request_is_whole_is_its_answer(then: str, asks: Ask) -> None:
    """An upstream that refuses a long prompt without reading it is heard all the same, by a thread
    once it has closed."""
    refused = b"HTTP/1.1 413 No\r\ncontent-length: 1\r\n\r\nx"
    content = b"p" * 5 * PIECE_BYTES
    assert answered(refused, then=then, content=content, asks=asks) == (413, b"x")


class Refusing(asyncio.Transport):
    """Its kernel takes all; the peer answers what it gets first with 413, and resets.

    As of a selector's loop, the answer is read behind what was due when it came, and a write before
    that is the end of the connection.
    """

    def __init__(self, call: asyncio.Protocol) -> None:
        super().__init__()
        self.call = call
        self.writes = 0

    def write(self, data: Any) -> None:
        self.writes += 1
        loop = asyncio.get_running_loop()
        if self.writes == 1:
            answer = b"HTTP/1.1 413 No\r\ncontent-length: 1\r\n\r\nx"
            loop.call_soon(loop.call_soon, self.call.data_received, answer)
        else:
            self.call.connection_lost(ConnectionResetError())

    def abort(self) -> None:
        pass


@pytest.mark.parametrize("size", [400_000, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_nothing_is_written_before_what_has_come_is_read(size: int) -> None:
    """A write to a peer that has answered and closed would fail, and nobody read the answer."""

    async def connected(factory: Any, *address: Any, **options: Any) -> Any:
        call = factory()
        call.connection_made(Refusing(call))
        return None, call

    async def main() -> None:
        asyncio.get_running_loop().create_connection = connected  # type: ignore[method-assign]
        assert await asked(b"p" * size) == (413, b"x")

    asyncio.run(main())


@BOTH
def test_a_request_of_several_pieces_arrives_whole(asks: Ask) -> None:
    """Whether the upstream takes it at once or in its own time."""
    content = bytes(range(256)) * (PIECE_BYTES // 100)
    found: list[Any] = []

    async def program(world: World) -> None:
        async def takes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(len(content)) == content
            writer.write(OK + b"content-length: 1\r\n\r\nx")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(takes, "127.0.0.1", 80)
        found.append(await asks(content))
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome
    assert found == [(200, b"x")]


def test_a_stream_that_is_stopped_while_it_connects_asks_nothing() -> None:
    """Its worker stood still meanwhile, say: Ollama would work for it beside a newer stream."""

    class Stopped:
        def raise_if_stopped(self) -> None:
            raise StreamSuperseded("t", "a newer one came")

    async def program(world: World) -> None:
        received: list[bytes] = []

        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            received.append(await reader.read())
            writer.close()

        async def put(chunk: Chunk) -> None: ...

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        client = AsyncOllama("http://127.0.0.1:80", connect_s=1.0)
        with pytest.raises(StreamSuperseded):
            await client.ask(OllamaRequest("/api/chat", {}), cast(Stream, Stopped()), put)
        await asyncio.sleep(1)
        server.close()
        assert received == [b""]

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_an_upgrade_that_nobody_asked_for_is_said_in_words() -> None:
    """The error names the status; an upstream that switches protocols is nothing to read."""
    for head in (SWITCHING, SWITCHING + b"connection: upgrade\r\n"):
        assert "101" in str(answered(head + b"\r\n", then="hang"))


def test_a_close_by_another_task_is_not_the_end_of_the_body() -> None:
    """Who waits for the next segment meanwhile gets an error, and no body that looks whole."""

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED + b"1\r\na\r\n")
            await reader.read()
            writer.close()

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        request = httpx.Request("POST", "http://127.0.0.1/x")
        response = await CallTransport(None, None).handle_async_request(request)
        reading = asyncio.create_task(response.aread())
        await asyncio.sleep(1)
        await response.stream.aclose()  # type: ignore[union-attr]
        with pytest.raises(httpx.ReadError, match="closed before"):
            await reading
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_an_upstream_sees_the_end_of_a_call_also_where_its_socket_has_a_copy() -> None:
    """The kernel keeps a connection whose descriptor another process has hold of, as of a fork."""
    found: list[bytes] = []

    class Copied(CallTransport):
        async def _connected_to(self, *arguments: Any) -> Any:
            call = await super()._connected_to(*arguments)
            copies.append(call._transport.get_extra_info("socket").dup())
            return call

    copies: list[socket.socket] = []

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(CHUNKED + b"1\r\na\r\n")
            found.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        request = httpx.Request("GET", "http://127.0.0.1/x")
        response = await Copied(None, None).handle_async_request(request)
        await response.aclose()
        await asyncio.sleep(1)
        assert copies and found == [b""]
        copies.pop().close()
        server.close()

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


@pytest.mark.parametrize(("addresses", "expected"), [("21", 200), ("221", 200), ("2", None)])
def test_an_address_that_says_nothing_leaves_time_for_the_next(
    addresses: str, expected: int | None
) -> None:
    """One limit for all: each but the last has its share, the last all that is left."""
    found: list[Any] = []

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(OK + b"content-length: 0\r\n\r\n")
            await reader.read()
            writer.close()

        async def look_up(host: str, port: int) -> list[str]:
            return [f"127.0.0.{each}" for each in addresses]

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        # The one connection that its backlog takes is there: further ones get no answer.
        full = socket.create_server(("127.0.0.2", 80), backlog=0)
        first = socket.create_connection(("127.0.0.2", 80))
        request = httpx.Request("GET", "http://name/x", extensions={"timeout": {"connect": 6.0}})
        before_s = world.now
        try:
            response = await CallTransport(None, look_up).handle_async_request(request)
            found.append(response.status_code)
            await response.aclose()
        except httpx.ConnectTimeout:
            found.append(None)
            assert 6.0 <= world.now - before_s < 7.0
        first.close()
        full.close()
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome
    assert found == [expected]


@BOTH
def test_a_header_with_a_line_break_is_not_sent(asks: Ask) -> None:
    """It would be a header of its own, or the end of the head."""

    async def program(world: World) -> None:
        server = await asyncio.start_server(lambda r, w: None, "127.0.0.1", 80)
        with pytest.raises(httpx.LocalProtocolError):
            await asks(token="a\r\nhost: b")
        server.close()

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_no_more_is_read_than_is_taken() -> None:
    """An upstream that sends without end waits for the caller, whatever it sends."""
    written: list[int] = []

    async def program(world: World) -> None:
        async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(CHUNKED)
            try:
                while True:
                    writer.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")
                    await writer.drain()
                    written.append(0x1000)
            except ConnectionError:
                writer.close()

        server = await asyncio.start_server(floods, "127.0.0.1", 80)
        request = httpx.Request("POST", "http://127.0.0.1/x")
        response = await CallTransport(None, None).handle_async_request(request)
        segments = response.aiter_raw()
        await anext(segments)
        await asyncio.sleep(60)
        before = sum(written)
        await asyncio.sleep(60)
        assert sum(written) == before
        assert len(await anext(segments)) <= 2 * UNREAD_MAX_BYTES + 256 * 1024
        await segments.aclose()
        await response.aclose()
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_a_thread_gets_all_lines_that_are_there_as_one_segment() -> None:
    """A hand-over to the loop costs more than a line: there is one for each read."""
    lines = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for line in [b"{}\n"] * 20)
    found: list[list[bytes]] = []

    def call() -> list[bytes]:
        request = httpx.Request("POST", "http://127.0.0.1/x")
        response = WakeableTransport(Wake(StopSignal()), None).handle_request(request)
        return list(response.iter_raw())

    async def program(world: World) -> None:
        async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            for piece in (CHUNKED, lines, b"0\r\n\r\n"):
                writer.write(piece)
                await asyncio.sleep(0.01)
            writer.close()

        server = await asyncio.start_server(says, "127.0.0.1", 80)
        found.append(await asyncio.to_thread(call))
        server.close()
        await asyncio.sleep(1)

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome
    assert found == [[b"{}\n" * 20]]
