"""What a prompt does that finds its session busy: over HTTP, by header, body and setting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from starlette.datastructures import Headers

from registry import QueueFull, QueueTimeout, SessionBusy, Strategy
from server.body import RequestModel
from server.completions import CompletionRequest, completion_prompt
from server.errors import ApiError, as_api_error
from server.ollama_api import OllamaChatRequest, OllamaGenerateRequest, ollama_prompt
from server.openai import ChatRequest, chat_prompt
from server.prompt import Prompt
from server.responses_request import ResponsesRequest, responses_prompt
from server.sessions import strategy_of
from server.settings import Settings
from tests.server.support import prompt, run_async, stack, until

pytestmark = pytest.mark.once


def prompt_with(strategy: str | None) -> Prompt:
    return Prompt(
        request=None,  # type: ignore[arg-type]
        new_answer=None,  # type: ignore[arg-type]
        is_streamed=True,
        session_id=None,
        session_strategy=strategy,
        user=None,
    )


@pytest.mark.parametrize(
    ("header", "body", "setting", "expected"),
    [
        ("reject", "enqueue", "interrupt", Strategy.REJECT),
        (None, "enqueue", "reject", Strategy.ENQUEUE),
        (None, None, "reject", Strategy.REJECT),
        (None, None, "interrupt", Strategy.INTERRUPT),
    ],
)
def test_the_header_goes_before_the_body_and_that_before_the_setting(
    header: str | None, body: str | None, setting: str, expected: Strategy
) -> None:
    """The nearest to the request decides."""
    headers = Headers({} if header is None else {"X-Session-Strategy": header})
    settings = Settings(session_strategy=setting)  # type: ignore[arg-type]
    assert strategy_of(prompt_with(body), headers, settings) is expected


@pytest.mark.parametrize(
    ("headers", "body", "param"),
    [
        ({"X-Session-Strategy": "queue"}, None, "X-Session-Strategy"),
        ({"X-Session-Strategy": ""}, "reject", "X-Session-Strategy"),
        ({}, "ENQUEUE", "session_strategy"),
        ({}, "", "session_strategy"),
    ],
)
def test_an_unknown_strategy_is_a_400_that_names_those_that_there_are(
    headers: dict[str, str], body: str | None, param: str
) -> None:
    """The error shows where it stood, what it was, and what to write instead."""
    with pytest.raises(ApiError, match="interrupt, enqueue, reject") as caught:
        strategy_of(prompt_with(body), Headers(headers), Settings())
    assert (caught.value.status, caught.value.param) == (400, param)
    assert repr(headers.get(param, body)) in caught.value.message


@pytest.mark.parametrize(
    ("model", "make", "body"),
    [
        (ChatRequest, chat_prompt, {"prompt": "x"}),
        (CompletionRequest, completion_prompt, {"prompt": "x"}),
        (ResponsesRequest, responses_prompt, {"input": "x"}),
        (OllamaChatRequest, partial(ollama_prompt, "/api/chat"), {"messages": [{}]}),
        (OllamaGenerateRequest, partial(ollama_prompt, "/api/generate"), {"prompt": "x"}),
    ],
)
def test_what_a_body_says_of_its_session_is_for_this_server_alone(
    model: type[RequestModel], make: Callable[[Any, str | None], Prompt], body: dict[str, Any]
) -> None:
    """Every form of a prompt takes both fields, and Ollama gets neither."""
    said = {"session_id": "s", "session_strategy": "reject"}
    made = make(model.model_validate({**body, **said}), "m")
    assert (made.session_id, made.session_strategy) == ("s", "reject")
    assert not said.keys() & made.request.body.keys()
    assert not said.keys() & set(made.ignored)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SessionBusy("t1", "busy"), 409, "session_busy"),
        (QueueFull("t1", "full"), 429, "queue_full"),
        (QueueTimeout("t1", "late"), 503, "queue_timeout"),
    ],
)
def test_each_refusal_has_its_status(error: Exception, status: int, code: str) -> None:
    """A client can tell a busy session, a full queue and a wait that was too long."""
    told = as_api_error(error)
    assert (told.status, told.code) == (status, code)


@pytest.mark.socket
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_who_waits_in_the_queue_has_a_head_and_pings_meanwhile(path: str) -> None:
    """While the session is busy: the head once it is held no longer, then comments, then all."""

    async def main() -> None:
        limits = {"head_hold_seconds": 0.05, "ping_seconds": 0.05}
        async with stack(**limits) as server:
            hangs = asyncio.create_task(server.post(prompt(model="fake:hang-midstream")))
            await until(lambda: server.states() == ["ACTIVE"], "it is active")
            text = {"input" if path == "/v1/responses" else "prompt": "hi"}
            body = {**text, "stream": True, "session_strategy": "enqueue"}
            async with server.http.stream("POST", path, json=body) as answer:
                lines = answer.aiter_lines()
                assert answer.status_code == 200
                assert [await anext(lines) for _ in range(3)] == [": ping"] * 3
                assert server.states() == ["ACTIVE", "WAITING"]
                hangs.cancel()
                rest = [line async for line in lines]
                assert any(line.startswith("data: ") for line in rest)
            await server.quiet()

    run_async(main())
