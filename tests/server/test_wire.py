"""The wire forms, without a socket: NDJSON in, OpenAI's objects out, requests across."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import product
from operator import getitem
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.answer import Answer
from server.completions import CompletionAnswer
from server.errors import ApiError
from server.loopback import is_loopback
from server.ollama import Chunk, ChunkReader, LineSplitter, ToolCall, parse_line, status_error
from server.ollama_api import OllamaAnswer
from server.openai import ChatRequest, ollama_body
from server.openai_answer import ChatAnswer
from server.responses_answer import ResponsesAnswer
from server.settings import Settings
from server.sse import encode_json, message
from server.upstream import ollama_address
from tests.server.support import settings

pytestmark = pytest.mark.once


def line(content: Any = "", **more: Any) -> bytes:
    chunk = {"message": {"role": "assistant", "content": content}, "done": False, **more}
    return json.dumps(chunk, ensure_ascii=False).encode() + b"\n"


def body_of(**request: Any) -> dict[str, Any]:
    return ollama_body(ChatRequest.model_validate(request), None)


# ---- from Ollama ----------------------------------------------------------------------------


@given(st.lists(st.text(), max_size=8), st.data())
def test_chunks_survive_any_segmentation(texts: list[str], data: st.DataObject) -> None:
    """However the bytes are cut, the chunks are the same, with U+0085 and U+2028 inside."""
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    raw = b"".join(line(text + "\u2028\x85") for text in texts) + line(done=True)
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=10).map(sorted))
    reader, found = ChunkReader(), []
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        found += list(reader.feed(raw[start:end]))
    found += list(reader.end())
    assert [chunk.content for chunk in found[:-1]] == [text + "\u2028\x85" for text in texts]
    assert found[-1].done_reason == "stop"


def test_an_answer_without_done_is_cut() -> None:
    """The end of the body is no end of the answer; a last line without newline counts."""
    reader = ChunkReader()
    list(reader.feed(line("half")))
    with pytest.raises(ApiError, match="not whole") as caught:
        list(reader.end())
    assert caught.value.code == "cut"
    whole = ChunkReader()
    assert not list(whole.feed(line(done=True).rstrip(b"\n")))
    assert [chunk.done_reason for chunk in whole.end()] == ["stop"]


def test_chunks_before_an_error_line_are_kept() -> None:
    """What comes before an error in the same segment is yielded before the error is raised."""
    chunks = ChunkReader().feed(line("kept") + b'{"error":"out of memory"}\n')
    assert next(chunks).content == "kept"
    with pytest.raises(ApiError, match="out of memory") as caught:
        next(chunks)
    assert caught.value.code == "upstream_error"


@pytest.mark.parametrize(
    "bad",
    [
        b"<html>",
        b"[]",
        b"7",
        b"null",
        b'{"message":{}}',
        b'{"done":false,"message":7}',
        b"\xff",
        line(5),
        line({}),
        line(["a"]),
        b'{"done":false,"message":{"thinking":{}}}',
        b'{"done":false,"response":7}',
        b'{"done":true,"done_reason":["x"]}',
        b'{"done":true,"eval_count":1e999}',
        b'{"done":true,"eval_count":-1}',
        b'{"done":true,"prompt_eval_count":1.5}',
        b'{"done":true,"eval_count":"5"}',
        b'{"done":true,"eval_count":true}',
        b'{"done":"no"}',
        b'{"done":0}',
        b'{"done":null}',
        b'{"done":false,"message":{"tool_calls":[{"function":{"name":"f","index":-1}}]}}',
        b'{"done":false,"message":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}',
        b'{"done":false,"message":{"tool_calls":[{"function":{"name":"f","arguments":[]}}]}}',
        b'{"done":false,"message":{"tool_calls":[{"id":{},"function":{"name":"f"}}]}}',
        b'{"done":false,"message":{"tool_calls":[{"function":{"name":5}}]}}',
        b'{"done":false,"message":[]}',
        b'{"done":false,"message":""}',
        b'{"done":false,"message":["a"]}',
        b'{"done":true,"eval_count":1e300}',
        b'{"done":true,"eval_count":9007199254740993}',
        b'{"done":false,"logprobs":[{"token":5,"logprob":-1}]}',
        b'{"done":false,"logprobs":[{"logprob":-1}]}',
        b'{"done":false,"logprobs":[{"token":null,"logprob":-1}]}',
        b'{"done":false,"logprobs":[{"token":"a"}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":"-1"}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":"nan"}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":true}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":-1e999}]}',
        b'{"done":false,"brand_new":1e999}',
        b'{"done":false,"brand_new":[-2E400]}',
        b'{"done":false,"brand_new":' + b"9" * 400 + b".5}",
        b'{"done":false,"brand_new":NaN}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":1' + b"0" * 400 + b"}]}",
        b'{"done":false,"logprobs":[{"token":"a","logprob":-1,"bytes":"a"}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":-1,"bytes":[256]}]}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":-1,"top_logprobs":5}]}',
        b'{"done":false,"logprobs":{"token":"a"}}',
        b'{"done":false,"logprobs":[{"token":"a","logprob":-1,"top_logprobs":[{}]}]}',
    ],
)
def test_what_is_no_chunk_is_said_to_be_none(bad: bytes) -> None:
    """A line that no Ollama sends ends the stream with a code, not with a crash."""
    with pytest.raises(ApiError) as caught:
        parse_line(bad)
    assert (caught.value.status, caught.value.code) == (502, "upstream_not_understood")


def test_a_line_is_kept_where_it_is_passed_on() -> None:
    """With keeps_lines a chunk has Ollama's own bytes, also what the server does not know."""
    raw = b'{"response":"hi","done":false,"brand_new":1}'
    assert [
        (chunk.content, chunk.line) for chunk in ChunkReader(keeps_lines=True).feed(raw + b"\n")
    ] == [("hi", raw)]
    assert next(ChunkReader().feed(raw + b"\n")).line == b""


