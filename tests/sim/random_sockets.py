"""Random programs of single calls of sockets, on the system's or simulated ones.

A plan is data: calls of sockets that stand in slots. After each call there is a pause, in which
all that is on its way arrives; then every open socket is polled. So Linux has one way to go, on
whatever machine, and the simulated kernel has to return the same, and to be ready for the same.

Not in a plan: more data than every buffer holds, since the sizes of Linux's follow the traffic; and
calls that would wait without a time limit.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any, NamedTuple

Notes = list[str]

SETTLES_S = 0.0001
"""Loopback has answered before a call returns, but on a machine that is busy."""
SHORT_S = 0.01
SLOTS = 5
PORTS = 3


class Family(Enum):
    """Which sockets a plan has."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"
    BOTH = "IPv4 and IPv6"
    UNIX = "Unix"


class Call(NamedTuple):
    """What is called, of the socket in which slot, with what."""

    name: str
    slot: int
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{'abcde'[self.slot]}.{self.name}({', '.join(map(str, self.args))})"


@dataclass(frozen=True)
class Plan:
    calls: tuple[Call, ...]

    def __str__(self) -> str:
        return "\n".join(f"  {number}. {call}" for number, call in enumerate(self.calls))

    def without(self, at: int) -> Plan:
        return Plan(self.calls[:at] + self.calls[at + 1 :])


class At(NamedTuple):
    """An address of a plan: a host and which port, or which path. Ports of a run are its own."""

    host: str
    number: int

    def __str__(self) -> str:
        return f"{self.host or 'path'} {self.number}"


# ---- making one ---------------------------------------------------------------------------------

_STREAM_CALLS: dict[str, int] = {
    "new": 2,
    "bind": 2,
    "listen": 2,
    "connect": 5,
    "connect_ex": 1,
    "accept": 5,
    "send": 9,
    "sendto": 1,
    "sendmsg": 1,
    "recv": 7,
    "recvfrom": 1,
    "recvmsg": 1,
    "recv_into": 1,
    "shutdown": 5,
    "close": 4,
    "reset": 2,
    "setsockopt": 2,
    "getsockopt": 3,
    "getsockname": 1,
    "getpeername": 2,
    "settimeout": 3,
    "dup": 1,
}
_DATAGRAM_CALLS: dict[str, int] = {
    **_STREAM_CALLS,
    "bind": 6,
    "accept": 1,
    "listen": 1,
    "sendto": 9,
    "recvfrom": 4,
    "reset": 0,
}
_HOSTS = {
    Family.IPV4: ("127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.2", "0.0.0.0"),
    Family.IPV6: ("::1", "::1", "::"),
    Family.BOTH: ("127.0.0.1", "127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"),
    Family.UNIX: ("",),
}
_OF_SYSTEM = {
    Family.IPV4: (socket.AF_INET,),
    Family.IPV6: (socket.AF_INET6,),
    Family.BOTH: (socket.AF_INET, socket.AF_INET6),
    Family.UNIX: (socket.AF_UNIX,),
}
_SET_OPTIONS = (
    *("SO_REUSEADDR", "SO_REUSEADDR", "SO_KEEPALIVE", "SO_RCVBUF", "SO_SNDBUF"),
    "SO_LINGER",
)
_TOLD_OPTIONS = (
    *("SO_ERROR", "SO_ERROR", "SO_ERROR", "SO_ACCEPTCONN"),
    *("SO_LINGER", "SO_REUSEADDR", "SO_RCVBUF"),
)


