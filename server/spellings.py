"""Two ways to write a request that mean the same: a slash at the end of a path, HEAD for GET.

Starlette would redirect the first, to the name in `Host`, and FastAPI does not support HEAD. It
wraps everything else, so that the key is checked for the path that is served.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send


def one_spelling(app: ASGIApp) -> ASGIApp:
    """`app`, which gets every path without the slash at its end, and GET for HEAD.

    The server around leaves out the body of an answer to HEAD: it has its own scope.
    """

    async def respelled(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            method = "GET" if scope["method"] == "HEAD" else scope["method"]
            scope = {**scope, "method": method, "path": _without_slash(scope)}
        await app(scope, receive, send)

    return respelled


def _without_slash(scope: Scope) -> str:
    path = str(scope["path"]).rstrip("/")
    root = str(scope.get("root_path", "")).rstrip("/")
    # The root itself is a slash.
    return f"{path}/" if path == root else path
