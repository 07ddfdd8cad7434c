"""The paths besides the chat: OpenAI's other endpoints, and Ollama's own under /api.

Those that generate work as a chat does, with the session's rule. The others ask Ollama within
limits of time and size, and are broken off when the client leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from starlette.responses import Response

from server import documented
from server.body import body_schema, json_body
from server.completions import CompletionRequest, completion_prompt
from server.documented import OLLAMAS, errors, request_headers, streamed
from server.embeddings import EmbeddingsRequest, embed_body, embedding_list
from server.errors import ApiError
from server.fields import shown
from server.front import owner_of
from server.ollama import encode_body
from server.ollama_api import (
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
    ollama_prompt,
)
from server.prompt import Prompt
from server.responses_request import ResponsesRequest, responses_prompt
from server.routes import AsciiJson, answer_to, prompt_body, prompts, service_of

router = APIRouter(dependencies=[Depends(owner_of)])

_SESSION = request_headers(
    x_session_id="the session, before `session_id` and `user`",
    x_session_strategy="interrupt, enqueue or reject, where the session is busy",
)
_GENERATES = errors(400, 404, 409, 415, *OLLAMAS)
_LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Ollama's lines, or with `stream` false one object",
        "content": {"application/x-ndjson": {"example": '{"model":"qwen3","done":false, …}\n'}},
    }
}
_ASKS = errors(400, 404, 415, *OLLAMAS)

_completion_prompt = prompt_body(CompletionRequest, completion_prompt)
_responses_prompt = prompt_body(ResponsesRequest, responses_prompt)
_ollama_chat = prompt_body(
    OllamaChatRequest, partial(ollama_prompt, "/api/chat"), any_content_type=True
)
_ollama_generate = prompt_body(
    OllamaGenerateRequest, partial(ollama_prompt, "/api/generate"), any_content_type=True
)
EmbeddingsBody = Annotated[EmbeddingsRequest, Depends(json_body(EmbeddingsRequest))]


# ---- OpenAI's -------------------------------------------------------------------------------


@prompts.post(
    "/v1/completions",
    response_class=AsciiJson,
    responses={
        **streamed("The answer: a `text_completion`, or with `stream` its chunks as messages"),
        **_GENERATES,
    },
    openapi_extra={**body_schema(CompletionRequest), **_SESSION},
)
async def completions(request: Request) -> Response:
    """Goes on with a text; a prompt of its session as a chat is."""
    return await answer_to(request, await _completion_prompt(request))


@prompts.post(
    "/v1/responses",
    response_class=AsciiJson,
    responses={
        **streamed("The answer: a `response`, or with `stream` its events as messages"),
        **_GENERATES,
    },
    openapi_extra={**body_schema(ResponsesRequest), **_SESSION},
)
async def responses(request: Request) -> Response:
    """Answers a conversation, and keeps nothing of it; a prompt of its session as a chat is."""
    return await answer_to(request, await _responses_prompt(request))


@router.post(
    "/v1/embeddings",
    response_class=AsciiJson,
    responses=_ASKS,
    openapi_extra=body_schema(EmbeddingsRequest),
)
async def embeddings(request: Request, body: EmbeddingsBody) -> Response:
    """The vectors of texts; no prompt, so that no session is asked for."""
    content = await _ask_slowly(request, "/api/embed", encode_body(embed_body(body)))
    return _passed(await embedding_list(body, content), shown(body.ignored()))


@router.get(
    "/v1/models/{model:path}",
    response_class=AsciiJson,
    response_model=documented.Model,
    responses=errors(404, *OLLAMAS),
)
async def model(request: Request, model: str) -> Response:
    """One of Ollama's models, by its name; without a tag it is `latest`."""
    known = {each["id"]: each for each in await service_of(request).models()}
    found = known.get(model) or known.get(f"{model}:latest")
    if found is None:
        raise ApiError(
            404,
            "model_not_found",
            f"Ollama has no model {model[:80]!a}; GET /v1/models lists those there are",
            param="model",
        )
    return AsciiJson(found)


