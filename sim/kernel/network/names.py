"""What `getaddrinfo` knows: the names of the network's machines, and addresses as they are.

The errors, and what decides between them, are glibc's; a service's name is looked up in the file of
the system, as there.
"""

from __future__ import annotations

import operator
import os
import socket
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

from sim.kernel.network.addresses import (
    ANY,
    LOOPBACK,
    MAPPED,
    Machine,
    as_told,
    is_literal,
    numeric_scope,
    unmapped,
)
from sim.kernel.network.conditions import NOBODYS
from sim.kernel.network.network import Network
from sim.kernel.origin import forwards, modelled

_KINDS: dict[int, int] = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
    socket.SOCK_RAW: 0,
}
_SERVICE_KINDS: dict[int, str] = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
NAMED_MAX = 8
# Bound here: within executions another function stands there.
_system_name = socket.gethostname
_NEVER_A_NAME = ".invalid"
"""Of all names that no machine here has, the ones of which RFC 6761 says what is answered."""

_SAID = {
    socket.EAI_ADDRFAMILY: "Address family for hostname not supported",
    socket.EAI_FAMILY: "ai_family not supported",
    socket.EAI_NONAME: "Name or service not known",
    socket.EAI_SERVICE: "Servname not supported for ai_socktype",
    socket.EAI_SOCKTYPE: "ai_socktype not supported",
}


class Asked(NamedTuple):
    """What `getaddrinfo` is asked for, besides the host."""

    family: int = socket.AF_UNSPEC
    flags: int = 0

    @property
    def families(self) -> list[Any]:
        return [each for each in _FAMILIES if self.family in (socket.AF_UNSPEC, each)]


@forwards
def _fails(number: int) -> NoReturn:
    raise modelled(socket.gaierror(number, _SAID[number]))


def addresses_of(network: Network, host: str, asked: Asked) -> list[tuple[Any, str]]:
    """Pairs of family and address for a name, at least one. Refused if it is nobody's."""
    for each in _FAMILIES:
        literal = _numeric(each, host)
        if literal is None:
            continue
        if each in asked.families:
            return [(each, literal)]
        if each == socket.AF_INET and asked.flags & socket.AI_V4MAPPED:
            return [(socket.AF_INET6, f"{MAPPED}{literal}")]
        if unmapped(literal) != literal:
            return [(socket.AF_INET, unmapped(literal))]
        _fails(socket.EAI_ADDRFAMILY)
    if asked.flags & socket.AI_NUMERICHOST or host == "" or host.endswith(_NEVER_A_NAME):
        _fails(socket.EAI_NONAME)
    machines = network.known_machines()
    machine = next((m for m in machines if _is_named(m, host)), None)
    if machine is None and host == _system_name():
        # As `socket.gethostname` tells it where there is but one machine: who asks is on it.
        machine = network.machine_here()
    if machine is None:
        return network.loop.refuse(f"the name {host!r}{_beside(machines)}", NOBODYS)
    reached = machine.reached_by(network.machine_here())
    found = [(f, a) for a in reached for f in asked.families if is_literal(f, a)]
    if not found:
        _fails(socket.EAI_NONAME)
    # Of its own, as where the file of hosts has one line: else each connection has two tries.
    return found[:1] if machine is network.machine_here() else found


def _beside(machines: Iterable[Machine]) -> str:
    """The names that there are, for who has misspelt one."""
    names = [machine.name for machine in machines if machine.name != "localhost"]
    if not names:
        return ""
    listed = ", ".join(map(repr, names[:NAMED_MAX])) + ", …" * (len(names) > NAMED_MAX)
    return f" (the world has {listed})"


def _is_named(machine: Machine, host: str) -> bool:
    return host.lower().removesuffix(".") == machine.name.lower()


def _numeric(family: int, host: str) -> str | None:
    """The address that a host is in digits; IPv4 is taken in short as well, as `127.1`."""
    if is_literal(family, host):
        return host
    if family == socket.AF_INET and host[:1].isdigit() and not any(map(str.isspace, host)):
        try:
            return socket.inet_ntoa(socket.inet_aton(host))
        except OSError:
            return None
    return None


def seconds_for(network: Network, host: Any) -> float:
    """How long it is looked up: an address in digits, or none, needs no look-up."""
    if not host or (isinstance(host, str) and any(_numeric(each, host) for each in _FAMILIES)):
        return 0.0
    return network.look_up_s


