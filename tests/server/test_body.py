"""What a body may cost: its values, its lists and its bytes are counted before it is worked on."""

from __future__ import annotations

import asyncio
import json
import math
import tracemalloc
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.types import Receive, Scope, Send

from server.app import create_app
from server.body import (
    LIST_MAX,
    NESTED_MAX_BYTES,
    NESTED_VALUES_MAX,
    PIECE_BYTES,
    SMALL_BYTES,
    SMALL_VALUES,
    Bodies,
    HeldBody,
    RequestModel,
    _check_numbers,
    _Count,
    _pieces,
    check_nested,
)
from server.errors import ApiError
from server.front import KEYLESS_MAX_BYTES
from server.memory import LONG_BYTES, PAUSE_S, FreeMemory
from server.openai import ChatRequest, chat_prompt, ollama_body
from server.repeats import digest_of
from server.responses_request import ResponsesRequest, responses_prompt
from sim import new_event_loop
from tests.server.support import error_of, run_async, settings

KEY = {"authorization": "Bearer devkey"}
VALUES_MAX = 1000


def parse(data: bytes, values_max: int = VALUES_MAX) -> Any:
    async def main() -> Any:
        return await Bodies(values_max=values_max, total_max_bytes=1 << 30).work_on(data)

    return asyncio.run(main())


