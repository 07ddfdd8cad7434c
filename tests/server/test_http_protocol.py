"""What the connection itself promises: half-closed clients, upgrades offered, what comes behind."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from server.spellings import one_spelling
from tests.limits import HANGS_S
from tests.server.support import (
    CLIENTS,
    Output,
    Stack,
    process,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket


def request(body: Any, *, version: str = "1.1", headers: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/{version}\r\nhost: 127.0.0.1\r\n"
        f"authorization: Bearer devkey\r\ncontent-type: application/json\r\n"
        f"content-length: {len(data)}\r\n{headers}\r\n"
    )
    return head.encode() + data


class Client:
    """A bare connection, which can close its sending side alone."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, server: Stack, data: bytes, *, then_eof: bool) -> Client:
        address = server.http.base_url
        client = cls(*await asyncio.open_connection(address.host, address.port))
        client.writer.write(data)
        if then_eof:
            client.writer.write_eof()
        await client.writer.drain()
        return client

    async def answer(self) -> tuple[bytes, bytes]:
        """The final head, with no interim ones, and the body up to the end of the connection."""
        head = b"HTTP/1.1 100"
        while head.startswith(b"HTTP/1.1 100"):
            head = await self.reader.readuntil(b"\r\n\r\n")
        return head, await self.reader.read()


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_half_closes_is_answered(streamed: bool) -> None:
    """Who closes its sending side behind the request gets the whole answer, then the end."""

    async def main() -> None:
        async with stack("instant", {"prompt_eval_s": 0.3}) as server:
            # Who half closed asks nothing more: its connection is not kept for that.
            server.uvicorn.config.timeout_keep_alive = 60
            data = request(prompt(stream=streamed))
            client = await Client.of(server, data, then_eof=True)
            head, body = await client.answer()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert (b"[DONE]" if streamed else b'"finish_reason":"stop"') in body
            await server.quiet()
            client.writer.close()

    run_async(main())


def test_a_client_that_half_closes_and_is_answered_at_once_gets_the_answer_alone() -> None:
    """No `100 Continue` that it has not asked for stands before it."""

    async def main() -> None:
        async with stack() as server:
            head = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
            client = await Client.of(server, head, then_eof=True)
            assert (await client.reader.read()).startswith(b"HTTP/1.1 200 ")
            client.writer.close()

    run_async(main())