@forwards
def getaddrinfo(
    network: Network,
    host: Any,
    port: Any,
    family: int = 0,
    type: int = 0,
    proto: int = 0,
    flags: int = 0,
) -> list[tuple[Any, Any, int, str, Any]]:
    """As socket.getaddrinfo."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii")
    elif host is not None and not isinstance(host, str):
        raise modelled(TypeError("getaddrinfo() argument 1 must be string or None"))
    asked = Asked(family, flags)
    service = _service(port)
    if host is None and service is None:
        _fails(socket.EAI_NONAME)
    if not asked.families:
        _fails(socket.EAI_FAMILY)
    ports = _ports(service, _kinds(type, proto, service), flags)
    if host is None:
        # IPv6 first where both are told, but for `bind`.
        found = [(each, LOOPBACK[each]) for each in reversed(asked.families)]
        if flags & socket.AI_PASSIVE:
            found = [(each, ANY[each]) for each in asked.families]
    else:
        found = addresses_of(network, host, asked)
    canonical = host or "" if flags & socket.AI_CANONNAME else ""
    return [
        (
            socket.AddressFamily(each),
            socket.SocketKind(kind),
            int(_KINDS[kind]),
            # The first alone says it.
            "" if i else canonical,
            as_told(each, address.partition("%")[0], number, numeric_scope(address)),
        )
        for i, (each, address, kind, number) in enumerate(
            (each, address, kind, number) for each, address in found for kind, number in ports
        )
    ]


def _service(port: Any) -> str | None:
    if port is None:
        return None
    if isinstance(port, (bytes, bytearray)):
        return bytes(port).decode()
    if isinstance(port, (str, int)):
        return str(port)
    raise modelled(OSError("Int or String expected"))


def _kinds(kind: int, proto: int, service: str | None) -> list[int]:
    found = [k for k, p in _KINDS.items() if kind in (0, k) and (proto in (0, p) or not p)]
    if not found or (kind == 0 and proto not in (0, *_KINDS.values())):
        _fails(socket.EAI_SOCKTYPE if kind else socket.EAI_SERVICE)
    return found


def _ports(service: str | None, kinds: Sequence[int], flags: int) -> list[tuple[int, int]]:
    """Pairs of kind and port."""
    text = (service or "0").strip()
    if text.isdigit():
        return [(kind, int(text) & 0xFFFF) for kind in kinds]
    if flags & socket.AI_NUMERICSERV:
        _fails(socket.EAI_NONAME)
    found = [(kind, _port_of_service(text, kind)) for kind in kinds]
    if known := [(kind, port) for kind, port in found if port is not None]:
        return known
    _fails(socket.EAI_SERVICE)


def _port_of_service(name: str, kind: int) -> int | None:
    if kind not in _SERVICE_KINDS:
        return None
    try:
        return socket.getservbyname(name, _SERVICE_KINDS[kind])
    except OSError:
        return None


@forwards
def address_of(network: Network, what: str, family: int, address: Any) -> tuple[str, int]:
    """Host and port of what `bind`, `connect` and `sendto` take; `what` is called so."""
    of = "AF_INET" if family == socket.AF_INET else "AF_INET6"
    if not isinstance(address, tuple):
        given = type(address).__name__
        raise modelled(TypeError(f"{what}(): {of} address must be tuple, not {given}"))
    if family == socket.AF_INET and len(address) != 2:
        raise modelled(TypeError(f"{of} address must be a pair (host, port)"))
    if not 2 <= len(address) <= 4:
        must = "a tuple (host, port[, flowinfo[, scopeid]])"
        raise modelled(TypeError(f"{of} address must be {must}"))
    host, port = address[:2]
    try:
        port = operator.index(port)
    except TypeError as error:
        raise modelled(error) from None
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii")
    if not isinstance(host, str):
        given = type(host).__name__
        raise modelled(TypeError(f"str, bytes or bytearray expected, not {given}"))
    found = _host_of(network, family, host)
    if not 0 <= port <= 65_535:
        raise modelled(OverflowError(f"{what}(): port must be 0-65535."))
    return found, port


def _host_of(network: Network, family: int, host: str) -> str:
    if host == "":
        return ANY[family]
    if host == "<broadcast>":
        return "255.255.255.255"
    address = addresses_of(network, host, Asked(family))[0][1]
    return address.partition("%")[0]


def unix_path(address: Any) -> str:
    """A path, or a name of the abstract namespace that begins with a zero byte."""
    if isinstance(address, str):
        name = os.fsencode(address)
    else:
        try:
            name = bytes(memoryview(address))
        except TypeError:
            what = type(address).__name__
            wrong = TypeError(f"a bytes-like object is required, not '{what}'")
            raise modelled(wrong) from None
    is_abstract = name.startswith(b"\0")
    if len(name) > (108 if is_abstract else 107):
        raise modelled(OSError("AF_UNIX path too long"))
    # C ends a path at its first zero byte.
    return os.fsdecode(name if is_abstract else name.split(b"\0")[0])


@forwards
def getnameinfo(network: Network, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
    """As socket.getnameinfo."""
    if not isinstance(sockaddr, tuple):
        raise modelled(TypeError("getnameinfo() argument 1 must be a tuple"))
    host, port = sockaddr[:2]
    addresses_of(network, host, Asked(flags=socket.AI_NUMERICHOST))
    told = host
    if not flags & socket.NI_NUMERICHOST:
        told = network.machine_at(host, network.machine_here()).name
    return told, _service_at(port, flags)


def _service_at(port: int, flags: int) -> str:
    if flags & socket.NI_NUMERICSERV:
        return str(port)
    try:
        return socket.getservbyport(port, "udp" if flags & socket.NI_DGRAM else "tcp")
    except OSError:
        return str(port)


@forwards
def gethostbyname(network: Network, hostname: str) -> str:
    """As socket.gethostbyname."""
    return _host_of(network, socket.AF_INET, hostname)


@forwards
def gethostbyname_ex(network: Network, hostname: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyname_ex."""
    return hostname, [], [gethostbyname(network, hostname)]


@forwards
def gethostbyaddr(network: Network, ip_address: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyaddr."""
    address = addresses_of(network, ip_address, Asked())[0][1]
    return network.machine_at(address, network.machine_here()).name, [], [address]
