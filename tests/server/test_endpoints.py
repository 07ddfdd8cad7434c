"""OpenAI's other endpoints and Ollama's own, with the official packages, on real ports."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ollama
import openai
import pytest

from registry import State
from server.app import create_app
from tests.server.support import CLIENTS, Stack, error_of, events, prompt, run_async, stack, until

pytestmark = [pytest.mark.socket, pytest.mark.once]

HELLO: list[Any] = [{"role": "user", "content": "hello"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@asynccontextmanager
async def openai_sdk(server: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="devkey") as client:
        yield client


def ollama_client(server: Stack, session: str = "s") -> ollama.AsyncClient:
    headers = {"authorization": "Bearer devkey", "x-session-id": session}
    return ollama.AsyncClient(server.url, headers=headers, trust_env=False)


# ---- OpenAI's -------------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_completions_are_the_sdks_own(client: str) -> None:
    """Streamed with usage, and as one object, the SDK sees the same text of /api/generate."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, openai_sdk(server) as api:
            whole = await api.completions.create(model="fake:normal", prompt="hello")
            assert whole.object == "text_completion"
            assert whole.choices[0].finish_reason == "stop"
            text, usage, reasons = "", None, []
            chunks = await api.completions.create(
                model="fake:normal",
                prompt=["hello"],
                stream=True,
                stream_options={"include_usage": True},
                max_tokens=5,
            )
            async for chunk in chunks:
                usage = chunk.usage or usage
                for choice in chunk.choices:
                    text += choice.text
                    reasons += [choice.finish_reason] if choice.finish_reason else []
            assert whole.choices[0].text.startswith(text)
            assert reasons == ["length"]
            assert usage is not None
            assert usage.completion_tokens > 0
            for wrong, param in (
                ({"prompt": [1, 2]}, "prompt"),
                ({"prompt": ["a", "b"]}, "prompt"),
                ({"prompt": "a", "echo": True}, "echo"),
                ({"prompt": "a", "n": 2}, "n"),
                ({}, "prompt"),
            ):
                response = await server.http.post("/v1/completions", json=wrong)
                assert (response.status_code, error_of(response)["param"]) == (400, param)

    run_async(main())


def test_a_completion_obeys_the_sessions_rule() -> None:
    """Prompts of different endpoints share their session: the newest stops the one before it."""

    async def main() -> None:
        hung = {"model": "fake:hang-midstream", "stream": True}
        said = {"x-session-id": "s"}
        async with stack() as server:
            calls: list[tuple[str, dict[str, Any]]] = [
                ("/v1/completions", {**hung, "prompt": "one"}),
                ("/api/generate", {**hung, "prompt": "two"}),
                ("/api/chat", {**hung, "messages": HELLO}),
                ("/v1/chat/completions", {"prompt": "last"}),
            ]
            tasks = []
            for number, (path, body) in enumerate(calls, 1):
                tasks.append(asyncio.create_task(server.http.post(path, json=body, headers=said)))
                await until(lambda n=number: len(server.fake.calls) == n, f"call {number}")
                if number < len(calls):
                    await until(lambda: server.fake.active_calls[-1].chunks > 1, "chunks")
            answers = [await task for task in tasks]
            assert events(answers[0].text)[-2]["error"]["code"] == "superseded"
            for answer in answers[1:3]:
                last = json.loads(answer.text.splitlines()[-1])
                assert set(last) == {"error", "code"}
                assert last["code"] == "superseded"
            assert answers[3].status_code == 200
            ended = [call.ended for call in server.fake.calls]
            assert ended == ["disconnected"] * 3 + ["finished"]

    run_async(main())


HANGS: dict[str, Any] = {"model": "fake:hang-midstream", "stream": True}
# Of each path that takes prompts, one.
PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO},
    "/v1/completions": {"prompt": "hello"},
    "/v1/responses": {"input": "hello"},
    "/api/chat": {"messages": HELLO},
    "/api/generate": {"prompt": "hello"},
}


def test_every_path_whose_body_is_a_prompt_is_known_here() -> None:
    """What the tests below hold of every prompt is held of all paths that take one."""
    paths = create_app().openapi()["paths"]
    asks_for_session = {
        path
        for path, operations in paths.items()
        for operation in operations.values()
        if any(p["name"].lower() == "x-session-id" for p in operation.get("parameters", ()))
    }
    assert asks_for_session == set(PROMPTS)


