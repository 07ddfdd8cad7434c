"""The official openai package, unmodified, with its own exception for each error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import openai
import pytest

from tests.server.support import CLIENTS, Stack, run_async, stack, until

pytestmark = [pytest.mark.socket, pytest.mark.once]

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@asynccontextmanager
async def sdk(server: Stack, key: str = "devkey") -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key) as client:
        yield client


@pytest.mark.parametrize("client", CLIENTS)
def test_the_sdk_streams_and_asks_whole(client: str) -> None:
    """Streamed with usage, and as one object, the SDK sees the same text."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, sdk(server) as api:
            whole = await api.chat.completions.create(model="fake:normal", messages=HELLO)
            text, usage, reasons = "", None, []
            async with await api.chat.completions.create(
                model="fake:normal",
                messages=HELLO,
                stream=True,
                stream_options={"include_usage": True},
            ) as chunks:
                async for chunk in chunks:
                    usage = chunk.usage or usage
                    for choice in chunk.choices:
                        text += choice.delta.content or ""
                        reasons += [choice.finish_reason] if choice.finish_reason else []
            assert text == whole.choices[0].message.content
            assert usage == whole.usage
            assert usage is not None
            assert reasons == ["stop"]
            listed = [model.id async for model in api.models.list()]
            assert "fake:normal" in listed

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_the_sdk_gets_thinking_and_tool_calls(client: str) -> None:
    """Thinking is `reasoning_content`; a tool call carries its arguments as JSON text."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, sdk(server) as api:
            ask = api.chat.completions.create
            whole = await ask(model="fake:tools", messages=HELLO, tools=WEATHER)
            (call,) = whole.choices[0].message.tool_calls or ()
            assert call.type == "function"
            assert call.function.name == "weather"
            assert call.function.arguments.startswith("{")
            assert whole.choices[0].finish_reason == "tool_calls"
            calls = []
            chunks = await ask(model="fake:tools", messages=HELLO, tools=WEATHER, stream=True)
            async for chunk in chunks:
                calls += chunk.choices[0].delta.tool_calls or ()
            assert [part.function.arguments for part in calls if part.function] == [
                call.function.arguments
            ]
            thought = await ask(model="fake:thinking", messages=HELLO)
            assert getattr(thought.choices[0].message, "reasoning_content", None)

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("model", "error", "code"),
    [
        ("fake:missing", openai.NotFoundError, "model_not_found"),
        ("fake:error", openai.InternalServerError, "upstream_error"),
        ("fake:busy", openai.InternalServerError, "upstream_busy"),
        ("fake:rate-limited", openai.RateLimitError, "upstream_rate_limited"),
        ("fake:hang-before-headers", openai.InternalServerError, "upstream_silent"),
    ],
)
def test_each_error_is_the_sdks_own_and_is_not_sent_again(
    client: str, model: str, error: type[openai.APIStatusError], code: str
) -> None:
    """The SDK raises its exception for the status, after one request and no retry."""

    async def main() -> None:
        # Short where the silence is what is tested, and nowhere else.
        silence_s = 0.2 if code == "upstream_silent" else 60.0
        limits = {"ollama_client": client, "first_chunk_seconds": silence_s}
        async with stack(**limits) as server, sdk(server) as api:
            for streamed in (True, False):
                with pytest.raises(error) as caught:
                    await api.chat.completions.create(model=model, messages=HELLO, stream=streamed)
                assert caught.value.code == code
                assert caught.value.request_id
            assert len(server.service.streams("key1")) == 2, "one stream for each call"

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_superseded_call_is_told_so_and_does_not_come_back(client: str) -> None:
    """BadRequestError before the headers, APIError with the code amid the stream; no retry."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, sdk(server) as api:
            ask = api.chat.completions.create

            async def streamed(model: str, read: list[object]) -> None:
                async for chunk in await ask(model=model, messages=HELLO, stream=True):
                    read.append(chunk)

            for model, error in (
                ("fake:hang-before-headers", openai.BadRequestError),
                ("fake:hang-midstream", openai.APIError),
            ):
                read: list[object] = []
                task = asyncio.create_task(streamed(model, read))
                await until(lambda: server.fake.active_calls, "upstream")
                if model == "fake:hang-midstream":
                    await until(lambda read=read: read, "chunks")
                await ask(model="fake:normal", messages=HELLO)
                with pytest.raises(error) as caught:
                    await task
                assert caught.value.code == "superseded"
            assert len(server.service.streams("key1")) == 4

    run_async(main())


def test_bad_keys_and_bad_requests_are_the_sdks_own() -> None:
    """AuthenticationError, BadRequestError and NotFoundError, as with OpenAI itself."""

    async def main() -> None:
        async with stack() as server:
            async with sdk(server, "wrong") as api:
                with pytest.raises(openai.AuthenticationError):
                    await api.models.list()
            async with sdk(server) as api:
                with pytest.raises(openai.BadRequestError) as caught:
                    await api.chat.completions.create(model="fake:normal", messages=[])
                assert caught.value.param == "messages"
                with pytest.raises(openai.NotFoundError):
                    await api.models.retrieve("no-such-model")

    run_async(main())