def test_two_requests_before_a_half_close_are_answered() -> None:
    """What was sent behind the first request, before the sending side closed, is answered too."""

    async def main() -> None:
        async with stack("instant", {"prompt_eval_s": 0.2}) as server:
            data = request(prompt("one")) + request(prompt("two"))
            client = await Client.of(server, data, then_eof=True)
            _, rest = await client.answer()
            assert rest.count(b"HTTP/1.1 200 ") == 1
            assert rest.count(b'"finish_reason":"stop"') == 2
            client.writer.close()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_who_half_closed_and_leaves_is_missed(client: str, version: str) -> None:
    """A client whose sending side is closed and who then leaves altogether stops its stream."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            data = request(prompt(model="fake:hang-before-headers"), version=version)
            raw = await Client.of(server, data, then_eof=False)
            await until(lambda: server.fake.active_calls, "upstream")
            raw.writer.write_eof()
            if version == "1.1":
                # It is there: the interim answer reaches it, more than once.
                await raw.reader.readuntil(b"100 Continue\r\n\r\n")
                await raw.reader.readuntil(b"100 Continue\r\n\r\n")
                assert server.states() == ["ACTIVE"]
            raw.writer.close()
            await server.quiet()

    run_async(main())


def test_half_a_request_and_the_end_starts_nothing() -> None:
    """A sending side that closes amid the body is a client that has left."""

    async def main() -> None:
        async with stack() as server:
            data = request(prompt())
            client = await Client.of(server, data[:-5], then_eof=True)
            assert await client.reader.read() == b""
            assert not server.fake.calls
            client.writer.close()

    run_async(main())


def was_read(connection: Any) -> bool:
    return bool(connection.conn.trailing_data[0]) or connection._has_dropped


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("behind_bytes", [100, 300_000])
def test_who_leaves_with_more_behind_its_request_is_missed(
    streamed: bool, behind_bytes: int
) -> None:
    """Something behind a prompt, then a reset: noticed as at once as with nothing behind it."""

    async def main() -> None:
        async with stack() as server:
            body = prompt(stream=streamed, model="fake:hang-before-headers")
            client = await Client.of(server, request(body), then_eof=False)
            await until(lambda: server.fake.active_calls, "upstream")
            connection: Any = next(iter(server.uvicorn.server_state.connections))
            client.writer.write(b"x" * behind_bytes)
            await client.writer.drain()
            await until(lambda: was_read(connection), "what is behind was read")
            client.writer.transport.abort()
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("headers", ["", "connection: close\r\n"])
def test_what_is_too_much_behind_a_request_ends_the_connection(headers: str) -> None:
    """The request itself is answered; what came behind it is thrown away with the connection."""

    async def main() -> None:
        async with stack("instant", {"prompt_eval_s": 0.2}) as server:
            behind = b"x" * 200_000
            data = request(prompt(), headers=headers) + behind
            client = await Client.of(server, data, then_eof=False)
            head, rest = await client.answer()
            assert head.startswith(b"HTTP/1.1 200 ")
            assert b'"finish_reason":"stop"' in rest
            assert b" 400 " not in rest
            client.writer.close()

    run_async(main())


@pytest.mark.parametrize("command", [("-m", "uvicorn", "server.app:app"), ("-m", "server")])
def test_an_offered_upgrade_does_not_lose_the_body(command: tuple[str, ...]) -> None:
    """Java's client offers HTTP/2 with its first request; httptools, though here, is not used."""
    pytest.importorskip("httptools")
    offer = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n"
    with process(*command, "--port", "0", OLLAMA_HOST="127.0.0.1:1") as child:
        # Three times what a start takes where others use the machine, too.
        line = Output(child).wait_for("http://")
        address = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert address is not None
        port = int(address[1])
        with socket.create_connection(("127.0.0.1", port), timeout=HANGS_S) as sock:
            sock.sendall(request(prompt(model="m"), headers=offer))
            answer = sock.recv(65536)
    # The body was read, or it would be a 400: Ollama is what is missing.
    assert answer.startswith(b"HTTP/1.1 503 ")


async def answered(server: Stack, head: str) -> bytes:
    """All that comes for this head, up to the end of the connection."""
    client = await Client.of(server, head.encode(), then_eof=False)
    answer = await client.reader.read()
    client.writer.close()
    return answer


def test_a_body_that_is_refused_anyway_is_not_asked_for() -> None:
    """Who waits for `100 Continue` gets the refusal in its place, and the connection ends."""

    async def main() -> None:
        async with stack() as server:
            for line, key, length, status in (
                ("POST /v1/chat/completions", "", 1000, 401),
                ("POST /v1/chat/completions", "authorization: Bearer devkey\r\n", 10**9, 413),
                ("POST /nowhere", "authorization: Bearer devkey\r\n", 1000, 404),
                ("POST /v1/models", "authorization: Bearer devkey\r\n", 1000, 405),
                ("POST /healthz", "", 1000, 405),
            ):
                answer = await answered(
                    server,
                    f"{line} HTTP/1.1\r\nhost: 127.0.0.1\r\n{key}"
                    f"content-length: {length}\r\nexpect: 100-continue\r\n\r\n",
                )
                assert answer.startswith(b"HTTP/1.1 %d " % status), line
                assert answer.count(b"connection: close") == 1, line

    run_async(main())


def test_a_body_that_may_be_taken_is_asked_for() -> None:
    """And answered when it has come."""

    async def main() -> None:
        async with stack() as server:
            data = request(prompt(), headers="expect: 100-continue\r\nconnection: close\r\n")
            head, _, body = data.partition(b"\r\n\r\n")
            client = await Client.of(server, head + b"\r\n\r\n", then_eof=False)
            assert (await client.reader.readline()).startswith(b"HTTP/1.1 100 ")
            client.writer.write(body)
            answer = await client.reader.read()
            assert b"HTTP/1.1 200 " in answer
            client.writer.close()

    run_async(main())