@pytest.mark.parametrize("path", PROMPTS)
def test_every_prompt_says_what_it_does_in_a_busy_session(path: str) -> None:
    """By header or body: `reject` stops nobody, `enqueue` waits, an unknown one is a 400."""

    async def main() -> None:
        body = {**PROMPTS[path], "session_id": "s"}
        async with stack() as server:
            first = asyncio.create_task(server.http.post(path, json={**HANGS, **body}))
            await until(lambda: server.states() == ["ACTIVE"], "the first is active")
            await until(lambda: server.fake.calls, "Ollama was asked")
            for strategy, status in (("reject", 409), ("no-such", 400)):
                by_body = {"json": {**body, "session_strategy": strategy}}
                by_header = {"json": body, "headers": {"x-session-strategy": strategy}}
                for sent in (by_body, by_header):
                    answer = await server.http.post(path, **sent)
                    assert answer.status_code == status, answer.text
            assert server.states() == ["ACTIVE"]
            waits = {**body, "session_strategy": "enqueue"}
            second = asyncio.create_task(server.http.post(path, json=waits))
            await until(lambda: "WAITING" in server.states(), "the second waits")
            (active,) = server.registry.snapshot().in_state(State.ACTIVE)
            await server.registry.cancel(active.trace_id)
            await first
            assert (await second).status_code == 200

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_responses_are_the_sdks_own(client: str) -> None:
    """Whole, as events, and by the SDK's own gathering of them: text, thoughts and calls."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, openai_sdk(server) as api:
            whole = await api.responses.create(model="fake:normal", input="hello")
            assert whole.status == "completed"
            assert whole.output_text.startswith("hello")
            assert whole.usage is not None
            assert whole.usage.total_tokens > 0
            found = [
                event
                async for event in await api.responses.create(
                    model="fake:thinking", input="hello", instructions="be brief", stream=True
                )
            ]
            assert [event.sequence_number for event in found] == list(range(len(found)))
            kinds = list(dict.fromkeys(event.type for event in found))
            assert kinds == [
                "response.created",
                "response.in_progress",
                "response.output_item.added",
                "response.reasoning_summary_part.added",
                "response.reasoning_summary_text.delta",
                "response.reasoning_summary_text.done",
                "response.reasoning_summary_part.done",
                "response.output_item.done",
                "response.content_part.added",
                "response.output_text.delta",
                "response.output_text.done",
                "response.content_part.done",
                "response.completed",
            ]
            assert [item.type for item in found[-1].response.output] == ["reasoning", "message"]
            tool = {"type": "function", **WEATHER["function"], "strict": False}
            async with api.responses.stream(
                model="fake:tools", input=[HELLO[0]], tools=[tool]
            ) as events_:
                final = await events_.get_final_response()
            (call,) = final.output
            assert (call.type, call.name) == ("function_call", "weather")
            cut = await api.responses.create(
                model="fake:normal", input="hello", max_output_tokens=2
            )
            assert cut.status == "incomplete"
            with pytest.raises(openai.APIError, match="Ollama"):
                async for _ in await api.responses.create(
                    model="fake:error-midstream", input="hello", stream=True
                ):
                    pass
            with pytest.raises(openai.BadRequestError, match="the whole conversation"):
                await api.responses.create(
                    model="fake:normal", input="hello", previous_response_id="resp_1"
                )
            await server.quiet()

    run_async(main())


def test_a_response_that_fails_has_begun() -> None:
    """Clients refuse a failure of a response that they were not told of: it begins first."""

    async def main() -> None:
        async with stack(head_hold_seconds=0.05, first_chunk_seconds=0.3) as server:
            response = await server.http.post(
                "/v1/responses",
                json={"model": "fake:hang-before-headers", "input": "hello", "stream": True},
            )
            kinds = [event["type"] for event in events(response.text)]
            assert kinds == [
                "response.created",
                "response.in_progress",
                "response.failed",
                "error",
            ]
            failed, error = events(response.text)[2:]
            assert failed["response"]["error"]["code"] == error["code"] == "upstream_silent"
            assert error["error"]["code"] == "upstream_silent"

    run_async(main())


def test_embeddings_are_the_sdks_own() -> None:
    """As floats and in base64, the SDK's default, of one text and of several."""

    async def main() -> None:
        async with stack() as server, openai_sdk(server) as api:
            ask = api.embeddings.create
            several = await ask(model="fake:normal", input=["a", "b", "a"])
            assert [each.index for each in several.data] == [0, 1, 2]
            first, second, third = (each.embedding for each in several.data)
            assert first == third != second
            floats = await ask(model="fake:normal", input="a", encoding_format="float")
            assert floats.data[0].embedding == first
            assert floats.usage.prompt_tokens == 1
            short = await ask(model="fake:normal", input="a", dimensions=3)
            assert short.data[0].embedding == first[:3]
            with pytest.raises(openai.BadRequestError, match="tokens"):
                await ask(model="fake:normal", input=[1, 2, 3])
            with pytest.raises(openai.NotFoundError):
                await ask(model="fake:missing", input="a")
            assert not server.states()

    run_async(main())


