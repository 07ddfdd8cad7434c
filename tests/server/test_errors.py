"""Every error has OpenAI's shape and the right status, or stands as a message before [DONE]."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from typing import Any

import httpx
import pytest

from server.ollama import OllamaRequest
from tests.server.support import (
    CLIENTS,
    PATIENCE_S,
    RawClient,
    Stack,
    content_of,
    error_of,
    events,
    free_port,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket

JSON = {"content-type": "application/json"}
BAD_BODIES: list[tuple[bytes, str | None]] = [
    (b"", None),
    (b"{", None),
    (b"nonsense", None),
    (b"\xff\xfe{}", None),
    (b'{"prompt":"\xff"}', None),
    (b"[" * 100_000, None),
    (b"1" * 5000, None),
    (b"[]", None),
    (b"null", None),
    (b"{}", "messages"),
    (b'{"messages":[]}', "messages"),
    (b'{"prompt":""}', "prompt"),
    (b'{"prompt":"x","messages":[{"role":"user","content":"y"}]}', "prompt"),
    (b'{"prompt":7}', "prompt"),
    (b'{"prompt":"x","stream":"perhaps"}', "stream"),
    (b'{"prompt":"x","n":2}', "n"),
    (b'{"prompt":"x","temperature":NaN}', "temperature"),
    (b'{"prompt":"x","temperature":1e999}', "temperature"),
    (b'{"messages":[{"role":"wizard","content":"y"}]}', "messages.0.role"),
    (b'{"messages":[{"content":"y"}]}', "messages.0.role"),
    (b'{"messages":["y"]}', "messages.0"),
    (b'{"prompt":"x","session_id":"a\\nb"}', "session_id"),
    (b'{"prompt":"x","session_id":"\\ud800"}', "session_id"),
    (b'{"prompt":"x","session_id":"' + b"s" * 129 + b'"}', "session_id"),
    (
        b'{"messages":[{"role":"user","content":[{"type":"image_url",'
        b'"image_url":{"url":"http://x/y.png"}}]}]}',
        "messages.0.content",
    ),
    (
        b'{"messages":[{"role":"assistant","tool_calls":[{"id":"1","function":'
        b'{"name":"f","arguments":"["}}]}]}',
        "messages.0.tool_calls",
    ),
    (b'{"prompt":"x","tools":[' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"]}", None),
]


def test_bad_bodies_are_refused_in_openais_shape() -> None:
    """Whatever is wrong with a body, the answer is a 400 that names the field, never a 500."""

    async def main() -> None:
        async with stack() as server:
            for body, param in BAD_BODIES:
                response = await server.http.post(
                    "/v1/chat/completions", content=body, headers=JSON
                )
                error = error_of(response)
                assert response.status_code == 400, (body[:80], response.text)
                assert param is None or (error["param"] or "").startswith(param), (body, error)
                assert error["type"] == "invalid_request_error"
                assert response.headers["x-should-retry"] == "false"
                assert response.headers["x-trace-id"] == response.headers["x-request-id"]
            assert not server.fake.calls
            assert not server.states()

    run_async(main())


def test_a_body_over_the_limit_is_refused() -> None:
    """413, whether the length is announced or only found out, and the server goes on."""

    async def main() -> None:
        async with stack(body_max_bytes=1000) as server:
            announced = await server.post(prompt("x" * 1000))

            async def parts() -> Any:
                for _ in range(20):
                    yield b"x" * 100

            found_out = await server.http.post(
                "/v1/chat/completions", content=parts(), headers=JSON
            )
            for response in (announced, found_out):
                assert response.status_code == 413
                assert error_of(response)["code"] == "body_too_large"
            assert (await server.post(prompt())).status_code == 200

    run_async(main())


def test_unknown_paths_and_methods_have_openais_shape() -> None:
    """404 and 405 look like every other error, and need the key as well."""

    async def main() -> None:
        async with stack() as server:
            assert error_of(await server.http.get("/nowhere"))["code"] == "not_found"
            wrong = await server.http.delete("/v1/chat/completions")
            assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
            for path in ("/v1/nowhere", "/nowhere"):
                keyless = await server.http.get(path, headers={"authorization": ""})
                assert (keyless.status_code, error_of(keyless)["code"]) == (401, "invalid_api_key")

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(
    ("mode", "status", "code"),
    [
        ("missing", 404, "model_not_found"),
        ("error", 500, "upstream_error"),
        ("busy", 503, "upstream_busy"),
        ("unauthorized", 502, "upstream_unauthorized"),
        ("rate-limited", 429, "upstream_rate_limited"),
        ("bad-gateway", 502, "upstream_error"),
    ],
)
def test_an_error_of_ollama_keeps_its_meaning(
    client: str, streamed: bool, mode: str, status: int, code: str
) -> None:
    """What Ollama answers before its first chunk comes as a status, streamed or not."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            response = await server.post(prompt(stream=streamed, model=f"fake:{mode}"))
            assert response.status_code == status
            assert error_of(response)["code"] == code
            assert response.headers["x-should-retry"] == "false"
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(
    ("mode", "code"), [("error-midstream", "upstream_error"), ("cut", "cut"), ("crash", "cut")]
)
def test_a_failure_midstream_is_a_message_before_done(client: str, mode: str, code: str) -> None:
    """A stream that Ollama breaks off keeps its chunks and never ends as if it were whole."""

    async def main() -> None:
        changes = {"chunk_s": 0.01}
        async with stack("instant", changes, ollama_client=client) as server:
            found = events((await server.post(prompt(stream=True, model=f"fake:{mode}"))).text)
            assert found[-1] == "[DONE]"
            assert found[-2]["error"]["code"] == code
            assert len(found) > 3, "the chunks before it have come"
            whole = await server.post(prompt(model=f"fake:{mode}"))
            assert whole.status_code in (500, 502)
            assert error_of(whole)["code"] == code
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_an_ollama_that_is_away_is_named(client: str) -> None:
    """503 with the address, and how to start Ollama or the fake."""

    async def main() -> None:
        address = f"http://127.0.0.1:{free_port()}"
        async with stack(ollama_client=client, ollama_host=address) as server:
            response = await server.post(prompt(stream=True))
            assert (response.status_code, error_of(response)["code"]) == (
                503,
                "upstream_unreachable",
            )
            for part in (address, "ollama serve", "onestream fake-ollama", "OLLAMA_HOST"):
                assert part in error_of(response)["message"]
            assert (await server.http.get("/v1/models")).status_code == 503
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streamed", [True, False])
def test_an_ollama_that_says_nothing_is_a_504(client: str, streamed: bool) -> None:
    """No first chunk within its limit: 504 that names the limit, and nothing is left of it."""

    async def main() -> None:
        async with stack(ollama_client=client, first_chunk_seconds=0.2) as server:
            body = prompt(stream=streamed, model="fake:hang-before-headers")
            response = await server.post(body)
            assert (response.status_code, error_of(response)["code"]) == (504, "upstream_silent")
            assert "JARVIS_FIRST_CHUNK_SECONDS" in error_of(response)["message"]
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_silence_midstream_ends_the_stream(client: str) -> None:
    """The stream ends after the inactivity limit, not the longer one for the first chunk, with a
    message, and keeps what it had sent."""

    async def main() -> None:
        limits = {"stream_inactivity_seconds": 0.2, "first_chunk_seconds": 5.0}
        async with stack(ollama_client=client, **limits) as server:
            loop = asyncio.get_running_loop()
            began = loop.time()
            found = events(
                (await server.post(prompt(stream=True, model="fake:hang-midstream"))).text
            )
            assert loop.time() - began < 2.0
            assert [found[-2]["error"]["code"], found[-1]] == ["upstream_silent", "[DONE]"]
            assert "JARVIS_STREAM_INACTIVITY_SECONDS" in found[-2]["error"]["message"]
            assert len(found) > 3
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_stream_may_not_run_longer_than_the_total(client: str) -> None:
    """A stream that goes on and on ends at the total limit, whatever it still sends."""

    async def answered_within(total_s: float) -> httpx.Response:
        changes = {"chunk_s": 0.02, "chunks": 10_000}
        async with stack("instant", changes, ollama_client=client, total_seconds=total_s) as server:
            answer = await server.post(prompt(stream=True))
            await server.quiet()
            return answer

    async def main() -> None:
        answer = await answered_within(0.5)
        if answer.status_code != 200:
            # The machine is too busy for the stream to have begun by then.
            assert error_of(answer)["code"] == "total_exceeded"
            answer = await answered_within(20.0)
        found = events(answer.text)
        assert [found[-2]["error"]["code"], found[-1]] == ["total_exceeded", "[DONE]"]

    run_async(main())