@pytest.mark.parametrize(
    ("line", "content"),
    [
        (b'{"response":"\\ud83d","done":false}', "\ud83d"),
        (b'{"response":"\xed\xa0\xbd","done":false}', "\ud83d"),
        ('{"response":"é","done":false}'.encode("utf-16"), "é"),
        (b'\xef\xbb\xbf{"response":"a","done":false}', "a"),
        (b'{"response":"3e9","done":false,"deep":' + b"[" * 300 + b"]" * 300 + b"}", "3e9"),
    ],
)
def test_what_the_fast_parser_refuses_is_still_read(line: bytes, content: str) -> None:
    """Half a surrogate pair, another encoding or deep nesting are for Python's own parser."""
    assert parse_line(line).content == content


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that never breaks a line cannot fill the memory."""
    monkeypatch.setattr("server.ollama.LINE_MAX_BYTES", 100)
    splitter = LineSplitter()
    splitter.feed(b"x" * 100)
    with pytest.raises(ApiError):
        splitter.feed(b"x")


def test_zeros_that_ollama_leaves_out_are_zeros() -> None:
    """The last chunk may come without its counts, without a message and without a reason."""
    chunk = parse_line(b'{"done":true}')
    assert chunk == Chunk(done_reason="stop")
    counted = parse_line(
        b'{"done":true,"done_reason":"length","prompt_eval_count":3,"eval_count":4}'
    )
    assert (counted.done_reason, counted.prompt_count, counted.output_count) == ("length", 3, 4)


@pytest.mark.parametrize(
    ("status", "kept"),
    [
        (400, 400),
        (401, 502),
        (403, 502),
        (404, 404),
        (429, 429),
        (500, 500),
        (502, 502),
        (301, 502),
    ],
)
def test_statuses_of_ollama_keep_their_meaning(status: int, kept: int) -> None:
    """All but those that would be taken for the server's own: a key of ours is not wrong."""
    error = status_error(status, b'{"error":"the text","signin_url":"http://s"}')
    assert error.status == kept
    assert "the text" in error.message
    assert "no text" in status_error(status, b"").message


# ---- to the client --------------------------------------------------------------------------


def test_json_is_ascii() -> None:
    """U+2028 would end a line for some readers; a lone surrogate could not be sent at all."""
    assert message({"a": "\u2028\x85\ud800é"}) == b'data: {"a":"\\u2028\\u0085\\ud800\\u00e9"}\n\n'
    assert json.loads(encode_json("\u2028")) == "\u2028"


