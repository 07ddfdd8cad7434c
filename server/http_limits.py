"""What a connection may cost before it has shown a key: uvicorn's protocol with limits.

A head that trickles, a connection that idles, a body in chunks of one byte and an answer that the
client does not read hold a descriptor, or the event loop, for as long as the client likes.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, ClassVar, cast

import h11
import uvicorn
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol

from registry.patience import PatientTimer
from server.errors import ApiError
from server.http_cycle import become_ours
from server.lines import line
from server.sse import encode_json

_logger = logging.getLogger("onestream.server")

# A request's line and headers; what is longer is refused, however it comes in segments.
HEAD_MAX_BYTES = 64 * 1024
# Of a chunked body, as much is parsed at once: a chunk of one byte costs as much as a long one.
PIECE_BYTES = 16 * 1024
# Bytes on the wire for each byte of a chunked body, beyond a start; a chunk of one byte has 6.
WIRE_FACTOR_MAX = 4
WIRE_FREE_BYTES = 64 * 1024
# Descriptors that are not for connections: the listener, the log, files, look-ups.
_DESCRIPTORS_KEPT = 32
CONNECTIONS_MIN = 8
# Connections beyond their number that are told so, with some of those descriptors, and for how long
# the answer waits to be read.
TURNED_AWAY_MAX = 8
_TURNED_AWAY_S = 1.0
# asyncio's complaint that no descriptor is left is logged once in this many seconds.
_COMPLAINT_S = 5.0
_PROTESTS = ("Invalid HTTP request", "Unsupported upgrade", "No supported WebSocket")
# The record of a handshake, and the first byte of its version.
_TLS_BEGINS = b"\x16\x03"
_HEADER_NAME = re.compile(r"([A-Za-z0-9-]{1,40})\s*:")
_NO_DESCRIPTOR = "socket.accept() out of system resource"


class HeldFlow(FlowControl):
    """uvicorn's pauses, and ours: while `is_held` nothing is read, also if uvicorn resumes."""

    is_held = False

    def resume_reading(self) -> None:
        if not self.is_held:
            super().resume_reading()