class Maker:
    """Draws calls that mostly make sense, by what their sockets are likely to be."""

    def __init__(self, seed: str) -> None:
        self.random = Random(seed)
        families = (Family.IPV4, Family.IPV4, Family.IPV6, Family.BOTH, Family.UNIX, Family.UNIX)
        self.family = self._one_of(families)
        self.is_stream = self.random.random() < 0.7
        self.written = 0

    def plan(self) -> Plan:
        begins = (self._nothing, self._connection, self._connection, self._listener)
        calls = self._one_of(begins)()
        by_name = _STREAM_CALLS if self.is_stream else _DATAGRAM_CALLS
        count = self.random.randint(4, 14)
        for name in self.random.choices(tuple(by_name), tuple(by_name.values()), k=count):
            slots = SLOTS if self.random.random() < 0.3 else 3
            slot = self.random.randrange(slots)
            calls.append(Call(name, slot, getattr(self, f"_{name}", tuple)()))
        return Plan(tuple(calls))

    def _one_of(self, options: tuple[Any, ...]) -> Any:
        return self.random.choice(options)

    # -- how it begins

    def _nothing(self) -> list[Call]:
        count = self.random.randint(2, 3)
        return [Call("new", slot, self._new()) for slot in range(count)]

    def _listener(self) -> list[Call]:
        calls = [Call("new", 0, self._new()), Call("bind", 0, self._bind())]
        if self.is_stream:
            calls.append(Call("listen", 0, self._listen()))
        return [*calls, Call("new", 1, self._new()), Call("new", 2, self._new())]

    def _connection(self) -> list[Call]:
        if self.family is Family.UNIX and self.random.random() < 0.4:
            return [Call("pair", 1, (self.is_stream, 2))]
        calls = self._listener()[:-1]
        address = calls[1].args
        if self.is_stream:
            return [*calls, Call("connect", 1, address), Call("accept", 0, (2,))]
        return [*calls, Call("bind", 1, self._bind()), Call("connect", 1, address)]

    # -- what each call is given

    def _new(self) -> tuple[Any, ...]:
        kind = self.is_stream if self.random.random() < 0.97 else not self.is_stream
        return int(self._one_of(_OF_SYSTEM[self.family])), kind

    def _bind(self) -> tuple[Any, ...]:
        return (At(self._one_of(_HOSTS[self.family]), self.random.randrange(PORTS)),)

    _connect = _connect_ex = _bind

    def _listen(self) -> tuple[Any, ...]:
        return (self._one_of((0, 0, 1, 5)),)

    def _accept(self) -> tuple[Any, ...]:
        return (self.random.randrange(SLOTS),)

    _dup = _accept

    def _send(self) -> tuple[Any, ...]:
        self.written += 1
        data = f"{self.written}".encode() * self._one_of((0, 1, 1, 3, 8))
        return data, self._flags("MSG_DONTWAIT", "MSG_NOSIGNAL")

    _sendmsg = _send

    def _sendto(self) -> tuple[Any, ...]:
        return (*self._send(), *self._bind())

    def _recv(self) -> tuple[Any, ...]:
        flags = self._flags("MSG_PEEK", "MSG_DONTWAIT", "MSG_WAITALL")
        return self._one_of((0, 1, 2, 5, 100)), flags

    _recvfrom = _recvmsg = _recv_into = _recv

    def _flags(self, *names: str) -> int:
        chosen = [name for name in names if self.random.random() < 0.25]
        return sum(getattr(socket, name) for name in chosen)

    def _shutdown(self) -> tuple[Any, ...]:
        hows = (socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_WR, socket.SHUT_RDWR)
        return (int(self._one_of(hows)),)

    def _setsockopt(self) -> tuple[Any, ...]:
        option = self._one_of(_SET_OPTIONS)
        if option == "SO_LINGER":
            return option, self._one_of(((0, 0), (1, 0), (1, 0), (1, 1)))
        return option, self._one_of((0, 1, 1, 5000))

    def _getsockopt(self) -> tuple[Any, ...]:
        return (self._one_of(_TOLD_OPTIONS),)

    def _settimeout(self) -> tuple[Any, ...]:
        return (self._one_of((None, 0.0, SHORT_S)),)


def random_plan(seed: str) -> Plan:
    return Maker(seed).plan()


# ---- running one --------------------------------------------------------------------------------


