"""Shared by both Ollama clients: the interface, chunks, NDJSON, and what an error means.

Ollama is always asked to stream, also for clients that want one answer: a stream can be stopped,
watched for silence, and keeps its partial text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from math import isfinite
from typing import Any, Protocol

import httpx
from pydantic_core import PydanticSerializationError, from_json, to_json

from registry import Stream
from server.errors import ApiError
from server.http_answer import NoHttp

# One line holds one chunk; a longer line is not Ollama's.
LINE_MAX_BYTES = 16 * 1024 * 1024
# How much is read of the body of an answer that is an error, and of a list of models.
ERROR_BODY_MAX_BYTES = 64 * 1024
MODELS_MAX_BYTES = 4 * 1024 * 1024
# Above it readers of JSON cannot distinguish neighbours; real counts are far lower.
COUNT_MAX = 2**53
# A number that may be more than a float holds, as far as that can be seen without reading the line.
_MAYBE_INFINITE = re.compile(rb"\d[eE]|\d{300}")
# How much is shown of an error body that is not JSON.
ERROR_TEXT_MAX_CHARS = 500
PLAIN = {"accept-encoding": "identity"}
NDJSON_HEADERS = {
    "content-type": "application/json",
    "accept": "application/x-ndjson",
    "accept-encoding": "identity",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` is JSON text, as OpenAI has it; Ollama sends an object."""

    id: str
    index: int
    name: str
    arguments: str


def forget(response: httpx.Response | None) -> None:
    """After an answer: it and its stream refer to each other, and to the content of the request.

    Without this, content of megabytes would wait for the garbage collector.
    """
    if response is not None:
        response.stream = httpx.ByteStream(b"")


@dataclass(frozen=True, slots=True)
class OllamaRequest:
    """What is asked of Ollama: /api/chat or /api/generate, with `stream` true in the body.

    keeps_lines: each chunk keeps Ollama's own line, for an answer that passes it on unchanged.
    content: the body encoded, once it is; encoding a long one holds the loop up.
    headers: besides those of every request.
    """

    path: str
    body: Mapping[str, Any]
    keeps_lines: bool = False
    content: bytes = b""
    headers: Mapping[str, str] | None = None

    def encoded(self) -> OllamaRequest:
        """The same, with its content."""
        return self if self.content else replace(self, content=encode_body(self.body))

    def with_model(self, model: str) -> OllamaRequest:
        """The same of a model, where none was named."""
        name = encode_body({"model": model})
        content = name[:-1] + b"," + self.encoded().content[1:]
        return replace(self, body={"model": model, **self.body}, content=content)

    def sent(self) -> dict[str, Any]:
        """The content and the headers, by httpx's names."""
        headers = {**NDJSON_HEADERS, **self.headers} if self.headers else NDJSON_HEADERS
        return {"content": self.encoded().content, "headers": headers}


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of model output. The last one has `done_reason`, and the counts if there are any.

    logprobs: objects as Ollama sends them. line: Ollama's own, without its newline, if asked for.
    """

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    done_reason: str | None = None
    prompt_count: int = 0
    output_count: int = 0
    logprobs: tuple[Mapping[str, Any], ...] = ()
    line: bytes = b""

    @property
    def has_only_content(self) -> bool:
        """As most have: content, and nothing besides."""
        return bool(self.content) and not (
            self.thinking or self.tool_calls or self.logprobs or self.done_reason is not None
        )


Put = Callable[[Chunk], Awaitable[None]]


class OllamaClient(Protocol):
    """One call that generates: two implementations, `ollama_async` and `ollama_thread`."""

    async def ask(self, request: OllamaRequest, stream: Stream, put: Put) -> None:
        """Sends the request and awaits `put` for each chunk, the last one included.

        Returns once the chunk with `done_reason` was put. Raises ApiError for everything else
        that ends an answer: unreachable, a status, an error line, cut, not understood. When it
        is cancelled, its connection is closed; a thread is left to the stream, which counts it.
        It is a coroutine and not a generator: a generator that is not closed keeps its connection.
        """
        ...


def encode_body(body: Mapping[str, Any]) -> bytes:
    """The body of a call to Ollama as JSON; it may hold 30 MB of images."""
    try:
        return to_json(body)
    except PydanticSerializationError:
        # Half a surrogate pair, which a client may send, has no UTF-8: it stays escaped.
        return json.dumps(body, allow_nan=False).encode("ascii")


class LineSplitter:
    """Splits bytes at b"\\n" and nowhere else: U+0085 and U+2028 may stand inside a line."""

    def __init__(self) -> None:
        # A line that is not whole, at most LINE_MAX_BYTES. Joined only when its end has come: it
        # may come in a thousand parts.
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that `data` completes. Raises ApiError when one grows beyond the limit."""
        first, *later = data.split(b"\n")
        self._rest += first
        if len(self._rest) > LINE_MAX_BYTES:
            raise _not_understood(f"a line of more than {LINE_MAX_BYTES} bytes")
        if not later:
            return []
        lines = [bytes(self._rest), *later]
        self._rest = bytearray(lines.pop())
        return [line for line in lines if line.strip()]

    def rest(self) -> list[bytes]:
        """What follows the last newline when the body has ended."""
        rest, self._rest = bytes(self._rest), bytearray()
        return [rest] if rest.strip() else []


