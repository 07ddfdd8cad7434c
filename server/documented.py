"""openapi.json: what FastAPI cannot know of our answers.

A route names its own errors, `responses=errors(404, 504)`; what any request can meet is added here
for all of them, with the headers, and the key where one is asked for.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict

from server import body
from server.errors import OLLAMA_PREFIX
from server.front import METRICS_PATH, OPEN_PATHS

_MEANINGS: dict[int | str, str] = {
    400: "the request cannot be read, or asks for what there is not; or the prompt was "
    "stopped, by a newer one or by name, or repeats one that was",
    401: "no key, or an unknown one",
    403: "not from this address, or not by this name",
    404: "there is no such thing, or it is another key's",
    408: "the body did not come in time",
    409: "the session is busy, and the prompt was to be rejected then",
    413: "the body is too large",
    415: "the body is compressed",
    417: "the head expects what this server cannot do",
    429: "too many requests, or too many prompts in the session's queue",
    500: "the server failed, its log says how",
    502: "Ollama's answer is of no use",
    503: "shutting down, or Ollama cannot be reached or is busy",
    504: "Ollama is silent",
    505: "the request claims a version of HTTP that the connection does not speak",
    "5XX": "Ollama failed with this status",
}
# What any request can meet before it reaches its route, and when the server has a fault.
_ANY = (400, 403, 408, 413, 417, 500, 503, 505)
# For a route that asks Ollama: what its failures become.
OLLAMAS: tuple[int | str, ...] = (429, 502, 503, 504, "5XX")
_MESSAGES = 'data: {"object":"chat.completion.chunk", …}\n\ndata: [DONE]\n\n'
_HEADERS = {
    "X-Trace-Id": "names this request in the log, and its stream in /v1/streams/{trace_id}",
    "X-Request-Id": "the same",
}


class Error(BaseModel):
    """What went wrong: a sentence for people, a code for programs."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(BaseModel):
    """Every answer that is an error, in OpenAI's shape."""

    error: Error


class OllamaErrorAnswer(BaseModel):
    """The same under /api/, in Ollama's shape."""

    error: str
    code: str


# ---- answers that are not errors -----------------------------------------------------------


class Cancelled(BaseModel):
    trace_id: str
    cancelled: bool


class Timings(BaseModel):
    """Milliseconds since the register; null for what has not come."""

    started: int | None
    first_chunk: int | None
    ended: int | None
    now: int


class StreamView(BaseModel):
    """One stream; its `text` only where one is asked for."""

    # Further fields may be added.
    model_config = ConfigDict(extra="allow")

    trace_id: str
    object: Literal["stream"]
    session_id: str
    model: str | None
    state: str
    queue_position: int | None
    reason: str | None
    message: str | None
    created: int
    chunks: int
    timings_ms: Timings


class Streams(BaseModel):
    object: Literal["list"]
    data: list[StreamView]


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    """`streams`: how many this process has in each state of the protocol."""

    status: Literal["ok"]
    streams: dict[str, int]
    sessions: Sessions | None = None


class Sessions(BaseModel):
    """Where workers share them: which one answers here, and how the store answered it last.

    Another worker may fare otherwise: each says so of itself.
    """

    worker: str
    streams_are: Literal["of_this_worker"]
    store: Literal["ok", "unreachable", "other_settings", "refuses"]


class Readiness(BaseModel):
    """Of this process; of several workers, whichever took the connection."""

    status: Literal["ok"]
    sessions: Sessions | None = None


# ---- what a route documents itself ----------------------------------------------------------


def errors(*statuses: int | str) -> dict[int | str, dict[str, Any]]:
    """The statuses of a route's own errors, for its `responses`."""
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


def streamed(description: str) -> dict[int | str, dict[str, Any]]:
    """The answer 200 that is server-sent events where the request says `stream`."""
    return {
        200: {
            "description": description,
            # Without a schema: OpenAPI 3.1 has none for a stream of messages.
            "content": {"text/event-stream": {"example": _MESSAGES}},
        }
    }


def watched() -> dict[int | str, dict[str, Any]]:
    """The list of the streams, or with `?watch` messages."""
    messages = 'data: {"object":"list", …}\n\ndata: {"object":"stream", …}\n\n'
    return {
        200: {
            "description": "The streams; with `?watch` as messages, while they change",
            "content": {"text/event-stream": {"example": messages}},
        }
    }


def request_headers(**meanings: str) -> dict[str, Any]:
    """Headers that a route reads itself, for its `openapi_extra`: `x_session_id="…"`."""
    return {
        "parameters": [
            {
                "name": name.replace("_", "-").title(),
                "in": "header",
                "required": False,
                "description": meaning,
                "schema": {"type": "string"},
            }
            for name, meaning in meanings.items()
        ]
    }


# ---- the document ---------------------------------------------------------------------------


def openapi(app: FastAPI) -> dict[str, Any]:
    """The whole document."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    schemas.update(body.described())
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas.setdefault("Error", Error.model_json_schema())
    schemas.setdefault(
        "ErrorAnswer",
        ErrorAnswer.model_json_schema(ref_template="#/components/schemas/{model}"),
    )
    schemas["ErrorAnswer"].pop("$defs", None)
    schemas["OllamaErrorAnswer"] = OllamaErrorAnswer.model_json_schema()
    components["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "one of JARVIS_API_KEYS"}
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, is_keyed=path not in OPEN_PATHS)
            if path == METRICS_PATH:
                # Who asks for it decides: a program of this machine needs no key, by default.
                operation["security"].append({})
            if path.startswith(OLLAMA_PREFIX):
                _use_ollamas_errors(operation)
    return document


def _complete(operation: dict[str, Any], *, is_keyed: bool) -> None:
    responses = operation["responses"]
    # FastAPI's own error of validation, which is a 400 here.
    responses.pop("422", None)
    for status in (*_ANY, *((401,) if is_keyed else ())):
        responses.setdefault(str(status), _error_response(status))
    if is_keyed:
        operation["security"] = [{"key": []}]
    for response in responses.values():
        response["headers"] = {
            name: {"description": meaning, "schema": {"type": "string"}}
            for name, meaning in _HEADERS.items()
        }
    operation["responses"] = dict(sorted(responses.items()))


_OPENAIS_ERROR = {"$ref": "#/components/schemas/ErrorAnswer"}
_OLLAMAS_ERROR = {"$ref": "#/components/schemas/OllamaErrorAnswer"}


def _error_response(status: int) -> dict[str, Any]:
    return {
        "description": _MEANINGS[status],
        "content": {"application/json": {"schema": _OPENAIS_ERROR}},
    }


def _use_ollamas_errors(operation: dict[str, Any]) -> None:
    """What `ApiError.body_for` sends under this path."""
    for response in operation["responses"].values():
        content = response.get("content", {}).get("application/json", {})
        if content.get("schema") == _OPENAIS_ERROR:
            content["schema"] = _OLLAMAS_ERROR