@dataclass
class Run:
    """ports, folder: of this run alone; settles_s: how long what is sent has to arrive."""

    ports: tuple[int, ...]
    folder: str
    settles_s: float
    slots: dict[int, socket.socket] = field(default_factory=dict)

    def plays(self, plan: Plan) -> Iterator[str]:
        """What each call returned or raised, and how each socket was then polled."""
        try:
            for call in plan.calls:
                came = outcome(lambda: getattr(self, f"_{call.name}")(call.slot, *call.args))  # noqa: B023
                time.sleep(self.settles_s)
                yield f"{came} [{self._polled()}]"
        finally:
            for sock in self.slots.values():
                sock.close()

    def _polled(self) -> str:
        found = []
        for slot, sock in sorted(self.slots.items()):
            poll = select.poll()
            poll.register(sock, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
            events = poll.poll(0)
            found.append(f"{'abcde'[slot]}:{_events(events[0][1]) if events else ''}")
        return " ".join(found)

    def _puts(self, slot: int, sock: socket.socket) -> None:
        """Who stood there is closed."""
        before = self.slots.get(slot)
        if before is not None:
            before.close()
        self.slots[slot] = sock

    def _sock(self, slot: int) -> socket.socket:
        sock = self.slots.get(slot)
        if sock is None:
            raise OSError(errno.EBADF, "nothing is there")
        return sock

    def _may_wait(self, sock: socket.socket, mask: int, flags: int = 0) -> bool:
        """Whether a call would wait without a limit."""
        # A duplicate may have set or cleared O_NONBLOCK of both.
        is_nonblocking = flags & socket.MSG_DONTWAIT or not os.get_blocking(sock.fileno())
        if sock.gettimeout() or is_nonblocking:
            return False
        poll = select.poll()
        poll.register(sock, mask)
        return not poll.poll(0)

    def _address(self, at: At) -> Any:
        if not at.host:
            return f"{self.folder}/{at.number}" if at.number else f"\0{self.folder}"
        return (at.host, self.ports[at.number])

    def _told(self, address: Any) -> str:
        """An address, as every run has it."""
        if isinstance(address, tuple):
            host, port, *_ = address
            number = self.ports.index(port) if port in self.ports else "another" if port else 0
            return f"{host} {number}"
        if isinstance(address, bytes):
            return "abstract" if address.decode() == f"\0{self.folder}" else "another"
        return repr(address).replace(self.folder, "")

    # -- the calls

    def _new(self, slot: int, family: int, is_stream: bool) -> None:
        sock = socket.socket(family, socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
        sock.setblocking(False)
        if family != socket.AF_UNIX and is_stream:
            # What is small is not kept until what was sent before is acknowledged.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._puts(slot, sock)

    def _pair(self, slot: int, is_stream: bool, other: int) -> None:
        one, two = socket.socketpair(type=socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM)
        for sock, where in ((one, slot), (two, other)):
            sock.setblocking(False)
            self._puts(where, sock)

    def _bind(self, slot: int, at: At) -> None:
        self._sock(slot).bind(self._address(at))

    def _listen(self, slot: int, backlog: int) -> None:
        self._sock(slot).listen(backlog)

    def _connect(self, slot: int, at: At) -> object:
        sock = self._sock(slot)
        if sock.gettimeout() is None:
            # Where the backlog is full, it would wait for minutes.
            sock.settimeout(SHORT_S)
        return sock.connect(self._address(at))

    def _connect_ex(self, slot: int, at: At) -> object:
        sock = self._sock(slot)
        if sock.gettimeout() is None:
            sock.settimeout(SHORT_S)
        return errno.errorcode.get(sock.connect_ex(self._address(at)), "connected")

    def _accept(self, slot: int, to: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLIN):
            return "would wait"
        accepted, address = sock.accept()
        accepted.setblocking(False)
        self._puts(to, accepted)
        return self._told(address)

    def _send(self, slot: int, data: bytes, flags: int) -> object:
        sock = self._sock(slot)
        return (
            "would wait" if self._may_wait(sock, select.POLLOUT, flags) else sock.send(data, flags)
        )

    def _sendmsg(self, slot: int, data: bytes, flags: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLOUT, flags):
            return "would wait"
        return sock.sendmsg([data, b"!"], [], flags)

    def _sendto(self, slot: int, data: bytes, flags: int, at: At) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLOUT, flags):
            return "would wait"
        return sock.sendto(data, flags, self._address(at))

    def _recv(self, slot: int, size: int, flags: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLIN, flags) or self._waits_for_all(sock, size, flags):
            return "would wait"
        return sock.recv(size, flags)

    def _waits_for_all(self, sock: socket.socket, size: int, flags: int) -> bool:
        """Whether there is less than it asks for, and more may come.

        A duplicate may have cleared O_NONBLOCK, also of who has a time limit.
        """
        may_wait = os.get_blocking(sock.fileno()) and not flags & socket.MSG_DONTWAIT
        if not may_wait or not flags & socket.MSG_WAITALL:
            return False
        poll = select.poll()
        poll.register(sock, select.POLLRDHUP)
        if poll.poll(0):
            return False
        with suppress(OSError):
            return len(sock.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)) < size
        return False

    def _recvfrom(self, slot: int, size: int, flags: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLIN, flags) or self._waits_for_all(sock, size, flags):
            return "would wait"
        data, address = sock.recvfrom(size, flags)
        return data, self._told(address)

    def _recvmsg(self, slot: int, size: int, flags: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLIN, flags) or self._waits_for_all(sock, size, flags):
            return "would wait"
        data, ancillary, told, address = sock.recvmsg(size, 0, flags)
        return data, ancillary, told, self._told(address)

    def _recv_into(self, slot: int, size: int, flags: int) -> object:
        sock = self._sock(slot)
        if self._may_wait(sock, select.POLLIN, flags) or self._waits_for_all(sock, size, flags):
            return "would wait"
        buffer = bytearray(size)
        return sock.recv_into(buffer, size, flags), bytes(buffer)

    def _shutdown(self, slot: int, how: int) -> None:
        self._sock(slot).shutdown(how)

    def _close(self, slot: int) -> None:
        self._sock(slot)
        self.slots.pop(slot).close()

    def _reset(self, slot: int) -> None:
        self._sock(slot).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._close(slot)

    def _setsockopt(self, slot: int, name: str, value: Any) -> None:
        if name == "SO_SNDBUF":
            # A small one would be full: of that the simulated kernel has its own size.
            value += 100_000
        packed = struct.pack("ii", *value) if isinstance(value, tuple) else value
        self._sock(slot).setsockopt(socket.SOL_SOCKET, getattr(socket, name), packed)

    def _getsockopt(self, slot: int, name: str) -> object:
        size = 8 if name == "SO_LINGER" else 0
        return self._sock(slot).getsockopt(socket.SOL_SOCKET, getattr(socket, name), size)

    def _getsockname(self, slot: int) -> object:
        return self._told(self._sock(slot).getsockname())

    def _getpeername(self, slot: int) -> object:
        return self._told(self._sock(slot).getpeername())

    def _settimeout(self, slot: int, limit_s: float | None) -> None:
        self._sock(slot).settimeout(limit_s)

    def _dup(self, slot: int, to: int) -> None:
        sock = self._sock(slot).dup()
        if to == slot:
            sock.close()
        else:
            self._puts(to, sock)


_EVENTS = {
    select.POLLIN: "in",
    select.POLLOUT: "out",
    select.POLLERR: "err",
    select.POLLHUP: "hup",
    select.POLLRDHUP: "rdhup",
    select.POLLNVAL: "nval",
}


def _events(mask: int) -> str:
    return "+".join(words for bit, words in _EVENTS.items() if mask & bit)


def outcome(act: Callable[[], object]) -> str:
    try:
        return repr(act())
    except TimeoutError as exc:
        return f"TimeoutError {exc.errno and errno.errorcode[exc.errno]}"
    except OSError as exc:
        return errno.errorcode[exc.errno] if exc.errno in errno.errorcode else str(exc)
