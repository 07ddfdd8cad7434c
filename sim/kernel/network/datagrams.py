"""Datagram sockets: UDP.

Each datagram is an outside event of its own, so that any order of arrival is one of landing.
"""

from __future__ import annotations

import errno
import socket
from collections import deque
from typing import Any

from sim.kernel.network.addresses import ANY, Machine, as_told, in_words
from sim.kernel.network.errors import os_error, would_block
from sim.kernel.network.open_sockets import (
    READABLE,
    WRITABLE,
    Ends,
    NetworkOfSockets,
    OpenSocket,
)

DATAGRAM_BYTES_MAX = 65_507


class DatagramSocket(OpenSocket):
    """arrived: what has landed and was not read, with who sent it."""

    def __init__(self, network: NetworkOfSockets, machine: Machine, family: int) -> None:
        super().__init__(network, machine, family, socket.SOCK_DGRAM)
        self.arrived: deque[tuple[bytes, Any]] = deque()
        self._destination: tuple[str, Any] | None = None
        # By `shutdown`.
        self.reads_shut = self.writes_shut = False

    def connect(self, host: str, port: Any) -> None:
        self.bind_anywhere(self.network.source_of(self, host))
        host = self.meant_by(host)
        self._destination = host, port
        # As Linux has it, port 0 is none, though it can be sent to.
        self.peer = as_told(self.family, host, port) if port else None

    def read_from(self, bytes_max: int, *, is_peek: bool = False) -> tuple[bytes, Any]:
        self.raise_error()
        if not self.arrived:
            if self.reads_shut:
                return b"", None
            raise would_block()
        data, sender = self.arrived[0] if is_peek else self.arrived.popleft()
        return data[:bytes_max], sender

    def read(self, bytes_max: int, *, is_peek: bool = False) -> bytes:
        return self.read_from(bytes_max, is_peek=is_peek)[0]

    def write(self, data: bytes) -> int:
        self._has_port()
        if self._destination is None:
            raise os_error(errno.EDESTADDRREQ)
        return self._sends_to(data, *self._destination)

    def write_to(self, data: bytes, host: str, port: Any) -> int:
        self._has_port()
        if not port:
            raise os_error(errno.EINVAL)
        return self._sends_to(data, host, port)

    def _has_port(self) -> None:
        """Who sends has one, and is reached at any address unless it has one of its own."""
        if self.port is None:
            self.bind_anywhere(self.host)

    def _sends_to(self, data: bytes, host: str, port: Any) -> int:
        self.raise_error()
        if self.writes_shut:
            raise os_error(errno.EPIPE)
        if len(data) > DATAGRAM_BYTES_MAX:
            raise os_error(errno.EMSGSIZE)
        host = self.meant_by(host)
        self.network.source_of(self, host)
        self.network.about_to(f"sends to {host}:{port}")
        self.network.carry_datagram(self, data, host, port)
        return len(data)

    def name_for(self, taker: OpenSocket, host: str) -> Any:
        """As who takes what it sends there has its address."""
        own = self.host_towards(host)
        own = own if own not in ANY.values() else self.network.source_of(self, host)
        return as_told(taker.family, own, self.port)

    def takes_from(self, sender: Any) -> bool:
        """Who is connected is reached by its peer alone."""
        return self.peer is None or sender == self.peer

    def receives(self, data: bytes, sender: Any) -> None:
        self.arrived.append((data, sender))

    def finds_nobody(self, host: str, port: Any) -> None:
        """Its datagram has reached a port where nobody is: it is told so of its peer's alone."""
        if self.peer == as_told(self.family, host, port):
            self.error = errno.ECONNREFUSED

    def shutdown(self, how: int) -> None:
        """Whether or not it is connected, who waits for a datagram is woken."""
        self.reads_shut |= how != socket.SHUT_WR
        self.writes_shut |= how != socket.SHUT_RD
        self.network.tell(self)
        if self.peer is None:
            raise os_error(errno.ENOTCONN)

    def ends_waits_alone(self) -> bool:
        return self.reads_shut and not self.arrived and not self.error

    def readiness(self) -> int:
        return WRITABLE | READABLE * bool(self.arrived or self.error or self.reads_shut)

    def holds_data(self) -> bool:
        return bool(self.arrived)

    def ends(self) -> Ends:
        found = super().ends()
        if self.reads_shut:
            found |= Ends.ENDED | (Ends.HUNG_UP if self.writes_shut else Ends.NONE)
        return found

    def words_of_wait(self, mask: int) -> str:
        whom = "" if self.peer is None else f" from {in_words(self.peer)}"
        return f"for datagrams{whom} at {self.words}"
