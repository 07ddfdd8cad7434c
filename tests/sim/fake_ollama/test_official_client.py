"""The official Python client works against the fake as it does against Ollama."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import ollama
import pytest

from sim.fake_ollama import MODES, profile_named
from tests.limits import HANGS_S

pytestmark = [pytest.mark.socket, pytest.mark.once]

PROFILE = replace(profile_named("instant"), chunks=6, slow_chunks=20, thinking_chunks=2)
MESSAGES = [{"role": "user", "content": "why is the sky blue"}]
LOCAL = {"verify": False, "trust_env": False}  # no certificates, no proxy
ANSWER = "why is the sky blue word1"
COMPLETE = [
    "normal",
    "slow-load",
    "load-aborted",
    "busy-queue",
    "pause",
    "late-notice",
    "one-segment",
    "zeros",
    "tools",
]
REFUSED = {
    "busy": 503,
    "missing": 404,
    "unauthorized": 401,
    "rate-limited": 429,
    "bad-gateway": 502,
    "error": 500,
}


@pytest.fixture
def client(in_thread: Callable[..., Any]) -> Iterator[ollama.Client]:
    """The blocking client, on a fake that is served from another thread."""
    with ollama.Client(host=in_thread(PROFILE).base_url, timeout=HANGS_S, **LOCAL) as client:
        yield client


def streamed(client: ollama.Client, mode: str, **fields: Any) -> list[ollama.ChatResponse]:
    return list(client.chat(model=f"fake:{mode}", messages=MESSAGES, stream=True, **fields))


def said(chunks: list[ollama.ChatResponse]) -> str:
    return "".join(chunk.message.content or "" for chunk in chunks)


@pytest.mark.parametrize("mode", COMPLETE)
def test_a_complete_answer_is_read(client: ollama.Client, mode: str) -> None:
    """Streamed and whole, the client reads the same answer."""
    chunks = streamed(client, mode)
    assert (said(chunks), chunks[-1].done, chunks[-1].done_reason) == (ANSWER, True, "stop")
    whole = client.chat(model=f"fake:{mode}", messages=MESSAGES)
    assert (whole.message.content, whole.done) == (ANSWER, True)


def test_slow_and_empty_answers_are_read(client: ollama.Client) -> None:
    """Neither many chunks nor none at all trouble the client."""
    assert len(streamed(client, "slow")) == 21
    assert len(streamed(client, "ignores-disconnect")) == 21
    assert said(streamed(client, "empty")) == ""


def test_every_mode_is_tried_here() -> None:
    """A new mode needs a test with the official client."""
    elsewhere = {
        "slow",
        "ignores-disconnect",
        "empty",
        "error-midstream",
        "cut",
        "crash",
        "hang-before-headers",
        "hang-midstream",
        "unicode",
        "thinking",
    }
    assert {*COMPLETE, *REFUSED, *elsewhere} == set(MODES)


@pytest.mark.parametrize(("mode", "status"), REFUSED.items())
@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_is_a_response_error(
    client: ollama.Client, mode: str, status: int, stream: bool
) -> None:
    """The client raises ResponseError with the status and Ollama's text."""
    with pytest.raises(ollama.ResponseError) as raised:
        list(client.chat(model=f"fake:{mode}", messages=MESSAGES, stream=stream))
    assert raised.value.status_code == status
    failure = MODES[mode].refusal or MODES[mode].error
    assert raised.value.error == (failure.text if failure else "model 'fake:missing' not found")


def test_an_error_line_is_a_response_error(client: ollama.Client) -> None:
    """In the midst of a stream the client has no status to tell."""
    chunks = client.chat(model="fake:error-midstream", messages=MESSAGES, stream=True)
    assert [next(chunks).done for _ in range(3)] == [False] * 3
    with pytest.raises(ollama.ResponseError, match="unexpected EOF") as raised:
        next(chunks)
    assert raised.value.status_code == -1


def test_a_cut_answer_looks_like_a_complete_one(client: ollama.Client) -> None:
    """The client does not notice: its user has to look for `done`."""
    assert [chunk.done for chunk in streamed(client, "cut")] == [False] * 3


