"""Reading requests: what is refused, and with which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sim.fake_ollama.requests import BadRequest, go_duration_s, read_request


def read(path: str = "/api/chat", **fields: object) -> Any:
    return read_request(path, json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300),
        ("1h30m", 5400),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("250ms", 0.25),
        ("-1s", -1),
        ("+2s", 2),
        ("0", 0),
    ],
)
def test_go_durations_are_understood(text: str, seconds: float) -> None:
    """A keep_alive of text is a Go duration."""
    assert go_duration_s(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("300", 'time: missing unit in duration "300"'),
        ("1.5", 'time: missing unit in duration "1.5"'),
        ("5x", 'time: unknown unit "x" in duration "5x"'),
        ("", 'time: invalid duration ""'),
        ("soon", 'time: invalid duration "soon"'),
        ("-", 'time: invalid duration "-"'),
    ],
)
def test_other_durations_are_refused(text: str, error: str) -> None:
    """A bare number in a string is not a duration."""
    with pytest.raises(BadRequest) as raised:
        go_duration_s(text)
    assert (raised.value.failure.status, raised.value.failure.text) == (400, error)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "missing request body"),
        (b" \n", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"model": "m', "unexpected EOF"),
        (b"hello", "invalid character 'h' looking for beginning of value"),
        (b"[]", "json: cannot unmarshal array into Go value of type api.ChatRequest"),
        (
            b'{"stream": "yes"}',
            "json: cannot unmarshal string into Go struct field ChatRequest.stream of type bool",
        ),
        (
            b'{"messages": [{"role": "user", "content": ["text"]}]}',
            "json: cannot unmarshal array into Go struct field ChatRequest.messages.content "
            "of type string",
        ),
        (
            b'{"messages": ["hello"]}',
            "json: cannot unmarshal string into Go struct field ChatRequest.messages "
            "of type api.Message",
        ),
        (b'{"keep_alive": true}', "Unsupported type: 'bool'"),
        (
            b'{"think": "hard"}',
            'invalid think value: "hard" (must be "high", "medium", "low", "max", true, or false)',
        ),
    ],
)
def test_a_malformed_request_is_refused(body: bytes, error: str) -> None:
    """The texts are those of Go's decoder."""
    with pytest.raises(BadRequest) as raised:
        read_request("/api/chat", body)
    assert (raised.value.failure.status, raised.value.failure.text) == (400, error)


def test_null_counts_as_absent() -> None:
    """A client may send null for whatever it does not set."""
    request = read(stream=None, keep_alive=None, think=None, tools=None, options=None)
    assert (request.stream, request.keep_alive_s, request.think) == (True, None, None)


def test_the_prompt_is_the_last_user_message() -> None:
    """Later messages of others do not hide it; the words of all messages are counted."""
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first question"},
        {"role": "user", "content": "second question"},
        {"role": "assistant", "content": "well", "tool_calls": []},
        {"role": "tool", "tool_name": "look_up"},
    ]
    request = read(messages=messages)
    assert (request.prompt, request.prompt_words) == ("second question", 7)


def test_negative_keep_alive_is_for_ever() -> None:
    """Whatever its size, a negative number or duration means never."""
    assert [read(keep_alive=value).keep_alive_s for value in (-300, "-5m", 7)] == [-1, -1, 7]


def test_an_empty_prompt_is_blank_and_an_empty_message_is_not() -> None:
    """Only a chat without any message loads the model and answers nothing."""
    assert read(messages=[]).is_blank
    assert not read(messages=[{"role": "user", "content": ""}]).is_blank
    assert read("/api/generate", prompt="").is_blank
    assert not read("/api/generate", prompt="x").is_blank
