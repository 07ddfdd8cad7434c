"""A prompt and its answer, in both clients, as messages and as one object."""

from __future__ import annotations

import asyncio
import logging

import pytest

from tests.limits import HANGS_S
from tests.server.support import (
    CLIENTS,
    content_of,
    error_of,
    events,
    prompt,
    run_async,
    stack,
    until,
)

pytestmark = pytest.mark.socket


@pytest.mark.parametrize("client", CLIENTS)
def test_a_prompt_is_answered_in_messages_that_end_with_done(client: str) -> None:
    """The messages carry the whole answer in OpenAI's form, role first, [DONE] last."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            response = await server.post(prompt("tell me", stream=True))
            assert response.status_code == 200
            assert response.headers["content-type"].startswith("text/event-stream")
            found = events(response.text)
            assert found[-1] == "[DONE]"
            assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
            assert found[-2]["choices"][0] == {
                "index": 0,
                "delta": {},
                "logprobs": None,
                "finish_reason": "stop",
            }
            assert len({event["id"] for event in found[:-1]}) == 1
            assert content_of(found).startswith("tell me")
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_prompt_is_answered_in_one_object(client: str) -> None:
    """Without stream the same answer comes as one completion, with its usage."""

    async def main() -> None:
        async with stack(ollama_client=client) as server:
            streamed = events((await server.post(prompt(stream=True))).text)
            whole = (await server.post(prompt())).json()
            assert whole["object"] == "chat.completion"
            assert whole["choices"][0]["message"]["content"] == content_of(streamed)
            assert whole["choices"][0]["finish_reason"] == "stop"
            usage = whole["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            assert usage["completion_tokens"] > 0

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_a_second_prompt_supersedes_the_first(
    client: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The first ends with `superseded` and [DONE], the second is whole, the log is the note's."""
    caplog.set_level(logging.INFO, "onestream.registry")

    async def main() -> None:
        async with stack("normal", {"load_s": 0.0}, ollama_client=client) as server:
            first = asyncio.create_task(server.post(prompt("first", stream=True)))
            await until(lambda: server.fake.calls and server.fake.calls[0].chunks > 2, "chunks")
            second = await server.post(prompt("second", stream=True))
            found = events((await first).text)
            assert found[-2]["error"]["code"] == "superseded"
            assert found[-1] == "[DONE]"
            assert content_of(found).startswith("first")
            assert content_of(events(second.text)).startswith("second")
            assert [call.ended for call in server.fake.calls] == ["disconnected", "finished"]
            await server.quiet()
            old, new = (r.headers["x-trace-id"] for r in (await first, second))
            lines = [r.getMessage() for r in caplog.records if r.name == "onestream.registry"]
            assert lines[:5] == [
                f"stream_start trace={old} trace_id={old} session=default",
                f"stream_cancelled trace={old} reason=new_stream_registered",
                f"prev_stream_finished_cleanly session=default trace={old}",
                lines[3],
                f"stream_start trace={new} trace_id={new} session=default",
            ]
            assert lines[3].startswith(
                f"stream_end trace={old} stream_id={old} session=default duration_ms="
            )

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("mode", ["hang-before-headers", "hang-midstream", "slow-load"])
def test_a_hung_ollama_does_not_delay_the_next_prompt(client: str, mode: str) -> None:
    """A prompt that supersedes one whose Ollama is silent starts at once, not after the grace."""

    async def main() -> None:
        # Else nothing is silent while it loads, and it is over before anybody has looked.
        slow = {"slow_load_s": HANGS_S}
        async with stack("instant", slow, ollama_client=client, grace_seconds=5.0) as server:
            body = prompt(stream=True, model=f"fake:{mode}")
            first = asyncio.create_task(server.post(body))
            await until(lambda: server.fake.active_calls, "the first is upstream")
            loop = asyncio.get_running_loop()
            began = loop.time()
            second = await server.post(prompt("second"))
            assert loop.time() - began < 1.0
            assert second.status_code == 200
            response = await first
            if response.status_code == 200:
                assert events(response.text)[-2]["error"]["code"] == "superseded"
            else:
                assert (response.status_code, error_of(response)["code"]) == (400, "superseded")
                assert response.headers["x-should-retry"] == "false"
            await server.quiet()

    run_async(main())


@pytest.mark.parametrize("client", CLIENTS)
def test_sessions_do_not_touch_each_other(client: str) -> None:
    """Two prompts of two sessions both come to their end."""

    async def main() -> None:
        async with stack("parallel", {"load_s": 0.0}, ollama_client=client) as server:
            answers = await asyncio.gather(
                server.post(prompt("a", stream=True), headers={"x-session-id": "one"}),
                server.post(prompt("b", stream=True, session_id="two")),
                server.post(prompt("c", stream=True, user="three of them")),
            )
            assert all(events(answer.text)[-1] == "[DONE]" for answer in answers)
            assert all("error" not in answer.text for answer in answers)

    run_async(main())
