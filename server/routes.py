"""The paths, with what they take and answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from server import documented, signposts
from server.body import RequestModel, body_schema, json_body
from server.documented import OLLAMAS, errors, request_headers, streamed, watched
from server.errors import ApiError, as_api_error
from server.events import Events
from server.front import owner_of
from server.invalid import as_refusal
from server.openai import ChatRequest, chat_prompt
from server.prompt import Prompt
from server.refusals import log_refused
from server.service import Service
from server.spellings import wants_head_alone
from server.sse import encode_json

Owner = Annotated[str, Depends(owner_of)]
ReadPrompt = Callable[[Request], Awaitable[Prompt]]


class PromptRoute(APIRoute):
    """A route to FastAPI's documents and errors, which calls its endpoint itself.

    The endpoint takes a request alone and answers with a response. What FastAPI does around one,
    for dependencies and models that this has none of, takes it longer than the registry takes to
    let the prompt in.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] not in (self.methods or ()):
            # Raises what says which are.
            await super().handle(scope, receive, send)
            return
        request = Request(scope, receive, send)
        await owner_of(request)
        response: Response = await self.endpoint(request)
        await response(scope, receive, send)


# The endpoints of prompts.
prompts = APIRouter(dependencies=[Depends(owner_of)], route_class=PromptRoute)
# Its routes are closed to a request without a key, whether or not they use the owner.
router = APIRouter(dependencies=[Depends(owner_of)])
# The paths of these have to be in front.OPEN_PATHS as well.
open_router = APIRouter()


class AsciiJson(JSONResponse):
    """JSON that no character of a prompt can break."""

    def render(self, content: Any) -> bytes:
        return encode_json(content)


def service_of(request: Request) -> Service:
    return cast(Service, request.app.state.service)


def prompt_body(
    model: type[RequestModel],
    make: Callable[[Any, str | None], Prompt],
    *,
    any_content_type: bool = False,
) -> ReadPrompt:
    """What reads the prompt that `make` makes of the body and the default model."""

    def made(body: RequestModel, request: Request) -> Prompt:
        return make(body, service_of(request).settings.default_model)

    def encoded(prompt: Prompt, _: Request) -> Prompt:
        return prompt.encoded()

    def with_digest(prompt: Prompt, _: Request) -> Prompt:
        return prompt.with_digest()

    return json_body(model, made, encoded, with_digest, any_content_type=any_content_type)


_chat_prompt = prompt_body(ChatRequest, chat_prompt)


@prompts.post(
    "/v1/chat/completions",
    response_class=AsciiJson,
    responses={
        **streamed("The answer: a `chat.completion`, or with `stream` its chunks as messages"),
        **errors(400, 404, 409, 415, *OLLAMAS),
    },
    openapi_extra={
        **body_schema(ChatRequest),
        **request_headers(
            x_session_id="the session, before `session_id` and `user`",
            x_session_strategy="interrupt, enqueue or reject, where the session is busy",
        ),
    },
)
async def chat(request: Request) -> Response:
    """Answers a prompt; the newest of a session stops the one before it."""
    return await answer_to(request, await _chat_prompt(request))


async def answer_to(request: Request, prompt: Prompt) -> Response:
    return service_of(request).answer(
        prompt,
        owner=await owner_of(request),
        trace_id=request.state.trace_id,
        headers=request.headers,
    )


@router.post(
    "/v1/streams/{trace_id}/cancel",
    response_class=AsciiJson,
    response_model=documented.Cancelled,
    responses=errors(404),
)
async def cancel(request: Request, trace_id: str, owner: Owner) -> Response:
    """Stops a stream by name; `cancelled` is false if it had ended or was stopped before."""
    cancelled = await service_of(request).cancel(owner, trace_id)
    return AsciiJson({"trace_id": trace_id, "cancelled": cancelled})


