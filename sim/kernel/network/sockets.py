"""The class in the place of `socket.socket` within an execution.

It is a subclass without a descriptor of the system: `accept`, `makefile`, `close` and what else
CPython has written in Python is CPython's. What is written in C stands here, for a simulated
descriptor, which blocks its worker thread where the real one blocks its thread of the system.
"""

from __future__ import annotations

import _socket
import errno
import socket
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn, TypeVar

from sim.kernel.current import execution_of_this_thread
from sim.kernel.lacking import Lacking
from sim.kernel.network import options
from sim.kernel.network.addresses import Machine, in_words
from sim.kernel.network.datagrams import DATAGRAM_BYTES_MAX, DatagramSocket
from sim.kernel.network.errors import os_error, timed_out, would_block
from sim.kernel.network.flags import READ_FLAGS, WAITS_FOR_ALL, WRITE_FLAGS
from sim.kernel.network.names import address_of, unix_path
from sim.kernel.network.network import Network
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.unix import UnixDatagramSocket, UnixStreamSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards, modelled

T = TypeVar("T")

RealSocket = socket.socket
AF_UNIX = getattr(socket, "AF_UNIX", None)
FAMILIES = (socket.AF_INET, socket.AF_INET6, AF_UNIX)
# Flags in the type of a socket, which say nothing of its kind.
_FLAGS = getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)
NOT_SIMULATED = (
    "simulated are stream and datagram sockets of IPv4 and IPv6, and Unix sockets; let the program "
    "use one of these, or put what stands behind it into a coroutine that awaits world.outside(…)"
)


def network_here() -> Network | None:
    """That of the execution that runs in this thread, if one does."""
    execution = execution_of_this_thread()
    return None if execution is None else execution.loop.network