class LimitedProtocol(H11Protocol):
    """One connection; the limits are those of its class.

    head_s: for the head of a request. unread_s: an answer is given up after this time without a
    read. connections_max: of all that are open; the one that has idled longest is closed, and where
    none idles a new one is answered with 503.
    on_no_request: is told what is no request, and names it.
    """

    head_s = 10.0
    unread_s = 30.0
    connections_max = 10_000
    on_no_request: Callable[[ApiError], str] | None = None
    # Those that are being told, of all servers of this process.
    _turned_away: ClassVar[set[LimitedProtocol]] = set()

    def __init__(self, config: uvicorn.Config, *more: Any, **named: Any) -> None:
        super().__init__(config, *more, **named)
        self._head_max_bytes = config.h11_max_incomplete_event_size or HEAD_MAX_BYTES
        # h11 looks behind each piece that leaves a head unfinished: see `_parse`.
        self.conn = h11.Connection(h11.SERVER, self._head_max_bytes - 1)
        self.logger = cast(logging.Logger, WithoutProtests(self.logger))
        self._head_timer: PatientTimer | None = None
        self._unread_timer: PatientTimer | None = None
        # Since when no request is running.
        self._idle_since = 0.0
        # Received and not yet parsed; while there is some, `flow` is held.
        self._pending = b""
        # The cycle behind which the line of a request has begun; looked for once.
        self._begun_behind: object = self
        # No request is taken any more, and what still comes is thrown away.
        self._is_refused = False
        # Of the current request.
        self._wire_bytes = self._body_bytes = 0

    @property
    def is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = HeldFlow(transport)
        self._await_head(self.head_s)
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._head_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._pending = b""
        self._turned_away.discard(self)
        super().connection_lost(exc)

    # -- heads and idling

    def _await_head(self, limit_s: float) -> None:
        self._idle_since = self.loop.time()
        if self._head_timer is not None:
            self._head_timer.cancel()
        self._head_timer = PatientTimer(limit_s, self._head_is_late)

    def _head_is_late(self) -> None:
        self.transport.close()
        self._watch_unread()

    def _make_room(self) -> None:
        """For this one."""
        if len(self.connections) <= self.connections_max:
            return
        idle = [
            each
            for each in self.connections
            if isinstance(each, LimitedProtocol) and each is not self and each.is_idle
        ]
        given_up = min(idle, key=lambda each: each._idle_since, default=self)
        self.connections.discard(given_up)
        if given_up is self and len(self._turned_away) < TURNED_AWAY_MAX:
            self._turn_away()
        else:
            given_up.transport.abort()

    def _turn_away(self) -> None:
        self._turned_away.add(self)
        problem = (
            f"{self.connections_max} connections are being answered, and no more may be open; send "
            f"it later, or allow the server more descriptors (ulimit -n)"
        )
        error = ApiError(503, "server_busy", problem, headers={"retry-after": "1"})
        self._answer_by_ourselves(error)
        self._await_head(_TURNED_AWAY_S)

    # -- what comes

    def data_received(self, data: bytes) -> None:
        self._pending += data
        if not self.flow_is_held:
            self._parse()

    @property
    def flow_is_held(self) -> bool:
        return isinstance(self.flow, HeldFlow) and self.flow.is_held

    def _parse(self) -> None:
        """All that is there; of a chunked body a piece, and the next in a later iteration."""
        while self._pending and not self.transport.is_closing():
            size = len(self._pending) if self._is_sized() else self._piece_bytes()
            piece, self._pending = self._pending[:size], self._pending[size:]
            self._parse_piece(piece)
            if self._pending and self._is_chunked():
                self._hold()
                return

    def _piece_bytes(self) -> int:
        """So few that an unfinished head has its whole limit, and no byte more."""
        if self.conn.their_state is not h11.IDLE:
            return PIECE_BYTES
        unread, _ = self.conn.trailing_data
        return min(PIECE_BYTES, max(self._head_max_bytes - 1 - len(unread), 1))

    def _hold(self) -> None:
        self.flow.pause_reading()
        self.flow.is_held = True  # type: ignore[attr-defined]
        self.loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self.flow.is_held = False  # type: ignore[attr-defined]
        self._parse()
        if not self._pending and (self.is_idle or len(self.cycle.body) <= HIGH_WATER_LIMIT):
            self.flow.resume_reading()

    def _parse_piece(self, piece: bytes) -> None:
        cycle_before = self.cycle
        body_before = 0 if cycle_before is None else len(cycle_before.body)
        self._receive(piece)
        if self.cycle is not cycle_before:
            self._request_begins()
            body_before = 0
        if self.cycle is not None:
            self._wire_bytes += len(piece)
            self._body_bytes += max(len(self.cycle.body) - body_before, 0)
        allowed_bytes = WIRE_FREE_BYTES + WIRE_FACTOR_MAX * self._body_bytes
        if self._is_chunked() and self._wire_bytes > allowed_bytes:
            # No client sends such chunks by mistake.
            self.transport.abort()

    def _receive(self, data: bytes) -> None:
        if self._is_refused:
            self._wire_bytes += len(data)
            if self._wire_bytes > WIRE_FREE_BYTES:
                self.transport.abort()
            return
        super().data_received(data)

    def handle_events(self) -> None:
        if self.conn.their_state is not h11.IDLE or self._skip_empty_lines():
            super().handle_events()
        if self.cycle is not None:
            # Maybe a new one: its application begins in the next iteration.
            become_ours(self.cycle)

    def _skip_empty_lines(self) -> bool:
        """Those before a request are ignored (RFC 9112, 2.2). False if there may be more of one."""
        if self._begun_behind is self.cycle:
            return True
        unread, _ = self.conn.trailing_data
        begins = 0
        while unread.startswith(b"\r\n", begins):
            begins += 2
        # h11 takes one for a request without a line, and has no other way to leave it out.
        self.conn._receive_buffer.maybe_extract_at_most(begins)
        if unread[begins:] in (b"", b"\r"):
            return False
        self._begun_behind = self.cycle
        return True

    def send_400_response(self, msg: str) -> None:
        """What is no request, in the form of every other error; h11 says what is wrong with it."""
        found = sys.exc_info()[1]
        unread, _ = self.conn.trailing_data
        error = no_request(found or ValueError(msg), bytes(unread), self._head_max_bytes)
        self._answer_by_ourselves(error)

    def _answer_by_ourselves(self, error: ApiError) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            # An answer has begun, before the body was whole.
            self.transport.abort()
            return
        body = encode_json(error.body())
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **error.headers,
        }
        trace_id = self.on_no_request(error) if self.on_no_request else ""
        if trace_id:
            headers |= {"x-trace-id": trace_id, "x-request-id": trace_id}
        reason = HTTPStatus(error.status).phrase.encode()
        head = h11.Response(status_code=error.status, headers=list(headers.items()), reason=reason)
        for event in (head, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        if self.is_idle and self.transport.can_write_eof():
            # To close it with something unread would reset it, and its client never learn why. It
            # is closed by the client, or by the limit for a head.
            self._is_refused = True
            self._wire_bytes = 0
            self.transport.write_eof()
        else:
            self.transport.close()

    def _request_begins(self) -> None:
        self._wire_bytes = self._body_bytes = 0
        if not self.is_idle and self._head_timer is not None:
            self._head_timer.cancel()
        if self._has("content-length") and self._has("transfer-encoding"):
            # A proxy on the way may have read it differently: nothing after it is trusted (RFC
            # 9112, 6.1).
            self.cycle.keep_alive = False

    def _has(self, name: str) -> bool:
        return any(key == name.encode() for key, _ in self.headers)

    def _is_sized(self) -> bool:
        return not self.is_idle and self.cycle.more_body and not self._has("transfer-encoding")

    def _is_chunked(self) -> bool:
        return not self.is_idle and self.cycle.more_body and self._has("transfer-encoding")

    # -- answers that are not read

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_idle:
            # uvicorn's own limit for idling counts only as long as nothing comes at all.
            self._await_head(self.timeout_keep_alive + self.head_s)
        self._watch_unread()

    def _watch_unread(self) -> None:
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes and self._unread_timer is None:
            self._unread_timer = PatientTimer(self.unread_s, self._check_unread, unread_bytes)

    def _check_unread(self, before_bytes: int) -> None:
        self._unread_timer = None
        if self.transport.get_write_buffer_size() >= before_bytes and self.is_idle:
            self.transport.abort()
        else:
            self._watch_unread()


def connections_max(descriptors_max: int) -> int:
    """How many connections there may be, if each may need a second descriptor for Ollama."""
    return max((descriptors_max - _DESCRIPTORS_KEPT) // 2, CONNECTIONS_MIN)


def no_request(found: BaseException, unread: bytes, head_max_bytes: int) -> ApiError:
    """The answer to what h11 takes for no request. Of what was sent it shows the name of a header.

    A header's value may be a key, and the sentence is logged.
    """
    status = getattr(found, "error_status_hint", 400)
    if status == 431:
        problem = (
            f"the head of the request is longer than {head_max_bytes} bytes; send fewer or shorter "
            f"headers, and what is long in the body"
        )
        return ApiError(431, "head_too_large", problem)
    what, shows_it, sent = str(found).partition(": bytearray(")
    header = _HEADER_NAME.match(sent.removeprefix("b").lstrip("'\""))
    if unread.startswith(_TLS_BEGINS):
        what = "this is TLS, and this port speaks plain HTTP; write http:// and not https://"
    elif shows_it and header:
        what = f"{what}, that of {header[1]}: control characters, or a blank before the colon"
    return ApiError(status, "invalid_http", f"this is no request of HTTP/1.1: {what}")


class WithoutProtests:
    """uvicorn's logger of one connection, without what any stranger could fill the log with.

    That is what is no request, of which a line of ours tells, and upgrades that are not supported.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def __getattr__(self, name: str) -> Any:
        return getattr(self._logger, name)

    def warning(self, message: str, *arguments: object) -> None:
        if not message.startswith(_PROTESTS):
            self._logger.warning(message, *arguments)


class FewComplaints:
    """The loop's exception handler: logs once what asyncio reports for every failed accept."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._before = loop.get_exception_handler()
        self._next_at = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if context.get("message") == _NO_DESCRIPTOR:
            if loop.time() >= self._next_at:
                self._next_at = loop.time() + _COMPLAINT_S
                why = context.get("exception")
                sentence = f"no connection can be taken: {why}; allow more (ulimit -n)"
                _logger.error(line("no_descriptors", sentence))
        elif self._before is not None:
            self._before(loop, context)
        else:
            loop.default_exception_handler(context)
