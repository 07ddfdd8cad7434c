"""What a descriptor stands for: an open socket, as the kernel has it.

`socket.socket` objects, their duplicates and what was detached from one share it.
"""

from __future__ import annotations

import enum
import errno
import math
import socket
from typing import Any, Protocol

from sim.kernel.network.addresses import ANY, Machine, as_told, loopback_for, unmapped
from sim.kernel.network.errors import os_error

READABLE, WRITABLE = 1, 2
"""As `selectors` has them."""

HELD = -1
"""Among the descriptors of a socket: a call blocks in it, and keeps it open."""


class Ends(enum.Flag):
    """What `poll` tells of besides, whether asked or not; ENDED, if asked."""

    NONE = 0
    FAILED = enum.auto()
    HUNG_UP = enum.auto()
    ENDED = enum.auto()


class NetworkOfSockets(Protocol):
    """As Network of network.py."""

    buffer_bytes: int

    def loop_here(self) -> Any: ...

    def world_now(self) -> float: ...

    def sending_at(self) -> float | None: ...

    def tell(self, opened: Any) -> None: ...

    def about_to(self, what: str) -> None: ...

    def may_be_broken(self, sender: Any) -> None: ...

    def words_of(self, address: Any) -> str: ...

    def carry(self, sender: Any) -> None: ...

    def carry_datagram(self, sender: Any, data: bytes, host: str, port: Any) -> None: ...

    def source_of(self, opened: Any, host: str) -> str: ...