def many(element: bytes, bytes_min: int = 2 * SMALL_BYTES) -> bytes:
    return b'{"messages":[' + b",".join([element] * (bytes_min // len(element))) + b"]}"


@pytest.mark.parametrize(
    "data",
    [
        many(b"1"),
        many(b"[]"),
        many(b"{}"),
        many(b'""'),
        many(b'{"role":"user","content":"x"}'),
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"messages":["' + b'","' * 70_000 + b'"]}',
        b"{" + b'"a":1,' * 50_000 + b'"b":1}',
        # A quote that is escaped ends no string, and a backslash that is escaped escapes none.
        b'{"a":"\\\\",' + many(b"1")[1:],
        b'{"a":"' + b"\\" * (2 * PIECE_BYTES) + b'",' + many(b"1")[1:],
        # A letter with the byte of a quote in it.
        ('{"a":"\N{FOR ALL}",' + many(b"1").decode()[1:]).encode("utf-16"),
    ],
    ids=lambda _: "body",
)
def test_a_body_of_many_values_is_refused_unparsed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the values are, nothing is made of them, and the setting is named."""

    def parsed(data: bytes) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr("server.body._object", parsed)
    with pytest.raises(ApiError, match="JARVIS_BODY_MAX_VALUES") as caught:
        parse(data)
    assert caught.value.status == 400


def test_a_small_body_of_many_values_is_refused_too() -> None:
    """Below the size that is looked through in pieces the limit is the same."""
    data = b'{"messages":[' + b",".join([b"1"] * 2000) + b"]}"
    assert len(data) < SMALL_BYTES
    with pytest.raises(ApiError, match="JARVIS_BODY_MAX_VALUES"):
        parse(data)
    assert len(parse(data, 3000)["messages"]) == 2000


@pytest.mark.parametrize(
    "text",
    [
        "a,b,c[d]{e}\n" * 50_000,
        '"' * 300_000,
        "\\" * 600_000,
        '\\"' * 300_000,
        "\\" * (PIECE_BYTES // 2 - len('{"prompt": "') // 2) + 'x"' * 9000,
        "\N{CJK UNIFIED IDEOGRAPH-6C49}" * 100_000,
    ],
    ids=lambda _: "text",
)
def test_what_stands_in_a_string_is_no_value(text: str) -> None:
    """A long text may have any number of commas, brackets, quotes and backslashes."""
    for ascii_only in (True, False):
        data = json.dumps({"prompt": text, "n": 1}, ensure_ascii=ascii_only).encode()
        assert len(data) > SMALL_BYTES
        assert parse(data, 10) == {"prompt": text, "n": 1}


def test_no_piece_ends_within_an_escape() -> None:
    """Cut anywhere, the pieces are the whole, and none ends with half an escape sequence."""
    for before in range(4):
        for run in (1, 2, 3, PIECE_BYTES, PIECE_BYTES + 1):
            data = b"x" * (PIECE_BYTES - before) + b"\\" * run + b'"' * 10
            pieces = list(_pieces(data))
            assert b"".join(pieces) == data
            for piece in pieces[:-1]:
                assert (len(piece) - len(piece.rstrip(b"\\"))) % 2 == 0


def test_a_long_body_lets_others_have_their_turn() -> None:
    """Between two pieces or steps the loop turns, and two long bodies are not worked on at once."""

    async def main() -> None:
        bodies = Bodies(values_max=VALUES_MAX, total_max_bytes=1 << 30)
        data = json.dumps({"prompt": "x" * (8 * PIECE_BYTES)}).encode()
        turn = 0
        steps: list[tuple[str, int]] = []

        def step(name: str, value: Any) -> Any:
            steps.append((name, turn))
            return value

        first, second = (
            asyncio.create_task(bodies.work_on(data, *[partial(step, name)] * 3))
            for name in ("first", "second")
        )
        turns_together = 0
        while not second.done():
            await asyncio.sleep(0)
            turn += 1
            turns_together += not first.done()
        assert turns_together >= 8
        assert turn - turns_together >= 8
        assert [name for name, _ in steps] == ["first"] * 3 + ["second"] * 3
        assert len({turn for _, turn in steps}) == len(steps)

    run_async(main())


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"{", "is no JSON"),
        (b'{"prompt":"x"', "is no JSON"),
        (b"[]", "this is a list"),
        (b'"x"', "this is a text"),
        (b"1", "this is a number"),
        (b"null", "this is null"),
        (b'{"a":NaN}', "a: nan is no number"),
        (b'{"a":[1,Infinity]}', "a.1: inf is no number"),
        (b'{"a":["\\ud800",NaN]}', "a.1: nan"),
        (b'{"a":[{"b":1e400}]}', "a.0.b: inf"),
        (b'{"a":' + b"1" * 5000 + b"}", "is no JSON"),
        (b"[" * 400 + b"]" * 400, "is no JSON"),
        (b'{"a":"\xff"}', "is no JSON"),
        (b'{"a":"\\ud800' + b"x" * (1 << 21) + b'"}', "is no JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) else "body",
)
def test_what_is_no_json_object_is_told(data: bytes, told: str) -> None:
    """One sentence for each, as 400."""
    with pytest.raises(ApiError, match=told) as caught:
        parse(data)
    assert caught.value.status == 400


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_the_encodings_of_json_are_read(encoding: str) -> None:
    """As Python's json reads them; half a surrogate pair as well, which is no text."""
    assert parse('{"a":"\u00e9\U0001f600"}'.encode(encoding)) == {"a": "\u00e9\U0001f600"}
    assert parse(b'{"a":"\\ud800"}') == {"a": "\ud800"}


def test_a_wrong_list_is_told_once_and_every_list_is_bounded() -> None:
    """Of a thousand wrong elements one error is made; unions and nested lists alike."""

    class Inner(RequestModel):
        names: list[str] | None = None

    class Outer(RequestModel):
        inner: list[Inner] | None = None
        either: str | list[str] | None = None
        short: list[int] = Field(default=[], max_length=2)
        by_name: dict[str, list[int]] | None = None

    wrong: list[Any] = [1] * 1000
    for body, most in (
        ({"inner": wrong}, 1),
        ({"inner": [{"names": wrong}]}, 1),
        ({"either": wrong}, 2),
        ({"short": ["x"] * 1000}, 1),
        ({"by_name": {"a": ["x"] * 1000}}, 1),
    ):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate(body)
        assert len(caught.value.errors()) <= most, body
    for too_long in (
        {"inner": [{}] * (LIST_MAX + 1)},
        {"either": ["x"] * (LIST_MAX + 1)},
        {"short": [1, 2, 3]},
    ):
        with pytest.raises(ValidationError, match="at most"):
            Outer.model_validate(too_long)
    assert len(Outer.model_validate({"inner": [{}] * LIST_MAX}).inner or ()) == LIST_MAX


def test_every_list_of_a_chat_is_bounded() -> None:
    """No list that a prompt can hold is looked at beyond its limit."""
    for body in (
        {"messages": [{"role": "user"}] * (LIST_MAX + 1)},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * (LIST_MAX + 1)}]},
        {"stop": ["x"] * (LIST_MAX + 1)},
        {"tools": [{}] * (LIST_MAX + 1)},
    ):
        with pytest.raises((ValidationError, RequestValidationError)):
            ChatRequest.model_validate(body)


def test_json_within_texts_is_counted_too() -> None:
    """The arguments of all tool calls together; what stands in their strings is no value."""
    check_nested(['{"text":"' + "," * 10**6 + '"}'] * 3, "x")
    some = "[" + ",".join("1" * (NESTED_VALUES_MAX // 3)) + "]"
    check_nested([some, some], "x")
    for texts in ([some] * 4, ["[" * 10**6], ['["' + '","' * 10**6 + '"]']):
        with pytest.raises(ApiError, match="x: has more than") as caught:
            check_nested(texts, "x")
        assert (caught.value.status, caught.value.param) == (400, "x")
    with pytest.raises(ApiError, match="x: is longer than"):
        check_nested(['"' + "x" * (NESTED_MAX_BYTES // 2) + '"'] * 2, "x")
    call = {"function": {"name": "f", "arguments": "[" * 10**6}}
    with pytest.raises(ApiError, match="arguments: has more"):
        ollama_body(
            ChatRequest.model_validate({"messages": [{"role": "user", "tool_calls": [call]}]}), None
        )
    item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "[" * 10**6}
    with pytest.raises(ApiError, match="arguments: has more"):
        responses_prompt(ResponsesRequest.model_validate({"input": [item]}), None)


def test_a_body_is_encoded_once_and_a_model_that_is_found_later_goes_before_it() -> None:
    """Ollama is sent the body, wherever the model was named; the digest is that of the rest."""
    prompt = chat_prompt(ChatRequest.model_validate({"prompt": "hi"}), None).encoded().with_digest()
    request = prompt.request.with_model('a "model"')
    assert json.loads(request.sent()["content"]) == request.body
    assert request.body["model"] == 'a "model"'
    assert request.sent()["content"].endswith(prompt.request.content[1:])
    assert prompt.request.sent()["content"] is prompt.request.content
    assert prompt.digest == digest_of(prompt.request.content)


def test_a_body_of_few_bytes_and_many_values_is_worked_on_in_steps() -> None:
    """A value costs as much whatever its length."""

    async def main() -> None:
        bodies = Bodies(values_max=50_000, total_max_bytes=1 << 30)
        data = b'{"messages":[' + b",".join([b"1"] * (SMALL_VALUES + 1)) + b"]}"
        assert len(data) < SMALL_BYTES
        working = asyncio.create_task(bodies.work_on(data))
        await asyncio.sleep(0)
        assert not working.done()
        assert await bodies.work_on(b"{}") == {}
        assert not working.done()
        await working

    run_async(main())


def test_a_refused_body_costs_a_few_times_its_size_at_most() -> None:
    """Of the worst bodies, peak memory is within 8 times the body."""
    for data in (many(b"1", 1 << 21), many(b'""', 1 << 21), b"[" * (1 << 21)):
        tracemalloc.start()
        try:
            with pytest.raises(ApiError):
                parse(data, 50_000)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak_bytes < 8 * len(data)


# ---- all bodies together, and at the front ----------------------------------------------------


def test_the_bodies_of_all_requests_are_counted() -> None:
    """Together they stay within their limit; what is dropped makes room."""

    async def main() -> None:
        bodies = Bodies(values_max=VALUES_MAX, total_max_bytes=100)
        first, second = HeldBody(bodies), HeldBody(bodies)
        first.add(b"x" * 60)
        with pytest.raises(ApiError, match="JARVIS_BODIES_MAX_BYTES") as caught:
            second.add(b"x" * 41)
        assert caught.value.status == 503
        first.drop()
        first.drop()
        second.add(b"x" * 100)
        assert second.data == b"x" * 100

    run_async(main())


async def ask(
    app: Any, path: str, parts: list[bytes], **headers: str
) -> tuple[httpx.Response, int]:
    """A POST in parts; how many of its bytes were read."""
    read_bytes = 0

    async def content() -> Any:
        nonlocal read_bytes
        for part in parts:
            read_bytes += len(part)
            yield part

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
        answer = await http.post(
            path,
            content=content(),
            headers={"content-type": "application/json", **headers},
        )
    return answer, read_bytes


@pytest.mark.parametrize("path", ["/healthz", "/foo", "/v1/chat/completions", "/docs"])
def test_without_a_key_little_is_read(path: str) -> None:
    """64 KiB and the part that goes beyond, whatever the path; then the connection is closed."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        async with app.router.lifespan_context(app):
            answer, read_bytes = await ask(app, path, [b"x" * 1024] * 10_000)
            assert answer.status_code in (401, 413)
            assert KEYLESS_MAX_BYTES <= read_bytes <= KEYLESS_MAX_BYTES + 1024
            assert answer.headers["connection"] == "close"
            # A short one is read to its end, and the connection stays.
            answer, read_bytes = await ask(app, path, [b"x"] * 10)
            assert (answer.status_code, read_bytes) in ((401, 10), (405, 10))
            assert "connection" not in answer.headers

    run_async(main())


@pytest.mark.parametrize(("version", "is_read"), [("1.0", True), ("1.1", False)])
def test_only_http_1_1_waits_with_its_body(version: str, is_read: bool) -> None:
    """With HTTP/1.0 the body comes all the same: it is read, so that the answer arrives."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        async with app.router.lifespan_context(app):

            async def older(scope: Scope, receive: Receive, send: Send) -> None:
                await app({**scope, "http_version": version}, receive, send)

            headers = {"expect": "100-continue"}
            answer, read_bytes = await ask(older, "/v1/nowhere", [b"x"] * 10, **headers)
            assert (answer.status_code, read_bytes) == (401, 10 if is_read else 0)

    run_async(main())


def test_with_a_key_a_body_is_counted_and_let_go() -> None:
    """Nothing is held after an answer, whether it was parsed, refused or not looked at."""

    async def main() -> None:
        app = create_app(settings(body_max_bytes=200_000, default_model=None), signals=())
        async with app.router.lifespan_context(app):
            for path, part, status in (
                ("/v1/chat/completions", b"{}", 400),
                ("/v1/chat/completions", b" " * 100_000 + b"{", 400),
                ("/v1/chat/completions", b"x" * 300_000, 413),
                ("/v1/nowhere", b"x" * 100_000, 404),
                ("/v1/streams/x/cancel", b"x" * 100_000, 404),
            ):
                answer, _ = await ask(app, path, [part], **KEY)
                assert answer.status_code == status, answer.text
                assert app.state.service.bodies._total_bytes == 0

    run_async(main())


def test_how_a_body_has_to_be_sent_is_told() -> None:
    """As JSON and not compressed: 400 and 415 say so."""

    async def main() -> None:
        app = create_app(settings(), signals=())
        async with app.router.lifespan_context(app):
            path = "/v1/chat/completions"
            answer, _ = await ask(app, path, [b"{}"], **KEY, **{"content-type": "text/plain"})
            assert answer.status_code == 400
            assert "not 'text/plain'" in error_of(answer)["message"]
            answer, _ = await ask(app, path, [b"{}"], **KEY, **{"content-encoding": "gzip"})
            assert answer.status_code == 415
            assert "gzip" in error_of(answer)["message"]

    run_async(main())


def test_free_memory_is_given_back_once_for_all_long_bodies_of_a_while() -> None:
    """A short body costs nothing; after long ones the C library is asked once, and later again."""
    asked = []

    async def main() -> None:
        memory = FreeMemory(lambda: asked.append(asyncio.get_running_loop().time()))
        memory.after(LONG_BYTES - 1)
        await asyncio.sleep(2 * PAUSE_S)
        assert asked == []
        memory.after(LONG_BYTES)
        memory.after(LONG_BYTES)
        await asyncio.sleep(2 * PAUSE_S)
        assert len(asked) == 1
        memory.after(LONG_BYTES)
        await asyncio.sleep(2 * PAUSE_S)
        assert len(asked) == 2

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())


def test_a_number_that_is_none_is_told_with_the_start_of_its_names() -> None:
    """A name is as long as its client likes, and the message is neither logged nor sent so long."""
    value = {"a" * 10_000: [{"b" * 10_000: math.inf}]}
    with pytest.raises(ApiError) as told:
        _check_numbers(value)
    assert told.value.message.startswith(f"{'a' * 40}.0.{'b' * 40}: inf ")
    assert len(told.value.message) < 200


def test_more_texts_than_values_are_not_split() -> None:
    """Each quote costs an object where the text is split; a value has a name at most."""
    count = _Count(10)
    assert count.add(b'"a":"b",' * 9)
    assert not _Count(10).add(b'""' * 21)
