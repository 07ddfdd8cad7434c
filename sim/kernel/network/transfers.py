"""What a simulated socket reads and writes."""

from __future__ import annotations

import operator
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from functools import partial
from typing import Any

from sim.kernel.network.blocking import Blocking
from sim.kernel.network.flags import READ_FLAGS, WAITS_FOR_ALL, WRITE_FLAGS
from sim.kernel.network.open_sockets import OpenSocket
from sim.kernel.network.streams import StreamSocket
from sim.kernel.network.unix import UnixDatagramSocket
from sim.kernel.origin import forwards, modelled

ALL_BYTES = 1 << 30

NO_ANCILLARY_DATA = (
    "what is sent beside the data, as a descriptor or a credential, has no effect here; hand the "
    "object itself to the other end, as an argument or by a queue, or put what needs it into a "
    "coroutine that awaits world.outside(…)"
)


class Transfers(Blocking):
    """`recv`, `send` and their like, of a socket that can be closed, and can be of any kind."""

    def _sim(self) -> OpenSocket:
        """Raises where it is closed."""
        raise NotImplementedError

    def _sim_address(self, what: str, address: Any) -> tuple[str, Any]:
        """Host and port, or nothing and a path, for what is called so."""
        raise NotImplementedError

    @forwards
    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        if operator.index(bufsize) < 0:
            raise modelled(ValueError("negative buffersize in recv"))
        if not bufsize:
            # Python does not ask a system.
            return b""
        return self._sim_received(self._sim(), bufsize, flags)

    def _sim_received(self, opened: OpenSocket, bufsize: int, flags: int) -> bytes:
        self._sim_require("recv", flags, READ_FLAGS)
        is_peek = bool(flags & socket.MSG_PEEK)
        act = partial(opened.read, bufsize, is_peek=is_peek)
        data = self._sim_try("recv", opened, act, flags)
        if not data or not flags & WAITS_FOR_ALL or not isinstance(opened, StreamSocket):
            return data
        may_wait = opened.blocks and not flags & getattr(socket, "MSG_DONTWAIT", 0)
        with self._sim_network.held(opened):
            return self._sim_all(opened, data, bufsize, is_peek=is_peek, may_wait=may_wait)

    def _sim_all(
        self, opened: StreamSocket, data: bytes, bufsize: int, *, is_peek: bool, may_wait: bool
    ) -> bytes:
        """Until the buffer is full or nothing more can come, of which no error is raised now.

        It is the system that waits, without a limit.
        """
        while len(data) < bufsize and (opened.peeks_wait or not is_peek):
            seen = len(data) if is_peek else 0
            if may_wait:
                self._sim_wait_for_more(opened, seen)
            if opened.bytes_held <= seen:
                opened.found_its_end()
                break
            more = opened.read(bufsize - len(data) + seen, is_peek=is_peek)
            data = more if is_peek else data + more
        return data

    @forwards
    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        # What is raised, and kept, must not keep the caller's buffer: the view is released.
        with _writable(buffer) as view:
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
            data = self._sim_received(opened, bufsize, flags)
            # Linux has found its sender, though nothing of it is read.
            is_there = data or (not bufsize and opened.holds_data())
            return data, opened.sender_name if is_there else None
        self._sim_require("recvfrom", flags, READ_FLAGS)
        is_peek = bool(flags & socket.MSG_PEEK)
        read = opened.read_from
        return self._sim_try("recvfrom", opened, lambda: read(bufsize, is_peek=is_peek), flags)

    @forwards
    def recvfrom_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> tuple[int, Any]:
        with _writable(buffer) as view:
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
        data, address = self.recvfrom(bufsize if is_stream else ALL_BYTES, flags)
        was_cut = len(data) > bufsize
        return data[:bufsize], [], int(socket.MSG_TRUNC) if was_cut else 0, address

    @forwards
    def recvmsg_into(
        self, buffers: Iterable[Any], ancbufsize: int = 0, flags: int = 0, /
    ) -> tuple[int, list[Any], int, Any]:
        with ExitStack() as released:
            views = [released.enter_context(_writable(each)) for each in buffers]
            data, *rest = self.recvmsg(sum(map(len, views)), ancbufsize, flags)
            left = data
            for view in views:
                part, left = left[: len(view)], left[len(view) :]
                view[: len(part)] = part
        return len(data), *rest

    @forwards
    def send(self, data: Any, flags: int = 0, /) -> int:
        return self._sim_sent(self._sim(), bytes(_contiguous(data)), flags)

    def _sim_sent(
        self, opened: OpenSocket, data: bytes, flags: int, begun_s: float | None = None
    ) -> int:
        # No view: one that an exception keeps alive would hold the caller's buffer.
        self._sim_require("send", flags, WRITE_FLAGS)
        act = partial(opened.write, data)
        return self._sim_try("send", opened, act, flags, begun_s=begun_s)

    @forwards
    def sendall(self, data: Any, flags: int = 0, /) -> None:
        sent = 0
        with _contiguous(data).cast("B") as view:
            if self._sim_timeout is not None:
                # Which is for all of it.
                begun_s = self._sim_now()
                while sent < len(view):
                    sent += self._sim_sent(self._sim(), bytes(view[sent:]), flags, begun_s)
                return
            # Without a time limit the system does it in one call.
            opened = self._sim()
            with self._sim_network.held(opened):
                while sent < len(view):
                    sent += self._sim_sent(opened, bytes(view[sent:]), flags)

    @forwards
    def sendmsg(
        self, buffers: Iterable[Any], ancdata: Any = (), flags: int = 0, address: Any = None, /
    ) -> int:
        if ancdata:
            self._sim_refuse("sendmsg with ancillary data", NO_ANCILLARY_DATA)
        data = b"".join(bytes(memoryview(each)) for each in buffers)
        if address is not None:
            return self.sendto(data, flags, address)
        return self.send(data, flags)

    @forwards
    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        if len(flags_and_address) not in (1, 2):
            given = 1 + len(flags_and_address)
            raise modelled(TypeError(f"sendto() takes 2 or 3 arguments ({given} given)"))
        *flags, address = flags_and_address
        view = bytes(_contiguous(data))
        opened = self._sim()
        if isinstance(opened, StreamSocket):
            opened.require_no_address(partial(self._sim_address, "sendto", address))
            return self.send(view, *flags)
        self._sim_require("sendto", sum(flags), WRITE_FLAGS)
        host, port = self._sim_address("sendto", address)
        send, has_room = opened.write_to, None
        if isinstance(opened, UnixDatagramSocket):
            has_room = partial(opened.has_room_at, port)
        act = partial(send, view, host, port)
        return self._sim_try("sendto", opened, act, sum(flags), has_room)


def _contiguous(data: Any) -> memoryview:
    """Of what can be sent: raises as a socket does for what is no buffer, or one with gaps."""
    try:
        view = memoryview(data)
    except TypeError:
        what = type(data).__name__
        raise modelled(TypeError(f"a bytes-like object is required, not '{what}'")) from None
    if not view.c_contiguous:
        raise modelled(BufferError("memoryview: underlying buffer is not C-contiguous"))
    return view


def _writable(buffer: Any) -> memoryview:
    """Of what can be read into."""
    view = memoryview(buffer)
    if view.readonly:
        what = type(buffer).__name__
        raise modelled(TypeError(f"read-write bytes-like object expected, not {what}"))
    return view.cast("B")