def test_a_crash_is_a_protocol_error(client: ollama.Client) -> None:
    """A connection that breaks comes through as httpx's own error."""
    with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
        streamed(client, "crash")


def test_the_client_itself_splits_lines_at_u0085(client: ollama.Client) -> None:
    """Its line iterator breaks a streamed answer that holds U+0085; whole, it is read."""
    with pytest.raises(json.JSONDecodeError):
        streamed(client, "unicode")
    whole = client.chat(model="fake:unicode", messages=MESSAGES)
    assert whole.message.content is not None
    assert "next\u0085line line\u2028separator" in whole.message.content


def note_all(read: Iterable[Any], done: list[bool | None]) -> None:
    for chunk in read:
        done.append(chunk.done)


@pytest.mark.parametrize(("mode", "chunks"), [("hang-before-headers", 0), ("hang-midstream", 3)])
def test_a_hang_ends_with_the_patience_of_the_client(
    in_thread: Callable[..., Any], mode: str, chunks: int
) -> None:
    """With a timeout the client gives up; without, it would wait for ever."""
    host = in_thread(PROFILE).base_url
    # On a busy machine what comes before the hang may take longer than the least patience.
    for patience_s in (1.0, 10.0, 100.0):
        done: list[bool | None] = []
        with ollama.Client(host=host, timeout=patience_s, **LOCAL) as client:
            read = client.chat(model=f"fake:{mode}", messages=MESSAGES, stream=True)
            with pytest.raises(httpx.ReadTimeout):
                note_all(read, done)
        if len(done) >= chunks:
            break
    assert done == [False] * chunks


def test_thoughts_are_read(client: ollama.Client) -> None:
    """`message.thinking` has the thoughts; with think false there are none."""
    chunks = streamed(client, "thinking")
    assert "".join(chunk.message.thinking or "" for chunk in chunks).endswith("blue: thought1")
    whole = client.chat(model="fake:thinking", messages=MESSAGES, think=False)
    assert (whole.message.thinking, whole.message.content) == (None, ANSWER)


def test_tool_calls_are_read(client: ollama.Client) -> None:
    """The client makes a tool of a function, and a mapping of the arguments."""

    def look_up(query: str) -> str:
        """Look something up.

        Args:
            query: what to look for
        """
        return query

    chunks = streamed(client, "tools", tools=[look_up])
    calls = [call for chunk in chunks for call in chunk.message.tool_calls or []]
    assert [call.function.name for call in calls] == ["look_up"]
    assert calls[0].function.arguments == {"query": MESSAGES[0]["content"]}


def test_generate_list_ps_and_show_are_read(client: ollama.Client) -> None:
    """The other endpoints have the forms that the client expects."""
    prompt = MESSAGES[0]["content"]
    parts = list(client.generate(model="llama3.2", prompt=prompt, stream=True))
    assert "".join(part.response for part in parts) == ANSWER
    whole = client.generate(model="llama3.2", prompt=prompt)
    assert whole.response == ANSWER
    assert whole.context
    listed = {model.model for model in client.list().models}
    assert {"fake:latest", "llama3.2:latest", "fake:normal"} <= listed
    assert "fake:missing" not in listed
    loaded = client.ps().models
    assert [model.name for model in loaded] == ["llama3.2:latest"]
    assert loaded[0].context_length
    assert loaded[0].expires_at is not None
    shown = client.show("fake:thinking")
    assert shown.capabilities == ["completion", "thinking"]
    assert shown.modified_at is not None


def test_the_async_client_reads_the_same(in_thread: Callable[..., Any]) -> None:
    """ollama.AsyncClient gets the same answer as the blocking one."""

    async def main(host: str) -> str:
        async with ollama.AsyncClient(host=host, timeout=HANGS_S, **LOCAL) as client:
            stream = await client.chat(model="fake", messages=MESSAGES, stream=True)
            return said([chunk async for chunk in stream])

    assert asyncio.run(main(in_thread(PROFILE).base_url)) == ANSWER
