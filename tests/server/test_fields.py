"""Nothing is dropped in silence: what a chat says reaches Ollama, is refused, or is named."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import ValidationError

from server.completions import CompletionRequest, completion_prompt
from server.errors import ApiError
from server.fields import shown
from server.invalid import as_refusal
from server.openai import ChatRequest, chat_prompt, tool_call
from server.prompt import Prompt
from server.responses_request import ResponsesRequest, responses_prompt

pytestmark = pytest.mark.once

HELLO = {"messages": [{"role": "user", "content": "hi"}]}
PIXEL = "iVBORw0KGgo="


def prompt_of(**request: Any) -> Prompt:
    return chat_prompt(ChatRequest.model_validate({**HELLO, **request}), None)


def body_of(**request: Any) -> Any:
    return prompt_of(**request).request.body


def refusal_of(**request: Any) -> ApiError:
    try:
        prompt_of(**request)
    except ValidationError as exc:
        return as_refusal(exc.errors())
    except ApiError as exc:
        return exc
    raise AssertionError(f"{request} was not refused")


# ---- what reaches Ollama --------------------------------------------------------------------


def test_ollamas_own_fields_reach_it() -> None:
    """Options at the top or in `options`, keep_alive, think, format, truncate and shift.

    One that Ollama does not know is passed on, and named: it may be a typing error.
    """
    options = {"num_ctx": 16384, "made_up": 1, "seed": None, "nothing": None}
    assert prompt_of(options=options, top_k=5).ignored == ("options.made_up",)
    body = body_of(
        options=options,
        top_k=5,
        min_p=0.1,
        repeat_penalty=1.2,
        keep_alive="1h",
        think=False,
        format="json",
        truncate=False,
        shift=True,
    )
    assert body["options"] == {
        "num_ctx": 16384,
        "made_up": 1,
        "top_k": 5,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
    }
    assert {
        name: body[name] for name in ("keep_alive", "think", "format", "truncate", "shift")
    } == {
        "keep_alive": "1h",
        "think": False,
        "format": "json",
        "truncate": False,
        "shift": True,
    }
    assert body_of(keep_alive=0)["keep_alive"] == 0
    assert body_of(repetition_penalty=1.1)["options"] == {"repeat_penalty": 1.1}


@pytest.mark.parametrize("empty", [{}, [], "", 0, False])
def test_an_empty_format_reaches_ollama(empty: object) -> None:
    """Which says what it makes of it, as under /api: it was left out of a chat and a completion."""
    assert body_of(format=empty)["format"] == empty
    request = CompletionRequest.model_validate({"prompt": "x", "format": empty})
    assert completion_prompt(request, None).request.body["format"] == empty
    assert "format" not in body_of(format=None)


def test_openais_field_wins_over_ollamas() -> None:
    """The same said twice: max_completion_tokens, temperature, response_format, the effort."""
    body = body_of(
        options={"temperature": 1, "num_predict": 1},
        num_predict=2,
        max_tokens=3,
        max_completion_tokens=4,
        temperature=0.5,
        think=True,
        reasoning_effort="high",
        reasoning={"effort": "none"},
        format="json",
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}},
    )
    assert body["options"] == {"temperature": 0.5, "num_predict": 4}
    assert (body["think"], body["format"]) == (False, {"type": "object"})


@pytest.mark.parametrize(
    ("effort", "think"),
    [("none", False), ("minimal", "low"), ("medium", "medium"), ("xhigh", "max"), ("max", "max")],
)
def test_efforts_become_ollamas_levels(effort: str, think: Any) -> None:
    """As Ollama's own /v1 has them, in either of OpenAI's two places."""
    assert body_of(reasoning_effort=effort)["think"] == think
    assert body_of(reasoning={"effort": effort, "summary": "auto"})["think"] == think


def test_log_probabilities_are_asked_for() -> None:
    """With how many others; none without `logprobs`."""
    body = body_of(logprobs=True, top_logprobs=3)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 3)
    assert "logprobs" not in body_of(logprobs=False, top_logprobs=0)
    assert refusal_of(top_logprobs=3).param == "top_logprobs"


def test_tool_loops_keep_the_thinking_and_the_name() -> None:
    """`reasoning_content` or `reasoning` is `thinking`; the name is that of the nearest call."""

    def call(name: str) -> dict[str, Any]:
        return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}

    messages: list[dict[str, Any]] = []
    for field, name in (("reasoning_content", "weather"), ("reasoning", "time")):
        messages += [
            {"role": "assistant", "content": None, field: name, "tool_calls": [call(name)]},
            {"role": "tool", "tool_call_id": "call_1", "content": "4 C"},
        ]
    sent = body_of(messages=messages)["messages"]
    assert [each["thinking"] for each in sent[::2]] == ["weather", "time"]
    assert [each["tool_name"] for each in sent[1::2]] == ["weather", "time"]
    assert "tool_name" not in body_of(messages=messages[1:2])["messages"][0]


@pytest.mark.parametrize(
    "image",
    [
        {"url": f"data:image/png;base64,{PIXEL}"},
        {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
        f"data:image/webp;base64,{PIXEL}",
        f"data:;base64,{PIXEL}",
        PIXEL,
    ],
)
def test_an_image_comes_in_each_form_that_ollama_takes(image: Any) -> None:
    """As an object or a text, with a kind or without, or as base64 alone."""
    parts = [{"type": "text", "text": "what?"}, {"type": "image_url", "image_url": image}]
    (sent,) = body_of(messages=[{"role": "user", "content": parts}])["messages"]
    assert sent == {"role": "user", "content": "what?", "images": [PIXEL]}


def test_null_is_absent_wherever_it_stands() -> None:
    """Serializers of typed languages write what is not set as null, nested fields too."""
    fields = [name for name in ChatRequest.model_fields if name not in ("messages", "schema_")]
    call = {"id": "c", "type": None, "function": {"name": "f", "arguments": None}}
    part = {"type": "text", "text": "hi", "image_url": None}
    messages = [
        {"role": "user", "content": [part], "tool_calls": None, "name": None},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": None},
    ]
    nulled = {
        **dict.fromkeys(fields),
        "stream_options": {"include_usage": None},
        "reasoning": {"effort": None},
        "options": {"num_ctx": None},
        "messages": messages,
        "made_up": None,
    }
    prompt = prompt_of(**nulled)
    assert prompt.ignored == ()
    assert not prompt.is_streamed
    assert prompt.request.body == {
        "messages": [
            {"role": "user", "content": "hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": {}}}],
            },
        ],
        "stream": True,
    }


def test_null_inside_a_schema_is_no_field_of_ours() -> None:
    """A tool's own JSON keeps its nulls: there they mean something."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"enum": [None]}}}
    assert body_of(tools=[tool])["tools"] == [tool]