class LimitedBody:
    """The start of a body that is read for what it says and may not end."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # At most max_bytes.
        self._data = bytearray()
        self.is_cut = False

    def add(self, segment: bytes) -> bool:
        """Whether there is room for more."""
        room = self._max_bytes - len(self._data)
        self._data += segment[:room]
        self.is_cut = self.is_cut or len(segment) > room
        return not self.is_cut

    @property
    def data(self) -> bytes:
        return bytes(self._data)


class ChunkReader:
    """Bytes of a 200 answer in, chunks out; says at the end whether the answer was whole."""

    def __init__(self, *, keeps_lines: bool = False) -> None:
        self._lines = LineSplitter()
        self._keeps_lines = keeps_lines
        self._is_done = False

    def feed(self, data: bytes) -> Iterator[Chunk]:
        """The chunks that `data` completes. Raises ApiError for an error line."""
        return self._chunks(self._lines.feed(data))

    def end(self) -> Iterator[Chunk]:
        """The body has ended. Raises ApiError (`cut`) if no chunk said done."""
        yield from self._chunks(self._lines.rest())
        if not self._is_done:
            raise cut_error("its body ended without done")

    @property
    def is_done(self) -> bool:
        return self._is_done

    def _chunks(self, lines: list[bytes]) -> Iterator[Chunk]:
        for line in lines:
            if self._is_done:
                return
            chunk = parse_line(line)
            self._is_done = chunk.done_reason is not None
            yield replace(chunk, line=line) if self._keeps_lines else chunk


def parse_line(line: bytes) -> Chunk:
    """One NDJSON line as a chunk. Raises ApiError for an error line or what is not a chunk."""
    try:
        value = _json_value(line)
    except (ValueError, RecursionError):
        raise _not_understood(f"a line that is no JSON: {line[:80]!r}") from None
    if isinstance(value, dict) and isinstance(value.get("error"), str):
        raise ApiError(
            500, "upstream_error", f"Ollama reported: {value['error'][:ERROR_TEXT_MAX_CHARS]}"
        )
    try:
        return _as_chunk(value)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError):
        raise _not_understood(f"a line that is no chunk: {line[:80]!r}") from None


def _json_value(line: bytes) -> Any:
    """Pydantic's parser takes a fifth of the time of Python's, which takes what that one refuses:
    half a surrogate pair, UTF-16, deep nesting.
    """
    if _MAYBE_INFINITE.search(line) is None:
        try:
            return from_json(line, allow_inf_nan=False, cache_strings="keys")
        except ValueError:
            pass
    return json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)


def _as_chunk(value: dict[str, Any]) -> Chunk:
    # What /api/chat says of its message, /api/generate says of the whole.
    said = value if value.get("message") is None else value["message"]
    is_done = value["done"]
    if not isinstance(is_done, bool):
        # A text like "no" would be as good as true, and the answer would end there.
        raise TypeError("done is no bool")
    return Chunk(
        content=_text(said, "content") or _text(value, "response"),
        thinking=_text(said, "thinking"),
        tool_calls=_tool_calls(said) if said.get("tool_calls") else (),
        done_reason=(_text(value, "done_reason") or "stop") if is_done else None,
        # Ollama leaves zeros out.
        prompt_count=count_of(value, "prompt_eval_count"),
        output_count=count_of(value, "eval_count"),
        logprobs=tuple(map(_logprob, value.get("logprobs") or ())),
    )


def _tool_calls(said: dict[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(
        ToolCall(
            id=_text(call, "id"),
            index=count_of(call["function"], "index") or position,
            name=_text(call["function"], "name"),
            arguments=_arguments(call["function"]),
        )
        for position, call in enumerate(said["tool_calls"])
    )


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        # It would be passed on as Infinity.
        raise ValueError(f"{text[:20]} is more than a float holds")
    return number


def count_of(value: Mapping[str, Any], name: str) -> int:
    """A count that may be missing. Raises TypeError for what counts nothing."""
    count = value.get(name)
    if count is None:
        return 0
    if isinstance(count, bool) or not isinstance(count, int | float):
        raise TypeError(f"{name} is no number")
    if not 0 <= count <= COUNT_MAX or count != int(count):
        raise TypeError(f"{name} is no count")
    return int(count)


def _arguments(function: Mapping[str, Any]) -> str:
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise TypeError("the arguments are no object")
    return json.dumps(arguments or {}, allow_nan=False)


def _text(value: Mapping[str, Any], name: str) -> str:
    """A text that may be missing. Raises TypeError for anything else: it would reach clients."""
    text = value.get(name)
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{name} is no text")
    return text or ""


def _logprob(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    for token in (entry, *(entry.get("top_logprobs") or ())):
        if not isinstance(token["token"], str) or not _is_number(token["logprob"]):
            raise TypeError("a token that is no text, or has no logarithm")
        raw = token.get("bytes") or []
        if not isinstance(raw, list) or not all(_is_byte(each) for each in raw):
            raise TypeError("bytes that are none")
    return entry


def _is_number(value: Any) -> bool:
    # An integer beyond a float is an OverflowError.
    return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def seconds_since_1970(modified_at: Any) -> int:
    """Ollama's RFC 3339 as OpenAI's `created`; 0 if it cannot be read."""
    try:
        return max(0, int(datetime.fromisoformat(modified_at).timestamp()))
    except (ValueError, TypeError, OverflowError):
        return 0


# ---- what goes wrong ------------------------------------------------------------------------


def status_error(status: int, body: bytes) -> ApiError:
    """An answer other than 200, which only comes before the first chunk."""
    text = _error_text(body)
    if status == 404:
        hint = "ask GET /v1/models for those there are, or `ollama pull` it"
        return ApiError(404, "model_not_found", f"Ollama: {text}; {hint}", param="model")
    if status == 503:
        return ApiError(503, "upstream_busy", f"Ollama is busy: {text}; send the prompt later")
    if status == 400:
        return ApiError(400, "upstream_rejected", f"Ollama rejected the request: {text}")
    if status == 429:
        return ApiError(429, "upstream_rate_limited", f"Ollama: {text}; send the prompt later")
    if status in (401, 403):
        # Not passed on as it is: the client would think that its own key is wrong.
        return ApiError(502, "upstream_unauthorized", f"Ollama answered {status}: {text}")
    if 500 <= status <= 599:
        return ApiError(status, "upstream_error", f"Ollama failed with {status}: {text}")
    return ApiError(502, "upstream_error", f"Ollama answered {status}, not 200: {text}")


def unreachable_error(address: str, cause: object) -> ApiError:
    """No connection was made."""
    return ApiError(
        503,
        "upstream_unreachable",
        f"Ollama cannot be reached at {address} ({cause}). Start it with `ollama serve`, or the "
        f"fake one with `onestream fake-ollama`, or set OLLAMA_HOST to where it listens",
    )


def broken_error(address: str, exc: httpx.HTTPError) -> ApiError:
    """A connection was made, and no whole answer came."""
    if isinstance(exc, NoHttp):
        return ApiError(
            502,
            "upstream_not_understood",
            f"what listens at {address} speaks no HTTP that can be read ({exc}); is it an Ollama? "
            f"Look at the port in OLLAMA_HOST, and whether it is to be asked by https://",
        )
    return cut_error(str(exc) or type(exc).__name__)


def cut_error(how: object) -> ApiError:
    """The connection or the body ended before the answer did."""
    return ApiError(502, "cut", f"Ollama's answer was cut: {how}; the text so far is not whole")


def _not_understood(what: str) -> ApiError:
    return ApiError(502, "upstream_not_understood", f"Ollama sent {what}; is it an Ollama?")


def _error_text(body: bytes) -> str:
    text = body.decode("utf-8", "replace").strip()
    try:
        value = json.loads(text)
        if isinstance(value, dict) and isinstance(value.get("error"), str):
            signin = value.get("signin_url")
            text = value["error"] + (f" (sign in: {signin})" if isinstance(signin, str) else "")
    except (ValueError, RecursionError):
        pass
    return text[:ERROR_TEXT_MAX_CHARS] or "no text"
