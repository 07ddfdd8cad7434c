"""TLS over a blocking simulated socket: what `ssl.SSLContext.wrap_socket` makes in a worker thread.

OpenSSL speaks to two buffers in memory (`ssl.MemoryBIO`), and what is in them goes over the
simulated socket. asyncio's own TLS does the same, and needs nothing of this.
"""

from __future__ import annotations

import functools
import socket
import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from sim.kernel.network.sockets import SimSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards, modelled

T = TypeVar("T")

_RECORD_BYTES = 64 * 1024


class TlsSocket(SimSocket, ssl.SSLSocket):  # type: ignore[misc]
    """ssl.SSLSocket"""

    # Of ssl.SSLSocket, which nobody may make by its constructor.
    @forwards
    def __init__(
        self,
        context: ssl.SSLContext,
        sock: socket.socket,
        *,
        server_side: bool,
        do_handshake_on_connect: bool,
        suppress_ragged_eofs: bool,
        server_hostname: str | None,
        session: Any,
    ) -> None:
        timeout = sock.gettimeout()
        is_connected = _is_connected(sock)
        SimSocket.__init__(self, sock.family, sock.type, sock.proto, sock.detach())
        self.settimeout(timeout)
        self._context = context
        self.server_side, self.server_hostname = server_side, server_hostname
        self.do_handshake_on_connect = do_handshake_on_connect
        self.suppress_ragged_eofs = suppress_ragged_eofs
        self._first_session = session
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        # As ssl.SSLSocket's is called: httpcore asks it which protocol was chosen.
        self._sslobj: ssl.SSLObject | None = None
        if is_connected:
            try:
                self._begin()
            except (OSError, ValueError):
                # As CPython's: nobody else has it yet.
                self.close()
                raise

    def __repr__(self) -> str:
        return super().__repr__().replace(f"{__name__}.{TlsSocket.__qualname__}", "ssl.SSLSocket")

    def _begin(self) -> None:
        self._sslobj = self._context.wrap_bio(
            self._received,
            self._to_send,
            server_side=self.server_side,
            server_hostname=self.server_hostname,
            session=self._first_session,
        )
        if self.do_handshake_on_connect:
            self.do_handshake()

    # -- the two buffers

    def _step(self, act: Callable[[ssl.SSLObject], T]) -> T:
        """Acts, as often as what it needs has come, and sends what it has to say."""
        tls = self._sslobj
        if tls is None:
            raise modelled(ValueError("No SSL wrapper around " + str(self)))
        while True:
            try:
                # Also if another thread's `shutdown` takes it from the socket meanwhile.
                done = act(tls)
            except ssl.SSLWantReadError:
                self._flush()
                self._fetch()
            except ssl.SSLError as error:
                # OpenSSL's answer to the program; the other side is told why.
                modelled(error)
                self._flush()
                raise
            else:
                self._flush()
                return done

    def _flush(self) -> None:
        data = self._to_send.read()
        while data:
            data = data[SimSocket.send(self, data) :]

    def _fetch(self) -> None:
        try:
            data = SimSocket.recv(self, _RECORD_BYTES)
        except BlockingIOError:
            raise modelled(ssl.SSLWantReadError("The operation did not complete (read)")) from None
        if data:
            self._received.write(data)
        else:
            self._received.write_eof()

    # -- what ssl.SSLSocket has of its own

    @property
    def context(self) -> ssl.SSLContext:  # type: ignore[override]
        return self._context

    @property
    def session(self) -> Any:  # type: ignore[override]
        return None if self._sslobj is None else self._sslobj.session

    @property
    def session_reused(self) -> bool | None:
        return None if self._sslobj is None else self._sslobj.session_reused

    @forwards
    def do_handshake(self, block: bool = False) -> None:
        self._step(lambda tls: tls.do_handshake())

    @forwards
    def read(self, len: int = 1024, buffer: Any = None) -> Any:
        try:
            if buffer is None:
                return self._step(lambda tls: tls.read(len))
            return self._step(lambda tls: tls.read(len, buffer))
        except ssl.SSLZeroReturnError:
            return b"" if buffer is None else 0
        except ssl.SSLEOFError:
            if not self.suppress_ragged_eofs:
                raise
            return b"" if buffer is None else 0

    @forwards
    def write(self, data: Any) -> int:
        return self._step(lambda tls: tls.write(data))

    def pending(self) -> int:
        return 0 if self._sslobj is None else self._sslobj.pending()

    def getpeercert(self, binary_form: bool = False) -> Any:
        return self._step(lambda tls: tls.getpeercert(binary_form))

    def selected_alpn_protocol(self) -> str | None:
        return None if self._sslobj is None else self._sslobj.selected_alpn_protocol()

    def selected_npn_protocol(self) -> None:
        return None

    def compression(self) -> str | None:
        return None if self._sslobj is None else self._sslobj.compression()

    def cipher(self) -> Any:
        return None if self._sslobj is None else self._sslobj.cipher()

    def shared_ciphers(self) -> Any:
        return None if self._sslobj is None else self._sslobj.shared_ciphers()

    def version(self) -> str | None:
        return None if self._sslobj is None else self._sslobj.version()

    @forwards
    def unwrap(self) -> socket.socket:
        self._step(lambda tls: tls.unwrap())
        self._sslobj = None
        return self

    # -- a socket's

    @forwards
    def connect(self, address: Any, /) -> None:
        SimSocket.connect(self, address)
        self._begin()

    @forwards
    def accept(self) -> tuple[Any, Any]:
        accepted, address = SimSocket.accept(self)
        return self._context.wrap_socket(
            accepted,
            server_side=True,
            do_handshake_on_connect=self.do_handshake_on_connect,
            suppress_ragged_eofs=self.suppress_ragged_eofs,
        ), address

    @forwards
    def recv(self, bufsize: int = 1024, flags: int = 0, /) -> bytes:
        if self._sslobj is None:
            return SimSocket.recv(self, bufsize, flags)
        _without(flags, "recv")
        return bytes(self.read(bufsize))

    @forwards
    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int = 0, /) -> int:
        if self._sslobj is None:
            return SimSocket.recv_into(self, buffer, nbytes or 0, flags)
        _without(flags, "recv_into")
        return int(self.read(nbytes or len(memoryview(buffer)), buffer))

    @forwards
    def send(self, data: Any, flags: int = 0, /) -> int:
        if self._sslobj is None:
            return SimSocket.send(self, data, flags)
        _without(flags, "send")
        return self.write(data)

    @forwards
    def sendall(self, data: Any, flags: int = 0, /) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[self.send(view, flags) :]

    @forwards
    def shutdown(self, how: int, /) -> None:
        self._sslobj = None
        SimSocket.shutdown(self, how)


TlsSocket.__name__ = TlsSocket.__qualname__ = "SSLSocket"


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _without(flags: int, name: str) -> None:
    if flags:
        only = f"non-zero flags not allowed in calls to {name}() on {TlsSocket}"
        raise modelled(ValueError(only))


_real_wrap_socket = ssl.SSLContext.wrap_socket


@functools.wraps(_real_wrap_socket)
@forwards
def wrap_socket(
    context: ssl.SSLContext,
    sock: socket.socket,
    server_side: bool = False,
    do_handshake_on_connect: bool = True,
    suppress_ragged_eofs: bool = True,
    server_hostname: str | None = None,
    session: Any = None,
) -> Any:
    """Of a simulated socket a simulated one; any other is ssl's affair."""
    options = {
        "server_side": server_side,
        "do_handshake_on_connect": do_handshake_on_connect,
        "suppress_ragged_eofs": suppress_ragged_eofs,
        "server_hostname": server_hostname,
        "session": session,
    }
    # What stands before a socket, and forwards to it, has its descriptor.
    if not isinstance(sock, SimSocket) and sock.fileno() < FIRST_FD:
        return _real_wrap_socket(context, sock, **options)
    return TlsSocket(context, sock, **options)
