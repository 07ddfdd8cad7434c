"""Unforeseen exceptions: answered inside the middleware that every answer passes through.

Starlette answers them outside of all middleware, where neither the trace id nor the headers for
browsers reach the answer.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OnError = Callable[[Request, Exception], Awaitable[Response]]

# In the request's state: this middleware has answered it.
_ANSWERED = "unforeseen_answered"


class Unforeseen:
    """Answers with what `on_error` makes of an exception, and raises it again, for the log."""

    def __init__(self, app: ASGIApp, on_error: OnError) -> None:
        self._app = app
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as exc:
            if not has_begun and scope["type"] == "http":
                response = await self._on_error(Request(scope), exc)
                await response(scope, receive, send)
                scope["state"][_ANSWERED] = True
            raise


def once(on_error: OnError) -> OnError:
    """`on_error` for Starlette's own, which hands on what was raised again a second time."""

    async def unless_answered(request: Request, exc: Exception) -> Response:
        if getattr(request.state, _ANSWERED, False):
            # Nobody gets it: the answer has begun.
            return Response(status_code=500)
        return await on_error(request, exc)

    return unless_answered