def test_headers_are_held_and_then_pinged() -> None:
    """Past the head hold the status goes out and comments follow; an error is then a message."""

    async def main() -> None:
        limits = {"head_hold_seconds": 0.1, "ping_seconds": 0.05, "first_chunk_seconds": 0.5}
        async with stack(**limits) as server:
            body = prompt(stream=True, model="fake:hang-before-headers")
            response = await server.post(body)
            assert response.status_code == 200
            assert response.text.count(": ping\n") >= 3
            # Some take a blank line after a comment for the end of an event.
            assert ": ping\n\n" not in response.text
            found = events(response.text)
            assert [found[0]["error"]["code"], found[1]] == ["upstream_silent", "[DONE]"]
            assert "id:" not in response.text.split("data:")[0]

    run_async(main())


async def read_answer(server: Stack, model: str, read: list[str]) -> httpx.Response:
    """Appends to `read` what comes, as it comes."""
    body = prompt(stream=True, model=model)
    async with server.http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for text in response.aiter_text():
            read.append(text)
    return response


@pytest.mark.parametrize("client", CLIENTS)
def test_a_cancel_by_name_ends_the_stream(client: str) -> None:
    """POST …/cancel: 400 before the headers, a message after them; a second one has no effect."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            for mode in ("hang-before-headers", "hang-midstream"):
                read: list[str] = []
                task = asyncio.create_task(read_answer(server, f"fake:{mode}", read))
                await until(lambda: server.fake.active_calls, "upstream")
                if mode == "hang-midstream":
                    await until(lambda read=read: content_of(events("".join(read))), "content")
                listed = (await server.http.get("/v1/streams")).json()["data"]
                trace_id = listed[0]["trace_id"]
                cancel = f"/v1/streams/{trace_id}/cancel"
                assert (await server.http.post(cancel)).json()["cancelled"] is True
                response = await task
                assert response.headers["x-trace-id"] == trace_id
                if mode == "hang-midstream":
                    assert response.status_code == 200
                    found = events("".join(read))
                    assert [found[-2]["error"]["code"], found[-1]] == ["cancelled", "[DONE]"]
                else:
                    assert response.status_code == 400
                    assert json.loads("".join(read))["error"]["code"] == "cancelled"
                await server.quiet()
                assert (await server.http.post(cancel)).json()["cancelled"] is False
                archived = (await server.http.get(f"/v1/streams/{trace_id}")).json()
                assert (archived["state"], archived["reason"]) == ("ENDED", "cancelled")
                assert bool(archived["text"]) == (mode == "hang-midstream")

    run_async(main())


def test_a_body_that_never_comes_is_given_up() -> None:
    """A request whose body stays away ends with 408 after its limit."""

    async def main() -> None:
        async with stack(body_seconds=0.2) as server:
            client = RawClient(server.url)
            try:
                await client.send(prompt("half"), half=True)
                async with asyncio.timeout(PATIENCE_S):
                    answer = await client.read_to_end()
            finally:
                client.close()
            assert answer.startswith(b"HTTP/1.1 408"), answer
            error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
            assert error["code"] == "body_incomplete"
            # Who has counted characters, or waits with its end, sees where it stands.
            assert re.search(
                r"[1-9]\d* bytes of the [1-9]\d* that Content-Length", error["message"]
            )

    run_async(main())


def test_a_failed_prompt_is_freed_without_the_collector() -> None:
    """What Ollama was asked refers to nobody that refers to it: megabytes would stay until then."""

    async def main() -> None:
        async with stack() as server:
            gc.collect()
            gc.disable()
            try:
                answer = await asyncio.to_thread(
                    httpx.post,
                    f"{server.url}/v1/chat/completions",
                    headers={"Authorization": "Bearer devkey"},
                    json={"prompt": "x", "model": "there-is-none"},
                )
                assert answer.status_code == 404
                await server.quiet()
                kept = [each for each in gc.get_objects() if type(each) is OllamaRequest]
                # Those of tests that played before in this process are not this test's matter.
                assert [each for each in kept if each.body["model"] == "there-is-none"] == []
            finally:
                gc.enable()

    run_async(main())
