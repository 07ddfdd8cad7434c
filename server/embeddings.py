"""OpenAI's embeddings, by Ollama's /api/embed: `ToEmbeddingList` in its openai/openai.go."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
from array import array
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, cast

from pydantic_core import from_json

from server.errors import ApiError
from server.fields import Duration, Fields, Flag, Int, Text, bad, check_finite, text_or_list
from server.ollama import count_of
from server.sse import encode_json

# As OpenAI has it. TEXTS_MAX vectors of 4096 numbers have 190 MB of JSON: ANSWER_MAX_BYTES.
TEXTS_MAX = 2048
# The longest known has 8192 numbers of 22 bytes each.
VECTOR_MAX_BYTES = 1024 * 1024
# A few milliseconds of work.
_TURN_BYTES = 64 * 1024
# The model's name and some counts.
_BESIDE_MAX_BYTES = 64 * 1024
# Of the 32 bits in which base64 has it.
_FLOAT_MAX = 3.4028234663852886e38
# Within a text a quote has a backslash, so that this is the name of a field.
_NAME = re.compile(rb'"embeddings"\s*:\s*\[')
_BRACKET = re.compile(rb"\s*(?:(,)\s*)?([\[\]])")


class EmbeddingsRequest(Fields):
    """The body of POST /v1/embeddings."""

    harmless: ClassVar[frozenset[str]] = frozenset({"user", "metadata"})

    model: Text | None = None
    # Tokens are refused with a sentence of their own.
    input: text_or_list(Any, "texts", TEXTS_MAX)  # type: ignore[valid-type]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Int | None = None

    # Ollama's own.
    options: dict[str, Any] | None = None
    keep_alive: Duration | None = None
    truncate: Flag | None = None


def embed_body(request: EmbeddingsRequest) -> dict[str, Any]:
    """The body for /api/embed. Raises ApiError (400)."""
    if not request.model:
        raise bad("is missing; name a model for embeddings, GET /v1/models lists them", "model")
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not texts:
        raise bad("is empty; it has to be a text or a list of texts", "input")
    if not all(isinstance(text, str) for text in texts):
        raise bad("has to be a text or a list of texts: Ollama takes no tokens", "input")
    check_finite(request.options, "options")
    body = {
        "model": request.model,
        "input": request.input,
        "dimensions": request.dimensions,
        "options": request.options,
        "keep_alive": request.keep_alive,
        "truncate": request.truncate,
    }
    return {name: value for name, value in body.items() if value is not None}


async def embedding_list(request: EmbeddingsRequest, answer: bytes) -> bytes:
    """OpenAI's answer for that of /api/embed. Raises ApiError (502) if it holds no embeddings.

    It has megabytes, of which every call into C that reads or writes all holds the server up for
    seconds: so each vector is worked on by itself, and the loop turns in between.
    """
    parts: list[bytes] = []
    turn_bytes = 0
    try:
        vectors = _Vectors(answer)
        for index, text in enumerate(vectors):
            if index >= TEXTS_MAX:
                raise ValueError("there are more than were asked for")
            vector = _checked(text)
            shown = _base64(vector) if request.encoding_format == "base64" else text
            comma = b"," if index else b""
            begin = b'%b{"object":"embedding","index":%d,"embedding":' % (comma, index)
            parts += (begin, shown, b"}")
            turn_bytes += len(text)
            if turn_bytes >= _TURN_BYTES:
                turn_bytes = 0
                await asyncio.sleep(0)
        tokens = count_of(vectors.other_fields(), "prompt_eval_count")
    except (TypeError, ValueError, OverflowError) as exc:
        raise ApiError(
            502, "upstream_not_understood", f"Ollama's /api/embed sent no embeddings: {exc}"
        ) from None
    others = {
        "object": "list",
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    # Only one copy of it all.
    return b"".join((b'{"data":[', *parts, b"],", encode_json(others)[1:]))


class _Vectors:
    """The text of each vector of an answer, in order; a ValueError for what is not a vector."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        name = _NAME.search(answer)
        if name is None:
            raise ValueError("there is no list of them")
        self._start = self._at = name.end()

    def __iter__(self) -> Iterator[bytes]:
        separator = None
        while True:
            bracket = _BRACKET.match(self._answer, self._at)
            if bracket is None:
                raise ValueError("what stands in their list is no vector")
            if bracket[2] == b"]" and not bracket[1]:
                self._at = bracket.end()
                return
            start = bracket.start(2)
            # Numbers have no brackets.
            end = 1 + self._answer.find(b"]", start, start + VECTOR_MAX_BYTES)
            if bracket[1] != separator or bracket[2] != b"[" or not end:
                raise ValueError("a vector does not end, or begins where none can")
            yield self._answer[start:end]
            separator, self._at = b",", end

    def other_fields(self) -> dict[str, Any]:
        """The other fields of the answer, once all vectors were taken."""
        if self._start + len(self._answer) - self._at > _BESIDE_MAX_BYTES:
            raise ValueError("too much stands beside them")
        rest = from_json(self._answer[: self._start] + b"]" + self._answer[self._at :])
        if not isinstance(rest, dict) or rest.get("embeddings") != []:
            raise ValueError("they stand within something else")
        return rest


def _checked(text: bytes) -> list[float]:
    vector = from_json(text, allow_inf_nan=False)
    if not set(map(type, vector)) <= {int, float}:
        raise TypeError("a vector holds what is no number")
    if vector and not -_FLOAT_MAX <= min(vector) <= max(vector) <= _FLOAT_MAX:
        raise ValueError("a number is beyond those of a vector")
    return cast(list[float], vector)


def _base64(vector: list[float]) -> bytes:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b'"%b"' % base64.b64encode(numbers.tobytes())