def test_numbers_may_be_written_as_floats() -> None:
    """5.0 and 1e2 are whole numbers; a seed of 1.5, a text and true are none."""
    body = body_of(seed=5.0, max_tokens=1e2, top_k=3.0, temperature=1, n=1.0)
    assert body["options"] == {"seed": 5, "num_predict": 100, "top_k": 3, "temperature": 1}
    assert isinstance(json.loads(json.dumps(body))["options"]["seed"], int)
    for value in (1.5, "5", True, 1e300, [1]):
        assert refusal_of(seed=value).param == "seed"
    for value in ("0.5", True, float("nan"), float("inf"), 10**400):
        assert refusal_of(temperature=value).param == "temperature"


# ---- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_of_no_tokens_is_refused(name: str) -> None:
    """Ollama would take 0 for no limit, the contrary of what it says; -1 is no limit to both."""
    for nothing in (0, 0.0, -0.0):
        refusal = refusal_of(**{name: nothing})
        assert refusal.param == name
        assert "0 for no limit" in refusal.message
    assert body_of(**{name: -1})["options"] == {"num_predict": -1}
    assert refusal_of(**{name: False}).param == name


@pytest.mark.parametrize(
    ("request_", "param", "told"),
    [
        ({"tool_choice": "required"}, "tool_choice", "'required' is not supported"),
        ({"tool_choice": {"type": "function"}}, "tool_choice", "leaves it to the model"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'web_search' is not supported"),
        ({"n": 2}, "n", "send as many prompts"),
        ({"functions": [{"name": "f"}]}, "functions", "tools"),
        ({"function_call": {"name": "f"}}, "function_call", "tool_choice"),
        ({"logit_bias": {"50256": -100}}, "logit_bias", "leave it out"),
        ({"modalities": ["text", "audio"]}, "modalities", "text alone"),
        ({"audio": {"voice": "alloy"}}, "audio", "text alone"),
        ({"prediction": {"type": "content"}}, "prediction", "leave it out"),
        ({"web_search_options": {}}, "web_search_options", "leave it out"),
        ({"best_of": 3}, "best_of", "one answer"),
        ({"echo": True}, "echo", "repeat"),
        ({"suffix": "}"}, "suffix", "/v1/completions"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "minimal"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort", "minimal"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing",
        ),
        ({"response_format": "json"}, "response_format", "has to be an object, not a text"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "'xml' is not supported"),
        ({"stream_options": True}, "stream_options", "has to be an object, not true or false"),
        ({"stream": "true"}, "stream", "has to be true or false, not a text"),
        ({"seed": 1.5}, "seed", "has to be a whole number, not 1.5"),
        ({"seed": 2**63}, "seed", f"a whole number of less than 2**63, not {2**63}"),
        ({"seed": -(2**63)}, "seed", "a whole number of less than 2**63, not -9"),
        ({"seed": 10**400}, "seed", "a whole number of less than 2**63, not 1000"),
        ({"seed": "x"}, "seed", "has to be a whole number, not a text ('x')"),
        ({"temperature": 10**400}, "temperature", "a number of less than 1.8e308, not 1000"),
        ({"temperature": True}, "temperature", "has to be a number, not true or false (True)"),
        ({"keep_alive": 10**400}, "keep_alive", "a number of less than 1.8e308, not 1000"),
        ({"stop": 5}, "stop", "has to be a text or a list of texts, not a number"),
        ({"stop": ["a", 5]}, "stop.1", "has to be a text, not a number"),
        ({"keep_alive": True}, "keep_alive", "duration"),
        ({"keep_alive": ""}, "keep_alive", "duration"),
        ({"think": 5}, "think", "true, false"),
        ({"think": ""}, "think", "true, false"),
        ({"options": []}, "options", "has to be an object, not a list"),
        ({"options": {"num_ctx": float("inf")}}, "options", "too large"),
        ({"tools": [{"function": {"name": float("nan")}}]}, "tools", "NaN"),
        ({"messages": "hi"}, "messages", "has to be a list, not a text"),
        ({"messages": ["hi"]}, "messages.0", "has to be an object, not a text"),
        ({"messages": [{"role": "function"}]}, "messages.0.role", "'function' is not supported"),
        ({"messages": [{"content": "hi"}]}, "messages.0.role", "is missing"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(
    request_: dict[str, Any], param: str, told: str
) -> None:
    """400 with the field as `param`, and a sentence that says the true reason."""
    error = refusal_of(**request_)
    assert (error.status, error.code, error.param) == (400, "invalid_request", param)
    assert error.message.startswith(f"{param}: ")
    assert told in error.message


@pytest.mark.parametrize(
    ("part", "place", "told"),
    [
        ({"type": "input_audio", "input_audio": {}}, ".0.type", "'input_audio' is not supported"),
        ({"type": "file", "file": {}}, ".0.type", "'file' is not supported"),
        ({"text": "hi"}, ".0.type", "is missing"),
        ({"type": "text"}, ".0.text", "is missing"),
        ({"type": "image_url"}, ".0.image_url", "is missing"),
        (
            {"type": "image_url", "image_url": "http://x/y.png"},
            ".0.image_url",
            "no image is fetched",
        ),
        (
            {"type": "image_url", "image_url": "data:text/plain;base64,AA"},
            ".0.image_url",
            "text/pl",
        ),
        ({"type": "image_url", "image_url": "???"}, ".0.image_url", "base64"),
        ({"type": "image_url", "image_url": 5}, ".0.image_url", "has to be an object"),
        ("hi", ".0", "has to be an object, not a text"),
    ],
)
def test_a_part_that_cannot_be_sent_is_named(part: Any, place: str, told: str) -> None:
    """The type that is unknown, and never that a text was expected instead."""
    error = refusal_of(messages=[{"role": "user", "content": [part]}])
    assert error.param == f"messages.0.content{place}"
    assert told in error.message
    alone = refusal_of(messages=[{"role": "user", "content": part}]) if part != "hi" else None
    assert alone is None or alone.message.startswith(
        "messages.0.content: has to be a text or a list of parts, not an object"
    )


# ---- what is named --------------------------------------------------------------------------


def test_what_has_no_effect_is_named() -> None:
    """Typos, wishes of other servers, the name of a speaker; once each, with their place."""
    message = {
        "role": "user",
        "content": [{"type": "text", "text": "hi", "bold": 1}],
        "name": "bob",
    }
    prompt = prompt_of(
        temprature=1,
        verbosity="low",
        parallel_tool_calls=False,
        reasoning={"max_tokens": 5},
        messages=[message, message],
    )
    assert prompt.ignored == (
        "temprature",
        "verbosity",
        "parallel_tool_calls",
        "reasoning.max_tokens",
        "messages.name",
        "messages.content.bold",
    )


def test_what_makes_no_difference_is_not_named() -> None:
    """What clients send to OpenAI for its books, and refusable fields that ask for nothing."""
    prompt = prompt_of(
        metadata={"a": "b"},
        store=True,
        service_tier="auto",
        parallel_tool_calls=True,
        safety_identifier="x",
        prompt_cache_key="x",
        logit_bias={},
        modalities=["text"],
        function_call="auto",
        functions=[],
        n=1,
        stream_options={"include_obfuscation": False},
    )
    assert prompt.ignored == ()


def test_the_names_make_a_header() -> None:
    """ASCII, printable, and not too many, whatever the fields are called."""
    named = prompt_of(**{"ü": 1, "a\r\nb": 1, "c" * 99: 1}).ignored
    assert named == ("%C3%BC", "a%0D%0Ab", "c" * 40)
    assert len(prompt_of(**{f"f{number}": 1 for number in range(99)}).ignored) == 20


# ---- responses ------------------------------------------------------------------------------


def asked(**request: Any) -> Any:
    return responses_prompt(ResponsesRequest.model_validate(request), None).request.body


def test_a_conversation_of_items_becomes_messages() -> None:
    """Thoughts and calls go into one message of the assistant, outputs get their tool's name."""
    body = asked(
        instructions="be brief",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "Oslo?"}]},
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "look it up"}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "4 C"},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "cold"}],
            },
        ],
        tools=[{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
        text={"format": {"type": "json_schema", "name": "x", "schema": {"type": "object"}}},
        max_output_tokens=5,
        reasoning={"effort": "low", "summary": "auto"},
    )
    calls = [
        {"id": "c1", "function": {"name": "weather", "arguments": {}}},
        {"id": "c2", "function": {"name": "time", "arguments": {}}},
    ]
    assert body == {
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "Oslo?"},
            {"role": "assistant", "content": "", "thinking": "look it up", "tool_calls": calls},
            {"role": "tool", "content": "4 C", "tool_call_id": "c1", "tool_name": "weather"},
            {"role": "assistant", "content": "cold"},
        ],
        "stream": True,
        "options": {"num_predict": 5},
        "tools": [
            {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
        ],
        "format": {"type": "object"},
        "think": "low",
    }


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"input": []}, "input"),
        ({"input": 5}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"content": "hi"}]}, "input.0.role"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            "input.0.content.0.type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.image_url",
        ),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
    ],
)
def test_what_a_response_cannot_be_is_refused(request_: dict[str, Any], param: str) -> None:
    """What needs a store of responses, other tools, other inputs: 400 with the field."""
    with pytest.raises((ApiError, ValidationError)) as caught:
        asked(**{"input": "hi", **request_})
    error = caught.value
    refusal = as_refusal(error.errors()) if isinstance(error, ValidationError) else error
    assert refusal.param == param


