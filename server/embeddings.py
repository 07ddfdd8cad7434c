"""OpenAI's embeddings, by Ollama's /api/embed: `ToEmbeddingList` in its openai/openai.go."""

from __future__ import annotations

import base64
import sys
from array import array
from math import isfinite
from typing import Any, ClassVar, Literal

from server.errors import ApiError
from server.fields import Duration, Fields, Flag, Int, Text, bad, check_finite, text_or_list
from server.ollama import count_of


class EmbeddingsRequest(Fields):
    """The body of POST /v1/embeddings."""

    harmless: ClassVar[frozenset[str]] = frozenset({"user", "metadata"})

    model: Text | None = None
    # Tokens are refused with a sentence of their own.
    input: text_or_list(Any, "texts")  # type: ignore[valid-type]
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
    if not texts or not all(isinstance(text, str) for text in texts):
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


def embedding_list(request: EmbeddingsRequest, answer: Any) -> dict[str, Any]:
    """OpenAI's answer. Raises ApiError (502) if Ollama's is none."""
    try:
        vectors = [_vector(vector) for vector in answer["embeddings"]]
        tokens = count_of(answer, "prompt_eval_count")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ApiError(
            502, "upstream_not_understood", "Ollama's /api/embed sent no embeddings"
        ) from None
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": (
                    _base64(vector)
                    if request.encoding_format == "base64"
                    else answer["embeddings"][index]
                ),
            }
            for index, vector in enumerate(vectors)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


def _vector(numbers: Any) -> array[float]:
    if not isinstance(numbers, list):
        raise TypeError("a vector is no list")
    vector = array("f", numbers)
    # What is infinite or no number has no JSON, and makes such a sum.
    if not isfinite(sum(vector)):
        raise ValueError("a number that is none")
    return vector


def _base64(vector: array[float]) -> str:
    if sys.byteorder == "big":
        vector.byteswap()
    return base64.b64encode(vector.tobytes()).decode("ascii")
