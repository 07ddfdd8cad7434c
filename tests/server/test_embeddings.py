"""Embeddings: Ollama's vectors as OpenAI has them, however many, and what is none."""

from __future__ import annotations

import asyncio
import base64
import json
from array import array
from typing import Any

import pytest
from pydantic import ValidationError

from server.embeddings import TEXTS_MAX, VECTOR_MAX_BYTES, EmbeddingsRequest, embedding_list
from server.errors import ApiError
from server.ollama_async import ANSWER_MAX_BYTES
from tests.server.support import run_async

pytestmark = pytest.mark.once


def told(answer: bytes, encoding_format: str = "float") -> Any:
    request = EmbeddingsRequest.model_validate(
        {"model": "é", "input": "a", "encoding_format": encoding_format}
    )

    found: list[bytes] = []

    async def main() -> None:
        found.append(await embedding_list(request, answer))

    run_async(main())
    return json.loads(found[0])


@pytest.mark.parametrize(
    "answer",
    [
        b'{"embeddings":[[0.1,-2e-3],[1,2]],"prompt_eval_count":7}',
        b' { "model" : "\\"embeddings\\":[" , "embeddings" :\n[ [0.1, -2e-3] , [1,2]\t] ,'
        b' "prompt_eval_count":7, "x":"]" } ',
    ],
)
def test_vectors_are_told_as_openai_has_them(answer: bytes) -> None:
    """In order, with their numbers as Ollama wrote them or as 32 bits each in base64."""
    found = told(answer)
    assert found["data"] == [
        {"object": "embedding", "index": 0, "embedding": [0.1, -2e-3]},
        {"object": "embedding", "index": 1, "embedding": [1, 2]},
    ]
    assert (found["object"], found["model"]) == ("list", "é")
    assert found["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    short = [array("f", base64.b64decode(e["embedding"])) for e in told(answer, "base64")["data"]]
    assert short == [array("f", [0.1, -2e-3]), array("f", [1, 2])]


def test_no_vectors_are_a_list_of_none() -> None:
    """Ollama's answer where it counted nothing."""
    assert told(b'{"embeddings":[]}')["data"] == []
    assert told(b'{"embeddings":[[]]}')["data"][0]["embedding"] == []


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize(
    "answer",
    [
        b'{"embeddings":[[NaN]]}',
        b'{"embeddings":[[0.5,Infinity,-Infinity]]}',
        b'{"embeddings":[[0.5,1e999]]}',
        b'{"embeddings":[[-1e999]]}',
        b'{"embeddings":[[1e300]]}',
        b'{"embeddings":[[1' + b"0" * 400 + b"]]}",
        b'{"embeddings":[[true]]}',
        b'{"embeddings":[[null]]}',
        b'{"embeddings":[["0.5"]]}',
        b'{"embeddings":[[{}]]}',
        b'{"embeddings":[[[0.5]]]}',
        b'{"embeddings":[[0.5],]}',
        b'{"embeddings":[,[0.5]]}',
        b'{"embeddings":[[0.5][0.5]]}',
        b'{"embeddings":[[0.5]}',
        b'{"embeddings":[[0.5]]',
        b'{"embeddings":[[0.5',
        b'{"embeddings":[{}]}',
        b'{"embeddings":["0.5"]}',
        b'{"embeddings":[0.5]}',
        b'{"embeddings":5}',
        b'{"embeddings":[[0.5]],"embeddings":[[0.5]]}',
        b'{"a":{"embeddings":[[0.5]]}}',
        b'[{"embeddings":[[0.5]]}]',
        b'{"embeddings":[[0.5]],"prompt_eval_count":-1}',
        b'{"embeddings":[[0.5]],"x":"' + b"x" * 10**6 + b'"}',
        b'{"embeddings":[[' + b" " * VECTOR_MAX_BYTES + b"1]]}",
        b'{"embeddings":[' + b"[]," * TEXTS_MAX + b"[]]}",
        b"{}",
        b"[]",
        b"",
        b"\xff",
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_embeddings_that_are_none_are_told(answer: bytes, encoding_format: str) -> None:
    """What has no JSON, or is no vector of numbers, is Ollama's fault."""
    with pytest.raises(ApiError) as caught:
        told(answer, encoding_format)
    assert (caught.value.status, caught.value.code) == (502, "upstream_not_understood")


def test_many_vectors_let_others_have_their_turn() -> None:
    """The loop turns between a few of them, whatever their number."""
    vector = b"[" + b",".join([b"0.0123456789"] * 1024) + b"]"

    async def main() -> None:
        request = EmbeddingsRequest.model_validate({"model": "m", "input": "a"})
        answer = b'{"embeddings":[' + b",".join([vector] * 200) + b"]}"
        working = asyncio.create_task(embedding_list(request, answer))
        turns = 0
        while not working.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 30

    run_async(main())


def test_as_many_texts_are_taken_as_their_vectors_may_be_long() -> None:
    """No list that is accepted is too long for its answer, with vectors of 4096 numbers."""
    assert TEXTS_MAX * 4096 * len("-0.012345678901234567,") < ANSWER_MAX_BYTES
    EmbeddingsRequest.model_validate({"model": "m", "input": ["a"] * TEXTS_MAX})
    with pytest.raises(ValidationError, match="at most 2048"):
        EmbeddingsRequest.model_validate({"model": "m", "input": ["a"] * (TEXTS_MAX + 1)})
