"""Whether a request comes from this machine, which is all that `devkey` is good for.

The local address of the connection tells where strangers can reach the server. It does not tell
of a browser on this machine that does what a page from elsewhere says (a name that was rebound
to 127.0.0.1 shows in `Host`, a page of another site in `Origin`), nor of a proxy on this machine
that hands on what strangers sent.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope


def is_loopback(host: str | None) -> bool:
    """Whether nobody on another machine can reach this address. None is a Unix socket."""
    if host is None or host.lower() == "localhost":
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


def stranger_in(
    scope: Scope, origin_is_allowed: Callable[[str], bool] = is_loopback_origin
) -> str | None:
    """What shows that somebody else is behind this request; None if nothing does.

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
    for name, sender in _forwarded_for(headers):
        if not is_loopback(sender):
            yield f"a proxy has handed it on ({name}: {sender[:80]!a})"


def _is_unix_socket(server: tuple[Any, ...]) -> bool:
    # ASGI has the path of a Unix socket with None for its port.
    return len(server) > 1 and server[1] is None


def _host_of(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _is_loopback_name(host: str | None) -> bool:
    # Browsers take every name under .localhost for loopback and ask no resolver for it.
    return host is not None and (
        host.endswith(".localhost") or (not host.startswith("/") and is_loopback(host))
    )


def _forwarded_for(headers: Headers) -> Iterator[tuple[str, str]]:
    """The addresses of those for whom proxies say that they hand a request on."""
    for name in ("x-forwarded-for", "x-real-ip"):
        for value in headers.getlist(name):
            for sender in value.split(","):
                yield name, _without_port(sender)
    for value in headers.getlist("forwarded"):
        for pair in value.replace(";", ",").split(","):
            key, _, sender = pair.partition("=")
            if key.strip().lower() == "for":
                yield "forwarded", _without_port(sender)


def _without_port(address: str) -> str:
    address = address.strip().strip('"')
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