@pytest.mark.parametrize("usage", [True, False])
@pytest.mark.parametrize("content", ["word ", '"content":""', "\\", "\u2028\ud83d\x00", "{}"])
@pytest.mark.parametrize("model", ["m", '","content":""', "m\\", ""])
def test_content_alone_is_encoded_as_the_whole_message_is(
    model: str, content: str, usage: bool
) -> None:
    """What is kept of the form of one message makes the same bytes, also of another model later."""
    answer, whole = (ChatAnswer("t", 1, include_usage=usage) for _ in range(2))
    for each_model in ("before", model):
        answer.model = whole.model = each_model
        for chunk in (Chunk(content=content), Chunk(content="x"), Chunk(thinking="x")):
            encoded = b"".join(map(message, whole.messages(chunk)))
            assert answer.encoded(chunk) == encoded


def test_tool_calls_are_numbered_over_the_whole_answer() -> None:
    """Ollama numbers the calls of a chunk, OpenAI those of an answer; missing ids are made up."""
    call = ToolCall(id="", index=0, name="f", arguments='{"a": 1}')
    answer = ChatAnswer("t", 1)
    messages = [
        *answer.messages(Chunk(tool_calls=(call,))),
        *answer.messages(Chunk(tool_calls=(call,))),
    ]
    deltas = [m["choices"][0]["delta"] for m in messages]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [entry["index"] for entry in calls] == [0, 1]
    assert len({entry["id"] for entry in calls}) == 2
    (last,) = answer.messages(Chunk(done_reason="stop"))
    assert last["choices"][0]["finish_reason"] == "tool_calls"


def test_usage_is_null_until_its_own_message() -> None:
    """With include_usage all messages have the field, and the last has no choices."""
    answer = ChatAnswer("t", 1, include_usage=True)
    messages = [
        *answer.messages(Chunk("hi")),
        *answer.messages(Chunk(done_reason="stop", prompt_count=2, output_count=3)),
    ]
    assert [m["usage"] for m in messages[:-1]] == [None] * 3
    assert messages[-1]["choices"] == []
    assert messages[-1]["usage"]["total_tokens"] == 5
    assert len({m["id"] for m in messages}) == 1


def chunks_of(*lines: bytes) -> list[Chunk]:
    reader = ChunkReader(keeps_lines=True)
    return [chunk for each in lines for chunk in reader.feed(each)]


LIKELY: dict[str, Any] = {
    "token": "é",
    "logprob": -0.5,
    "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": [101]}],
}


def test_log_probabilities_have_openais_form() -> None:
    """Streamed and whole, in chat and completions; what Ollama leaves out is there."""
    chunks = chunks_of(line("é", logprobs=[LIKELY]), line("é", logprobs=[LIKELY]), line(done=True))
    entry = {
        "token": "é",
        "logprob": -0.5,
        "bytes": [0xC3, 0xA9],
        "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": [101]}],
    }
    streamed = ChatAnswer("t", 1)
    told = [m["choices"][0]["logprobs"] for chunk in chunks for m in streamed.messages(chunk)]
    assert told == [None, *[{"content": [entry], "refusal": None}] * 2, None]
    whole, text = ChatAnswer("t", 1), CompletionAnswer("t", 1)
    for chunk in chunks:
        whole.gather(chunk)
        text.gather(chunk)
    assert whole.whole()["choices"][0]["logprobs"]["content"] == [entry, entry]
    assert text.whole()["choices"][0]["logprobs"] == {
        "tokens": ["é", "é"],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"e": -1.5}, {"e": -1.5}],
        "text_offset": [0, 1],
    }


def test_ollamas_lines_make_one_object() -> None:
    """Texts, thoughts, calls and log probabilities are joined; the rest is of the last line."""
    call = {"function": {"name": "f", "arguments": {"a": 1}}}
    message = {"role": "assistant", "content": "a", "thinking": "t", "tool_calls": [call]}
    said = json.dumps({"message": message, "done": False, "logprobs": [LIKELY]}).encode() + b"\n"
    answer = OllamaAnswer("t", 1)
    for chunk in chunks_of(said, said, line(done=True, eval_count=2, brand_new=1)):
        answer.gather(chunk)
    assert answer.is_complete
    assert answer.whole() == {
        "message": {
            "role": "assistant",
            "content": "aa",
            "thinking": "tt",
            "tool_calls": [call, call],
        },
        "done": True,
        "eval_count": 2,
        "brand_new": 1,
        "logprobs": [LIKELY, LIKELY],
    }