def test_a_whole_url_in_the_place_of_a_path_is_its_path() -> None:
    """As RFC 9112 asks of servers: with the same keys, and neither host may be a stranger's."""

    async def main() -> None:
        async with stack() as server:
            for target, host, key, status in (
                ("http://localhost/v1/models", "localhost", "Bearer devkey", 200),
                ("HTTP://127.0.0.1:80/v1/models/?a=http://b/c", "[::1]", "Bearer devkey", 200),
                ("http://localhost", "localhost", "", 200),
                ("http://localhost?x=/healthz", "localhost", "", 200),
                ("http://localhost/v1/models", "localhost", "", 401),
                ("http://localhost/healthz/../v1/models", "localhost", "", 401),
                ("http://healthz/v1/models", "localhost", "Bearer devkey", 403),
                ("http://evil.example/v1/models", "localhost", "Bearer devkey", 403),
                ("http://localhost/v1/models", "evil.example", "Bearer devkey", 403),
                ("http:///v1/models", "localhost", "Bearer devkey", 403),
                ("ftp://localhost/v1/models", "localhost", "Bearer devkey", 400),
            ):
                answer = await answered(
                    server,
                    f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n"
                    f"{f'authorization: {key}' if key else 'accept: */*'}\r\n\r\n",
                )
                assert answer.startswith(b"HTTP/1.1 %d " % status), (target, answer)

    run_async(main())


def test_a_whole_url_stands_behind_the_root_path() -> None:
    """uvicorn writes `--root-path` before whatever was sent, in `path` and `raw_path` alike."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    sent = {"path": "/llmhttp://localhost/a b/", "raw_path": b"/llmhttp://localhost/a%20b/"}
    scope = {"type": "http", "method": "GET", "root_path": "/llm", "headers": [], **sent}
    run_async(one_spelling(app)(scope, None, None))  # type: ignore[arg-type]
    (found,) = seen
    assert (found["path"], found["raw_path"]) == ("/llm/a b", b"/llm/a%20b/")
    assert found["headers"] == [(b"host", b"localhost")]


@pytest.mark.parametrize("is_new", [True, False], ids=["new", "kept alive"])
def test_a_request_that_meets_the_end_of_the_server_is_answered(is_new: bool) -> None:
    """By a 503 that says so: its connection is not reset, neither a new one nor one that idled."""

    async def main() -> None:
        async with stack() as server:
            client = await Client.of(server, b"" if is_new else request(prompt()), then_eof=False)
            connections: Any = server.uvicorn.server_state.connections
            if not is_new:
                await client.reader.readuntil(b'"finish_reason":"stop"')
            await until(lambda: connections, "it is connected")
            (connection,) = connections
            await until(lambda: connection.is_idle, "it is answered")
            server.service.begin_shutdown()
            connection.shutdown()
            # It sends a while later: by then the server would have closed what idles at its end.
            for _ in range(10):
                await asyncio.sleep(0)
            client.writer.write(request(prompt()))
            answer = await client.reader.read()
            assert b"HTTP/1.1 503 " in answer
            assert b"connection: close" in answer
            client.writer.close()

    run_async(main())


def test_a_body_that_is_on_its_way_at_the_end_of_the_server_is_read_before_the_answer() -> None:
    """To answer and close meanwhile resets the connection under the client that sends."""

    async def main() -> None:
        async with stack() as server:
            whole = request(prompt())
            client = await Client.of(server, whole[:-5], then_eof=False)
            connections: Any = server.uvicorn.server_state.connections
            await until(lambda: any(not each.is_idle for each in connections), "it has begun")
            server.service.begin_shutdown()
            for _ in range(50):
                await asyncio.sleep(0)
            assert not any(each.transport.is_closing() for each in connections)
            assert connections
            client.writer.write(whole[-5:])
            answer = await client.reader.read()
            assert b"HTTP/1.1 503 " in answer
            assert b"shutting_down" in answer
            client.writer.close()

    run_async(main())


def test_a_connection_that_idles_at_the_end_of_the_server_is_closed() -> None:
    """Whether it has asked before or never."""

    async def main() -> None:
        async with stack() as server:
            never = await Client.of(server, b"", then_eof=False)
            before = await Client.of(server, request(prompt()), then_eof=False)
            await before.reader.readuntil(b'"finish_reason":"stop"')
            connections: Any = server.uvicorn.server_state.connections
            await until(lambda: len(connections) == 2, "both are connected")
            await until(lambda: all(each.is_idle for each in connections), "both idle")
            for connection in list(connections):
                connection.shutdown()
            for client in (never, before):
                await client.reader.read()
                client.writer.close()
            await until(lambda: not connections, "both are closed")

    run_async(main())
