"""Which model answers a prompt that names none."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from server.app import create_app
from server.models import first_that_chats
from tests.server.support import error_of, run_async, settings

pytestmark = pytest.mark.once


def listed(name: str, families: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "details": {"family": "x", "families": families}, **more}


@pytest.mark.parametrize(
    "passed_over",
    [
        listed("nomic-embed-text:latest", ["nomic-bert"]),
        listed("bge-m3", ["bert"]),
        listed("snowflake-arctic:embed", None, capabilities=["embedding"]),
        listed("something", None, capabilities=["embedding"]),
        listed("embeddinggemma", ["gemma3"]),
        listed("dengcao/Qwen3-Reranker-8B", ["qwen3"]),
        {"name": "all-minilm", "details": None},
        {"name": "mxbai-embed-large"},
    ],
)
def test_a_model_that_only_embeds_is_passed_over(passed_over: dict[str, Any]) -> None:
    """Whether the list tells its capabilities, its family, or nothing but its name."""
    assert first_that_chats([passed_over]) is None
    others = [passed_over, listed("llama3.2", ["llama"]), listed("qwen3", ["qwen3"])]
    assert first_that_chats(others) == "llama3.2"


def test_what_says_that_it_can_chat_is_believed() -> None:
    """Whatever its name or family; the first of several, and none of none."""
    odd = listed("my-embed-chat", ["bert"], capabilities=["completion", "tools"])
    assert first_that_chats([odd, listed("llama3.2")]) == "my-embed-chat"
    assert first_that_chats([]) is None
    assert first_that_chats([listed("llava", ["llama", "clip"])]) == "llava"


def test_a_prompt_without_model_goes_to_one_that_can_chat() -> None:
    """Not to the first of the list; the default model goes before; without any it is a 404."""
    asked: list[str] = []

    class Ollama(httpx.AsyncBaseTransport):
        def __init__(self, names: list[str]) -> None:
            self._names = names

        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            if request.url.path == "/api/tags":
                found = json.dumps({"models": [listed(each) for each in self._names]})
                return httpx.Response(200, stream=httpx.ByteStream(found.encode()))
            asked.append(json.loads(await request.aread())["model"])
            answer = httpx.ByteStream(b'{"message":{"content":"hi"},"done":true}\n')
            return httpx.Response(200, stream=answer)

    async def status(names: list[str], default_model: str | None) -> httpx.Response:
        app = create_app(
            settings(default_model=default_model),
            signals=(),
            async_transport=lambda: Ollama(names),
        )
        transport = httpx.ASGITransport(app)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as http,
        ):
            return await http.post(
                "/v1/chat/completions",
                json={"prompt": "hello"},
                headers={"authorization": "Bearer devkey"},
            )

    async def main() -> None:
        assert (await status(["nomic-embed-text", "llama3.2"], None)).status_code == 200
        assert (await status(["nomic-embed-text", "llama3.2"], "mine")).status_code == 200
        assert asked == ["llama3.2", "mine"]
        for names, part in ((["nomic-embed-text"], "none that can chat"), ([], "has none;")):
            answer = await status(names, None)
            assert (answer.status_code, error_of(answer)["code"]) == (404, "model_not_found")
            assert part in error_of(answer)["message"]

    run_async(main())
