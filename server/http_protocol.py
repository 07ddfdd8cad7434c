"""HTTP/1.1 on a connection: uvicorn's protocol on h11, and what it leaves open.

It serves whichever way uvicorn was started. The other parser that uvicorn may pick, httptools,
loses the body of a request that offers an upgrade (`Upgrade: h2c`, as Java's client does).
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any

import h11
import uvicorn

from server.errors import ApiError
from server.http_limits import FewComplaints, LimitedProtocol, connections_max
from server.settings import Settings

# What a client may send behind a request that is not answered yet; the rest is thrown away, and
# the connection closed behind the answer.
_BEHIND_MAX_BYTES = 64 * 1024
# Accepts in a row: asyncio tries as many also where each of them fails.
ACCEPTS_MAX = 128
# Connections that wait to be accepted, as far as the kernel allows (net.core.somaxconn on Linux).
# One that finds no place comes again after a second, then after 3 and 7.
BACKLOG = 4096
_PROBE = b"HTTP/1.1 100 Continue\r\n\r\n"
_PROBE_FIRST_S = 0.05
_PROBE_LAST_S = 15.0
# A client that has connected is about to ask, and one that asks again and again as well: at the end
# of the server it is told so, if it does.
_LAST_REQUEST_S = 0.5
# Within which a client's kernel has answered a probe; one that is slower is heard at the next.
_ANSWERED_S = 0.2


class HttpProtocol(LimitedProtocol):
    """One connection.

    A client that closes its sending side behind its request looks the same whether it waits for
    the answer or has left: only its kernel knows, and says so when something is sent to it. So,
    until the answer begins, it is sent `100 Continue`, which every client of HTTP/1.1 ignores (RFC
    9110, 15.2), and a kernel whose program has left answers with a reset. HTTP/1.0 has no such
    status; there, and once the answer has begun, a closed sending side means that it has left.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        # The client has closed its sending side and was not taken for one that has left.
        self._is_half_closed = False
        self._probe_timer: asyncio.TimerHandle | None = None
        self._end_timer: asyncio.TimerHandle | None = None
        # Something that the client sent behind its request was thrown away.
        self._has_dropped = False

    # -- what the client sends behind its request

    def _receive(self, data: bytes) -> None:
        if self._has_dropped:
            return
        if not self._is_request_whole():
            super()._receive(data)
            return
        behind, _ = self.conn.trailing_data
        if self.conn.their_state is not h11.DONE or len(behind) + len(data) > _BEHIND_MAX_BYTES:
            self._has_dropped = True
            self.cycle.keep_alive = False
            return
        super()._receive(data)
        # uvicorn has paused reading, and without reading it can't see that the client leaves.
        self.flow.resume_reading()

    def _is_request_whole(self) -> bool:
        """Whether a request is there to its last byte, and its answer is not."""
        cycle = self.cycle
        return cycle is not None and not cycle.more_body and not cycle.response_complete

    # -- a client that closes its sending side

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """True keeps the connection for the answer."""
        if not self._is_half_closed:
            self._is_half_closed = self._may_be_waiting()
            if self._is_half_closed:
                # What is answered at once needs no interim answer.
                self._probe_timer = self.loop.call_later(
                    _PROBE_FIRST_S, self._probe, 2 * _PROBE_FIRST_S
                )
        return self._is_half_closed

    def _may_be_waiting(self) -> bool:
        return (
            self._is_request_whole()
            and not self.cycle.response_started
            and self.scope["http_version"] == "1.1"
            # TLS has no half-closed connections.
            and self.scheme == "http"
        )

    def _probe(self, again_s: float) -> None:
        if not self._is_probed():
            return
        self.transport.write(_PROBE)
        left_s = again_s - _ANSWERED_S
        later_s = min(2 * again_s, _PROBE_LAST_S)
        if left_s > 0:
            self._probe_timer = self.loop.call_later(_ANSWERED_S, self._hear, left_s, later_s)
        else:
            self._probe_timer = self.loop.call_later(again_s, self._probe, later_s)

    def _is_probed(self) -> bool:
        if self.transport.is_closing() or not self._is_request_whole():
            return False
        # Once it has begun, the answer itself, or its pings, are what is sent.
        return not self.cycle.response_started

    def _hear(self, again_s: float, later_s: float) -> None:
        """What its kernel has answered: asyncio reads no more, so that nothing else would tell."""
        if not self._is_probed():
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
            return
        self._probe_timer = self.loop.call_later(again_s, self._probe, later_s)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_half_closed and not self._is_request_whole():
            self._unset_keepalive_if_required()
            self.transport.close()

    # -- the end of the server

    def shutdown(self) -> None:
        """Closes it once its request is answered; one that idles, if no request comes soon.

        To close a connection to which a request is on its way resets it, and its client never
        learns why.
        """
        if not self.is_idle:
            super().shutdown()
        else:
            self._end_timer = self.loop.call_later(_LAST_REQUEST_S, self._end_if_idle)

    def _end_if_idle(self) -> None:
        # A request that came meanwhile is refused, and its connection closed behind the answer.
        if self.is_idle and not self.transport.is_closing():
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._probe_timer, self._end_timer):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)


def use_for(
    server: uvicorn.Server,
    settings: Settings,
    on_no_request: Callable[[ApiError], str] | None = None,
) -> None:
    """The server's connections from now on are ours, unless it was given a class of its user's."""
    config = server.config
    is_ours = isinstance(config.http, type) and issubclass(config.http, HttpProtocol)
    if not is_ours and not isinstance(config.http, str):
        return
    config.http_protocol_class = with_limits(settings, on_no_request)
    # For asyncio this is both: how many accepts it tries, and how many connections may wait.
    config.backlog = min(config.backlog, ACCEPTS_MAX)
    _lengthen_once_it_listens(server)
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(FewComplaints(loop))


def _lengthen_once_it_listens(server: uvicorn.Server) -> None:
    """The server's first tick comes in the step in which it has begun to listen."""
    tick = server.on_tick

    async def first_tick(counter: int) -> bool:
        server.on_tick = tick  # type: ignore[method-assign]
        for listening in server.servers:
            for each in listening.sockets:
                # The same socket once more: asyncio shows one that cannot be told to listen.
                with socket.fromfd(each.fileno(), each.family, each.type) as listener:
                    listener.listen(BACKLOG)
        return await tick(counter)

    server.on_tick = first_tick  # type: ignore[method-assign]


def with_limits(
    settings: Settings, on_no_request: Callable[[ApiError], str] | None = None
) -> type[HttpProtocol]:
    """The class of connections that have the limits of these settings."""
    told = on_no_request and staticmethod(on_no_request)

    class Limited(HttpProtocol):
        head_s = settings.request_head_seconds
        unread_s = settings.send_seconds
        connections_max = connections_max(_descriptors_max())
        on_no_request = told

    return Limited


def _descriptors_max() -> int:
    try:
        import resource
    except ImportError:
        # Not on Windows, which has no such limit.
        return sys.maxsize
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft
