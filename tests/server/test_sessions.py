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
from server.sessions import overruled, readable, session_of, strategy_of
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
    """X-Session-Id, session_id, the named headers in their order, user; an empty guess is none."""
    limits = {"session_header": f"{CHAT_ID}, X-Conversation-Id"}
    guesses = {"x-openwebui-chat-id": "c", "x-conversation-id": "d"}

    def named(headers: dict[str, str], **body: str) -> str:
        return session(headers, limits=limits, **body)

    assert named({"x-session-id": "a", **guesses}, session_id="b", user="e") == "a"
    assert named(guesses, session_id="b", user="e") == "b"
    assert named(guesses, user="e") == "c"
    guesses["x-openwebui-chat-id"] = ""
    assert named(guesses, user="e") == "d"
    guesses["x-conversation-id"] = ""
    assert named(guesses, user="e") == "e"
    assert named(guesses, user="") == "own-t1"
    assert session({"x-openwebui-chat-id": "c"}) == "own-t1"


def test_what_a_header_overrules_is_named() -> None:
    """session_id and session_strategy of a body that say otherwise; not where both say the same."""

    def named(headers: dict[str, str], **body: Any) -> tuple[str, ...]:
        request = ChatRequest.model_validate({"prompt": "x", **body})
        return overruled(chat_prompt(request, "m"), Headers(headers))

    headers = {"x-session-id": "a", "x-session-strategy": "enqueue"}
    assert named(headers, session_id="b", session_strategy="reject") == (
        "session_id",
        "session_strategy",
    )
    assert named(headers, session_id="a", session_strategy="enqueue") == ()
    assert named(headers, user="b") == ()
    assert named({}, session_id="b", session_strategy="reject") == ()


@pytest.mark.socket
def test_what_a_header_overrules_is_in_the_answer() -> None:
    """The prompt is one of the header's session, and X-Ignored-Fields says of what it is none."""

    async def main() -> None:
        async with stack() as server:
            headers = {"x-session-id": "a"}
            answer = await server.post(prompt(session_id="b", stream=True), headers=headers)
            assert answer.headers["x-ignored-fields"] == "session_id"
            (record,) = (await server.http.get("/v1/streams")).json()["data"]
            assert record["session_id"] == "a"

    run_async(main())


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


@pytest.mark.parametrize("name", ["", " ", "\t", "\n"])
def test_an_empty_name_is_no_name_and_refused(name: str) -> None:
    """It would share the session of all who name none; null is as good as absent."""
    for said in ({"headers": {"x-session-id": name}}, {"session_id": name}):
        with pytest.raises(ApiError, match=r"^(X-Session-Id|session_id): .*no space") as refused:
            session(**said)
        assert refused.value.code == "invalid_session_id"
    asked = ChatRequest.model_validate({"prompt": "x", "session_strategy": name})
    for headers, prompted in (
        (Headers({"x-session-strategy": name}), chat_prompt(ChatRequest(prompt="x"), "m")),
        (Headers(), chat_prompt(asked, "m")),
    ):
        with pytest.raises(ApiError, match=r"(?i)session.strategy: .*there are interrupt"):
            strategy_of(prompted, headers, settings())
    assert session(session_id=None) == "own-t1"


def test_two_values_of_one_header_are_refused() -> None:
    """Nobody can tell which was meant; the same one twice, as a proxy may send it, is one."""
    raw = [(b"x-session-id", b"a"), (b"x-session-id", b"b"), (b"x-session-strategy", b"reject")]
    prompted = chat_prompt(ChatRequest(prompt="x"), "m")

    def named(headers: Headers) -> str:
        return session_of(prompted, headers, settings=settings(), is_devkey=False, trace_id="t1")

    with pytest.raises(ApiError, match=r"X-Session-Id: is there 2 times, as 'a', 'b'"):
        named(Headers(raw=raw))
    with pytest.raises(ApiError, match="X-Session-Strategy: is there 2 times"):
        strategy_of(prompted, Headers(raw=[*raw, (b"x-session-strategy", b"")]), settings())
    assert named(Headers(raw=[raw[0], raw[0]])) == "a"


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
