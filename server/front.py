"""What every request passes first: a trace id, the shutdown, its key, and the size of its body.

A middleware inside those that users add, and outside everything that has a path. Pure ASGI: a
BaseHTTPMiddleware would hide a client that leaves before the first byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from starlette._utils import get_route_path
from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.patience import within
from server import page
from server.body import HELD_BODY_KEY, HeldBody
from server.connection import ABORT_KEY, ClientStalled, Connection, abort_of
from server.errors import ApiError
from server.fields import ignored_query
from server.heads import check_head
from server.loopback import no_origin, stranger_in
from server.refusals import log_refused
from server.security import unauthorized
from server.service import Service

# The routed paths that need no key; every other path does, also if there is none.
OPEN_PATHS = frozenset(
    {
        "/",
        "/healthz",
        "/health",
        "/readyz",
        "/openapi.json",
        "/docs",
        *page.PATHS,
    }
)
# Without a key for programs of this machine.
METRICS_PATH = "/metrics"
# Parameters of a query that have an effect, by path.
_QUERY = {"/v1/streams": ("watch",)}
_IGNORED = b"x-ignored-fields"
# How much is read of a body without a key.
KEYLESS_MAX_BYTES = 64 * 1024
# Of a body over the limit, as many times the limit is read before the answer; with a key only.
_DISCARD_FACTOR = 2
# Without a start there are no settings.
_NOT_STARTED_SEND_S = 5.0
# How long the rest of a refused request is waited for, before the answer.
_DISCARD_S = 2.0


class ClientGone(Exception):
    """The client left before its request was whole, and gets no answer."""


class _Refused(Exception):
    """The request goes no further than the front."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


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
        scope.setdefault(ABORT_KEY, abort_of(send))
        send = _with_headers(scope, send, service)
        held = HeldBody(service.bodies)
        scope[HELD_BODY_KEY] = held
        try:
            await _admit(scope, receive, service)
            if _waits_with_its_body(scope) and not _has_route(scope):
                # Refused, whatever the body is: it is not asked for.
                send = _closing(send)
            else:
                await _take_body(scope, receive, service, held)
            await self._app(scope, _with_whole(receive, held), send)
        except _Refused as refused:
            log_refused(service.events, scope, refused.error)
            connection = Connection(scope, receive, send, send_s=service.settings.send_seconds)
            try:
                await connection.error(refused.error)
            except ClientStalled:
                await connection.abort()
        except ClientGone:
            pass
        finally:
            held.drop()
            service.free_memory.after(held.size_bytes)


async def _admit(scope: Scope, receive: Receive, service: Service) -> None:
    """Finds out whose request it is. Raises _Refused or ClientGone."""
    try:
        service.check_open()
    except ApiError as exc:
        raise _Refused(exc) from None
    try:
        check_head(scope)
        owner = _owner(scope, service)
    except ApiError as exc:
        if not await _discard_body(scope, receive, service):
            exc.headers["connection"] = "close"
        raise _Refused(exc) from None
    scope.setdefault("state", {})["owner"] = owner


def _has_route(scope: Scope) -> bool:
    """Whether a route takes the path by this method."""
    routes: list[BaseRoute] = scope["app"].routes
    return any(route.matches(scope)[0] is Match.FULL for route in routes)


async def _take_body(scope: Scope, receive: Receive, service: Service, held: HeldBody) -> None:
    """Reads the body into `held`. Raises _Refused or ClientGone."""
    limit = _body_limit(scope["state"]["owner"], service)
    try:
        if _waits_with_its_body(scope) and _length(scope) > limit.max_bytes:
            raise _too_large(limit)
        await _read_body(scope, receive, service, held, limit)
    except ApiError as exc:
        if exc.status == 503:
            # At the end of the server, say: its client sends on.
            held.drop()
            await _discard_body(scope, receive, service)
        raise _Refused(exc) from None


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
    # The path that the router uses: `path` begins with the root path or the path of a mount.
    path = get_route_path(scope)
    if path in OPEN_PATHS:
        return None
    if path == METRICS_PATH and service.strangers.may_see_metrics(scope):
        return None
    service.strangers.check(scope)
    try:
        return service.keys.owner(Headers(scope=scope).get("authorization"))
    except ApiError as exc:
        if path == METRICS_PATH:
            raise unauthorized(
                f"{exc.message}; {_why_metrics_need_a_key(scope, service)}"
            ) from None
        raise


def _why_metrics_need_a_key(scope: Scope, service: Service) -> str:
    """Of a request that they are not shown to without one."""
    if service.settings.metrics == "key":
        return "JARVIS_METRICS=key asks everybody for one"
    return (
        f"without one the metrics are for programs of this machine, but "
        f"{stranger_in(scope, no_origin)}; JARVIS_METRICS_LISTEN is a port that asks for none"
    )


async def _refuse_websocket(receive: Receive, send: Send) -> None:
    """There are none here, and one that a user adds must not bypass the keys."""
    if (await receive())["type"] == "websocket.connect":
        await send({"type": "websocket.close", "code": 1008, "reason": "no websockets here"})


