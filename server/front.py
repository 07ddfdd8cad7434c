"""The first thing a request meets: a trace id, the shutdown, its key, and the size of its body.

Pure ASGI, around the whole FastAPI application: a BaseHTTPMiddleware would hide a client that
leaves before the first byte.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.connection import ABORT_KEY, ClientStalled, Connection, abort_of
from server.errors import ApiError
from server.refusals import log_refused
from server.security import unauthorized
from server.service import Service

# What needs no key, by the path that is routed; everything else does, also what is not there.
OPEN_PATHS = frozenset(
    {
        "/",
        "/healthz",
        "/health",
        "/readyz",
        "/openapi.json",
        "/docs",
        "/docs/oauth2-redirect",
        "/redoc",
    }
)
# Of a body over the limit, as many times the limit is read before the answer.
_DISCARD_FACTOR = 2
# Without a start there are no settings.
_NOT_STARTED_SEND_S = 5.0


class ClientGone(Exception):
    """The client left before its request was whole; there is nobody to answer."""


class Front:
    """Wraps `app`; `service_of` gives the running service, or None before the start-up."""

    def __init__(self, app: ASGIApp, service_of: Callable[[], Service | None]) -> None:
        self._app = app
        self._service_of = service_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await _refuse_websocket(receive, send)
            return
        service = self._service_of()
        if service is None:
            await Connection(scope, receive, send, send_s=_NOT_STARTED_SEND_S).error(_not_started())
            return
        scope[ABORT_KEY] = abort_of(send)
        send = _with_headers(scope, send, service.new_trace_id())
        try:
            service.check_open()
            scope.setdefault("state", {})["owner"] = _owner(scope, service)
            receive = await _with_body(receive, service)
        except ApiError as exc:
            log_refused(scope, exc)
            connection = Connection(scope, receive, send, send_s=service.settings.send_seconds)
            try:
                await connection.error(exc)
            except ClientStalled:
                connection.abort()
            return
        except ClientGone:
            return
        await self._app(scope, receive, send)


async def owner_of(request: Request) -> str:
    """Whose key the request carries, for every endpoint that is not open.

    The front has asked for it. An endpoint that a request reaches without one, by whatever way,
    is closed all the same. Raises ApiError (401).
    """
    owner = getattr(request.state, "owner", None)
    if not isinstance(owner, str):
        raise unauthorized("this endpoint needs a key, and none was asked for")
    return owner


def _owner(scope: Scope, service: Service) -> str | None:
    # By what the router goes by: `path` has the root path or the path of a mount in front of it.
    if get_route_path(scope) in OPEN_PATHS:
        return None
    service.check_local(scope)
    return service.keys.owner(Headers(scope=scope).get("authorization"))


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    """There is none here, and none that somebody adds gets around the keys."""
    if (await receive())["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})


def _with_headers(scope: Scope, send: Send, trace_id: str) -> Send:
    scope.setdefault("state", {})["trace_id"] = trace_id
    is_post = scope["method"] == "POST"

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            headers += [(b"x-trace-id", trace_id.encode()), (b"x-request-id", trace_id.encode())]
            if is_post and message["status"] >= 400:
                # A prompt that is sent again would supersede the one that superseded it.
                headers.append((b"x-should-retry", b"false"))
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers


async def _with_body(receive: Receive, service: Service) -> Receive:
    """Reads the body, within limits of size and time; answers with a `receive` that has it."""
    settings = service.settings
    try:
        async with service.limit(settings.body_seconds):
            body = await _read_body(receive, settings.body_max_bytes)
    except TimeoutError:
        raise ApiError(
            408,
            "body_incomplete",
            f"the body of the request was not whole after {settings.body_seconds:g} s "
            f"(JARVIS_BODY_SECONDS)",
            headers={"connection": "close"},
        ) from None
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_after_body() -> Any:
        return whole.pop() if whole else await receive()

    return receive_after_body


async def _read_body(receive: Receive, max_bytes: int) -> bytes:
    body = bytearray()
    read_bytes = 0
    more_body = True
    # What is too long is read on for a while and thrown away: a client that is still sending
    # when the connection is closed gets a reset, and not the answer.
    while more_body and read_bytes <= max_bytes * _DISCARD_FACTOR:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        read_bytes += len(part)
        if read_bytes <= max_bytes:
            body += part
        more_body = message.get("more_body", False)
    if read_bytes > max_bytes:
        raise _too_large(max_bytes)
    return bytes(body)


def _not_started() -> ApiError:
    return ApiError(
        500,
        "not_started",
        "the application has not started: run it under a server that speaks ASGI's lifespan "
        "protocol (uvicorn without --lifespan off), or enter app.router.lifespan_context(app) "
        "around the requests; a mounted application is started by the one around it",
    )


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(
        413,
        "body_too_large",
        f"the body of the request is larger than {max_bytes} bytes (JARVIS_BODY_MAX_BYTES)",
        headers={"connection": "close"},
    )