@router.get(
    "/v1/streams",
    response_class=AsciiJson,
    response_model=documented.Streams,
    responses={**watched(), **errors(400, 429)},
)
async def streams(request: Request, owner: Owner) -> Response:
    """The key's own streams, newest first: those that run and those that ended lately.

    With `?watch` the answer is messages, and does not end: this list, with `workers` (`all`, or
    `this` where other workers may have more) and a `message` that says why; then each stream that
    changes, as it is then. A later list takes the place of all before it. Comments say that it
    lives; at the end of the server there is an error, `shutting_down`, and `[DONE]`.
    """
    if _watches(request):
        if wants_head_alone(request.scope):
            # It would keep a watcher's place.
            return Response(media_type="text/event-stream")
        return service_of(request).watch(owner, request.state.trace_id)
    return AsciiJson({"object": "list", "data": await service_of(request).all_streams(owner)})


def _watches(request: Request) -> bool:
    """Raises ApiError (400)."""
    said = request.query_params.get("watch", "false").lower()
    if said not in ("", "1", "true", "0", "false"):
        raise ApiError(
            400,
            "invalid_request",
            f"watch={said[:40]!a} is neither true nor false; send ?watch, or leave it out",
            param="watch",
        )
    return said in ("", "1", "true")


@router.get(
    "/v1/streams/{trace_id}",
    response_class=AsciiJson,
    response_model=documented.StreamView,
    responses=errors(404),
)
async def stream(request: Request, trace_id: str, owner: Owner) -> Response:
    """One of the key's own streams, with its text so far."""
    return AsciiJson(await service_of(request).any_stream(owner, trace_id))


@router.get(
    "/v1/models",
    response_class=AsciiJson,
    response_model=documented.Models,
    responses=errors(*OLLAMAS),
)
async def models(request: Request) -> Response:
    """Ollama's models, as OpenAI lists them."""
    return AsciiJson({"object": "list", "data": await service_of(request).models()})


# ---- for operators --------------------------------------------------------------------------


@open_router.get("/healthz", response_class=AsciiJson, response_model=documented.Health)
@open_router.get("/health", response_class=AsciiJson, include_in_schema=False)
async def healthz(request: Request) -> Response:
    """Whether this process takes requests, and its streams in each state. Asks nobody."""
    return AsciiJson(service_of(request).health())


@open_router.get(
    "/readyz",
    response_class=AsciiJson,
    response_model=documented.Readiness,
    responses=errors(*OLLAMAS),
)
async def readyz(request: Request) -> Response:
    """Whether a prompt could be answered here: asks Ollama, and the store where workers share one.

    At most once in a moment.
    """
    service = service_of(request)
    await service.check_ready()
    return AsciiJson({"status": "ok"} | service.sessions())


# ---- errors ---------------------------------------------------------------------------------


async def on_api_error(request: Request, exc: Exception) -> Response:
    error = as_api_error(exc)
    # None where the lifespan has ended while the request was running.
    service: Service | None = request.app.state.service
    log_refused(Events() if service is None else service.events, request.scope, error)
    return AsciiJson(error.body_for(request.scope), error.status, error.headers)


async def on_invalid(request: Request, exc: Exception) -> Response:
    """Validation, in a sentence: which field, what is wrong with it."""
    errors = cast(RequestValidationError, exc).errors()
    return await on_api_error(request, as_refusal(errors))


async def on_http_error(request: Request, exc: Exception) -> Response:
    """What Starlette and FastAPI raise themselves: no such path, no such method, a bad body."""
    http_error = cast(HTTPException, exc)
    status = http_error.status_code
    if status == 404:
        return await on_api_error(request, signposts.not_found(request))
    if status == 405:
        of_route = (http_error.headers or {}).get("Allow", "")
        return await on_api_error(request, signposts.method_not_allowed(request, of_route))
    message = f"{http_error.detail}: {request.method} {request.url.path[:200]!a}"
    headers = http_error.headers
    return await on_api_error(
        request, ApiError(status, "invalid_request", message, headers=headers)
    )
