"""Two ways to write a request that mean the same: a slash at the end of a path, HEAD for GET.

Starlette would redirect the first, to the name in `Host`, and FastAPI does not support HEAD. It
wraps everything else, so that the key is checked for the path that is served.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

_IS_HEAD = "onestream.is_head"


def one_spelling(app: ASGIApp) -> ASGIApp:
    """`app`, which gets every path without the slash at its end, and GET for HEAD.

    The server around leaves out the body of an answer to HEAD: it has its own scope.
    """

    async def respelled(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            is_head = scope["method"] == "HEAD"
            method = "GET" if is_head else scope["method"]
            scope = {**scope, "method": method, "path": _without_slash(scope), _IS_HEAD: is_head}
        await app(scope, receive, send)

    return respelled


def wants_head_alone(scope: Scope) -> bool:
    """Whether nobody reads the body, and an answer without an end would have none to read it."""
    return bool(scope.get(_IS_HEAD))


def _without_slash(scope: Scope) -> str:
    path = str(scope["path"]).rstrip("/")
    root = str(scope.get("root_path", "")).rstrip("/")
    # The root itself is a slash.
    return f"{path}/" if path == root else path
