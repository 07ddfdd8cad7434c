"""Stream sockets: TCP, and Unix sockets of its kind."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

from sim.kernel.environment import Arrival
from sim.kernel.network.addresses import Machine, as_told
from sim.kernel.network.connection import Segment, SegmentKind, Way
from sim.kernel.network.errors import os_error, would_block
from sim.kernel.network.open_sockets import (
    READABLE,
    WRITABLE,
    Ends,
    NetworkOfSockets,
    OpenSocket,
)
from sim.kernel.network.options import LINGERS_NOT

CONNECT_TO_ANOTHER = (
    "Linux makes one where a TCP socket asks for its own address, without a listener; let the "
    "program connect to another port, or wait until its server listens"
)

TIME_WAIT_S = 60.0
"""As Linux has it: so long the address of who has ended first is in use."""


class StreamSocket(OpenSocket):
    """One end of a connection, or a listener, or neither yet.

    other: the other end, once the request has reached its machine. incoming, outgoing: the ways of
    its connection; `other.incoming` is `outgoing`. delivery: the arrival of what is first in
    `outgoing`. backlog: connections that nobody has accepted, of a listener; waiting: who asks for
    one and finds no room.
    """

    is_connecting = False
    # It has asked for a connection and gone on, and not asked again what came of that.
    has_asked = False
    # It was shut after that, and nobody can ask with it any more.
    is_spent = False
    other: StreamSocket | None = None
    incoming: Way | None = None
    outgoing: Way | None = None
    delivery: Arrival | None = None
    reads_shut = False
    # Whether who only looks waits for all, if it says so.
    peeks_wait = True
    # Before it had a connection.
    writes_shut = False
    was_reset = False
    # Nothing that it sends arrives any more.
    is_silent = False
    # Made by a kernel, and not handed to a program yet.
    in_backlog = False
    # Who will have it in its backlog, once who has asked for it confirms the connection.
    confirmed_to: StreamSocket | None = None
    # Its machine has lost its power, and knows nothing of it.
    is_forgotten = False
    backlog_max = 0
    # When it asked for a connection, by its clock; whether what it asks for is known to be late.
    asked_at = 0.0
    gives_up_later = False

    def __init__(self, network: NetworkOfSockets, machine: Machine, family: int) -> None:
        super().__init__(network, machine, family, socket.SOCK_STREAM)
        self.backlog: deque[StreamSocket] = deque()
        self.waiting: deque[StreamSocket] = deque()

    def bind(self, host: str, port: Any) -> None:
        if self.is_over:
            self._has_none_any_more()
        super().bind(host, port)

    # -- listening

    def listen(self, backlog: int) -> None:
        if self.outgoing is not None or self.has_asked:
            raise os_error(errno.EINVAL)
        if self.port is None:
            self.bind_anywhere(self.host)
        if not self.is_listening:
            self.machine.require_alone(self)
        self.is_listening = True
        self.backlog_max = max(backlog, 0)

    def takes(self, asking: StreamSocket) -> StreamSocket:
        """The end at this listener of a connection that is asked for, until it is accepted."""
        accepted = type(self)(self.network, self.machine, self.family)
        accepted.loop = self.loop
        accepted.inherits(self)
        accepted.in_backlog = True
        return accepted

    def admits(self, accepted: StreamSocket) -> None:
        """A connection that `takes` has made can be accepted from now on."""
        if self.is_listening:
            self.backlog.append(accepted)
            self.network.tell(self)
        else:
            accepted.in_backlog = False
            accepted.send_reset()

    def accept(self) -> StreamSocket:
        if not self.is_listening:
            raise os_error(errno.EINVAL)
        if not self.backlog:
            raise would_block()
        accepted = self.backlog.popleft()
        accepted.in_backlog = False
        if self.waiting:
            self.network.carry(self.waiting.popleft())
        return accepted

    def has_room(self) -> bool:
        """Linux takes one more than the backlog says."""
        return len(self.backlog) <= self.backlog_max

    # -- connecting

    def connect(self, host: str, port: Any) -> None:
        """Asks for a connection; `is_connecting` until that has been answered."""
        if self.is_connecting:
            raise os_error(errno.EALREADY)
        if self.is_spent:
            raise os_error(errno.EINVAL)
        self._require_free()
        self.bind_anywhere(self.network.source_of(self, host))
        peer = as_told(self.family, self.meant_by(host), port)
        if peer == self.name:
            self.loop.refuse(f"a connection from {self.words} to itself", CONNECT_TO_ANOTHER)
        self.network.about_to(f"connects to {self.network.words_of(peer)}")
        self.peer, self.is_connecting = peer, True
        self.asked_at, self.gives_up_later = self.loop.environment.now, False
        self.is_silent = False
        self.incoming, self.outgoing = self._new_ways()
        self.sends(SegmentKind.REQUEST)

    def finds_connection(self) -> bool:
        """Whether who has asked and gone on, and asks again, is told that it is made; once.

        Where none was made it is told so, and may then ask anew.
        """
        if self.is_connecting or not self.has_asked or self.is_spent:
            return False
        self.has_asked = False
        if self.outgoing is not None and not self.was_reset:
            return True
        error = self.take_error() or errno.ECONNABORTED
        self.cannot_connect(0)
        self.was_reset = self.reads_shut = False
        self.forgets_address()
        raise os_error(error)

    def _require_free(self) -> None:
        if self.outgoing is not None or self.is_listening:
            raise os_error(errno.EISCONN)

    def forgets_address(self) -> None:
        """Of the connection that it did not get."""
        self.host = self._own_host

    def cannot_connect(self, error: int) -> None:
        """It may ask again, or elsewhere."""
        self._has_none_any_more()
        self.error, self.is_connecting = error, False
        self.incoming = self.outgoing = self.other = self.peer = None

    def pair_with(self, other: StreamSocket) -> None:
        """As `socketpair` does, or a request that reaches a listener."""
        if self.outgoing is None or self.incoming is None:
            self.incoming, self.outgoing = self._new_ways()
        self.other, other.other = other, self
        other.incoming, other.outgoing = self.outgoing, self.incoming
        if self.family == other.family:
            self.peer, other.peer = other.name, self.name
        else:
            # An IPv6 socket that takes IPv4, or asks it.
            other.peer = as_told(other.family, *self.name[:2])

    def _new_ways(self) -> tuple[Way, Way]:
        size = self.network.buffer_bytes
        return Way(size), Way(size)

    @property
    def is_over(self) -> bool:
        """Whether TCP has no connection any more: it was reset, or both ends have had their END."""
        if self.incoming is None or self.outgoing is None:
            return False
        return self.was_reset or (self.incoming.has_ended and self.outgoing.has_ended)

    @property
    def is_shut(self) -> bool:
        """Whether `shutdown` of both directions was called."""
        return self.reads_shut and self.outgoing is not None and self.outgoing.is_closed

    # -- reading and writing

    def read(self, bytes_max: int, *, is_peek: bool = False) -> bytes:
        way = self.incoming
        if way is not None and way.arrived:
            data = way.read(bytes_max, is_peek=is_peek)
            if self.other is not None and self.other.loop is not self.loop:
                # A process that sleeps may write again.
                self.network.tell(self.other)
            return data
        if way is not None and way.has_ended:
            # On Linux the end comes before an error, which who writes gets.
            return b""
        self.raise_error()
        if way is None and not self.is_listening and (self.has_asked or self.reads_shut):
            # As Linux has it, until who has asked asks again.
            return b""
        if way is None or self.is_connecting:
            raise os_error(errno.ENOTCONN)
        if self.was_reset or self.reads_shut:
            return b""
        raise would_block()

    def write(self, data: bytes) -> int:
        self._finds_break()
        self.raise_error()
        way = self.outgoing
        if way is not None and (way.is_closed or self.writes_shut):
            raise os_error(errno.EPIPE)
        if way is None or self.is_connecting:
            raise os_error(errno.EAGAIN if self.is_connecting else errno.EPIPE)
        taken = data[: max(way.free_bytes, 0)]
        if data and not taken:
            raise would_block()
        if taken:
            self.network.about_to(f"sends to {self.network.words_of(self.peer)}")
            self.sends(SegmentKind.DATA, taken)
        return len(taken)

    @property
    def sender_name(self) -> Any:
        """Who has sent what is read: TCP tells nobody."""
        return None

    def require_no_address(self, address: Callable[[], object]) -> None:
        """Of `sendto`: TCP reads it, and sends to its peer."""
        address()

    def sends(self, kind: SegmentKind, data: bytes = b"") -> None:
        assert self.outgoing is not None
        self.outgoing.send(Segment(kind, data, self.network.sending_at()))
        self.network.carry(self)

    def _finds_break(self) -> None:
        other = self.other
        if other is not None and other.outgoing is not None and other.outgoing.is_closed:
            self.network.may_be_broken(self)

    def meets_nobody(self) -> bool:
        """Whether what it has sent arrives where nobody can read it any more."""
        other, way = self.other, self.outgoing
        is_gone = other is not None and not other.fds and not other.in_backlog
        is_shut = other is not None and other.is_shut
        return (
            (is_gone or is_shut)
            and way is not None
            and any(d.kind is SegmentKind.DATA for d in way.under_way)
        )

    def shutdown(self, how: int) -> None:
        if self.is_listening:
            # As Linux has it, where nothing can be written there is nothing to shut.
            if how != socket.SHUT_WR:
                self._listens_no_more()
                self._has_none_any_more()
            return
        self._finds_break()
        if self.outgoing is None or self.incoming is None:
            # Linux remembers it, also of a connection that is made later.
            self.reads_shut |= how != socket.SHUT_WR
            self.writes_shut |= how != socket.SHUT_RD
            self.is_spent |= self.has_asked
            raise os_error(errno.ENOTCONN)
        if self.is_connecting:
            # On Linux it gives up the connection, and wakes who waits for it.
            self.send_reset()
            self.error, self.is_connecting, self.was_reset = errno.ECONNRESET, False, True
            self.reads_shut = True
            return
        if self.is_over:
            self.is_spent |= self.has_asked
            raise os_error(errno.ENOTCONN)
        self.has_asked = False
        if how in (socket.SHUT_RD, socket.SHUT_RDWR):
            self.reads_shut = True
        if how in (socket.SHUT_WR, socket.SHUT_RDWR):
            self._end(SegmentKind.END)

    def _end(self, kind: SegmentKind) -> None:
        way = self.outgoing
        assert way is not None
        if not way.is_closed:
            way.is_closed = True
            self.sends(kind)

    # -- what arrives

    def is_reset(self) -> None:
        """A reset has arrived: nothing can be written, and what has arrived can still be read."""
        assert self.incoming is not None
        assert self.outgoing is not None
        if self.is_connecting:
            self.cannot_connect(errno.ECONNREFUSED)
            return
        if not self.fds:
            self._release()
        # As Linux has it, after the end who reads finds that, and who writes a broken pipe.
        self.error = errno.EPIPE if self.incoming.has_ended else errno.ECONNRESET
        self.outgoing.is_closed = self.was_reset = True

    def send_reset(self) -> None:
        """To the other end, behind what is on its way there already."""
        way = self.outgoing
        if way is not None and not any(each.kind is SegmentKind.RESET for each in way.under_way):
            way.is_closed = True
            self.sends(SegmentKind.RESET)

    # -- its life

    def closed(self) -> None:
        if self.is_listening:
            self._release()
            self._listens_no_more()
        elif self.outgoing is not None and self.incoming is not None and not self.was_reset:
            if self.incoming.arrived or self.is_connecting or self._lingers_not():
                # Data that nobody reads: the other end is told by a reset.
                self._release()
                self.send_reset()
            else:
                self._leaves()
                self._end(SegmentKind.END)
            self.incoming.drop()
        else:
            self._release()

    def _listens_no_more(self) -> None:
        self.is_listening = False
        for accepted in self.backlog:
            accepted.send_reset()
        for asking in self.waiting:
            # Finds nobody now.
            self.network.carry(asking)
        self.backlog.clear()
        self.waiting.clear()
        # Who waits for a connection is told that there is none to come.
        self.network.tell(self)

    def _leaves(self) -> None:
        """Its address is free at once, or after TIME_WAIT where this end is the first to end."""
        if self.incoming is not None and self.incoming.has_ended:
            self._release()
        else:
            self.held_until = self.network.world_now() + TIME_WAIT_S

    def forget(self) -> None:
        super().forget()
        self.is_forgotten, self.is_listening, self.in_backlog = True, False, False
        if self.outgoing is not None and self.delivery is None:
            # It would have been sent again.
            self.outgoing.lose()
        for accepted in self.backlog:
            accepted.forget()
        for asking in self.waiting:
            # Asks again, until somebody answers.
            self.network.carry(asking)
        self.backlog.clear()
        self.waiting.clear()

    def _lingers_not(self) -> bool:
        """Whether it is to be reset rather than ended: SO_LINGER of no time."""
        return bool(self.option(socket.SO_LINGER) == LINGERS_NOT)

    def readiness(self) -> int:
        if self.is_listening:
            return READABLE if self.backlog else 0
        if self.incoming is None or self.outgoing is None or self.error:
            # Not connected, or broken: who waits is told.
            return READABLE | WRITABLE
        if self.is_connecting:
            return 0
        has_end = self.incoming.has_ended or self.reads_shut or self.was_reset
        can_read = bool(self.incoming.arrived) or has_end
        can_write = self.outgoing.free_bytes > 0 or self.outgoing.is_closed
        return READABLE * can_read | WRITABLE * can_write

    def holds_data(self) -> bool:
        return self.bytes_held > 0

    @property
    def bytes_held(self) -> int:
        """How many have arrived that were not read."""
        return 0 if self.incoming is None else len(self.incoming.arrived)

    @property
    def has_all_there_is(self) -> bool:
        """Whether nothing can come any more."""
        way = self.incoming
        has_ended = way is None or way.has_ended
        return bool(self.error) or has_ended or self.reads_shut or self.was_reset

    def found_its_end(self) -> None:
        """By who has read something, and asks for more: an error stays for the next call."""

    def ends(self) -> Ends:
        found = super().ends()
        if self.is_listening or self.is_connecting:
            return found
        if self.incoming is None or self.outgoing is None:
            was_one = bool(found) or self.has_asked or self.reads_shut
            return found | Ends.HUNG_UP | (Ends.ENDED if was_one else Ends.NONE)
        if self.was_reset or self.reads_shut or self.incoming.has_ended:
            found |= Ends.ENDED
        is_shut = self.outgoing.is_closed or self.writes_shut
        if self.was_reset or (found & Ends.ENDED and is_shut):
            found |= Ends.HUNG_UP
        return found

    def words_of_wait(self, mask: int) -> str:
        if self.is_listening:
            return f"for a connection to {self.words}"
        peer = self.network.words_of(self.peer)
        if self.is_connecting:
            return f"for an answer of {peer} to {self.words}"
        if mask & READABLE:
            return f"for data from {peer} at {self.words}"
        return f"until {peer} has read what {self.words} sends"
