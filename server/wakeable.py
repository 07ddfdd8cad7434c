"""Blocking sockets that another thread can wake, for httpx.

A thread that blocks in `recv` or `connect` notices neither a cancel nor a flag, and closing its
socket from outside does not wake it either. `shutdown(SHUT_RDWR)` does, within milliseconds, but
one has to have the socket, which httpx shows only with the headers of the answer. So the sockets
are made here. (On Linux `shutdown` wakes a `connect` as well; elsewhere that ends with its time
limit. A look-up of a host name cannot be woken at all; it has the resolver's own limits.)
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Protocol

import httpcore
import httpx

from registry import StopSignal


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


class WakeableTransport(httpx.HTTPTransport):
    """httpx's own transport on sockets that `wake` holds. `tls` is None for plain http."""

    def __init__(self, wake: Wake, tls: ssl.SSLContext | None) -> None:
        super().__init__(verify=tls or False, trust_env=False)
        # httpx has no parameter for it, httpcore has: the version of httpx is pinned for this.
        self._pool = httpcore.ConnectionPool(ssl_context=tls, network_backend=_Backend(wake))


class _Backend(httpcore.NetworkBackend):
    def __init__(self, wake: Wake) -> None:
        self._wake = wake

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        error: Exception = OSError(f"{host} has no address")
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            ):
                sock = socket.socket(family, kind, protocol)
                try:
                    self._connect(sock, address, timeout)
                except OSError as exc:
                    sock.close()
                    error = exc
                else:
                    return _Stream(sock, self._wake)
        except (OSError, UnicodeError, LookupError) as exc:
            # The last two are of the name: it cannot be written for the resolver.
            error = exc
        kind_of_error = (
            httpcore.ConnectTimeout if isinstance(error, TimeoutError) else httpcore.ConnectError
        )
        raise kind_of_error(str(error)) from error

    def _connect(self, sock: socket.socket, address: Any, timeout: float | None) -> None:
        sock.settimeout(timeout)
        self._wake.hold(sock)
        sock.connect(address)
        # A stop that came just before the connect found nothing to shut down.
        self._wake.hold(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class _Stream(httpcore.NetworkStream):
    def __init__(self, sock: socket.socket, wake: Wake) -> None:
        self._socket = sock
        self._wake = wake

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            self._socket.settimeout(timeout)
            return self._socket.recv(max_bytes)
        except TimeoutError as exc:
            raise httpcore.ReadTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.ReadError(str(exc)) from exc

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(buffer)
        except TimeoutError as exc:
            raise httpcore.WriteTimeout(str(exc)) from exc
        except OSError as exc:
            raise httpcore.WriteError(str(exc)) from exc

    def close(self) -> None:
        self._socket.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        try:
            self._socket.settimeout(timeout)
            # In two steps: the wrapped socket has to be held before it waits for the other side.
            sock = ssl_context.wrap_socket(
                self._socket, server_hostname=server_hostname, do_handshake_on_connect=False
            )
            self._wake.hold(sock)
            sock.do_handshake()
        except OSError as exc:
            self.close()
            kind = httpcore.ConnectTimeout if isinstance(exc, TimeoutError) else None
            raise (kind or httpcore.ConnectError)(str(exc)) from exc
        return _Stream(sock, self._wake)

    def get_extra_info(self, info: str) -> Any:
        # httpcore asks whether an idle connection is readable; ours carry one call each.
        return self._socket if info == "socket" else None
