"""What browsers read: the chat of `GET /`, which is some lines for everybody else, and `/docs`.

Without a key, since a browser asks for a page without one: the page asks its reader for the key,
and sends it with each request of its own.
"""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response

from server import docs_page, page
from server.errors import ApiError
from server.routes import service_of

# The paths are in front.OPEN_PATHS as well.
router = APIRouter()

HEADERS = {
    # Its own files and its own requests; nothing inline, nothing of other sites, no frame.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # A server that is replaced brings other files: they belong together.
    "cache-control": "no-store",
}
_LINES = (
    "Ollama is running, with onestream in front of it.\n"
    "Base URL of OpenAI's clients: this address and /v1. What there is: /docs\n"
    "Does it live: /healthz. Does Ollama answer: /readyz\n"
)


@router.get("/", response_class=PlainTextResponse)
async def index(request: Request) -> Response:
    """What this is: to a browser the chat, if it may see it, else some lines.

    They begin as Ollama's own answer does, which some programs look for.
    """
    varies = {"vary": "accept"}
    if "text/html" not in request.headers.get("accept", ""):
        return PlainTextResponse(_LINES, headers=varies)
    refusal = service_of(request).strangers.page_refusal(request.scope)
    if refusal is not None:
        return PlainTextResponse(f"{_LINES}No chat is shown here: {refusal}\n", headers=varies)
    path = bytes(request.scope.get("raw_path") or b"/").decode("ascii", "replace")
    if not path.endswith("/"):
        # What the page asks for stands below it, where it is mounted, too.
        return RedirectResponse(f"./{path.rpartition('/')[2]}/", 307, headers=varies)
    return _file(page.INDEX, varies)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """All endpoints, to be read."""
    path = bytes(request.scope.get("raw_path") or b"").decode("ascii", "replace")
    if below := len(path) - len(path.rstrip("/")):
        # What it leads to stands beside it.
        return RedirectResponse(f"{'../' * below}docs", 307)
    state = request.app.state
    if state.docs is None:
        # Once: anybody may ask for it.
        state.docs = docs_page.page_of(request.app.openapi())
    headers = {**HEADERS, "content-security-policy": docs_page.POLICY}
    return HTMLResponse(state.docs, headers=headers)


def _file(name: str, headers: dict[str, str] | None = None) -> Response:
    return Response(
        page.content(name),
        media_type=page.MEDIA_TYPES[name],
        headers={**HEADERS, **(headers or {})},
    )


async def part(request: Request) -> Response:
    """A file of the page. Raises ApiError (403) as far as the page is not shown."""
    refusal = service_of(request).strangers.page_refusal(request.scope)
    if refusal is not None:
        raise ApiError(403, "page_not_shown", refusal)
    return _file(request.url.path.rpartition("/")[2])


for _path in page.PATHS:
    router.add_api_route(_path, part, methods=["GET"], include_in_schema=False)