def _with_headers(scope: Scope, send: Send, service: Service) -> Send:
    trace_id = service.new_trace_id()
    scope.setdefault("state", {})["trace_id"] = trace_id
    is_post = scope["method"] == "POST"
    ignored = _ignored(scope)

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: list[tuple[bytes, bytes]] = list(message.get("headers", []))
            headers += [(b"x-trace-id", trace_id.encode()), (b"x-request-id", trace_id.encode())]
            _name_ignored(headers, ignored)
            if is_post and message["status"] >= 400:
                # A prompt that is sent again would supersede the one that superseded it. One that
                # was turned away before anything was known of its session is told when to.
                may_retry = any(name == b"retry-after" for name, _ in headers)
                headers.append((b"x-should-retry", b"true" if may_retry else b"false"))
            if service.is_ending and all(name != b"connection" for name, _ in headers):
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        await send(message)

    return send_with_headers


def _ignored(scope: Scope) -> tuple[str, ...]:
    """Parameters of the query that have no effect."""
    if not scope.get("query_string"):
        return ()
    known = _QUERY.get(get_route_path(scope), ())
    return ignored_query(name for name in QueryParams(scope["query_string"]) if name not in known)


def _name_ignored(headers: list[tuple[bytes, bytes]], names: tuple[str, ...]) -> None:
    """Adds them to the header that names fields of the body, or as a header of its own."""
    if not names:
        return
    more = ", ".join(names).encode()
    for place, (name, value) in enumerate(headers):
        if name == _IGNORED:
            headers[place] = (name, value + b", " + more)
            return
    headers.append((_IGNORED, more))


# ---- the body -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _BodyLimit:
    """max_bytes: kept; read_max_bytes: read, in hope of the end, before it is refused."""

    max_bytes: int
    read_max_bytes: int
    name: str


def _body_limit(owner: str | None, service: Service) -> _BodyLimit:
    if owner is None:
        return _BodyLimit(KEYLESS_MAX_BYTES, KEYLESS_MAX_BYTES, "what is read without a key")
    max_bytes = service.settings.body_max_bytes
    return _BodyLimit(max_bytes, max_bytes * _DISCARD_FACTOR, "JARVIS_BODY_MAX_BYTES")


async def _read_body(
    scope: Scope, receive: Receive, service: Service, held: HeldBody, limit: _BodyLimit
) -> None:
    """Reads the body into `held`, within limits of size and time. Raises ApiError (408, 413)."""
    limit_s = service.settings.body_seconds
    try:
        await within(partial(service.limit, limit_s), _read_within(receive, held, limit))
    except TimeoutError:
        raise ApiError(
            408,
            "body_incomplete",
            f"the body of the request was not whole after {limit_s:g} s (JARVIS_BODY_SECONDS): "
            f"{_come(scope, held)}",
            headers={"connection": "close"},
        ) from None


def _come(scope: Scope, held: HeldBody) -> str:
    length = Headers(scope=scope).get("content-length")
    of_all = "" if length is None else f" of the {length} that Content-Length says"
    return f"{held.size_bytes} bytes{of_all} have come"


async def _read_within(receive: Receive, held: HeldBody, limit: _BodyLimit) -> None:
    read_bytes = 0
    more_body = True
    # What is too long is read on for a while and thrown away: a client that is still sending
    # when the connection is closed gets a reset, and not the answer.
    while more_body and read_bytes <= limit.read_max_bytes:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part = message.get("body", b"")
        read_bytes += len(part)
        if read_bytes <= limit.max_bytes:
            held.add(part)
        else:
            held.drop()
        more_body = message.get("more_body", False)
    if read_bytes > limit.max_bytes:
        raise _too_large(limit)


def _not_started() -> ApiError:
    return ApiError(
        500,
        "not_started",
        "the application has not started: run it under a server that speaks ASGI's lifespan "
        "protocol (uvicorn without --lifespan off), or enter app.router.lifespan_context(app) "
        "around the requests; a mounted application is started by the one around it",
    )


async def _discard_body(scope: Scope, receive: Receive, service: Service) -> bool:
    """Reads what there is of a refused request's body, but not much and not long.

    A client that is still sending when its connection is closed may get a reset, and not the
    answer. Whether the body was read to its end.
    """
    length = _length(scope)
    if length == 0 and "transfer-encoding" not in Headers(scope=scope):
        return True
    if length > KEYLESS_MAX_BYTES or _waits_with_its_body(scope):
        return False
    read_bytes = 0
    try:
        async with service.limit(_DISCARD_S):
            while read_bytes <= KEYLESS_MAX_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                read_bytes += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return True
    except (TimeoutError, ApiError):
        pass
    return False


def _length(scope: Scope) -> int:
    return int(Headers(scope=scope).get("content-length", "0"))


def _waits_with_its_body(scope: Scope) -> bool:
    """Whether the client sends its body only behind `100 Continue`, which the first read sends."""
    # HTTP/1.0 has no such status: a client that sends that waits for nothing.
    is_known = scope.get("http_version") == "1.1"
    return is_known and Headers(scope=scope).get("expect", "").lower() == "100-continue"


def _closing(send: Send) -> Send:
    """A `send` that closes the connection behind the answer: its request is left unread."""

    async def send_and_close(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_and_close


def _with_whole(receive: Receive, held: HeldBody) -> Receive:
    """A `receive` that returns the body first, and then what else comes."""
    is_returned = False

    async def receive_after_body() -> Message:
        nonlocal is_returned
        if is_returned:
            return await receive()
        is_returned = True
        return {"type": "http.request", "body": held.data, "more_body": False}

    return receive_after_body


def _too_large(limit: _BodyLimit) -> ApiError:
    return ApiError(
        413,
        "body_too_large",
        f"the body of the request is larger than {limit.max_bytes} bytes ({limit.name})",
        headers={"connection": "close"},
    )