class Unshown(dict[str, Any]):
    """An object too large to be written out whole."""

    def __repr__(self) -> str:
        raise AssertionError("written out before it was cut")


class UnshownText(str):
    """The same of a text."""

    def __repr__(self) -> str:
        raise AssertionError("written out before it was cut")


@pytest.mark.parametrize("kind", [Unshown(type="custom"), UnshownText("é" * 1000)])
@pytest.mark.parametrize("asks", [refusal_of, asked])
def test_what_is_refused_is_cut_before_it_is_shown(asks: Any, kind: Any) -> None:
    """It may be as long as a body, and writing it out would hold everybody up for seconds."""
    given = {"input": "hi"} if asks is asked else {}
    for wrong in ({"tools": [{"type": kind}]}, {"tool_choice": kind}):
        try:
            refused = asks(**wrong, **given)
        except ApiError as exc:
            refused = exc
        assert isinstance(refused, ApiError)
        assert len(refused.message) < 400


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a":"\\ud800"}', {"a": "\ud800"}),
        ('{"a":' + "[" * 300 + "]" * 300 + "}", None),
        (' {"a":1}\n', {"a": 1}),
        ("", {}),
    ],
    ids=["surrogate", "deep", "white space", "empty"],
)
def test_arguments_of_calls_are_read_as_json_has_them(text: str, value: Any) -> None:
    """What Python's own parser takes is taken, whichever reads it."""
    found = tool_call("i", "f", text, "x")["function"]["arguments"]
    assert found == (value or json.loads(text or "{}"))


