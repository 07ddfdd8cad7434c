"""The async Ollama client: an httpx client per stream, closed with the stream.

A shared client would lose slots of its pool by cancels (httpcore#1093), until the next request
hangs for ever; a client for each stream has no slots to lose.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

import httpx

from registry import Stream
from registry.daemon_executor import DaemonExecutor
from server.errors import ApiError
from server.lookup import NamedHostTransport, is_name
from server.ollama import (
    ERROR_BODY_MAX_BYTES,
    MODELS_MAX_BYTES,
    PLAIN,
    ChunkReader,
    LimitedBody,
    OllamaRequest,
    Put,
    cut_error,
    forget,
    status_error,
    unreachable_error,
)

# Names looked up at once; one without an answer blocks its thread for the resolver's time limit.
LOOKUPS_MAX = 8

# Of an answer that is not a stream; the longest known has many embeddings: TEXTS_MAX vectors of
# 4096 numbers, 22 bytes each.
ANSWER_MAX_BYTES = 256 * 1024 * 1024

AsyncTransportFactory = Callable[[], httpx.AsyncBaseTransport]


def async_transport_factory(address: str) -> AsyncTransportFactory:
    """A transport for each stream; the TLS context, costly, is made once, for https only."""
    tls = ssl.create_default_context() if address.startswith("https") else None
    if is_name(httpx.URL(address).host):
        executor = DaemonExecutor(LOOKUPS_MAX, thread_name="onestream-lookup")
        return lambda: NamedHostTransport(tls, executor)
    return lambda: httpx.AsyncHTTPTransport(verify=tls or False, trust_env=False)


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
        self._timeout = httpx.Timeout(None, connect=connect_s)

    async def ask(self, request: OllamaRequest, stream: Stream, put: Put) -> None:
        reader = ChunkReader(keeps_lines=request.keeps_lines)
        response: httpx.Response | None = None
        try:
            async with (
                self._client() as client,
                client.stream("POST", request.path, **request.sent()) as response,
            ):
                if response.status_code != 200:
                    raise status_error(response.status_code, await _start_of(response))
                raw = cast(AsyncGenerator[bytes, None], response.aiter_raw())
                async with aclosing(raw) as segments:
                    async for segment in segments:
                        for chunk in reader.feed(segment):
                            await put(chunk)
                        if reader.is_done:
                            return
                for chunk in reader.end():
                    await put(chunk)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise unreachable_error(self.address, _why(exc)) from exc
        except httpx.HTTPError as exc:
            raise cut_error(str(exc) or type(exc).__name__) from exc
        finally:
            forget(response)

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
        response: httpx.Response | None = None
        try:
            async with (
                self._client() as client,
                client.stream(method, path, content=content, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise status_error(response.status_code, await _start_of(response))
                data = await _start_of(response, max_bytes + 1)
        except (httpx.ConnectError, httpx.ConnectTimeout) as exc:
            raise unreachable_error(self.address, _why(exc)) from exc
        except httpx.HTTPError as exc:
            raise cut_error(str(exc) or type(exc).__name__) from exc
        finally:
            forget(response)
        if len(data) > max_bytes:
            raise ApiError(
                502,
                "upstream_too_large",
                f"{self.address}{path} sent more than {max_bytes} bytes at once; ask for less",
            )
        return data

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            base_url=self.address,
            headers=self._headers,
            transport=self._new_transport(),
            timeout=self._timeout,
            trust_env=False,
        )


def _why(unreachable: Exception) -> str:
    """anyio says only that all attempts have failed; why is in what was raised before."""
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