class SimSocket(RealSocket):
    """socket.socket"""

    @forwards
    def __new__(cls, *args: Any, **options: Any) -> Any:
        # For a thread that simulates nothing it is what it was.
        fd = options.get("fileno", args[3] if len(args) > 3 else None)
        is_real = isinstance(fd, int) and 0 <= fd < FIRST_FD
        if is_real or network_here() is None:
            return RealSocket(*args, **options)
        return super().__new__(cls)

    @forwards
    def __init__(
        self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None
    ) -> None:
        self._io_refs, self._closed, self._sim_fd = 0, False, -1
        network = network_here()
        assert network is not None
        self._sim_network = network
        default = socket.getdefaulttimeout()
        self._sim_timeout = default
        if fileno is not None:
            self._sim_open = network.opened(fileno)
            self._sim_fd = fileno
            family, kind = self._sim_open.family, self._sim_open.kind
        else:
            family = socket.AF_INET if family == -1 else family
            kind = socket.SOCK_STREAM if type == -1 else type
            if kind & getattr(socket, "SOCK_NONBLOCK", 0):
                self._sim_timeout = 0.0
            kind &= ~_FLAGS
            self._sim_open = _new(network, family, kind)
            self._sim_open.blocks = self._sim_timeout is None
            self._sim_fd = network.new_fd(self._sim_open)
        self._sim_family, self._sim_kind = family, kind
        self._sim_proto = _proto(family, kind, proto)

    def canonical_state(self) -> object:
        """For the state reader: all of it that decides what happens next."""
        kind = (self._sim_family, self._sim_kind, self._sim_proto)
        is_closed = (self._closed, self._io_refs)
        return self._sim_fd, self._sim_open, self._sim_timeout, kind, is_closed

    # -- what it is

    @property
    def family(self) -> Any:
        return socket.AddressFamily(self._sim_family)

    @property
    def type(self) -> Any:
        return socket.SocketKind(self._sim_kind)

    @property
    def proto(self) -> int:
        return self._sim_proto

    @property
    def timeout(self) -> float | None:
        return self._sim_timeout

    def fileno(self) -> int:
        return self._sim_fd

    def gettimeout(self) -> float | None:
        return self._sim_timeout

    def getblocking(self) -> bool:
        return self._sim_timeout != 0

    @forwards
    def settimeout(self, value: float | None, /) -> None:
        if value is not None:
            value = float(value)
            if value < 0:
                raise modelled(ValueError("Timeout value out of range"))
        self._sim_timeout = value
        self._sim().blocks = value is None

    def setblocking(self, flag: bool, /) -> None:
        self.settimeout(None if flag else 0.0)

    def get_inheritable(self) -> bool:
        return False

    def set_inheritable(self, inheritable: bool) -> None:
        """Nothing is executed that could inherit it."""

    def __repr__(self) -> str:
        # As CPython's, but for the name of the class.
        return RealSocket.__repr__(self).replace(
            f"{__name__}.{SimSocket.__qualname__}", "socket.socket"
        )

    # -- its life

    def _real_close(self, _ss: Any = None) -> None:
        fd, self._sim_fd = self._sim_fd, -1
        if fd >= 0:
            self._sim_network.close(fd)

    def detach(self) -> int:
        self._closed = True
        fd, self._sim_fd = self._sim_fd, -1
        return fd

    def dup(self) -> SimSocket:
        fd = self._sim_network.new_fd(self._sim())
        other = self.__class__(self._sim_family, self._sim_kind, self._sim_proto, fileno=fd)
        other.settimeout(self.gettimeout())
        return other

    def __del__(self) -> None:
        if getattr(self, "_sim_fd", -1) < 0 or self._sim_fd not in self._sim_network.open_by_fd:
            return
        # What was refused has broken off the code that would have closed it.
        if self._sim_network.loop.refused is None:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, source=self, stacklevel=2)
        self._real_close()

    def _sim(self) -> OpenSocket:
        if self._sim_fd < 0:
            raise os_error(errno.EBADF)
        return self._sim_open

    def _sim_stream(self) -> StreamSocket:
        opened = self._sim()
        if not isinstance(opened, StreamSocket):
            raise os_error(errno.EOPNOTSUPP)
        return opened

    # -- options

    @forwards
    def setsockopt(self, level: int, optname: int, value: Any, optlen: int = 0, /) -> None:
        opened = self._sim()
        if options.limits_time(level, optname, value):
            self._sim_refuse("setsockopt of a time limit of the system's (there is settimeout)")
        options.set_option(opened, level, optname, value)

    @forwards
    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        return options.option(self._sim(), level, optname, buflen)

    # -- addresses

    @forwards
    def bind(self, address: Any, /) -> None:
        opened = self._sim()
        host, port = self._sim_address("bind", address)
        opened.bind(host, port)

    def _sim_address(self, what: str, address: Any) -> tuple[str, Any]:
        """Host and port, or nothing and a path, for what is called so."""
        if self._sim_family == AF_UNIX:
            return "", unix_path(address)
        return address_of(self._sim_network, what, self._sim_family, address)

    def getsockname(self) -> Any:
        return self._sim().name

    def getpeername(self) -> Any:
        opened = self._sim()
        if opened.peer is None or getattr(opened, "is_connecting", False):
            raise os_error(errno.ENOTCONN)
        if getattr(opened, "is_over", False):
            raise os_error(errno.ENOTCONN)
        return opened.peer

    # -- connections

    @forwards
    def listen(self, backlog: int = 128, /) -> None:
        self._sim_stream().listen(backlog)

    def _accept(self) -> tuple[int, Any]:
        opened = self._sim_stream()
        accepted = self._sim_try("accept", opened, lambda: self._sim_accept(opened))
        return self._sim_network.new_fd(accepted), accepted.peer

    def _sim_accept(self, opened: StreamSocket) -> StreamSocket:
        if opened.backlog and not self._sim_network.has_descriptor(opened.port):
            raise os_error(errno.EMFILE)
        return opened.accept()

    @forwards
    def connect(self, address: Any, /) -> None:
        opened = self._sim()
        host, port = self._sim_address("connect", address)
        if not isinstance(opened, StreamSocket):
            opened.connect(host, port)
            return
        if isinstance(opened, UnixStreamSocket):
            with self._sim_network.held(opened):
                self._sim_connect_to_path(opened, port)
            return
        with self._sim_network.held(opened):
            self._sim_connect_stream(opened, host, port)

    def _sim_connect_stream(self, opened: StreamSocket, host: str, port: Any) -> None:
        if opened.is_connecting and opened.blocks:
            self._sim_wait("connect", lambda: not opened.is_connecting)
        if opened.finds_connection():
            return
        opened.connect(host, port)
        # With a time limit it is Python that waits, and asks for the error; else the system knows.
        opened.has_asked = not opened.blocks
        if opened.is_connecting and self._sim_timeout == 0:
            raise os_error(errno.EINPROGRESS)
        if opened.is_connecting:
            self._sim_wait("connect", lambda: not opened.is_connecting)
        opened.raise_error()

    def _sim_connect_to_path(self, opened: UnixStreamSocket, path: str) -> None:
        while True:
            try:
                return opened.connect("", path)
            except BlockingIOError:
                if self._sim_timeout == 0:
                    raise
            self._sim_wait("connect", lambda: opened.has_room_at(path))

    @forwards
    def connect_ex(self, address: Any, /) -> int:
        try:
            self.connect(address)
        except TimeoutError as exc:
            return exc.errno or errno.EAGAIN
        except OSError as exc:
            if exc.errno is None or isinstance(exc, socket.gaierror):
                raise
            return exc.errno
        return 0

    @forwards
    def shutdown(self, how: int, /) -> None:
        self._sim_stream().shutdown(how)

    # -- reading and writing

    @forwards
    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if bufsize < 0:
            raise modelled(ValueError("negative buffersize in recv"))
        opened = self._sim()
        self._sim_require("recv", flags, READ_FLAGS)
        is_peek = bool(flags & socket.MSG_PEEK)
        data = self._sim_try("recv", opened, lambda: opened.read(bufsize, is_peek=is_peek), flags)
        if flags & WAITS_FOR_ALL and not is_peek and isinstance(opened, StreamSocket):
            while (
                opened.blocks and len(data) < bufsize and (more := self.recv(bufsize - len(data)))
            ):
                data += more
        return data

    @forwards
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        if nbytes < 0:
            raise modelled(ValueError("negative buffersize in recv_into"))
        if nbytes > len(view):
            raise modelled(ValueError("buffer too small for requested bytes"))
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    @forwards
    def recvfrom(self, bufsize: int, flags: int = 0, /) -> tuple[bytes, Any]:
        if bufsize < 0:
            raise modelled(ValueError("negative buffersize in recvfrom"))
        opened = self._sim()
        if isinstance(opened, StreamSocket):
            return self.recv(bufsize, flags), None
        self._sim_require("recvfrom", flags, READ_FLAGS)
        is_peek = bool(flags & socket.MSG_PEEK)
        read = opened.read_from
        return self._sim_try("recvfrom", opened, lambda: read(bufsize, is_peek=is_peek), flags)

    @forwards
    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        view = memoryview(buffer).cast("B")
        if nbytes < 0:
            raise modelled(ValueError("negative buffersize in recvfrom_into"))
        if nbytes > len(view):
            raise modelled(ValueError("nbytes is greater than the length of the buffer"))
        data, address = self.recvfrom(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data), address

    @forwards
    def recvmsg(
        self, bufsize: int, ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[bytes, list[Any], int, Any]:
        """There is no ancillary data, as none can be sent."""
        if bufsize < 0:
            raise modelled(ValueError("negative buffer size in recvmsg()"))
        is_stream = isinstance(self._sim(), StreamSocket)
        # Of a datagram it tells that there was more.
        data, address = self.recvfrom(bufsize if is_stream else DATAGRAM_BYTES_MAX, flags)
        was_cut = len(data) > bufsize
        return data[:bufsize], [], int(socket.MSG_TRUNC) if was_cut else 0, address

    @forwards
    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        views = [memoryview(each).cast("B") for each in buffers]
        data, *rest = self.recvmsg(sum(map(len, views)), ancbufsize, flags)
        left = data
        for view in views:
            part, left = left[: len(view)], left[len(view) :]
            view[: len(part)] = part
        return len(data), *rest

    @forwards
    def send(self, data: Any, flags: int = 0, /) -> int:
        view = bytes(memoryview(data))
        opened = self._sim()
        self._sim_require("send", flags, WRITE_FLAGS)
        return self._sim_try("send", opened, lambda: opened.write(view), flags)

    @forwards
    def sendall(self, data: Any, flags: int = 0, /) -> None:
        view = memoryview(data).cast("B")
        if self._sim_timeout is not None:
            while view:
                view = view[self.send(view, flags) :]
            return
        # Without a time limit the system does it in one call.
        opened = self._sim()
        self._sim_require("send", flags, WRITE_FLAGS)
        with self._sim_network.held(opened):
            while view:
                rest = bytes(view)
                view = view[self._sim_try("send", opened, partial(opened.write, rest), flags) :]

    @forwards
    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        if ancdata:
            self._sim_refuse("sendmsg with ancillary data")
        data = b"".join(bytes(memoryview(each)) for each in buffers)
        if address is not None:
            return self.sendto(data, flags, address)
        return self.send(data, flags)

    @forwards
    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        view = bytes(memoryview(data))
        *flags, address = flags_and_address
        opened = self._sim()
        if isinstance(opened, StreamSocket):
            return self.send(view, *flags)
        self._sim_require("sendto", sum(flags), WRITE_FLAGS)
        host, port = self._sim_address("sendto", address)
        send = opened.write_to
        return self._sim_try("sendto", opened, lambda: send(view, host, port), sum(flags))

    # -- blocking

    def _sim_try(self, what: str, opened: OpenSocket, act: Callable[[], T], flags: int = 0) -> T:
        """Acts at once, or when it can, as far as its time limit lets."""
        is_blocking = self._sim_timeout != 0 and not flags & getattr(socket, "MSG_DONTWAIT", 0)
        while True:
            try:
                return act()
            except BlockingIOError:
                if is_blocking:
                    break
                if what not in _READS or not self._sim_network.arrives_already(opened):
                    raise
        with self._sim_network.held(opened):
            return self._sim_act_later(what, opened, act)

    def _sim_act_later(self, what: str, opened: OpenSocket, act: Callable[[], T]) -> T:
        while True:
            opened.blocked_readers += what in _READS
            try:
                self._sim_wait(what, lambda: _can(what, opened))
            finally:
                opened.blocked_readers -= what in _READS
            # Another thread may have been first.
            with suppress(BlockingIOError):
                return act()

    def _sim_wait(self, what: str, is_so: Callable[[], bool]) -> None:
        """Who closes the socket meanwhile does not wake who waits, as Linux has it.

        Without a time limit the call goes on with what it has opened. With one it is Python that
        waits, and its next call finds the descriptor closed.
        """
        if is_so():
            return
        fd, limit_s = self._sim_fd, self._sim_timeout
        execution = execution_of_this_thread()
        assert execution is not None
        threads = execution.loop.threads
        where = f"socket.{what} of {in_words(self._sim_open.name)}"
        threads.block_until(where, is_so, limit_s)
        came = is_so()
        if limit_s is None:
            if not came:
                # A deadlock, which has been reported.
                raise would_block()
            return
        is_open = fd in self._sim_network.open_by_fd
        if is_open and not came:
            raise timed_out()
        if not is_open or self._sim_fd < 0:
            raise os_error(errno.EBADF)

    def _sim_require(self, what: str, flags: int, known: int) -> None:
        if flags & ~known:
            self._sim_refuse(f"{what} with flags={socket.MsgFlag(flags)!r}")

    def _sim_lacks(self, name: str) -> NoReturn:
        self._sim_refuse(name)

    def _sim_refuse(self, what: str) -> NoReturn:
        self._sim_network.loop.refuse(f"socket.{what}", NOT_SIMULATED)


_READS = ("recv", "recvfrom", "accept")


def _can(what: str, opened: OpenSocket) -> bool:
    mask = 1 if what in _READS else 2
    return bool(opened.readiness() & mask)


_KINDS: dict[int, Callable[[Network, Machine, int], OpenSocket]] = {
    socket.SOCK_STREAM: StreamSocket,
    socket.SOCK_DGRAM: DatagramSocket,
}
_UNIX_KINDS: dict[int, Callable[[Network, Machine, int], OpenSocket]] = {
    socket.SOCK_STREAM: UnixStreamSocket,
    socket.SOCK_DGRAM: UnixDatagramSocket,
}


def _new(network: Network, family: int, kind: int) -> OpenSocket:
    kinds = _UNIX_KINDS if family == AF_UNIX else _KINDS
    if family in FAMILIES and kind in kinds:
        if not network.has_descriptor():
            raise os_error(errno.EMFILE)
        return kinds[kind](network, network.machine_here(), family)
    return network.loop.refuse(f"socket.socket({family!r}, {kind!r})", NOT_SIMULATED)


def _proto(family: int, kind: int, asked: int) -> int:
    return max(asked, 0)


SimSocket.__name__ = SimSocket.__qualname__ = "socket"
# What the C class has and this one lacks, as `recvmsg`, would act on a descriptor of the system.
for _name in dir(_socket.socket):
    if not _name.startswith("__") and getattr(SimSocket, _name) is getattr(_socket.socket, _name):
        setattr(SimSocket, _name, Lacking(_name, SimSocket._sim_lacks))