_TOKEN = {"token": "a", "logprob": -0.5, "bytes": [97]}
_SAID = {
    "thinking": "t",
    "tool_calls": [{"id": "i", "function": {"name": "f", "arguments": {"a": 1}, "index": 0}}],
}
_BESIDE = {
    "logprobs": [{**_TOKEN, "top_logprobs": [_TOKEN]}],
    "eval_count": 3,
    "prompt_eval_count": 3,
    "done": False,
}
_LINES: list[dict[str, Any]] = [
    {"message": {"content": "a", **_SAID}, **_BESIDE},
    {"response": "a", **_SAID, **_BESIDE},
]
_ODD: list[Any] = [
    *(None, True, 0, -1, 2**53 + 1, 10**400, 0.5, 1e300, float("inf"), float("nan")),
    *("", "a", "\ud800", [], ["a"], [[]], {}, [{}], {"a": 1}),
]
_MISSING = object()


def _places(value: Any) -> Iterator[tuple[Any, ...]]:
    """The way to each part of a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    for name, part in parts:
        yield (name,)
        if isinstance(part, dict | list):
            yield from ((name, *rest) for rest in _places(part))


def _with(value: Any, place: tuple[Any, ...], odd: Any) -> Any:
    changed = copy.deepcopy(value)
    *way, last = place
    part = reduce(getitem, way, changed)
    if odd is _MISSING:
        del part[last]
    else:
        part[last] = odd
    return changed


def _strict(told: bytes) -> None:
    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    for each in told.decode("ascii").splitlines():
        data = each.removeprefix("data: ")
        if data.startswith("{"):
            json.loads(data, parse_constant=refused)


def _tell(lines: list[Any]) -> None:
    """Raises ApiError for what is taken for no chunk."""
    content = b"".join(json.dumps(value).encode() + b"\n" for value in lines)
    chunks = list(ChunkReader(keeps_lines=True).feed(content))
    forms: list[Callable[[], Answer]] = [
        partial(ChatAnswer, "t", 1, include_usage=True),
        partial(CompletionAnswer, "t", 1, include_usage=True),
        partial(OllamaAnswer, "t", 1),
        partial(ResponsesAnswer, "t", 1, echoed={}),
    ]
    for form in forms:
        streamed, whole = form(), form()
        _strict(streamed.begin())
        for chunk in chunks:
            _strict(streamed.encoded(chunk))
            whole.gather(chunk)
        if whole.is_complete:
            _strict(encode_json(whole.whole()))


@pytest.mark.parametrize("whole_line", _LINES)
def test_whatever_is_taken_for_a_chunk_can_be_told(whole_line: dict[str, Any]) -> None:
    """Any part missing or odd: each form tells it, streamed and whole, as JSON; or it is a 502."""
    last = {**whole_line, "done": True}
    _tell([whole_line, last])
    refused = set()
    for place, odd in product(_places(whole_line), [_MISSING, *_ODD]):
        for lines in (
            [_with(whole_line, place, odd), last],
            [whole_line, _with(last, place, odd)],
        ):
            try:
                _tell(lines)
            except ApiError as exc:
                refused.add(exc.status)
    assert refused == {502}


# ---- requests -------------------------------------------------------------------------------


def test_options_go_where_ollama_looks_for_them() -> None:
    """OpenAI's names become Ollama's; what is not given is left out."""
    body = body_of(
        prompt="x",
        temperature=0.5,
        max_tokens=7,
        stop="end",
        seed=1,
        top_p=0.9,
        reasoning_effort="none",
        response_format={"type": "json_object"},
        made_up=True,
    )
    assert body["options"] == {
        "temperature": 0.5,
        "num_predict": 7,
        "stop": ["end"],
        "seed": 1,
        "top_p": 0.9,
    }
    assert (body["think"], body["format"], body["stream"]) == (False, "json", True)
    assert body_of(prompt="x") == {"messages": [{"role": "user", "content": "x"}], "stream": True}


def test_messages_are_carried_over() -> None:
    """Parts are joined, images taken out, arguments parsed, and `developer` is `system`."""
    body = body_of(
        messages=[
            {"role": "developer", "content": "be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "what "},
                    {"type": "text", "text": "is this"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": '{"a":1}'}}],
            },
            {"role": "tool", "tool_call_id": "c1", "name": "f", "content": "2"},
        ],
        tools=[{"type": "function"}],
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    )
    assert body["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "what is this", "images": ["AAAA"]},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}],
        },
        {"role": "tool", "content": "2", "tool_call_id": "c1", "tool_name": "f"},
    ]
    assert body["tools"] == [{"type": "function"}]
    assert body["format"] == {"type": "object"}


# ---- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("box:99", "http://box:99"),
        (":99", "http://127.0.0.1:99"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:99", "http://127.0.0.1:99"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:99/", "https://box:99"),
        ("[::]:99", "http://[::1]:99"),
        ("::1", "http://[::1]:11434"),
        ('"box"', "http://box:11434"),
        ("http://box/ollama/", "http://box:80/ollama"),
        ("box:99/a/b", "http://box:99/a/b"),
        ("https://user:pw@box", "https://box:443"),
        ("user:pw@[::1]:99", "http://[::1]:99"),
        ("ollama.com", "https://ollama.com:443"),
        ("ollama.com/", "https://ollama.com:443"),
        # As of a variable that is unset.
        ("http://", "http://127.0.0.1:80"),
        ("https:///", "https://127.0.0.1:443"),
    ],
)
def test_ollama_host_is_read_as_ollama_reads_it(text: str, address: str) -> None:
    """Default ports, schemes, and addresses to listen on that cannot be connected to."""
    assert ollama_address(text) == address


@pytest.mark.parametrize(
    "text", ["ftp://box", "box:port", "http://box/path?x", "http://box/v1", "box:99999", "a b:x"]
)
def test_an_address_that_is_none_is_refused(text: str) -> None:
    """The error shows the value, and no user info."""
    scheme, separator, rest = text.rpartition("//")
    with pytest.raises(ValueError, match="OLLAMA_HOST") as caught:
        ollama_address(f"{scheme}{separator}user:hunter2@{rest}")
    assert rest in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefix JARVIS_, the note's name for the inactivity, and OLLAMA_HOST besides our own."""
    monkeypatch.setenv("JARVIS_STREAM_INACTIVITY_SECONDS", "7.5")
    monkeypatch.setenv("JARVIS_OLLAMA_CLIENT", "thread")
    monkeypatch.setenv("OLLAMA_HOST", "0.0.0.0:99")
    monkeypatch.setenv("JARVIS_DEFAULT_MODEL", "")
    read = Settings()
    assert read.stream_inactivity_seconds == 7.5
    assert read.ollama_client == "thread"
    assert read.ollama_host == "http://127.0.0.1:99"
    assert read.default_model is None
    monkeypatch.setenv("JARVIS_OLLAMA_HOST", "box")
    assert Settings().ollama_host == "http://box:11434"


def test_the_defaults_are_the_notes() -> None:
    """Grace 2.0, agent cancel 0.5, inactivity 120; the first chunk may take a model's load."""
    defaults = settings()
    assert defaults.grace_seconds == 2.0
    assert defaults.agent_cancel_seconds == 0.5
    assert defaults.stream_inactivity_seconds == 120.0
    assert defaults.first_chunk_seconds >= 300.0


def test_bad_settings_are_refused() -> None:
    """A limit of nothing, an unknown client, a key that no header can carry."""
    for bad in ({"send_seconds": 0}, {"ollama_client": "fibre"}, {"api_keys": "a\nb"}):
        with pytest.raises(ValidationError):
            settings(**bad)


def test_only_loopback_is_loopback() -> None:
    """Names other than localhost might resolve to anything."""
    assert is_loopback("127.9.9.9")
    assert is_loopback("::1")
    assert not is_loopback("localhost.example.org")
    assert not is_loopback("0.0.0.0")