class OpenSocket:
    """fds: the descriptors that stand for it, and HELD for each call that blocks in it; none once
    it is closed. error: what SO_ERROR reports.

    host, port: where it is bound, the port None if it is not. A Unix socket's port is its path.
    held_until: how long others find its address in use, by the clock of the world.
    """

    is_listening = False
    error = 0
    # How many worker threads are blocked in a read of it.
    blocked_readers = 0
    peer: Any = None
    # Whether it is without O_NONBLOCK, as it is for Python without a time limit alone.
    blocks = True
    held_until = math.inf
    # Of those that share an address, the how-manieth has what it sends there; None without any.
    spread: dict[Any, int] | None = None
    # Those of its descriptors that a process would inherit, if one could be begun.
    inheritable: tuple[int, ...] = ()

    def __init__(self, network: NetworkOfSockets, machine: Machine, family: int, kind: int) -> None:
        self.network = network
        self.machine = machine
        # Of the process whose it is.
        self.loop = network.loop_here()
        self.family = family
        self.kind = kind
        self.fds: list[int] = []
        self.host = ANY.get(family, "")
        self.port: Any = None
        self._options: dict[tuple[int, int], Any] = {}
        # Whether its address is taken on the machine.
        self._holds_address = False
        # What the program has bound stays when a connection is over.
        self._own_host = self.host
        self._keeps_port = False
        # The port that it had, which it still tells.
        self._last_port: Any = None

    # -- options

    def option(self, name: int, level: int = socket.SOL_SOCKET, unset: Any = 0) -> Any:
        return self._options.get((level, name), unset)

    def set_option(self, level: int, name: int, value: Any) -> None:
        self._options[level, name] = value

    def set_inheritable(self, fd: int, inheritable: bool) -> None:
        others = [each for each in self.inheritable if each != fd]
        self.inheritable = (*others, fd) if inheritable else (*others,)

    def takes_other_family(self, family: int, host: str) -> bool:
        """Whether it is an IPv6 socket that takes IPv4 as well, bound to this host: everywhere,
        or to an address of IPv4.
        """
        if self.family != socket.AF_INET6 or family != socket.AF_INET:
            return False
        is_everywhere = host == "::" and not self.option(socket.IPV6_V6ONLY, socket.IPPROTO_IPV6)
        return is_everywhere or unmapped(host) != host

    # -- its address

    def bind(self, host: str, port: Any) -> None:
        if self.port is not None:
            raise os_error(errno.EINVAL)
        if not self.machine.has(host):
            raise os_error(errno.EADDRNOTAVAIL)
        self._own_host, self._keeps_port = host, bool(port)
        port = port or self.machine.new_port(self.kind)
        self.machine.bind(self, host, port)
        self.host, self.port, self._holds_address = host, port, True

    def bind_anywhere(self, host: str) -> None:
        """As a kernel does for who connects, or sends, without an address."""
        if self.port is None:
            self.port = self.machine.new_port(self.kind)
            self.machine.bind(self, host, self.port)
            self._holds_address = True
        self.host = host

    def inherits(self, listener: OpenSocket) -> None:
        """What a connection has of the socket that listens: its address, and its options."""
        self._options = dict(listener._options)

    def stands_at(self, host: str, port: int) -> None:
        """At an address that its machine shares between it and a listener."""
        self.host, self.port, self._holds_address = host, port, True
        self.machine.join(self, port)

    def meant_by(self, host: str) -> str:
        """Whom it reaches there: anywhere is itself, by IPv4 at the address that it has."""
        if host not in ANY.values():
            return host
        has_own = self.family == socket.AF_INET and self.host not in ANY.values()
        return self.host if has_own else loopback_for(self.family, self.host)

    def host_towards(self, host: str) -> str:
        """From where it sends there: what `connect` gave it in IPv6 is no address for IPv4."""
        is_given = unmapped(host) != host and unmapped(self.host) == self.host
        return self._own_host if is_given else self.host

    @property
    def peer_name(self) -> Any:
        """As `getpeername` has it; None without one."""
        return self.peer

    @property
    def name(self) -> Any:
        """As `getsockname` has it."""
        return as_told(self.family, self.host, self.port or self._last_port or 0)

    @property
    def words(self) -> str:
        return self.network.words_of(self.name)

    # -- its life

    def closed(self) -> None:
        """The last descriptor that stood for it is closed."""
        self._release()

    def _release(self) -> None:
        """Others may have its address."""
        if self._holds_address:
            self.machine.unbind(self, self.port)
            self._holds_address = False

    def _has_none_any_more(self) -> None:
        """A port that the system gave it is free, and it may be bound."""
        if self.port is not None and not self._keeps_port:
            self._release()
            self._last_port, self.port = self.port, None

    def forget(self) -> None:
        """The power of its machine fails: it is gone, and nobody is told."""
        self.fds.clear()
        OpenSocket.closed(self)

    def take_error(self) -> int:
        error, self.error = self.error, 0
        return error

    def raise_error(self) -> None:
        if self.error:
            raise os_error(self.take_error())

    # -- what is done with it: each raises as a kernel does where it cannot be done at once

    def connect(self, host: str, port: Any) -> None:
        raise NotImplementedError

    def pair_with(self, other: Any) -> None:
        raise NotImplementedError

    def read(self, bytes_max: int, *, is_peek: bool = False) -> bytes:
        raise NotImplementedError

    def read_from(self, bytes_max: int, *, is_peek: bool = False) -> tuple[bytes, Any]:
        return self.read(bytes_max, is_peek=is_peek), None

    def write(self, data: bytes) -> int:
        raise NotImplementedError

    def write_to(self, data: bytes, host: str, port: Any) -> int:
        raise NotImplementedError

    def shutdown(self, how: int) -> None:
        raise NotImplementedError

    def readiness(self) -> int:
        """READABLE, WRITABLE, both or 0."""
        raise NotImplementedError

    def ends_waits_alone(self) -> bool:
        """Whether it is ready to be read, and has nothing but an end for who waits in the system.

        Who may not wait there is told that nothing has come yet, as on Linux.
        """
        return False

    def holds_data(self) -> bool:
        """Whether something has arrived that was not read."""
        return False

    def ends(self) -> Ends:
        """Of what has gone wrong, or is over."""
        return Ends.FAILED if self.error else Ends.NONE

    def words_of_wait(self, mask: int) -> str:
        """What who waits for it waits for."""
        raise NotImplementedError
