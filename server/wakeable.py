"""httpx's transport for the blocking client: sockets that another thread can wake.

A thread that blocks in `recv` or `connect` notices neither a cancel nor a flag, and closing its
socket from outside does not wake it either. `shutdown(SHUT_RDWR)` does, within milliseconds, but
one has to have the socket, which httpx shows only with the headers of the answer. So the sockets
are made here, one for each call. (On Linux `shutdown` wakes a `connect` as well; elsewhere that
ends with its time limit. A look-up of a host name cannot be woken at all; it has the resolver's
own limits.) What one `recv` has brought leaves as one segment, however many chunks are in it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Protocol

import httpx

from registry import StopSignal
from server.http_answer import Answer, head_of

# As much is received at once.
RECEIVED_MAX_BYTES = 64 * 1024


class Shutdownable(Protocol):
    def shutdown(self, how: int, /) -> None: ...


class Wake:
    """The socket that a worker thread may be blocked on; `cut` may be called in any thread."""

    def __init__(self, stop_signal: StopSignal) -> None:
        self._stop_signal = stop_signal
        self._socket: Shutdownable | None = None

    def hold(self, sock: Shutdownable) -> None:
        """The thread is about to use this socket, instead of the one before."""
        self._socket = sock
        # The stop may have come between the making of the socket and this line.
        if self._stop_signal.is_set():
            self.cut()

    def cut(self) -> None:
        """Ends every read, write and connect on the socket, begun or still to come."""
        sock = self._socket
        if sock is not None:
            # It may be closed, or not yet connecting: then `hold` or the flag does the rest.
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


class WakeableTransport(httpx.BaseTransport):
    """Keeps nothing between two calls; `wake` holds the socket of the one that runs.

    tls: None for plain http.
    """

    def __init__(self, wake: Wake, tls: ssl.SSLContext | None) -> None:
        self._wake = wake
        self._tls = tls

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        head, content = head_of(request), request.read()
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        sock = self._connected(request, limits.get("connect"))
        answer = Answer()
        try:
            _send(sock, head + content, limits.get("write"))
            sock.settimeout(limits.get("read"))
            while not answer.has_head:
                _receive(sock, answer)
        except BaseException:
            sock.close()
            raise
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(sock, answer))

    def _connected(self, request: httpx.Request, limit_s: float | None) -> socket.socket:
        host = request.url.raw_host.decode("ascii")
        port = request.url.port or (443 if self._tls else 80)
        error: Exception = OSError(f"{host} has no address")
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            ):
                sock = socket.socket(family, kind, protocol)
                try:
                    self._connect(sock, address, limit_s)
                    return self._encrypted(sock, host) if self._tls else sock
                except OSError as exc:
                    sock.close()
                    error = exc
        except (OSError, UnicodeError, LookupError) as exc:
            # The last two are of the name: it cannot be written for the resolver.
            error = exc
        kind_of_error = (
            httpx.ConnectTimeout if isinstance(error, TimeoutError) else httpx.ConnectError
        )
        raise kind_of_error(str(error), request=request) from error

    def _connect(self, sock: socket.socket, address: Any, limit_s: float | None) -> None:
        sock.settimeout(limit_s)
        self._wake.hold(sock)
        sock.connect(address)
        # A stop that came just before the connect found nothing to shut down.
        self._wake.hold(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _encrypted(self, sock: socket.socket, host: str) -> socket.socket:
        """In two steps: the wrapped socket has to be held before it waits for the other side."""
        assert self._tls is not None
        wrapped = self._tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        try:
            self._wake.hold(_Below(wrapped))
            wrapped.do_handshake()
        except BaseException:
            # The one that was wrapped has no descriptor any more.
            wrapped.close()
            raise
        return wrapped


class _Below:
    """A connection below its TLS: that one's `shutdown` takes the TLS from the socket, too, where a
    thread that is about to use it finds None."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def shutdown(self, how: int, /) -> None:
        socket.socket.shutdown(self._socket, how)


class _Body(httpx.SyncByteStream):
    def __init__(self, sock: socket.socket, answer: Answer) -> None:
        self._socket = sock
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        answer = self._answer
        while not answer.is_over:
            if answer.unread:
                yield answer.take()
            _receive(self._socket, answer)
        if answer.unread:
            yield answer.take()
        if answer.error is not None:
            raise answer.error

    def close(self) -> None:
        self._socket.close()


def _send(sock: socket.socket, data: bytes, limit_s: float | None) -> None:
    sock.settimeout(limit_s)
    try:
        sock.sendall(data)
    except TimeoutError as exc:
        raise httpx.WriteTimeout(str(exc)) from exc
    except OSError:
        # An upstream may refuse what it has not read, and close: why is in its answer.
        pass


def _receive(sock: socket.socket, answer: Answer) -> None:
    """Waits for more of an answer that is not over; raises what ends it before its head."""
    try:
        data = sock.recv(RECEIVED_MAX_BYTES)
    except TimeoutError as exc:
        raise httpx.ReadTimeout(str(exc)) from exc
    except OSError as exc:
        answer.ended(exc)
    else:
        if data:
            answer.feed(data)
        else:
            answer.ended()
    if answer.error is not None and not answer.has_head:
        raise answer.error
