"""Unix sockets: between their two ends nothing is ever on its way.

What is written is there, and who writes to an end that is closed is told so at once.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sim.kernel.network.addresses import Machine
from sim.kernel.network.connection import Segment, SegmentKind
from sim.kernel.network.datagrams import DatagramSocket
from sim.kernel.network.errors import os_error, would_block
from sim.kernel.network.open_sockets import (
    READABLE,
    WRITABLE,
    Ends,
    NetworkOfSockets,
    OpenSocket,
)
from sim.kernel.network.options import BUFFER_BYTES_ASKED_MAX
from sim.kernel.network.paths import is_abstract
from sim.kernel.network.streams import StreamSocket


class _OnPath(OpenSocket):
    """Its port is the path that it is bound to, or None."""

    def bind(self, host: str, port: Any) -> None:
        path = port or f"\0{self.fds[0]:05x}"
        if not is_abstract(path):
            self.machine.paths.require_free(path, self.kind)
        if self.port is not None:
            raise os_error(errno.EINVAL)
        self.machine.paths.require_free(path, self.kind)
        self.machine.paths.bind(self, path)
        self.port, self._holds_address = path, True

    def inherits(self, listener: OpenSocket) -> None:
        self.port = listener.port

    @property
    def name(self) -> Any:
        path = self.port or ""
        return os.fsencode(path) if is_abstract(path) else path

    def _release(self) -> None:
        if self._holds_address:
            self.machine.paths.closed(self)
            self._holds_address = False


class UnixStreamSocket(_OnPath, StreamSocket):
    """As of Linux: SHUT_RD is told to the other end, and data that nobody read is its error."""

    peeks_wait = False

    @property
    def is_over(self) -> bool:
        """Its peer has a name as long as it lives."""
        return False

    @property
    def peer_name(self) -> Any:
        """As its peer is called now."""
        return None if self.other is None else self.other.name

    @property
    def sender_name(self) -> Any:
        return self.peer_name or None

    def listen(self, backlog: int) -> None:
        if self.outgoing is not None or self.port is None:
            raise os_error(errno.EINVAL)
        self.is_listening, self.backlog_max = True, max(backlog, 0)

    def accept(self) -> StreamSocket:
        if self.ends_waits_alone():
            raise os_error(errno.EINVAL)
        return super().accept()

    def ends_waits_alone(self) -> bool:
        return self.is_listening and self.reads_shut and not self.backlog

    def readiness(self) -> int:
        return READABLE if self.is_listening and self.reads_shut else super().readiness()

    def ends(self) -> Ends:
        found = super().ends()
        if self.is_listening and self.reads_shut:
            found |= Ends.ENDED | (Ends.HUNG_UP if self.writes_shut else Ends.NONE)
        return found

    def has_room_at(self, path: str) -> bool:
        """Whether who asks there need not wait; also where it cannot ask at all."""
        try:
            listener: UnixStreamSocket = self.machine.paths.at(path, self.kind)
        except OSError:
            return True
        return not listener.takes_requests() or listener.has_room()

    def takes_requests(self) -> bool:
        return self.is_listening and not self.reads_shut

    def _require_free(self) -> None:
        if self.is_listening:
            raise os_error(errno.EINVAL)
        super()._require_free()

    def connect(self, host: str, port: Any) -> None:
        listener: UnixStreamSocket = self.machine.paths.at(port, self.kind)
        if not listener.takes_requests():
            raise os_error(errno.ECONNREFUSED)
        if not listener.has_room():
            raise would_block()
        self._require_free()
        self.network.about_to(f"connects to {listener.words}")
        accepted = listener.takes(self)
        self.pair_with(accepted)
        assert self.incoming is not None
        assert self.outgoing is not None
        # Who has shut it before has shut it for this connection, and the other end is not told.
        self.incoming.is_closed, self.outgoing.is_closed = self.reads_shut, self.writes_shut
        listener.admits(accepted)

    def read(self, bytes_max: int, *, is_peek: bool = False) -> bytes:
        if self.incoming is None:
            raise os_error(errno.EINVAL)
        if not self.incoming.arrived:
            self.raise_error()
        return super().read(bytes_max, is_peek=is_peek)

    def found_its_end(self) -> None:
        """Linux looks for an error, and has what was read to return."""
        self.take_error()

    def write(self, data: bytes) -> int:
        way, other = self.outgoing, self.other
        if way is None or other is None:
            raise os_error(errno.ENOTCONN)
        if way.is_closed:
            raise os_error(errno.EPIPE)
        taken = data[: max(way.free_bytes, 0)]
        if data and not taken:
            raise would_block()
        if taken:
            self.network.about_to(f"sends to {self.network.words_of(self.peer)}")
            way.send(Segment(SegmentKind.DATA, taken))
            way.arrive()
            self.network.tell(other)
        return len(taken)

    def require_no_address(self, address: Callable[[], object]) -> None:
        address()
        raise os_error(errno.EOPNOTSUPP if self.outgoing is None else errno.EISCONN)

    def shutdown(self, how: int) -> None:
        self.reads_shut |= how != socket.SHUT_WR
        self.writes_shut |= how != socket.SHUT_RD
        other = self.other
        if self.incoming is None or self.outgoing is None or other is None:
            self.network.tell(self)
            return
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.incoming.is_closed = True
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._end(SegmentKind.END)
        self.network.tell(other)

    def _end(self, kind: SegmentKind) -> None:
        way = self.outgoing
        if way is not None and not way.has_ended:
            way.is_closed = True
            way.under_way.append(Segment(SegmentKind.END))
            way.arrive()

    def closed(self) -> None:
        self._release()
        if self.is_listening:
            self.is_listening = False
            for accepted in self.backlog:
                accepted.in_backlog = False
                accepted.send_reset()
            self.backlog.clear()
        elif self.incoming is not None and self.incoming.arrived:
            self.send_reset()
        else:
            self.shutdown(socket.SHUT_RDWR)

    def send_reset(self) -> None:
        """The other end has an error to read, and then the end."""
        if self.other is not None:
            self.other.error = errno.ECONNRESET
        self.shutdown(socket.SHUT_RDWR)


class UnixDatagramSocket(_OnPath, DatagramSocket):
    """_paired: where it sends to who names nobody. unread_bytes: its own, not read yet."""

    _paired: UnixDatagramSocket | None = None
    unread_bytes = 0

    def __init__(self, network: NetworkOfSockets, machine: Machine, family: int) -> None:
        super().__init__(network, machine, family)
        # Of each datagram in `arrived`.
        self._senders: deque[UnixDatagramSocket] = deque()

    @property
    def peer_name(self) -> Any:
        """As its peer is called now."""
        return None if self._paired is None else self._paired.name

    def connect(self, host: str, port: Any) -> None:
        other: UnixDatagramSocket = self.machine.paths.at(port, self.kind)
        other.require_no_other(self)
        before, self._paired = self._paired, other
        self.peer = other.name
        if before is not None and before is not other:
            self._leaves_peer(before)

    def require_no_other(self, sender: UnixDatagramSocket) -> None:
        """Who is connected is reached by its peer alone."""
        if self._paired is not None and self._paired is not sender:
            raise os_error(errno.EPERM)

    def _leaves_peer(self, before: UnixDatagramSocket) -> None:
        """What was not read is lost, and a peer that still has it is told so."""
        if not self.arrived:
            return
        self._loses_all()
        if before.fds and before._paired is self:
            before.error = errno.ECONNRESET
            self.network.tell(before)

    def pair_with(self, other: Any) -> None:
        self._paired, other._paired = other, self
        self.peer, other.peer = other.name, self.name

    def write(self, data: bytes) -> int:
        self._can_hold(data)
        to = self._paired
        if to is None:
            raise os_error(errno.ENOTCONN)
        if not to.fds:
            # Linux says it once, and has no connection from then on.
            self._paired = self.peer = None
            self._leaves_peer(to)
            raise os_error(errno.ECONNREFUSED)
        return self._sends(data, to)

    def write_to(self, data: bytes, host: str, port: Any) -> int:
        self._can_hold(data)
        return self._sends(data, self.machine.paths.at(port, self.kind))

    def _can_hold(self, data: bytes) -> None:
        """Linux asks for the memory first, and then for whom it is."""
        if len(data) > self._bytes_max - _OVERHEAD_BYTES:
            raise os_error(errno.EMSGSIZE)
        self.raise_error()
        if self.writes_shut:
            raise os_error(errno.EPIPE)
        if self.unread_bytes >= self._bytes_max:
            raise would_block()

    def _sends(self, data: bytes, to: UnixDatagramSocket) -> int:
        to.require_no_other(self)
        if to.reads_shut:
            raise os_error(errno.EPIPE)
        if to._is_full_for(self):
            raise would_block()
        self.network.about_to(f"sends to {to.words}")
        to.arrived.append((data, None))
        to._senders.append(self)
        self.unread_bytes += _bytes_held(len(data))
        self.network.tell(to)
        return len(data)

    @property
    def _bytes_max(self) -> int:
        return int(self.option(socket.SO_SNDBUF, unset=BUFFER_BYTES_ASKED_MAX))

    def _is_full_for(self, sender: UnixDatagramSocket) -> bool:
        """Of its own peer it takes all that this has room to send; of others, a queue full."""
        return self._paired is not sender and len(self.arrived) > DATAGRAMS_MAX

    def has_room_at(self, path: str) -> bool:
        """Whether who sends there need not wait; also where it cannot send at all."""
        try:
            to: UnixDatagramSocket = self.machine.paths.at(path, self.kind)
        except OSError:
            return True
        return self._can_send() and not to._is_full_for(self)

    def _can_send(self) -> bool:
        """As Linux has it: who waits is woken once most of it has been read."""
        return 4 * self.unread_bytes <= self._bytes_max

    def read_from(self, bytes_max: int, *, is_peek: bool = False) -> tuple[bytes, Any]:
        held = _bytes_held(len(self.arrived[0][0])) if self.arrived else 0
        sender = self._senders[0].name or None if self._senders else None
        data, _ = super().read_from(bytes_max, is_peek=is_peek)
        if held and not is_peek:
            self._makes_room(held)
        return data, sender

    def _makes_room(self, held: int) -> None:
        sender = self._senders.popleft()
        sender.unread_bytes -= held
        if sender.loop is not self.loop:
            # A process that sleeps may send again.
            self.network.tell(sender)

    def closed(self) -> None:
        super().closed()
        self._loses_all()

    def _loses_all(self) -> None:
        for data, _ in self.arrived:
            self._makes_room(_bytes_held(len(data)))
        self.arrived.clear()

    def shutdown(self, how: int) -> None:
        """It needs no peer."""
        with suppress(OSError):
            super().shutdown(how)

    def readiness(self) -> int:
        found, to = super().readiness(), self._paired
        has_room = self._can_send() and (to is None or not to._is_full_for(self))
        return found if has_room else found & ~WRITABLE


DATAGRAMS_MAX = 10
"""As Linux has it unless it is told otherwise (`net.unix.max_dgram_qlen`); it takes one more."""

_OVERHEAD_BYTES = 32
_PAGE_BYTES = 4096
_AT_ONCE_BYTES = 16_064


def _bytes_held(size: int) -> int:
    """What Linux counts for a datagram: its head, and memory in powers of two, or pages."""
    at_once = min(size, _AT_ONCE_BYTES)
    memory = max(512, 1 << (at_once + 319).bit_length())
    pages = -(-(size - at_once) // _PAGE_BYTES)
    return 256 + memory + pages * _PAGE_BYTES
