"""Heads of requests that mean nothing here, or could mean two things: refused from everybody.

What may be read in two ways is read in one by a proxy and in the other by us.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from server.errors import ApiError

# Of these only one counts; that there are several, and which, nobody would be told.
_ONCE = ("authorization", "content-type", "content-encoding")
# In a key they do; in the names of types and encodings they do not.
_CAPITALS_COUNT = ("authorization",)
_SHOWN_CHARS = 80


def check_head(scope: Scope) -> None:
    """Raises ApiError (400, 417, 505)."""
    headers = Headers(scope=scope)
    _check_version(scope)
    _check_target(scope)
    for host in headers.getlist("host"):
        _check_host(host)
    for name in _ONCE:
        _check_once(headers, name)
    if scope.get("http_version") == "1.1":
        for said in headers.getlist("expect"):
            _check_expected(said)


def _check_version(scope: Scope) -> None:
    # A server that speaks HTTP/2 says "2"; on a connection of HTTP/1 a client has claimed it.
    version = str(scope.get("http_version", "1.1"))
    if "." in version and not version.startswith("1."):
        raise ApiError(
            505,
            "http_version_not_supported",
            f"this connection speaks HTTP/1.1, and the request says HTTP/{version}; a client that "
            f"was told to speak HTTP/2 without asking first (prior knowledge) has to be told not "
            f"to",
            headers={"connection": "close"},
        )


def _check_target(scope: Scope) -> None:
    # uvicorn writes its root path before whatever the client sent.
    target = str(scope["path"]).removeprefix(str(scope.get("root_path", "")).rstrip("/"))
    if target == "*" and scope["method"] == "OPTIONS":
        # The whole server: the only method that may ask for it.
        return
    if target and not target.startswith("/"):
        raise ApiError(
            400,
            "invalid_target",
            f"the request asks for {target[:_SHOWN_CHARS]!a}, and a path begins with a slash: "
            f"GET /v1/models HTTP/1.1",
        )


def _check_host(host: str) -> None:
    try:
        # Looked at when it is asked for.
        _ = urlsplit(f"//{host}").port
    except ValueError:
        raise ApiError(
            400,
            "invalid_host",
            f"the request is for the host {host[:_SHOWN_CHARS]!a}, which is none with a port from "
            f"0 to 65535; look at the URL it was sent to",
        ) from None


def _check_once(headers: Headers, name: str) -> None:
    values = headers.getlist(name)
    meant = values if name in _CAPITALS_COUNT else [value.lower() for value in values]
    if len(set(meant)) > 1:
        # One of them may be a key: none is shown.
        title = name.title()
        problem = f"{title}: is there {len(values)} times with different values; send it once"
        raise ApiError(400, "invalid_request", problem, param=title)


def _check_expected(said: str) -> None:
    for each in said.split(","):
        if each.strip().lower() not in ("", "100-continue"):
            raise ApiError(
                417,
                "expectation_failed",
                f"Expect: {each.strip()[:_SHOWN_CHARS]!a} is nothing that this server can do; it "
                f"knows 100-continue",
            )
