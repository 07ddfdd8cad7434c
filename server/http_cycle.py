"""What leaves a connection: uvicorn's cycle of request and answer, with fewer and shorter ways.

h11 writes the head and decides how the body is framed; what is left of a chunk's frame are two
lines, for which it makes an event, three lists and a look at its states. And what is there at once
leaves in one write: a head with the first of its body, the last message with the end.
"""

from __future__ import annotations

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, RequestResponseCycle
from uvicorn.protocols.utils import get_client_addr, get_path_with_query_string

# In the message that begins an answer: its body follows within the same step.
BODY_FOLLOWS = "onestream.body_follows"
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"
_CLOSE = (b"connection", b"close")


class Cycle(RequestResponseCycle):
    """Takes the place of uvicorn's, which makes its own: `become_ours` turns one into this."""

    # A head whose body follows.
    _held = b""
    _is_chunked = False

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if not self.response_started:
            self._begin(_of_type(message, "http.response.start"))
        elif self.response_complete:
            raise RuntimeError(f"{message['type']!r} was sent behind the end of the answer")
        else:
            self._go_on(_of_type(message, "http.response.body"))

    def _begin(self, message: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        headers = [*self.default_headers, *message.get("headers", ())]
        if _CLOSE in self.scope["headers"] and _CLOSE not in headers:
            headers.append(_CLOSE)
        status: int = message["status"]
        if self.access_log:
            self._log(status)
        reason = STATUS_PHRASES[status]
        head = self.conn.send(h11.Response(status_code=status, headers=headers, reason=reason))
        assert head is not None
        self._is_chunked = _CHUNKED in head.lower() and self.scope["method"] != "HEAD"
        if message.get(BODY_FOLLOWS):
            self._held = head
        else:
            self.transport.write(head)

    def _log(self, status: int) -> None:
        self.access_logger.info(
            '%s - "%s %s HTTP/%s" %d',
            get_client_addr(self.scope),
            self.scope["method"],
            get_path_with_query_string(self.scope),
            self.scope["http_version"],
            status,
        )

    def _go_on(self, message: Any) -> None:
        written = self._held + self._framed(message.get("body", b""))
        self._held = b""
        if message.get("more_body", False):
            self.transport.write(written)
            return
        self.response_complete = True
        self.message_event.set()
        self.transport.write(written + (self.conn.send(h11.EndOfMessage()) or b""))
        if self.conn.our_state is h11.MUST_CLOSE or not self.keep_alive:
            self.conn.send(h11.ConnectionClosed())
            self.transport.close()
        self.on_response()

    def _framed(self, body: bytes) -> bytes:
        if self._is_chunked:
            # An empty chunk would be the end.
            return b"%x\r\n%b\r\n" % (len(body), body) if body else b""
        return self.conn.send(h11.Data(data=b"" if self.scope["method"] == "HEAD" else body)) or b""


def _of_type(message: Any, expected: str) -> Any:
    if message["type"] != expected:
        raise RuntimeError(f"{message['type']!r} was sent where {expected!r} is due")
    return message


def become_ours(cycle: RequestResponseCycle) -> None:
    """To be called before its application has begun, and as often as one likes."""
    if type(cycle) is RequestResponseCycle:
        cycle.__class__ = Cycle
