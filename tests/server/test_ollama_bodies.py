"""Bodies of Ollama's own paths: what is decided here is what Ollama reads in them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from server.errors import ApiError
from server.ollama_api import OllamaChatRequest, OllamaGenerateRequest, ollama_prompt
from tests.server.support import run_async, stack, until

pytestmark = pytest.mark.once

HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("name", ["prompt", "Prompt", "PROMPT", "prOmpt"])
def test_a_field_is_known_in_capitals_too(name: str) -> None:
    """As Go's JSON has it, which Ollama reads with: no other spelling is a load of the model."""
    request = OllamaGenerateRequest.model_validate({"Model": "m", name: "hello", "STREAM": False})
    prompt = ollama_prompt("/api/generate", request, None)
    assert not prompt.is_blank
    assert not prompt.is_streamed
    assert prompt.request.body == {"model": "m", "prompt": "hello", "stream": True}


def test_letters_that_fold_to_ascii_are_those() -> None:
    """A long s is an s to Go, so that `meſſages` are messages; a ligature is no two letters."""
    request = OllamaChatRequest.model_validate({"me\u017f\u017fages": HELLO, "model": "m"})
    assert request.messages == HELLO
    assert not request.unknown
    others = {"\ufb06ream": False, "me\u00dfages": HELLO}
    request = OllamaChatRequest.model_validate({**others, "model": "m"})
    assert (request.stream, request.messages) == (True, None)
    assert request.unknown == others


def test_two_spellings_with_two_values_are_refused() -> None:
    """Ollama would take the last, and a reader the one that it knows."""
    with pytest.raises(ApiError, match="Messages: is the same field as messages") as caught:
        OllamaChatRequest.model_validate({"messages": [], "Messages": HELLO})
    assert caught.value.status == 400
    twice = {"messages": HELLO, "Messages": HELLO, "MESSAGES": None}
    assert OllamaChatRequest.model_validate(twice).messages == HELLO


def test_what_ollama_alone_reads_stays_as_it_is_written() -> None:
    """Only what is decided on here gets its plain name."""
    request = OllamaGenerateRequest.model_validate({"Prompt": "x", "Options": {"SEED": 1}})
    assert request.passed_on("m")["Options"] == {"SEED": 1}


@pytest.mark.socket
@pytest.mark.parametrize(
    ("path", "said"), [("/api/generate", {"Prompt": "two"}), ("/api/chat", {"Messages": HELLO})]
)
def test_a_prompt_in_capitals_is_one_of_its_session(path: str, said: dict[str, Any]) -> None:
    """It stops the one before it, and is listed: Ollama never computes two of a session."""

    async def main() -> None:
        hung = {"model": "fake:hang-midstream", "stream": True, "prompt": "one"}
        session = {"x-session-id": "s"}
        async with stack() as server:
            first = asyncio.create_task(
                server.http.post("/api/generate", json=hung, headers=session)
            )
            await until(lambda: server.states() == ["ACTIVE"], "the prompt runs")
            body = {"Model": "fake:normal", **said}
            second = await server.http.post(path, json=body, headers=session)
            assert json.loads(second.text.splitlines()[-1])["done"]
            last = json.loads((await first).text.splitlines()[-1])
            assert last["code"] == "superseded"
            assert [call.ended for call in server.fake.calls] == ["disconnected", "finished"]

    run_async(main())
