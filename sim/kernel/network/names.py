"""What `getaddrinfo` knows: the names of the network's machines, and addresses as they are."""

from __future__ import annotations

import os
import socket
from typing import Any, NoReturn

from sim.kernel.network.addresses import ANY, LOOPBACK, Machine, as_told, is_literal
from sim.kernel.network.network import NOBODYS, Network
from sim.kernel.origin import forwards, modelled

_KINDS = {
    socket.SOCK_STREAM: socket.IPPROTO_TCP,
    socket.SOCK_DGRAM: socket.IPPROTO_UDP,
    socket.SOCK_RAW: 0,
}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def addresses_of(network: Network, seen_from: Machine, family: int, host: str | None) -> list[Any]:
    """Pairs of family and address for a name. Refused if it is nobody's."""
    wanted = [each for each in _FAMILIES if family in (socket.AF_UNSPEC, each)]
    if host is None:
        return [(each, LOOPBACK[each]) for each in wanted]
    literal = [(each, host) for each in wanted if is_literal(each, host)]
    if literal:
        return literal
    if any(is_literal(each, host) for each in _FAMILIES):
        raise modelled(
            socket.gaierror(socket.EAI_ADDRFAMILY, "Address family for hostname not supported")
        )
    for machine in network.known_machines():
        if host in (machine.name, f"{machine.name}."):
            found = [
                (f, a)
                for f in wanted
                for a in machine.reached_by(network.machine_here())
                if is_literal(f, a)
            ]
            # Of one family, unless another is asked for: else each connection has two tries.
            return found[:1] if family == socket.AF_UNSPEC else found
    return network.loop.refuse(f"the name {host!r}", NOBODYS)


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
        host = bytes(host).decode("idna")
    if host in ("", b""):
        host = None
    if host is None and port is None:
        _no_name()
    number = _port(port)
    if host is None and flags & socket.AI_PASSIVE:
        found = [(f, ANY[f]) for f in _FAMILIES if family in (socket.AF_UNSPEC, f)]
    else:
        found = addresses_of(network, network.machine_here(), family, host)
    kinds = [kind for kind in _KINDS if type in (0, kind) and proto in (0, _KINDS[kind])]
    if not kinds:
        raise modelled(
            socket.gaierror(socket.EAI_SERVICE, "Servname not supported for ai_socktype")
        )
    canonical = str(host or "") if flags & socket.AI_CANONNAME else ""
    return [
        (
            socket.AddressFamily(each),
            socket.SocketKind(kind),
            int(_KINDS[kind]),
            canonical,
            as_told(each, address, number),
        )
        for each, address in found
        for kind in kinds
    ]


def _port(port: Any) -> int:
    if port is None:
        return 0
    if isinstance(port, (bytes, bytearray)):
        port = bytes(port).decode()
    try:
        return int(port)
    except ValueError:
        # A service by its name, from a file of the system.
        return socket.getservbyname(port)


def _no_name() -> NoReturn:
    raise modelled(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))


@forwards
def address_of(network: Network, machine: Machine, family: int, address: Any) -> tuple[str, int]:
    """Host and port of what `bind`, `connect` and `sendto` take."""
    if not isinstance(address, tuple):
        raise modelled(TypeError(f"AF_INET address must be tuple, not {type(address).__name__}"))
    host, port = address[:2]
    port = int(port) if not isinstance(port, int) else port
    if not 0 <= port <= 65_535:
        raise modelled(OverflowError("port must be 0-65535."))
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("idna")
    if host == "":
        return ANY[family], port
    if host == "<broadcast>":
        return "255.255.255.255", port
    return addresses_of(network, machine, family, host)[0][1], port


def unix_path(address: Any) -> str:
    """A path, or a name of the abstract namespace that begins with a zero byte."""
    path = address if isinstance(address, str) else os.fsdecode(bytes(address))
    if len(os.fsencode(path)) > 107:
        raise modelled(OSError("AF_UNIX path too long"))
    return path


def getnameinfo(network: Network, sockaddr: Any, flags: int = 0) -> tuple[str, str]:
    """As socket.getnameinfo."""
    host, port = sockaddr[:2]
    machine = (
        None if flags & socket.NI_NUMERICHOST else network.machine_at(host, network.machine_here())
    )
    return (host if machine is None else machine.name), str(port)


def gethostbyname(network: Network, hostname: str) -> str:
    """As socket.gethostbyname."""
    return address_of(network, network.machine_here(), socket.AF_INET, (hostname, 0))[0]


def gethostbyname_ex(network: Network, hostname: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyname_ex."""
    return hostname, [], [gethostbyname(network, hostname)]


def gethostbyaddr(network: Network, ip_address: str) -> tuple[str, list[str], list[str]]:
    """As socket.gethostbyaddr."""
    return network.machine_at(ip_address, network.machine_here()).name, [], [ip_address]