def test_one_model_is_retrieved() -> None:
    """By its name, also one with slashes, also without its tag; else a 404 says so."""

    async def main() -> None:
        name = "hf.co/some/model:q4"
        async with stack(changes={"models": (name, "mine")}) as server, openai_sdk(server) as api:
            assert (await api.models.retrieve(name)).id == name
            assert (await api.models.retrieve("mine")).id == "mine:latest"
            assert (await api.models.retrieve("mine")).created > 0
            with pytest.raises(openai.NotFoundError, match="no model 'yours'"):
                await api.models.retrieve("yours")

    run_async(main())


# ---- Ollama's own ---------------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_ollamas_client_works_unmodified(client: str) -> None:
    """Chat and generate, streamed and not; thinking, tools, counts and the context."""

    async def main() -> None:
        async with stack(ollama_client=client) as server, ollama_client(server) as api:
            whole = await api.chat("fake:normal", HELLO)
            parts = [part async for part in await api.chat("fake:normal", HELLO, stream=True)]
            text = "".join(part.message.content or "" for part in parts)
            assert whole.message.content == text
            assert parts[-1].done_reason == whole.done_reason == "stop"
            assert parts[-1].eval_count == whole.eval_count
            assert whole.total_duration
            said = await api.generate("fake:normal", "hello")
            assert said.response.startswith("hello")
            assert said.context
            pieces = [p async for p in await api.generate("fake:normal", "hello", stream=True)]
            assert "".join(piece.response for piece in pieces) == said.response
            called = await api.chat("fake:tools", HELLO, tools=[WEATHER])
            (call,) = called.message.tool_calls or ()
            assert call.function.name == "weather"
            thought = await api.chat("fake:thinking", HELLO, think=True)
            assert thought.message.thinking
            await server.quiet()

    run_async(main())


def test_ollamas_client_looks_models_up() -> None:
    """list, show, ps, embed and the older embeddings; loading a model stops no prompt."""

    async def main() -> None:
        async with stack() as server, ollama_client(server) as api:
            listed = [model.model for model in (await api.list()).models]
            assert "fake:normal" in listed
            assert (await api.show("fake:tools")).capabilities
            vectors = (await api.embed("fake:normal", ["a", "b"])).embeddings
            assert len(vectors) == 2
            assert (await api.embeddings("fake:normal", "a")).embedding == vectors[0]
            version = (await server.http.get("/api/version")).json()
            assert version["version"]
            hung = asyncio.create_task(
                server.http.post(
                    "/api/chat",
                    json={"model": "fake:hang-midstream", "messages": HELLO},
                    headers={"x-session-id": "s"},
                )
            )
            await until(lambda: server.states() == ["ACTIVE"], "the prompt runs")
            assert (await api.chat("fake:normal", [])).done_reason == "load"
            assert (await api.generate("fake:normal", "", keep_alive=0)).done_reason == "unload"
            assert [model.model for model in (await api.ps()).models] == ["fake:hang-midstream"]
            assert server.states() == ["ACTIVE"]
            hung.cancel()

    run_async(main())


def test_errors_have_ollamas_shape_under_its_paths() -> None:
    """A text in `error` for each status, so that Ollama's clients show it, and amid a stream."""

    async def main() -> None:
        async with stack() as server, ollama_client(server) as api:
            with pytest.raises(ollama.ResponseError, match="not found") as caught:
                await api.chat("fake:missing", HELLO)
            assert caught.value.status_code == 404
            with pytest.raises(ollama.ResponseError, match="Ollama"):
                async for _ in await api.chat("fake:error-midstream", HELLO, stream=True):
                    pass
            async with ollama.AsyncClient(server.url, trust_env=False) as stranger:
                with pytest.raises(ollama.ResponseError, match="Authorization") as caught:
                    await stranger.list()
            assert caught.value.status_code == 401
            for content in (b"", b"[]", b'{"messages":5}'):
                response = await server.http.post("/api/chat", content=content)
                assert response.status_code == 400
                assert isinstance(response.json()["error"], str)

    run_async(main())


def test_a_look_up_ends_with_its_client_and_with_the_server() -> None:
    """A client that leaves ends its call to Ollama; SIGTERM ends it with 503, a limit with 504."""

    async def main() -> None:
        body = {"model": "fake:load-aborted", "keep_alive": "1h"}
        profile = {"aborted_load_s": 60.0}
        async with stack(changes=profile, models_seconds=0.2) as server:
            left = asyncio.create_task(server.http.post("/api/generate", json=body))
            await until(lambda: server.fake.active_calls, "the load has begun")
            left.cancel()
            await until(lambda: not server.fake.active_calls, "the load is given up")
            stays = asyncio.create_task(server.http.post("/api/generate", json=body))
            await until(lambda: server.fake.active_calls, "the load has begun again")
            server.service.begin_shutdown()
            response = await stays
            assert response.status_code == 503
            assert response.json()["code"] == "shutting_down"
        async with stack(changes=profile, first_chunk_seconds=0.2) as server:
            response = await server.http.post("/api/generate", json=body)
            assert response.status_code == 504
            assert "JARVIS_FIRST_CHUNK_SECONDS" in response.json()["error"]

    run_async(main())


