"""Machines: which addresses are theirs, what listens there, and what names stand for.

An address is what `socket` takes it for: (host, port), for IPv6 with two more numbers, or the path
of a Unix socket.
"""

from __future__ import annotations

import errno
import ipaddress
import itertools
import math
import socket
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Protocol

from sim.kernel.network.errors import os_error
from sim.kernel.network.paths import Paths

FIRST_PORT = 40_000
"""Of those that a machine gives out: to who binds port 0, and to who connects."""
PORTS = 20_000
"""The number of them; then it begins anew with those that are free."""

ANY: dict[int, str] = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}
MAPPED = "::ffff:"
LOOPBACK: dict[int, str] = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Bound(Protocol):
    """As OpenSocket of open_sockets.py."""

    family: int
    kind: int
    host: str
    port: Any
    is_listening: bool
    held_until: float
    loop: Any

    def option(self, name: int) -> Any: ...

    def takes_other_family(self, family: int, host: str) -> bool: ...


class Machine:
    """A machine of the network; the one in which the program runs is `localhost`."""

    def __init__(self, name: str, addresses: Iterable[str], clock: Callable[[], float]) -> None:
        """clock: the world's."""
        self.name = name
        self.paths = Paths()
        self._clock = clock
        # Its power has failed, and it is not back.
        self.is_down = False
        self.addresses = tuple(addresses)
        self._ports = itertools.count()
        # By kind of socket and port, or path: what is bound there.
        self._bound: dict[tuple[Any, Any], list[Bound]] = {}

    def __repr__(self) -> str:
        return f"<Machine {self.name}>"

    def has(self, host: str) -> bool:
        """Whether it is an address of its own, of which loopback ones are everybody's."""
        return unmapped(host) in self.addresses or is_own(host)

    def reached_by(self, other: Machine) -> tuple[str, ...]:
        """Its addresses, as another machine sees them, or itself."""
        if other is self:
            return self.addresses
        return tuple(each for each in self.addresses if not is_own(each))

    def new_port(self, kind: int) -> int:
        ports = (FIRST_PORT + number % PORTS for number in self._ports)
        return next(port for port in ports if (kind, port) not in self._bound)

    def bind(self, bound: Bound, host: str, port: Any) -> None:
        """Raises as a kernel does where another has the address."""
        if any(_collide(bound, host, other) for other in self._holders(bound.kind, port)):
            raise os_error(errno.EADDRINUSE)
        self.join(bound, port)

    def join(self, bound: Bound, port: int) -> None:
        """As one of those that have the port."""
        self._bound.setdefault((bound.kind, port), []).append(bound)

    def require_alone(self, listener: Bound) -> None:
        """Raises as `listen` does where another has the address."""
        rivals = [
            each for each in self._holders(listener.kind, listener.port) if each is not listener
        ]
        if any(_collide(listener, listener.host, each) for each in rivals):
            raise os_error(errno.EADDRINUSE)

    def _holders(self, kind: int, port: Any) -> list[Bound]:
        others = self._bound.get((kind, port), [])
        now = self._clock()
        for other in [each for each in others if each.held_until <= now]:
            self.unbind(other, port)
        return others

    def unbind(self, bound: Bound, port: Any) -> None:
        others = self._bound.get((bound.kind, port), [])
        if bound in others:
            others.remove(bound)
        if not others:
            self._bound.pop((bound.kind, port), None)

    def ends_waits_of(self, loop: object) -> None:
        """Addresses that ended connections of this loop still had are free."""
        for (_, port), others in tuple(self._bound.items()):
            for each in tuple(others):
                if each.held_until < math.inf and each.loop is loop:
                    self.unbind(each, port)

    def bound_at(self, kind: int, family: int, host: str, port: Any) -> list[Bound]:
        """Who is bound there: those of the very address first."""
        if (of_ipv4 := unmapped(host)) != host:
            family, host = socket.AF_INET, of_ipv4
        found = [
            each
            for each in self._bound.get((kind, port), ())
            if each.family == family or each.takes_other_family(family, each.host)
        ]
        exact = [each for each in found if unmapped(each.host) == host]
        return exact + [each for each in found if each.host in ANY.values()]


def _collide(one: Bound, host: str, other: Bound) -> bool:
    if one.family != other.family and not (
        one.takes_other_family(other.family, host)
        or other.takes_other_family(one.family, other.host)
    ):
        return False
    anywhere = host in ANY.values() or other.host in ANY.values()
    if not anywhere and unmapped(host) != unmapped(other.host):
        return False
    if one.option(socket.SO_REUSEPORT) and other.option(socket.SO_REUSEPORT):
        return False
    reuses = one.option(socket.SO_REUSEADDR) and other.option(socket.SO_REUSEADDR)
    return not reuses or other.is_listening


def unmapped(host: str) -> str:
    """Of `::ffff:127.0.0.1`, by which an IPv6 socket means an address of IPv4, that address."""
    mapped = host.lower().removeprefix(MAPPED)
    return mapped if mapped != host and is_literal(socket.AF_INET, mapped) else host


# Asked for each message, of the same few.
@lru_cache(maxsize=1024)
def is_own(host: str) -> bool:
    """Whether every machine means itself by it."""
    if host in ANY.values():
        return True
    try:
        return ipaddress.ip_address(unmapped(host)).is_loopback
    except ValueError:
        return False


def loopback_for(family: int, host: str) -> str:
    """From where a machine reaches this loopback address of its own."""
    is_mapped = family == socket.AF_INET6 and unmapped(host) != host
    return f"{MAPPED}{LOOPBACK[socket.AF_INET]}" if is_mapped else LOOPBACK[family]


def is_literal(family: int, host: str) -> bool:
    """Whether it is an address of this family, and no name."""
    try:
        socket.inet_pton(family, host.partition("%")[0])
    except (OSError, ValueError):
        return False
    return True


def numeric_scope(host: str) -> int:
    """That of an IPv6 address, by its number; 0 without one."""
    scope = host.partition("%")[2]
    return int(scope) if scope.isdigit() else 0


def as_told(family: int, host: str, port: int, scope: int = 0) -> tuple[Any, ...]:
    """As `getsockname` has it: a socket of IPv6 has those of IPv4 as mapped ones."""
    if family == socket.AF_INET:
        host = unmapped(host)
    elif host not in ANY.values() and is_literal(socket.AF_INET, host):
        host = f"{MAPPED}{host}"
    return (host, port) if family == socket.AF_INET else (host, port, 0, scope)


def in_words(address: Any) -> str:
    """As a report has it."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"
    if isinstance(address, bytes):
        return address.decode(errors="replace").replace("\0", "@")
    return address or "an unnamed socket"