@pytest.mark.parametrize("text", ["{", "[]", "5", '{"a":NaN}', '{"a":1e999}', '{"a":1} x'])
def test_arguments_that_are_no_object_of_json_are_refused(text: str) -> None:
    """400 for each: Ollama takes an object, and no number that JSON does not have."""
    with pytest.raises(ApiError) as caught:
        tool_call("i", "f", text, "x")
    assert (caught.value.status, caught.value.param) == (400, "x")


def test_an_ignored_name_is_escaped_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of messages may have the same one; each name is shown once."""
    escaped: list[str] = []

    def counted(name: str, **how: Any) -> str:
        escaped.append(name)
        return quote(name, **how)

    monkeypatch.setattr("server.fields.quote", counted)
    assert shown(["a b", "c", *["a b"] * 1000, "c"]) == ("a%20b", "c")
    assert escaped == ["a b", "c"]


def test_what_a_response_leaves_out_is_named() -> None:
    """Parts that were asked for and are not there; thoughts are, as text."""

    def ignored(*include: str) -> tuple[str, ...]:
        request = ResponsesRequest.model_validate({"input": "hi", "include": list(include)})
        return responses_prompt(request, None).ignored

    assert ignored("reasoning.encrypted_content") == ()
    assert ignored("message.output_text.logprobs") == ("include",)
