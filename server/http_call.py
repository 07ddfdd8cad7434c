"""httpx's transport for the async client: one connection for each call, and nothing shared.

httpx's own is httpcore, whose pool loses places by cancels (httpcore#1093), and which takes for
each call more than all the rest of the server: a pool, a TLS context also for plain http, a search
for trio; and for each chunk a parser in Python. Here the connection is asyncio's own, and its
parser httptools'.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import httpx

from registry.patience import PatientTimeout
from server.http_answer import Answer, head_of

# The address of a host and a port, to be tried in turn.
LookUp = Callable[[str, int], Awaitable[list[str]]]

# Received and not yet taken: beyond it nothing is read.
UNREAD_MAX_BYTES = 64 * 1024
# As much of a request is handed over in one write; the next when the connection has taken it. More
# than a kernel takes for a peer that does not read: see `send`. Less than would be felt: it is
# copied, and with TLS encrypted, in one step.
PIECE_BYTES = 4 * 1024 * 1024
# Iterations of the loop until what had come is read: a socket is asked behind what is due already.
TURNS_TO_READ = 2
# Of a request's extensions: called in the step in which its first byte is written; where it raises,
# none is.
BEFORE_SEND = "onestream.before_send"


def _nothing() -> None: ...


class CallTransport(httpx.AsyncBaseTransport):
    """Keeps nothing between two calls. Of httpx's limits only that of the connect is kept.

    tls: None for plain http. look_up: of a host that is a name; None where it is an address.
    """

    def __init__(self, tls: ssl.SSLContext | None, look_up: LookUp | None) -> None:
        self._tls = tls
        self._look_up = look_up

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        head = head_of(request)
        content = await request.aread()
        call = await self._connected(request)
        try:
            # Taken out: it refers to who holds the request.
            request.extensions.pop(BEFORE_SEND, _nothing)()
            await call.send(head, content)
            await call.answered()
        except BaseException:
            await call.close()
            raise
        answer = call.answer
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(call))

    async def _connected(self, request: httpx.Request) -> _Call:
        host = request.url.host
        port = request.url.port or (443 if self._tls else 80)
        limit_s: float | None = request.extensions.get("timeout", {}).get("connect")
        error: Exception = OSError(f"{host} has no address")
        try:
            async with PatientTimeout(limit_s) as limit:
                addresses = await self._look_up(host, port) if self._look_up else [host]
                for tried, address in enumerate(addresses):
                    # One that says nothing leaves time for those behind it.
                    share_s = _share_s(limit.left_s, len(addresses) - tried)
                    try:
                        async with PatientTimeout(share_s):
                            return await self._connected_to(address, port, host)
                    except OSError as exc:
                        error = exc
        except TimeoutError:
            said = f"no connection to {host} in {limit_s:g} s"
            raise httpx.ConnectTimeout(said, request=request) from None
        except (OSError, RuntimeError, UnicodeError, LookupError) as exc:
            # The last two are of the name: it cannot be written for the resolver.
            error = exc
        raise httpx.ConnectError(str(error), request=request) from error

    async def _connected_to(self, address: str, port: int, host: str) -> _Call:
        loop = asyncio.get_running_loop()
        name = host if self._tls else None
        _, call = await loop.create_connection(
            _Call, address, port, ssl=self._tls, server_hostname=name
        )
        return call


def _share_s(left_s: float | None, addresses_left: int) -> float | None:
    """What the next address may take of a limit; None for the last: the whole limit ends that."""
    if left_s is None or addresses_left == 1:
        return None
    return max(left_s, 0.0) / addresses_left


def _end(transport: asyncio.Transport) -> None:
    """The upstream sees the end now, whatever else has hold of the socket.

    A close ends a connection with its last descriptor only, and that may be a copy for a moment:
    of a process that was forked, or of one that looks through this one's files.
    """
    connection = transport.get_extra_info("socket")
    # One that its peer has ended is none any more; another loop than asyncio's may refuse.
    with suppress(OSError, TypeError, AttributeError):
        connection.shutdown(socket.SHUT_RDWR)
    transport.abort()


class _Body(httpx.AsyncByteStream):
    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while segment := await self._call.segment():
            yield segment

    async def aclose(self) -> None:
        await self._call.close()


class _Call(asyncio.Protocol):
    """One request and its answer, on a connection of their own."""

    def __init__(self) -> None:
        self.answer = Answer()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        # While more than UNREAD_MAX_BYTES are not taken.
        self._is_paused = False
        self._may_write = True
        # Set while the caller waits: there is one.
        self._waiter: asyncio.Future[None] | None = None

    # -- what the caller does

    async def send(self, head: bytes, content: bytes) -> None:
        """Returns once it is handed over, or the answer is an error, which needs no more of it.

        An upstream may refuse a request that it has not read, and close. A write after that fails,
        and with it the connection, the answer unread. What the kernel does not take of a piece is
        no danger: the connection looks for an answer before it sends more of it. So the pieces are
        long, and before each one what has come is read.
        """
        assert self._transport is not None
        self._transport.write(head + content[:PIECE_BYTES])
        for start in range(PIECE_BYTES, len(content), PIECE_BYTES):
            while not self._may_write and self._wants_more():
                await self._wait()
            for _ in range(TURNS_TO_READ):
                await asyncio.sleep(0)
            if not self._wants_more():
                return
            self._transport.write(content[start : start + PIECE_BYTES])

    def _wants_more(self) -> bool:
        return not self.answer.is_over and self.answer.status in (0, 200)

    async def answered(self) -> None:
        """Returns once the head of the answer is there. Raises httpx.HTTPError."""
        while not self.answer.has_head:
            if self.answer.error is not None:
                raise self.answer.error
            await self._wait()

    async def segment(self) -> bytes:
        """All that has come of the body; empty at its end. Raises httpx.HTTPError if it is cut."""
        answer = self.answer
        while not answer.unread:
            if answer.error is not None:
                raise answer.error
            if answer.is_over:
                return b""
            await self._wait()
        segment = answer.take()
        if self._is_paused:
            self._is_paused = False
            assert self._transport is not None
            self._transport.resume_reading()
        return segment

    async def close(self) -> None:
        """Drops the connection; what is unsent or unread is nobody's any more.

        Who still waits for the rest, in another task, gets an error: it is not the end of the body.
        """
        assert self._transport is not None
        self.answer.fail(httpx.ReadError("the call was closed before its answer was whole"))
        _end(self._transport)
        # The socket is closed in the next iteration.
        await asyncio.sleep(0)

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- what the connection says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        answer = self.answer
        if answer.is_over:
            # Behind the answer, or behind the end of the call.
            return
        answer.feed(data)
        if len(answer.unread) > UNREAD_MAX_BYTES and not self._is_paused:
            self._is_paused = True
            assert self._transport is not None
            self._transport.pause_reading()
        self._wake()

    def pause_writing(self) -> None:
        self._may_write = False

    def resume_writing(self) -> None:
        self._may_write = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.answer.ended(exc)
        self._wake()
