"""Which session a prompt belongs to: named, guessed, nameless; no title kills an answer."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import quote

import pytest
from starlette.datastructures import Headers

from server.errors import ApiError
from server.openai import ChatRequest, chat_prompt
from server.sessions import readable, session_of
from tests.server.support import error_of, events, prompt, run_async, settings, stack, until

CHAT_ID = "X-OpenWebUI-Chat-Id"
KEY = {"authorization": "Bearer k1"}


def session(
    headers: dict[str, str] | None = None,
    *,
    is_devkey: bool = False,
    limits: dict[str, Any] | None = None,
    **body: Any,
) -> str:
    request = ChatRequest.model_validate({"prompt": "x", "stream": True, **body})
    return session_of(
        chat_prompt(request, "m"),
        Headers(headers or {}),
        settings=settings(**(limits or {})),
        is_devkey=is_devkey,
        trace_id="t1",
    )


def test_the_first_name_that_is_there_counts() -> None:
    """X-Session-Id, session_id, the named headers in their order, user; empty is not there."""
    limits = {"session_header": f"{CHAT_ID}, X-Conversation-Id"}
    everything = {
        "x-session-id": "a",
        "x-openwebui-chat-id": "c",
        "x-conversation-id": "d",
    }
    names = []
    for name in ("", *everything):
        everything[name] = ""
        body = {"session_id": "b"} if name in ("", "x-session-id") else {}
        names.append(session(everything, limits=limits, user="e", **body))
    assert names == ["a", "b", "d", "e"]
    assert session({"x-openwebui-chat-id": "c"}) == "own-t1"


def test_nameless_prompts_are_strangers_behind_a_key_and_one_behind_devkey() -> None:
    """`own` unless devkey is the only key; JARVIS_NAMELESS says otherwise for either."""
    assert session() == "own-t1"
    assert session(is_devkey=True) == "default"
    assert session(limits={"nameless": "key"}) == "default"
    assert session(is_devkey=True, limits={"nameless": "own"}) == "own-t1"


def test_in_a_guessed_session_only_what_is_streamed_interrupts() -> None:
    """A title shares the conversation's header or user, and is not streamed."""
    limits = {"session_header": CHAT_ID}
    for guess in ({"headers": {CHAT_ID: "c"}}, {"user": "c"}):
        assert session(**guess, limits=limits) == "c"
        assert session(**guess, limits=limits, stream=False) == "own-t1"
        whole = {**limits, "unstreamed": "session"}
        assert session(**guess, limits=whole, stream=False) == "c"
    assert session({"x-session-id": "c"}, stream=False) == "c"
    assert session(session_id="c", stream=False) == "c"


@pytest.mark.parametrize(
    "text",
    [
        "u1",
        "Zoë",
        "u" * 200,
        "ひらがな" * 4,
        "é" * 22,
        "a b\nc",
        "\ud800",
        "%41",
        "\x00",
        "é" * 100_000,
    ],
)
def test_user_may_be_any_text(text: str) -> None:
    """Of any length: what is short stays readable, and each text has a session of its own."""
    found = session(user=text)
    assert re.fullmatch(r"[!-~]{1,128}", found)
    assert found != session(user=text + "x")
    if len(text) < 5 and text.isalnum() and text.isascii():
        assert found == text


def test_what_is_too_long_for_a_name_is_not_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escaping 30 MB would hold everybody up for seconds, and shortens nothing."""
    escaped: list[int] = []

    def counted(raw: bytes, safe: str) -> str:
        escaped.append(len(raw))
        return quote(raw, safe=safe)

    monkeypatch.setattr("server.sessions.quote", counted)
    for text in ("a" * 128, "é" * 64, "é" * 65, "a" * 129, "\ud800" * 100, "é" * 10**6):
        readable(text)
    assert escaped == [128, 128]


def test_two_texts_are_never_one_session() -> None:
    """Escapes are escaped: what looks like another's escaped name is not that."""
    texts = ["é", "%C3%A9", "%25C3%25A9", "a b", "a%20b", "a+b"]
    assert len({readable(text) for text in texts}) == len(texts)


def test_an_explicit_session_id_that_can_be_none_is_refused() -> None:
    """It was meant, so a mistake in it is an error."""
    with pytest.raises(ApiError, match="printable ASCII"):
        session({"x-session-id": "a b"})
    with pytest.raises(ApiError, match="printable ASCII"):
        session(session_id="é")


@pytest.mark.socket
def test_titles_tags_and_follow_ups_leave_the_answer_alone() -> None:
    """Three at once with the answer's own chat id, as front-ends send them: all four are whole."""

    async def main() -> None:
        limits = {"api_keys": "k1", "session_header": CHAT_ID}
        changes = {"load_s": 0.0, "num_parallel": 8}
        async with stack("normal", changes, **limits) as server:
            headers = {**KEY, CHAT_ID: "chat-1"}
            chat = prompt("chat", stream=True)
            answer = asyncio.create_task(server.post(chat, headers=headers))
            await until(lambda: server.fake.calls and server.fake.calls[0].chunks > 2, "chunks")
            tasks = [f"### Task: {what}" for what in ("a title", "tags", "follow-ups")]
            others = [server.post(prompt(task), headers=headers) for task in tasks]
            assert [each.status_code for each in await asyncio.gather(*others)] == [200] * 3
            assert "error" not in (await answer).text
            # The next prompt of the conversation does interrupt.
            first = asyncio.create_task(server.post(chat, headers=headers))
            await until(lambda: server.fake.active_calls, "the second answer")
            await server.post(prompt("newer", stream=True), headers=headers)
            if (await first).status_code == 200:
                assert events((await first).text)[-2]["error"]["code"] == "superseded"
            else:
                assert error_of(await first)["code"] == "superseded"

    run_async(main())


@pytest.mark.socket
def test_strangers_behind_one_key_do_not_stop_each_other() -> None:
    """Prompts that name no session run side by side, each in a session that the list shows."""

    async def main() -> None:
        async with stack(api_keys="k1") as server:
            body = prompt(stream=True, model="fake:hang-before-headers")
            asked = [asyncio.create_task(server.post(body, headers=KEY)) for _ in range(2)]
            await until(lambda: server.states() == ["ACTIVE", "ACTIVE"], "both are active")
            streams = (await server.http.get("/v1/streams", headers=KEY)).json()["data"]
            assert {each["session_id"] for each in streams} == {
                f"own-{each['trace_id']}" for each in streams
            }
            for each in asked:
                each.cancel()
            await asyncio.wait(asked)
            await server.quiet()

    run_async(main())
