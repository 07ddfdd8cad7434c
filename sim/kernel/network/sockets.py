"""The class in the place of `socket.socket` within an execution.

It is a subclass without a descriptor of the system: `accept`, `makefile`, `close` and what else
CPython has written in Python is CPython's. What is written in C stands here, for a simulated
descriptor, which blocks its worker thread where the real one blocks its thread of the system.
"""

from __future__ import annotations

import _socket
import errno
import math
import operator
import socket
import sys
import warnings
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.lacking import Lacking
from sim.kernel.network import options
from sim.kernel.network.addresses import Machine
from sim.kernel.network.blocking import NOT_SIMULATED
from sim.kernel.network.datagrams import DatagramSocket
from sim.kernel.network.errors import os_error
from sim.kernel.network.names import address_of, unix_path
from sim.kernel.network.network import Network
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.transfers import Transfers
from sim.kernel.network.unix import UnixDatagramSocket, UnixStreamSocket
from sim.kernel.network.watched import FIRST_FD
from sim.kernel.origin import forwards, modelled

RealSocket = socket.socket
AF_UNIX = getattr(socket, "AF_UNIX", None)
FAMILIES = (socket.AF_INET, socket.AF_INET6, AF_UNIX)
# Flags in the type of a socket, which say nothing of its kind.
_FLAGS = getattr(socket, "SOCK_NONBLOCK", 0) | getattr(socket, "SOCK_CLOEXEC", 0)


def network_here() -> Network | None:
    """That of the execution that runs in this thread, if one does."""
    execution = execution_of_this_thread()
    return None if execution is None else execution.loop.network


class SimSocket(Transfers, RealSocket):
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
            if operator.index(fileno) < 0:
                raise modelled(ValueError("negative file descriptor"))
            self._sim_open = network.opened(fileno)
            self._sim_fd = fileno
            family, kind = self._sim_open.family, self._sim_open.kind
        else:
            family = socket.AF_INET if family == -1 else family
            kind = socket.SOCK_STREAM if type == -1 else type
            if kind & getattr(socket, "SOCK_NONBLOCK", 0):
                self._sim_timeout = 0.0
            kind &= ~_FLAGS
            _require_protocol(family, kind, proto)
            self._sim_open = _new(network, family, kind)
            self._sim_open.blocks = self._sim_timeout is None
            self._sim_fd = network.new_fd(self._sim_open)
        self._sim_family, self._sim_kind = family, kind
        self._sim_proto = max(proto, 0)

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
            value = _seconds(value)
        self._sim_timeout = value
        self._sim().blocks = value is None

    @forwards
    def setblocking(self, flag: bool, /) -> None:
        # From Python 3.12 on whatever is true or false; before, a whole number.
        is_blocking = bool(flag if sys.version_info >= (3, 12) else operator.index(flag))
        self.settimeout(None if is_blocking else 0.0)

    def get_inheritable(self) -> bool:
        return self._sim_fd in self._sim().inheritable

    def set_inheritable(self, inheritable: bool) -> None:
        """Nothing is executed that could inherit it."""
        self._sim().set_inheritable(self._sim_fd, bool(inheritable))

    def __repr__(self) -> str:
        # As CPython's, but for the name of the class.
        return RealSocket.__repr__(self).replace(
            f"{__name__}.{SimSocket.__qualname__}", "socket.socket"
        )

    # -- its life

    def _real_close(self, _ss: Any = None) -> None:
        fd, self._sim_fd = self._sim_fd, -1
        if fd < 0 or self._sim_network.close(fd) or network_here() is not self._sim_network:
            # After the execution nothing is open any more.
            return
        raise os_error(errno.EBADF)

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
        # Who has its number may have closed it, by `os.close`.
        if self._sim_fd not in self._sim_network.open_by_fd:
            raise os_error(errno.EBADF)
        return self._sim_open

    def _sim_stream(self) -> StreamSocket:
        return _stream(self._sim())

    # -- options

    @forwards
    def setsockopt(
        self, level: int, optname: int, value: Any, optlen: int | None = None, /
    ) -> None:
        opened = self._sim()
        options.require_value(value, optlen)
        try:
            options.set_option(opened, level, optname, value)
        except options.NotKnown:
            words = f"setsockopt of {options.words_of(level, optname)} to {value!r}"
            self._sim_refuse(words, options.instead_of(level, optname))

    @forwards
    def getsockopt(self, level: int, optname: int, buflen: int = 0, /) -> Any:
        opened = self._sim()
        try:
            return options.option(opened, level, optname, buflen)
        except options.NotKnown:
            words = f"getsockopt of {options.words_of(level, optname)}"
            self._sim_refuse(words, options.instead_of(level, optname))

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
        if opened.peer_name is None or getattr(opened, "is_connecting", False):
            raise os_error(errno.ENOTCONN)
        if getattr(opened, "is_over", False):
            raise os_error(errno.ENOTCONN)
        return opened.peer_name

    # -- connections

    @forwards
    def listen(self, backlog: int = 128, /) -> None:
        self._sim_stream().listen(backlog)

    def _accept(self) -> tuple[int, Any]:
        opened = self._sim()
        accepted = self._sim_try("accept", opened, self._sim_accepts(opened))
        return self._sim_network.new_fd(accepted), accepted.peer

    def _sim_accepts(self, opened: OpenSocket) -> Callable[[], StreamSocket]:
        """Of one call, which has a descriptor before Linux looks whether anybody is there."""
        has_descriptor = False

        def act() -> StreamSocket:
            nonlocal has_descriptor
            listener = _stream(opened)
            has_descriptor = has_descriptor or self._sim_network.has_descriptor(listener.port)
            if not has_descriptor:
                raise os_error(errno.EMFILE)
            return listener.accept()

        return act

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
        if opened.error and opened.blocks:
            opened.forgets_address()
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
        opened = self._sim()
        if how not in (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR):
            raise os_error(errno.EINVAL)
        opened.shutdown(how)


def _stream(opened: OpenSocket) -> StreamSocket:
    if not isinstance(opened, StreamSocket):
        raise os_error(errno.EOPNOTSUPP)
    return opened


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


_SECONDS_MAX = 2**63 / 10**9


def _seconds(value: Any) -> float:
    """Of a time limit, as `settimeout` takes it."""
    seconds = value if isinstance(value, float) else float(operator.index(value))
    if math.isnan(seconds):
        raise modelled(ValueError("Invalid value NaN (not a number)"))
    if abs(seconds) > _SECONDS_MAX:
        raise modelled(OverflowError("timestamp out of range for platform time_t"))
    if seconds < 0:
        raise modelled(ValueError("Timeout value out of range"))
    return seconds


_PROTOCOLS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
}


def _require_protocol(family: int, kind: int, asked: int) -> None:
    """Raises where a socket of this kind speaks another one."""
    own = 1 if family == AF_UNIX else _PROTOCOLS.get(kind)
    if asked > 0 and own is not None and asked != own:
        raise os_error(errno.EPROTONOSUPPORT)


SimSocket.__name__ = SimSocket.__qualname__ = "socket"
# What the C class has and this one lacks, as `recvmsg`, would act on a descriptor of the system.
for _name in dir(_socket.socket):
    if not _name.startswith("__") and getattr(SimSocket, _name) is getattr(_socket.socket, _name):
        setattr(SimSocket, _name, Lacking(_name, SimSocket._sim_lacks))
