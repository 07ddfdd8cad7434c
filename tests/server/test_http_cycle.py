"""What is written to a connection, write by write, beside what uvicorn's own cycle writes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from server.connection import Connection
from server.http_protocol import HttpProtocol

Answers = Callable[[Connection], Awaitable[None]]


class Writes(asyncio.Transport):
    """A transport that keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        if data:
            self.writes.append(bytes(data))

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


async def written(protocol: type[H11Protocol], request: bytes, answers: Answers) -> Writes:
    """By a connection on which a request is answered."""
    over = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await answers(Connection(scope, receive, send, send_s=5.0))
        finally:
            over.set()

    config = uvicorn.Config(app, log_config=None, date_header=False, proxy_headers=False)
    config.load()
    connection = protocol(config, ServerState(), {})
    transport = Writes()
    connection.connection_made(transport)
    connection.data_received(request)
    await over.wait()
    await asyncio.sleep(0)
    connection.connection_lost(None)
    return transport


async def streams(connection: Connection) -> None:
    await connection.begin(200, {"content-type": "text/plain"}, body_follows=True)
    await connection.body(b"one")
    await connection.body(b"")
    await connection.body(b"two" * 10)
    await connection.end(b"last")


async def begins_alone(connection: Connection) -> None:
    await connection.begin(200, {"content-type": "text/plain"})
    await connection.body(b"one")
    await connection.end()


async def is_empty(connection: Connection) -> None:
    await connection.begin(204, {})
    await connection.end()


async def is_an_object(connection: Connection) -> None:
    await connection.json(404, {"a": "b"})
    await connection.end()


def request(method: str = "GET", version: str = "1.1", more: str = "") -> bytes:
    return f"{method} / HTTP/{version}\r\nhost: localhost\r\n{more}\r\n".encode()


@pytest.mark.parametrize("answers", [streams, begins_alone, is_empty, is_an_object])
@pytest.mark.parametrize(
    "asked",
    [request(), request("HEAD"), request(version="1.0"), request(more="connection: close\r\n")],
    ids=["GET", "HEAD", "HTTP/1.0", "to be closed"],
)
def test_the_bytes_are_those_of_uvicorns_own(answers: Answers, asked: bytes) -> None:
    """Whatever is asked and answered: the same bytes, and the connection is kept or not."""

    async def main() -> None:
        ours = await written(HttpProtocol, asked, answers)
        uvicorns = await written(H11Protocol, asked, answers)
        assert b"".join(ours.writes) == b"".join(uvicorns.writes)
        assert ours.is_closed == uvicorns.is_closed
        assert b"200 OK" in ours.writes[0] or answers in (is_empty, is_an_object)

    asyncio.run(main())


def test_what_is_there_at_once_leaves_in_one_write() -> None:
    """The head with the first of its body, and the last message with the end of the body."""

    async def main() -> None:
        first, second, last = (await written(HttpProtocol, request(), streams)).writes
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert first.endswith(b"\r\n\r\n3\r\none\r\n")
        assert second == b"1e\r\n" + b"two" * 10 + b"\r\n"
        assert last == b"4\r\nlast\r\n0\r\n\r\n"

    asyncio.run(main())


def test_a_head_behind_which_nothing_is_ready_does_not_wait() -> None:
    """A stream that is yet to say something has its head sent, as a proxy may wait for that."""
    writes: list[int] = []

    async def main() -> None:
        async def waits(connection: Connection) -> None:
            await connection.begin(200, {})
            writes.append(len(transport_of(connection).writes))
            await connection.end()

        await written(HttpProtocol, request(), waits)
        assert writes == [1]

    def transport_of(connection: Connection) -> Writes:
        transport = connection._send.__self__.transport  # type: ignore[attr-defined]
        assert isinstance(transport, Writes)
        return transport

    asyncio.run(main())


@pytest.mark.parametrize("cycles", [1, 2])
def test_requests_in_a_row_are_answered_in_order(cycles: int) -> None:
    """One that waits behind another gets the same writes, though uvicorn begins it later."""

    async def main() -> None:
        transport = await written(HttpProtocol, request() * cycles, streams)
        for _ in range(3):
            await asyncio.sleep(0)
        assert len(transport.writes) == 3 * cycles

    asyncio.run(main())


def test_messages_out_of_order_are_refused() -> None:
    """A body before its head, a second head and what comes behind the end say what was due."""
    start = {"type": "http.response.start", "status": 200, "headers": []}
    body = {"type": "http.response.body", "body": b"", "more_body": True}
    said: list[str] = []

    async def main() -> None:
        async def answers(connection: Connection) -> None:
            for message in (body, start, start, {**body, "more_body": False}, body):
                try:
                    await connection._send(message)
                except RuntimeError as exc:
                    said.append(str(exc))

        await written(HttpProtocol, request(), answers)

    asyncio.run(main())
    assert said == [
        "'http.response.body' was sent where 'http.response.start' is due",
        "'http.response.start' was sent where 'http.response.body' is due",
        "'http.response.body' was sent behind the end of the answer",
    ]
