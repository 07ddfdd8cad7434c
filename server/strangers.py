"""Who may have what without a key of its own: programs and browsers of this machine."""

from __future__ import annotations

from starlette.types import Scope

from server.browsers import is_allowed
from server.errors import ApiError
from server.loopback import is_loopback_origin, no_origin, stranger_in
from server.security import Keys
from server.settings import DEVKEY, Settings


class Strangers:
    def __init__(self, settings: Settings, keys: Keys) -> None:
        self._settings = settings
        self._keys = keys

    def check(self, scope: Scope) -> None:
        """Raises ApiError (403) where strangers reach a server that only has `devkey`.

        The start-up refuses such an address where it can see it. What it can't see, a socket
        that was handed over, say, or a page that a browser on this machine shows, shows here.
        """
        stranger = stranger_in(scope, self._origin_is_allowed) if self._keys.is_devkey else None
        if stranger is not None:
            raise ApiError(
                403,
                "devkey_on_loopback_only",
                f"no key is configured, and {DEVKEY!r} is for loopback only, but {stranger}; "
                f"start the server with JARVIS_API_KEYS",
            )

    def may_see_metrics(self, scope: Scope) -> bool:
        """Whether it needs no key for them: a program of this machine, in no browser."""
        return self._settings.metrics == "loopback" and stranger_in(scope, no_origin) is None

    def page_refusal(self, scope: Scope) -> str | None:
        """Why the request may not see the page; None if it may."""
        if self._settings.page == "off":
            return "it is switched off (JARVIS_PAGE=off)"
        if self._settings.page == "anywhere":
            return None
        stranger = stranger_in(scope, self._origin_is_allowed)
        return stranger and (
            f"it is for browsers of this machine, but {stranger}; with JARVIS_PAGE=anywhere it is "
            f"shown to others, whose prompts need a key all the same"
        )

    def _origin_is_allowed(self, origin: str) -> bool:
        return is_loopback_origin(origin) or is_allowed(origin, self._settings.cors_allowed)
