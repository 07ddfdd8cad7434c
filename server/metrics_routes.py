"""`GET /metrics`: what `metrics.py` has counted, in Prometheus's form or OpenMetrics'."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from server.documented import errors
from server.errors import ApiError
from server.front import METRICS_PATH as PATH
from server.loopback import is_loopback, no_origin, stranger_in
from server.routes import service_of
from server.security import unauthorized
from server.service import Service
from server.settings import host_and_port

# Not in front.OPEN_PATHS: only programs of this machine need no key.
router = APIRouter()


_TEXT = {"description": "the text", "content": {"text/plain": {"schema": {"type": "string"}}}}


@router.get(PATH, response_class=Response, responses={**errors(401, 404), 200: _TEXT})
async def metrics(request: Request) -> Response:
    """Counts and measurements of this process, without a key for programs of this machine."""
    service = service_of(request)
    if service.metrics is None:
        raise ApiError(404, "not_found", "metrics are switched off (JARVIS_METRICS=off)")
    # The front has asked for a key; whatever way led here past it is closed all the same.
    is_keyed = isinstance(getattr(request.state, "owner", None), str)
    if not is_keyed and not service.strangers.may_see_metrics(request.scope):
        raise unauthorized("the metrics need a key here (JARVIS_METRICS)")
    return answer(service, request.headers.get("accept", ""))


def answer(service: Service, accept: str) -> Response:
    content, content_type = service.exposition(accept)
    return Response(content, headers={"content-type": content_type, "cache-control": "no-store"})


class MetricsAlone:
    """The application of a port of its own: this path, and nothing else; no key.

    On loopback it is for programs of this machine, as the path is on the main port: a page from
    elsewhere, in a browser here, reaches it as well (`loopback.py`).
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._is_local = is_loopback(host_and_port(service.settings.metrics_listen)[0])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope)
        stranger = stranger_in(scope, no_origin) if self._is_local else None
        response: Response
        if stranger is not None:
            response = PlainTextResponse(
                f"the port of JARVIS_METRICS_LISTEN is for programs of this machine here, but "
                f"{stranger}\n",
                403,
            )
        elif scope["path"] == PATH and scope["method"] in ("GET", "HEAD"):
            response = answer(self._service, request.headers.get("accept", ""))
        else:
            response = PlainTextResponse(f"there is GET {PATH} here, and nothing else\n", 404)
        await response(scope, receive, send)
