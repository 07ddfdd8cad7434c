"""HTTP/1.1 as both clients of Ollama speak it, without a socket: a head goes, an answer comes.

httptools' parser with the limits of ours. It is told what has come, and answers what that means.
"""

from __future__ import annotations

import re

import httptools
import httpx

# Of an answer's head with informational answers before it, and of all else that comes without a
# byte of the body: sizes of chunks, trailers.
HEAD_MAX_BYTES = 100 * 1024
# What would begin another header.
_ILLEGAL = re.compile(rb"[\r\n\0]")


class NoHttp(httpx.RemoteProtocolError):
    """What came is no head of HTTP that can be read: something else may listen there."""


def head_of(request: httpx.Request) -> bytes:
    """What is sent before the content. Raises httpx.LocalProtocolError."""
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    for name, value in request.headers.raw:
        if _ILLEGAL.search(name) or _ILLEGAL.search(value):
            raise httpx.LocalProtocolError(f"a header {name!r} with a line break", request=request)
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join((*lines, b"", b""))


class Answer:
    """The answer to one request, on a connection of its own."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_head = False
        # Of the body: received and not yet taken.
        self.unread = bytearray()
        # Nothing comes any more: the body is whole, or there is an error.
        self.is_over = False
        self.error: Exception | None = None
        # Received since the last byte of the body, or since the beginning.
        self._beside_bytes = 0
        # Whether the end of the connection is that of the body, as of HTTP/1.0.
        self._ends_with_connection = False

    def feed(self, data: bytes) -> None:
        """This has come, and the answer was not over."""
        unread_bytes = len(self.unread)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            kind = httpx.RemoteProtocolError if self.has_head else NoHttp
            self.fail(kind(str(exc) or type(exc).__name__))
        if len(self.unread) > unread_bytes:
            self._beside_bytes = 0
        else:
            self._beside_bytes += len(data)
        if self._beside_bytes > HEAD_MAX_BYTES:
            what = "trailers or chunk sizes" if self.has_head else "a head"
            self.fail(httpx.RemoteProtocolError(f"{what} of more than {HEAD_MAX_BYTES} bytes"))

    def ended(self, error: Exception | None = None) -> None:
        """The connection has ended: by the other side, or by an error."""
        if error is not None:
            self.fail(httpx.ReadError(str(error)))
        elif not self.has_head:
            said = "Server disconnected without sending a response."
            self.fail(httpx.RemoteProtocolError(said))
        elif self._ends_with_connection:
            self.is_over = True
        else:
            said = "peer closed connection without sending complete message body"
            self.fail(httpx.RemoteProtocolError(said))

    def fail(self, error: Exception) -> None:
        """What is not over ends with this error."""
        if not self.is_over:
            self.is_over = True
            self.error = error

    def take(self) -> bytes:
        """All that has come of the body and was not taken."""
        segment = bytes(self.unread)
        self.unread.clear()
        return segment

    # -- what the parser says; it reads on behind the end, up to that of the segment

    def on_header(self, name: bytes, value: bytes) -> None:
        # Behind the body there may be trailers, which say nothing here.
        if not self.is_over and not self.has_head:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.is_over:
            return
        status = self._parser.get_status_code()
        if status == 101:
            said = "status 101 (Switching Protocols), which no request of ours asks for"
            self.fail(httpx.RemoteProtocolError(said))
        if status < 200:
            # Informational: the answer is still to come.
            self.headers = []
            return
        self.has_head = True
        self.status = status
        self._ends_with_connection = _ends_with_connection(self.headers)

    def on_body(self, data: bytes) -> None:
        if not self.is_over:
            self.unread += data

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_over = True


def _ends_with_connection(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether the body has no other end (RFC 9112, 6.3); an encoding counts before a length."""
    encodings = [value for name, value in headers if name.lower() == b"transfer-encoding"]
    if encodings:
        last = b",".join(encodings).rsplit(b",", 1)[-1]
        return last.strip().lower() != b"chunked"
    return all(name.lower() != b"content-length" for name, _ in headers)
