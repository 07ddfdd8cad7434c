"""The async Ollama client: a connection per call, closed with it, through httpx's transports.

A pool of them would lose places by cancels (httpcore#1093), until the next request hangs for ever;
and what an `httpx.AsyncClient` does besides, each call would pay for: half a millisecond.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import cache, partial
from typing import Any, cast

import httpx

from registry import Stream
from registry.daemon_executor import DaemonExecutor
from server.errors import ApiError
from server.http_call import BEFORE_SEND, CallTransport
from server.lookup import addresses_of, is_name
from server.ollama import (
    ERROR_BODY_MAX_BYTES,
    MODELS_MAX_BYTES,
    PLAIN,
    ChunkReader,
    LimitedBody,
    OllamaRequest,
    Put,
    broken_error,
    forget,
    status_error,
    unreachable_error,
)

# Names looked up at once; one without an answer blocks its thread for the resolver's time limit.
LOOKUPS_MAX = 8

# Of an answer that is not a stream; the longest known has many embeddings: TEXTS_MAX vectors of
# 4096 numbers, 22 bytes each.
ANSWER_MAX_BYTES = 256 * 1024 * 1024

USER_AGENT = "onestream"

AsyncTransportFactory = Callable[[], httpx.AsyncBaseTransport]


def async_transport_factory(address: str) -> AsyncTransportFactory:
    """The transport of every call; the TLS context, costly, is made once, for https only."""
    tls = ssl.create_default_context() if address.startswith("https") else None
    look_up = None
    if is_name(httpx.URL(address).host):
        executor = DaemonExecutor(LOOKUPS_MAX, thread_name="onestream-lookup")
        look_up = partial(addresses_of, executor)
    # It keeps nothing between two calls.
    transport = CallTransport(tls, look_up)
    return lambda: transport


class AsyncOllama:
    """Implements OllamaClient on the event loop, and asks for the list of models."""

    def __init__(
        self,
        address: str,
        *,
        connect_s: float,
        headers: Mapping[str, str] | None = None,
        new_transport: AsyncTransportFactory | None = None,
    ) -> None:
        """headers: of every request, secrets included; `address` is shown, they are not."""
        self.address = address
        self._headers = dict(headers or {})
        self._new_transport = new_transport or async_transport_factory(address)
        # The connect is limited here; silence afterwards by the stream's task.
        self._limits = {"timeout": httpx.Timeout(None, connect=connect_s).as_dict()}
        # To read a URL takes longer than to send it; there are a few paths.
        self._url = cache(lambda path: httpx.URL(f"{address}{path}"))

    async def ask(self, request: OllamaRequest, stream: Stream, put: Put) -> None:
        reader = ChunkReader(keeps_lines=request.keeps_lines)
        # A worker may stand still while it connects, and its session be another's when it goes on.
        before = {BEFORE_SEND: stream.raise_if_stopped}
        asked = self._asked("POST", request.path, **request.sent(), more=before)
        async with asked as response:
            raw = cast(AsyncGenerator[bytes, None], response.aiter_raw())
            async with aclosing(raw) as segments:
                async for segment in segments:
                    for chunk in reader.feed(segment):
                        await put(chunk)
                    if reader.is_done:
                        return
            for chunk in reader.end():
                await put(chunk)

    async def models(self) -> list[dict[str, Any]]:
        """Ollama's own list, as /api/tags has it. Raises ApiError."""
        content = await self.fetch("GET", "/api/tags", b"", MODELS_MAX_BYTES)
        try:
            models = json.loads(content)["models"]
            if not all(isinstance(model["name"], str) for model in models):
                raise TypeError("a name that is no text")
            return [dict(model) for model in models]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ApiError(
                502, "upstream_not_understood", f"{self.address}/api/tags sent no list of models"
            ) from None

    async def fetch(
        self, method: str, path: str, content: bytes, max_bytes: int = ANSWER_MAX_BYTES
    ) -> bytes:
        """The whole of one answer. Raises ApiError for every other status than 200."""
        headers = {**PLAIN, **({"content-type": "application/json"} if content else {})}
        async with self._asked(method, path, content, headers) as response:
            data = await _start_of(response, max_bytes + 1)
        if len(data) > max_bytes:
            raise ApiError(
                502,
                "upstream_too_large",
                f"{self.address}{path} sent more than {max_bytes} bytes at once; ask for less",
            )
        return data

    @asynccontextmanager
    async def _asked(
        self,
        method: str,
        path: str,
        content: bytes,
        headers: Mapping[str, str],
        more: Mapping[str, Any] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        """The answer, while its connection is open. Raises ApiError for every status but 200."""
        request = httpx.Request(
            method,
            self._url(path),
            headers={"user-agent": USER_AGENT, **self._headers, **headers},
            content=content,
            extensions={**self._limits, **(more or {})},
        )
        response: httpx.Response | None = None
        try:
            async with self._new_transport() as transport:
                response = await transport.handle_async_request(request)
                response.request = request
                try:
                    if response.status_code != 200:
                        raise status_error(response.status_code, await _start_of(response))
                    yield response
                finally:
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise unreachable_error(self.address, _why(exc)) from exc
        except httpx.HTTPError as exc:
            raise broken_error(self.address, exc) from exc
        finally:
            forget(response)


def _why(unreachable: Exception) -> str:
    """A transport may say only that all attempts have failed; why is in what was raised before."""
    words = str(unreachable) or type(unreachable).__name__
    cause: BaseException | None = unreachable
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            words = str(cause)
        cause = cause.__cause__ or cause.__context__
    return words


async def _start_of(response: httpx.Response, max_bytes: int = ERROR_BODY_MAX_BYTES) -> bytes:
    """The body up to the limit: the rest may have no end."""
    body = LimitedBody(max_bytes)
    raw = cast(AsyncGenerator[bytes, None], response.aiter_raw())
    async with aclosing(raw) as segments:
        async for segment in segments:
            if not body.add(segment):
                break
    return body.data
