"""Pages in a browser that call the server: which origins may, by Starlette's own CORS.

It stands around the keys: a browser asks beforehand without one (a preflight), and a page can read
a refusal only if that says whom it is for, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from server.settings import Settings

# What a page may read besides the body: a stop button needs the name of its stream.
_EXPOSED = ("X-Trace-Id", "X-Request-Id", "X-Should-Retry", "X-Ignored-Fields", "Retry-After")


class Cors:
    """Lets pages of `Settings.cors_allowed` call `app`; `settings_of` gives None before the start.

    A request without an Origin does not come from a page, and is passed on unchanged.
    """

    def __init__(self, app: ASGIApp, settings_of: Callable[[], Settings | None]) -> None:
        self._app = app
        self._settings_of = settings_of
        self._made: tuple[Settings, CORSMiddleware] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        settings = self._settings_of()
        if settings is None or scope["type"] != "http" or not _has_origin(scope):
            await self._app(scope, receive, send)
            return
        if self._made is None or self._made[0] is not settings:
            self._made = settings, _middleware(self._app, settings.cors_allowed)
        await self._made[1](scope, receive, send)


def is_allowed(origin: str, origins: Sequence[str]) -> bool:
    """Whether pages of this origin may call, by `Settings.cors_allowed`."""
    return "*" in origins or any(re.fullmatch(_pattern(each), origin) for each in origins)


def _has_origin(scope: Scope) -> bool:
    return any(name == b"origin" for name, _ in scope["headers"])


def _middleware(app: ASGIApp, origins: Sequence[str]) -> CORSMiddleware:
    return CORSMiddleware(
        app,
        allow_origins=["*"] if "*" in origins else (),
        allow_origin_regex="|".join(map(_pattern, origins)) or None,
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=_EXPOSED,
        allow_private_network=True,
    )


def _pattern(origin: str) -> str:
    return re.escape(origin).replace(r"\*", "[^/]*")
