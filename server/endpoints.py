"""The paths beside the chat: OpenAI's other endpoints, and Ollama's own under /api.

What generates goes the way of a chat, with the session's rule. The rest is asked of Ollama within
limits of time and size, and broken off when its client leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic_core import from_json
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
    OllamaBody,
    OllamaChatRequest,
    OllamaEmbedRequest,
    OllamaGenerateRequest,
    OllamaShowRequest,
    ollama_prompt,
)
from server.responses_request import ResponsesRequest, responses_prompt
from server.routes import AsciiJson, Owner, answer_to, service_of

router = APIRouter(dependencies=[Depends(owner_of)])

_SESSION = request_headers(
    x_session_id="the session, before `session_id` and `user`",
    x_session_strategy="interrupt, enqueue or reject, where the session is busy",
)
_GENERATES = errors(400, 404, 409, 415, *OLLAMAS)
_ASKS = errors(400, 404, 415, *OLLAMAS)

CompletionBody = Annotated[CompletionRequest, Depends(json_body(CompletionRequest))]
ResponsesBody = Annotated[ResponsesRequest, Depends(json_body(ResponsesRequest))]
EmbeddingsBody = Annotated[EmbeddingsRequest, Depends(json_body(EmbeddingsRequest))]


# ---- OpenAI's -------------------------------------------------------------------------------


@router.post(
    "/v1/completions",
    response_class=AsciiJson,
    responses={
        **streamed("The answer: a `text_completion`, or with `stream` its chunks as messages"),
        **_GENERATES,
    },
    openapi_extra={**body_schema(CompletionRequest), **_SESSION},
)
async def completions(request: Request, body: CompletionBody, owner: Owner) -> Response:
    """Goes on with a text; a prompt of its session as a chat is."""
    prompt = completion_prompt(body, service_of(request).settings.default_model)
    return answer_to(request, prompt, owner)


@router.post(
    "/v1/responses",
    response_class=AsciiJson,
    responses={
        **streamed("The answer: a `response`, or with `stream` its events as messages"),
        **_GENERATES,
    },
    openapi_extra={**body_schema(ResponsesRequest), **_SESSION},
)
async def responses(request: Request, body: ResponsesBody, owner: Owner) -> Response:
    """Answers a conversation, and keeps nothing of it; a prompt of its session as a chat is."""
    prompt = responses_prompt(body, service_of(request).settings.default_model)
    return answer_to(request, prompt, owner)


@router.post(
    "/v1/embeddings",
    response_class=AsciiJson,
    responses=_ASKS,
    openapi_extra=body_schema(EmbeddingsRequest),
)
async def embeddings(request: Request, body: EmbeddingsBody) -> Response:
    """The vectors of texts; no prompt, so that no session is asked for."""
    content = await _ask_slowly(request, "/api/embed", embed_body(body))
    ignored = shown(body.ignored())
    try:
        answer = from_json(content)
    except ValueError:
        answer = None
    headers = {"x-ignored-fields": ", ".join(ignored)} if ignored else {}
    return AsciiJson(embedding_list(body, answer), headers=headers)


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


@router.post(
    "/api/chat",
    responses={200: {"description": "Ollama's lines, or its object"}, **_GENERATES},
    openapi_extra={**body_schema(OllamaChatRequest), **_SESSION},
)
async def ollama_chat(
    request: Request,
    body: Annotated[
        OllamaChatRequest, Depends(json_body(OllamaChatRequest, any_content_type=True))
    ],
    owner: Owner,
) -> Response:
    """As Ollama's own; the newest prompt of a session stops the one before it."""
    return await _ollama_prompt(request, "/api/chat", body, owner, is_blank=body.is_blank)


@router.post(
    "/api/generate",
    responses={200: {"description": "Ollama's lines, or its object"}, **_GENERATES},
    openapi_extra={**body_schema(OllamaGenerateRequest), **_SESSION},
)
async def ollama_generate(
    request: Request,
    body: Annotated[
        OllamaGenerateRequest, Depends(json_body(OllamaGenerateRequest, any_content_type=True))
    ],
    owner: Owner,
) -> Response:
    """As Ollama's own; the newest prompt of a session stops the one before it."""
    return await _ollama_prompt(request, "/api/generate", body, owner, is_blank=body.is_blank)


async def _ollama_prompt(
    request: Request, path: str, body: OllamaBody, owner: str, *, is_blank: bool
) -> Response:
    default_model = service_of(request).settings.default_model
    if is_blank:
        # Loads or unloads the model: no prompt, so that it stops none.
        return _passed(await _ask_slowly(request, path, body.passed_on(default_model)))
    return answer_to(request, ollama_prompt(path, body, default_model), owner)


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
    return _passed(await _ask_slowly(request, path, body.passed_on()))


@router.post("/api/show", responses=_ASKS, openapi_extra=body_schema(OllamaShowRequest))
async def ollama_show(
    request: Request,
    body: Annotated[
        OllamaShowRequest, Depends(json_body(OllamaShowRequest, any_content_type=True))
    ],
) -> Response:
    """As Ollama's own."""
    content = encode_body(body.passed_on())
    return _passed(await _ask(request, "POST", "/api/show", content))


@router.get("/api/tags", responses=errors(*OLLAMAS))
@router.get("/api/ps", responses=errors(*OLLAMAS))
@router.get("/api/version", responses=errors(*OLLAMAS))
async def ollama_lookup(request: Request) -> Response:
    """As Ollama's own."""
    name = request.url.path.rstrip("/").rpartition("/")[2]
    return _passed(await _ask(request, "GET", f"/api/{name}", b""))


# ---- asking Ollama --------------------------------------------------------------------------


def _passed(content: bytes) -> Response:
    return Response(content, media_type="application/json")


async def _ask_slowly(request: Request, path: str, body: dict[str, Any]) -> bytes:
    """As `_ask`; a model may have to be loaded first."""
    limit_s = service_of(request).settings.first_chunk_seconds
    return await _while_there(
        request,
        service_of(request).fetch(
            "POST", path, encode_body(body), limit_s, "JARVIS_FIRST_CHUNK_SECONDS"
        ),
    )


async def _ask(request: Request, method: str, path: str, content: bytes) -> bytes:
    limit_s = service_of(request).settings.models_seconds
    return await _while_there(
        request,
        service_of(request).fetch(method, path, content, limit_s, "JARVIS_MODELS_SECONDS"),
    )


async def _while_there(request: Request, work: Coroutine[Any, Any, bytes]) -> bytes:
    """Awaits the work, and cancels it when the client leaves: nobody is left to answer then."""
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
