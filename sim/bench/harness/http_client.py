"""Clients of the whole stack: connections to the server, on sockets, with all that a client may do.

One connection carries requests one after the other, or several behind each other (pipelining). It
can trickle, stop reading, close its sending side, leave in good order or with a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Mapping

import h11

from sim.bench.harness.answers import Answer
from sim.kernel.world import World

READ_BYTES = 64 * 1024
# SO_LINGER with no time to linger: the end of the connection is a reset.
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


class StackExchange(Answer):
    """One request of a client, and its answer. has_failed: the connection ended before it.

    over: the answer is whole, or nothing more comes.
    """

    given_id: str | None = None

    def __init__(self, name: str, now: float) -> None:
        super().__init__(name, now)
        self.has_failed = False
        self.over = asyncio.Event()

    @property
    def is_listening(self) -> bool:
        return super().is_listening and not self.has_failed


class SocketExchange(StackExchange):
    """One request on a connection of its own making."""

    def __init__(self, connection: ClientConnection, name: str, parser: h11.Connection) -> None:
        super().__init__(name, connection.world.now)
        self.connection = connection
        self.parser = parser


class ClientConnection:
    """exchanges: in the order of their requests. is_open: neither side has closed it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_open = False
        self.exchanges: list[SocketExchange] = []
        self._unanswered: deque[SocketExchange] = deque()
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._sock = _new_socket()
        self._sock.setblocking(False)
        self._reader: asyncio.Task[None] | None = None

    async def connect(self, host: str, port: int) -> None:
        """Raises OSError where nobody listens."""
        await self.world.loop.sock_connect(self._sock, (host, port))
        self.is_open = True
        self._reader = self.world.loop.create_task(self._read(), name=f"{self.name} client")

    # -- what the client does

    def ask(
        self, name: str, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[SocketExchange, bytes]:
        """An exchange, and the bytes to be sent for it."""
        parser = h11.Connection(h11.CLIENT)
        exchange = SocketExchange(self, name, parser)
        everything = {"host": "onestream", "content-length": str(len(body)), **headers}
        request = h11.Request(method=method, target=target, headers=list(everything.items()))
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        data = b"".join(parser.send(part) or b"" for part in parts)
        self.exchanges.append(exchange)
        self._unanswered.append(exchange)
        if not self.is_open:
            self._fail_unanswered()
        return exchange, data

    async def send(self, data: bytes) -> None:
        """A server that has closed its end may answer with a reset, which the reader is told."""
        try:
            await self.world.loop.sock_sendall(self._sock, data)
        except OSError:
            self._ends()

    def stop_reading(self) -> None:
        self._may_read.clear()
        for each in self._unanswered:
            each.is_reading = False

    def read_on(self) -> None:
        self._may_read.set()
        for each in self._unanswered:
            each.is_reading = True
            each.reads_since = self.world.now

    def close_sending_side(self) -> None:
        self._sock.shutdown(socket.SHUT_WR)

    def close(self, *, with_reset: bool = False) -> None:
        """May be repeated."""
        if with_reset and self.is_open:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
        for each in self._unanswered:
            each.has_left = True
        if self._reader is not None:
            self._reader.cancel()
        self._ends()

    # -- what comes

    async def _read(self) -> None:
        while True:
            await self._may_read.wait()
            try:
                data = await self.world.loop.sock_recv(self._sock, READ_BYTES)
            except OSError:
                data = b""
            self._receive(data)
            if not data:
                self._ends()
                return

    def _receive(self, data: bytes) -> None:
        while self._unanswered:
            exchange = self._unanswered[0]
            data = self._take(exchange, data)
            if not exchange.is_whole:
                return
            self._unanswered.popleft()
            exchange.over.set()
            if not data:
                return
        if data:
            self.world.fail("nothing is sent that was not asked for", f"{self.name}: {data!r}")

    def _take(self, exchange: SocketExchange, data: bytes) -> bytes:
        """Returns what belongs to the next one."""
        parser = exchange.parser
        try:
            parser.receive_data(data)
            while True:
                event = parser.next_event()
                match event:
                    case h11.Response():
                        exchange.status = event.status_code
                        exchange.headers = {
                            name.decode(): value.decode() for name, value in event.headers
                        }
                        self.world.record(
                            f"is answered with {event.status_code}", actor=exchange.name
                        )
                    case h11.Data():
                        exchange.body += bytes(event.data)
                    case h11.EndOfMessage():
                        exchange.is_whole = True
                        self.world.record("has its whole answer", actor=exchange.name)
                        behind, _ = parser.trailing_data
                        return behind
                    case h11.InformationalResponse():
                        pass
                    case _:
                        return b""
        except h11.RemoteProtocolError as exc:
            if data:
                self.world.fail("the server speaks HTTP", f"{exchange.name}: {exc}")
            # The connection ended within the answer.
            return b""

    def _ends(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self._sock.close()
        self._fail_unanswered()

    def _fail_unanswered(self) -> None:
        for each in self._unanswered:
            each.has_failed = True
            each.over.set()
        self._unanswered.clear()


def _new_socket() -> socket.socket:
    """A limit of descriptors is not meant for the clients, which are processes of their own."""
    try:
        return socket.socket()
    except OSError:
        return socket.socket()
