"""Whether a request comes from this machine, which is all that `devkey` is good for.

The local address of the connection shows where strangers can reach the server. It does not show
a browser on this machine that does what a page from elsewhere says (a name that was rebound to
127.0.0.1 shows in `Host`, a page of another site in `Origin`), nor a proxy on this machine that
hands on what strangers sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach this address. None is a Unix socket."""
    if host is None or host == "127.0.0.1" or host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # The path of a Unix socket, or a name that might resolve to anything.
        return host.startswith("/")
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def is_loopback_origin(origin: str) -> bool:
    """Whether a page of this origin was served by this machine."""
    return _is_loopback_name(_host_of(origin))


def no_origin(origin: str) -> bool:
    """Of one that lets no page call."""
    return False


def stranger_in(
    scope: Scope, origin_is_allowed: Callable[[str], bool] = is_loopback_origin
) -> str | None:
    """What shows that the request comes from another machine; None if nothing does.

    origin_is_allowed: of an `Origin` header.
    """
    return next(_signs_of_strangers(scope, origin_is_allowed), None)


def _signs_of_strangers(scope: Scope, origin_is_allowed: Callable[[str], bool]) -> Iterator[str]:
    server: tuple[str, int | None] | None = scope.get("server")
    if server is None:
        yield "the ASGI server does not tell on which address this request came in"
    elif not _is_unix_socket(server) and not is_loopback(server[0]):
        yield f"this request came in on {server[0]}"
    client: tuple[str, int] | None = scope.get("client")
    if client is not None and client[0] and not is_loopback(client[0]):
        yield f"this request came from {client[0]}"
    headers = Headers(scope=scope)
    for host in headers.getlist("host"):
        if not _is_loopback_name(_host_of(f"//{host}")):
            yield f"its Host is {host[:80]!a}, and not localhost, 127.0.0.1 or [::1]"
    for origin in headers.getlist("origin"):
        if not origin_is_allowed(origin):
            yield f"it was sent by a page of {origin[:80]!a}"
    for name, said in _said_by_proxies(headers):
        if not _is_of_this_machine(said):
            yield f"a proxy has handed it on ({name}: {said[:80]!a})"


def _is_unix_socket(server: tuple[Any, ...]) -> bool:
    # ASGI has the path of a Unix socket with None for its port.
    return len(server) > 1 and server[1] is None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback_name(host: str | None) -> bool:
    # A dot at the end is the root of all names. Browsers take every name under .localhost for
    # loopback and ask no resolver for it.
    if host is not None:
        host = host.removesuffix(".")
    return host is not None and (
        host.endswith(".localhost") or (not host.startswith("/") and is_loopback(host))
    )


# What only proxies write, of whom or for which name they hand a request on: X-Forwarded-For,
# X-Original-Forwarded-Host, CF-Connecting-IP, True-Client-IP, X-Envoy-External-Address, and
# whatever the next cloud calls its own.
_OF_PROXIES = re.compile(
    r"(.+-)?forwarded-(for|host|server)|x-original-host"
    r"|(.+-)?(client|real|remote|connecting|peer|external|viewer|source|cluster)"
    r"-?(ip|ipv4|ipv6|addr|address)"
)


def _said_by_proxies(headers: Headers) -> Iterator[tuple[str, str]]:
    """The addresses and names that proxies write into a request that they hand on."""
    for name, value in headers.items():
        parts = [part.strip() for part in value.split(",")]
        if name == "forwarded":
            pairs = [pair.partition("=") for part in parts for pair in part.split(";")]
            parts = [said for key, _, said in pairs if key.strip().lower() in ("for", "host")]
        elif name == "via":
            # `1.1 proxy:8080 (a comment)`: which proxy it was, behind the protocol's version.
            parts = [part.split()[1] if " " in part else part for part in parts]
        elif not _OF_PROXIES.fullmatch(name):
            continue
        for part in parts:
            yield name, part.strip().strip('"')


def _is_of_this_machine(said: str) -> bool:
    """Of an address or a name, with or without a port."""
    return is_loopback(said) or _is_loopback_name(_host_of(f"//{said}"))