def test_parameters_of_a_query_are_named_whatever_is_asked() -> None:
    """But the one that has an effect; also where the answer is an error."""

    async def main() -> None:
        async with stack() as server:
            for path, named in (
                ("/v1/models?limit=3&limit=4", "?limit"),
                ("/v1/streams?watch=0&order=asc", "?order"),
                ("/v1/streams?watch=0", None),
                ("/v1/models?watch", "?watch"),
                ("/healthz?verbose", "?verbose"),
                ("/v1/nowhere?a", "?a"),
                ("/api/tags", None),
            ):
                answer = await server.http.get(path)
                assert answer.headers.get("x-ignored-fields") == named, path
            embed = {"model": "fake:normal", "input": "x", "b": 1}
            answer = await server.http.post("/v1/embeddings?a", json=embed)
            assert answer.headers["x-ignored-fields"] == "b, ?a"

    run_async(main())


def test_a_session_where_none_is_asked_for_is_named() -> None:
    """Under /api, of what is no prompt; the rest of such a body is Ollama's to judge."""

    async def main() -> None:
        async with stack() as server:
            session = {"session_id": "a b", "session_strategy": "enqueue"}
            for path, asked, named in (
                ("/api/embed", {"input": "x", "stream": False}, "stream, "),
                ("/api/embeddings", {"prompt": "x", "more": 1}, ""),
                ("/api/show", {}, ""),
                ("/api/chat", {"messages": []}, ""),
                ("/api/generate", {"keep_alive": 0, "stream": False}, ""),
            ):
                body = {"model": "fake:normal", **asked}
                answer = await server.http.post(path, json={**body, **session})
                assert answer.status_code == 200, answer.text
                names = answer.headers["x-ignored-fields"]
                assert names == f"{named}session_id, session_strategy", path
                plain = await server.http.post(path, json={**body, "session_id": None})
                assert "session" not in plain.headers.get("x-ignored-fields", ""), path

    run_async(main())


def test_ignored_fields_are_named_in_a_header() -> None:
    """Of a stream and of an object; none where there are none."""

    async def main() -> None:
        async with stack() as server:
            for streamed in (True, False):
                named = await server.post(prompt(stream=streamed, temprature=1, metadata={}))
                assert named.headers["x-ignored-fields"] == "temprature"
                plain = await server.post(prompt(stream=streamed))
                assert "x-ignored-fields" not in plain.headers
                asked = await server.post(prompt(stream=streamed), params={"session_id": "x"})
                assert asked.headers["x-ignored-fields"] == "?session_id"
                both = await server.post(prompt(stream=streamed, tmp=1), params={"a": "", "b": ""})
                assert both.headers["x-ignored-fields"] == "tmp, ?a, ?b"

    run_async(main())


# ---- behind something -----------------------------------------------------------------------


@pytest.mark.parametrize("client", CLIENTS)
def test_ollama_may_stand_behind_a_path_and_a_password(
    client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Base path, user info, bearer token and headers reach it; no error and no log shows them."""
    caplog.set_level("DEBUG")
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked.append(head)
        body = b'{"error":"go away"}'
        writer.write(b"HTTP/1.1 401 No\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async def main() -> None:
        listener = await asyncio.start_server(proxy, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        ways: list[tuple[str, dict[str, Any], bytes]] = [
            ("me:hunt%20er2@", {}, b"Basic bWU6aHVudCBlcjI="),
            ("", {"ollama_api_key": "hunter2"}, b"Bearer hunter2"),
            ("", {"ollama_headers": {"X-Token": "hunter2"}}, b"hunter2"),
        ]
        async with listener:
            for info, more, secret in ways:
                host = f"http://{info}127.0.0.1:{port}/ollama"
                async with stack(ollama_host=host, ollama_client=client, **more) as server:
                    answers = [
                        await server.post(prompt()),
                        await server.http.get("/v1/models"),
                        await server.http.get("/api/tags"),
                    ]
                    assert [answer.status_code for answer in answers] == [502] * 3
                    assert all("go away" in answer.text for answer in answers)
                    shown = "".join(answer.text for answer in answers) + repr(
                        server.service.settings
                    )
                    assert "hunt" not in shown
                paths = [head.split()[1] for head in asked]
                assert paths == [b"/ollama/api/chat", b"/ollama/api/tags", b"/ollama/api/tags"]
                assert all(secret in head for head in asked)
                asked.clear()
        assert "hunt" not in caplog.text

    run_async(main())
