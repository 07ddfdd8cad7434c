"""Ways to write a request that mean the same: a slash at the end of a path, HEAD for GET, a whole
URL where a path stands.

Starlette would redirect the first, to the name in `Host`, FastAPI does not support HEAD, and
uvicorn's h11 takes the URL for a path. It wraps everything else, so that the key is checked for the
path that is served.
"""

from __future__ import annotations

import re
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

_IS_HEAD = "onestream.is_head"
# As a request to a proxy begins: scheme and authority (RFC 9112, 3.2.2).
_ABSOLUTE = re.compile("https?://([^/]*)", re.IGNORECASE)


def one_spelling(app: ASGIApp) -> ASGIApp:
    """`app`, which gets every path alone, without the slash at its end, and GET for HEAD.

    The server around leaves out the body of an answer to HEAD: it has its own scope.
    """

    async def respelled(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, **_origin_form(scope)}
            is_head = scope["method"] == "HEAD"
            method = "GET" if is_head else scope["method"]
            scope = {**scope, "method": method, "path": _without_slash(scope), _IS_HEAD: is_head}
        await app(scope, receive, send)

    return respelled


def wants_head_alone(scope: Scope) -> bool:
    """Whether nobody reads the body, and an answer without an end would have none to read it."""
    return bool(scope.get(_IS_HEAD))


def _origin_form(scope: Scope) -> dict[str, Any]:
    """What changes in the scope of a request whose target is a whole URL: nothing in others.

    Its authority is the host, whatever `Host` says (RFC 9112, 3.2.2), which stays behind it: who
    asks where a request comes from looks at every host.
    """
    root = str(scope.get("root_path", ""))
    # uvicorn writes its root path before whatever the client sent.
    sent = str(scope["path"]).removeprefix(root)
    target = _ABSOLUTE.match(sent)
    if target is None:
        return {}
    found = {
        "path": f"{root}{sent[target.end() :] or '/'}",
        "headers": [(b"host", target[1].encode("latin-1", "replace")), *scope["headers"]],
    }
    raw = bytes(scope.get("raw_path") or b"").removeprefix(root.encode())
    if raw_target := _ABSOLUTE.match(raw.decode("latin-1")):
        found["raw_path"] = root.encode() + (raw[raw_target.end() :] or b"/")
    return found


def _without_slash(scope: Scope) -> str:
    path = str(scope["path"]).rstrip("/")
    root = str(scope.get("root_path", "")).rstrip("/")
    # The root itself is a slash.
    return f"{path}/" if path == root else path
