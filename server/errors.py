"""The errors that clients get: one exception, OpenAI's shape, one table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette._utils import get_route_path

from registry import (
    QueueFull,
    QueueTimeout,
    RegistryClosed,
    Repetition,
    SessionBusy,
    SessionLeaseLost,
    SessionsUnavailable,
    StreamCancelled,
    StreamError,
    StreamRefused,
    StreamSuperseded,
)

OLLAMA_PREFIX = "/api/"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    409: "conflict_error",
    429: "rate_limit_error",
}


# Of a message, which may quote what a client or Ollama sent, and which is kept with its stream.
MESSAGE_MAX_CHARS = 2000


class ApiError(Exception):
    """An answer that is an error.

    status: the HTTP status, as long as no header was sent. code: a stable word for programs.
    param: the field of the request that it is about.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        message = shortened(message, MESSAGE_MAX_CHARS)
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})

    def again(self) -> ApiError:
        """Another that says the same."""
        return ApiError(
            self.status, self.code, self.message, param=self.param, headers=self.headers
        )

    def body_for(self, scope: Mapping[str, Any]) -> dict[str, Any]:
        """The body in the form of the path: Ollama's own under /api, else OpenAI's."""
        is_ollamas = get_route_path(dict(scope)).startswith(OLLAMA_PREFIX)
        return self.flat_body() if is_ollamas else self.body()

    def flat_body(self) -> dict[str, Any]:
        """Ollama's shape, whose clients expect a text as `error`; the code is next to it."""
        return {"error": self.message, "code": self.code}

    def body(self) -> dict[str, Any]:
        """`{"error": {message, type, param, code}}`, the same for a status and for a message."""
        server_side = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, server_side),
                "param": self.param,
                "code": self.code,
            }
        }


def shortened(text: str, max_chars: int) -> str:
    """The text, cut if it is long."""
    return text if len(text) <= max_chars else f"{text[: max_chars - 1]}…"


_STREAM_STATUS: dict[type[StreamError], int] = {
    # Not 409, which AI SDK and LiteLLM repeat; 400 is what most libraries leave alone.
    StreamSuperseded: 400,
    StreamCancelled: 400,
    Repetition: 400,
    StreamRefused: 503,
    # A repetition of these stops no stream: it says `reject` or `enqueue` again.
    SessionBusy: 409,
    QueueFull: 429,
    QueueTimeout: 503,
    SessionLeaseLost: 503,
}


def as_api_error(error: BaseException) -> ApiError:
    """The error that the client gets for an exception that ended its stream."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RegistryClosed):
        return ApiError(
            503,
            "shutting_down",
            "the server is shutting down and has stopped the stream; what was sent of its answer "
            "is not the whole. Send the prompt again when the server is back",
        )
    if isinstance(error, SessionsUnavailable):
        wait = {"retry-after": str(error.retry_after_s)}
        return ApiError(503, error.code, str(error), headers=wait)
    if isinstance(error, StreamError):
        return ApiError(_STREAM_STATUS.get(type(error), 500), error.code, str(error))
    return ApiError(
        500,
        "internal_error",
        "the server failed in an unforeseen way; its log has the traceback under this trace id",
    )