# ---- Ollama's own ---------------------------------------------------------------------------


@prompts.post(
    "/api/chat",
    responses={**_LINES, **_GENERATES},
    openapi_extra={**body_schema(OllamaChatRequest), **_SESSION},
)
async def ollama_chat(request: Request) -> Response:
    """As Ollama's own; the newest prompt of a session stops the one before it."""
    return await _ollama_prompt(request, await _ollama_chat(request))


@prompts.post(
    "/api/generate",
    responses={**_LINES, **_GENERATES},
    openapi_extra={**body_schema(OllamaGenerateRequest), **_SESSION},
)
async def ollama_generate(request: Request) -> Response:
    """As Ollama's own; the newest prompt of a session stops the one before it."""
    return await _ollama_prompt(request, await _ollama_generate(request))


async def _ollama_prompt(request: Request, prompt: Prompt) -> Response:
    if prompt.is_blank:
        # Nothing is to be answered, so that it stops no stream.
        asked = prompt.request
        return _passed(await _ask_slowly(request, asked.path, asked.content), prompt.ignored)
    return await answer_to(request, prompt)


@router.post("/api/embed", responses=_ASKS, openapi_extra=body_schema(OllamaEmbedRequest))
@router.post("/api/embeddings", responses=_ASKS, openapi_extra=body_schema(OllamaEmbedRequest))
async def ollama_embed(
    request: Request,
    body: Annotated[
        OllamaEmbedRequest, Depends(json_body(OllamaEmbedRequest, any_content_type=True))
    ],
) -> Response:
    """As Ollama's own."""
    path = "/api/embeddings" if request.url.path.endswith("/embeddings") else "/api/embed"
    content = await _ask_slowly(request, path, encode_body(body.passed_on()))
    return _passed(content, shown(body.ignored()))


@router.post("/api/show", responses=_ASKS, openapi_extra=body_schema(OllamaShowRequest))
async def ollama_show(
    request: Request,
    body: Annotated[
        OllamaShowRequest, Depends(json_body(OllamaShowRequest, any_content_type=True))
    ],
) -> Response:
    """As Ollama's own."""
    content = await _ask(request, "POST", "/api/show", encode_body(body.passed_on()))
    return _passed(content, shown(body.ignored()))


@router.get("/api/tags", responses=errors(*OLLAMAS))
@router.get("/api/ps", responses=errors(*OLLAMAS))
@router.get("/api/version", responses=errors(*OLLAMAS))
async def ollama_lookup(request: Request) -> Response:
    """As Ollama's own."""
    name = request.url.path.rstrip("/").rpartition("/")[2]
    return _passed(await _ask(request, "GET", f"/api/{name}", b""))


# ---- asking Ollama --------------------------------------------------------------------------


def _passed(content: bytes, ignored: Sequence[str] = ()) -> Response:
    headers = {"x-ignored-fields": ", ".join(ignored)} if ignored else {}
    return Response(content, headers=headers, media_type="application/json")


async def _ask_slowly(request: Request, path: str, content: bytes) -> bytes:
    """As `_ask`; a model may have to be loaded first."""
    limit_s = service_of(request).settings.first_chunk_seconds
    return await _while_there(
        request,
        service_of(request).fetch("POST", path, content, limit_s, "JARVIS_FIRST_CHUNK_SECONDS"),
    )


async def _ask(request: Request, method: str, path: str, content: bytes) -> bytes:
    limit_s = service_of(request).settings.models_seconds
    return await _while_there(
        request,
        service_of(request).fetch(method, path, content, limit_s, "JARVIS_MODELS_SECONDS"),
    )


async def _while_there(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """Awaits the work, and cancels it when the client leaves."""
    working = asyncio.create_task(work, name="ask-ollama")
    leaving = asyncio.create_task(_left(request), name="watch-client")
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "client_left", "the client has left before the answer")
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
