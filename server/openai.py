"""OpenAI's chat completions: what a request means to Ollama; for answers see `openai_answer.py`.

The reference for what becomes of a request is Ollama's own /v1: `FromChatRequest` in its
openai/openai.go. Where this server does more, a comment says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator
from pydantic_core import from_json

from server.body import check_nested
from server.fields import (
    Fields,
    Flag,
    Int,
    OutputMax,
    PromptFields,
    Text,
    Think,
    bad,
    check_finite,
    image_data,
    refuse,
    shown,
    text_or_list,
    think_of,
    without_empty,
)
from server.ollama import OllamaRequest
from server.openai_answer import ChatAnswer
from server.prompt import Prompt


class FunctionCall(Fields):
    name: Text
    # JSON, as OpenAI has it, or the object itself, as Ollama has it.
    arguments: Any = "{}"


class RequestToolCall(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"index"})

    id: Text = ""
    type: Literal["function"] = "function"
    function: FunctionCall


class ImageUrl(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"detail"})

    url: Text

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_text(cls, value: Any) -> Any:
        # As Ollama's /v1 takes it, too.
        return {"url": value} if isinstance(value, str) else value


class Part(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"cache_control", "annotations"})

    type: Literal["text", "image_url", "refusal"]
    text: Text | None = None
    image_url: ImageUrl | None = None
    refusal: Text | None = None


class Message(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"annotations", "id", "cache_control"})

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: text_or_list(Part, "parts") | None = None  # type: ignore[valid-type]
    # What the model thought before: this server's own field, and Ollama's and OpenRouter's.
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    refusal: Text | None = None
    tool_calls: list[RequestToolCall] | None = None
    tool_call_id: Text | None = None
    name: Text | None = None

    def ignored(self, prefix: str = "") -> Iterator[str]:
        yield from super().ignored(prefix)
        if self.name is not None and self.role != "tool":
            yield f"{prefix}name"


class StreamOptions(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"include_obfuscation"})

    include_usage: Flag = False


class JsonSchema(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"name", "strict", "description"})

    schema_: dict[str, Any] = Field(alias="schema")


class ResponseFormat(Fields):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class Reasoning(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"summary", "generate_summary"})

    effort: Text | None = None
    enabled: Flag | None = None


_LEAVE_OUT = "leave it out"
# By name: the values that ask for nothing, and what to do instead.
_REFUSALS: Mapping[str, tuple[Sequence[Any], str]] = {
    "functions": ([[]], "write them as `tools`"),
    "function_call": (["none", "auto"], "write `tools` and `tool_choice`"),
    "logit_bias": ([{}], f"Ollama cannot weigh single tokens; {_LEAVE_OUT}"),
    "modalities": ([["text"], []], "models answer in text alone"),
    "audio": ([{}], "models answer in text alone"),
    "prediction": ([{}], f"Ollama cannot follow a predicted text; {_LEAVE_OUT}"),
    "web_search_options": ([], f"nothing searches the web here; {_LEAVE_OUT}"),
    "best_of": ([1], "one answer is generated; send as many prompts, in sessions of their own"),
    "echo": ([False], "the answer does not repeat the prompt"),
    "suffix": ([""], "text is filled in by POST /v1/completions"),
}
_MESSAGE_REFUSALS: Mapping[str, tuple[Sequence[Any], str]] = {
    "function_call": ([], "write it as `tool_calls`"),
    "audio": ([], "only texts and images can be sent"),
}


class ChatRequest(PromptFields):
    """The body of POST /v1/chat/completions: OpenAI's `messages`, or the note's `prompt`.

    Where a field of OpenAI and one of Ollama mean the same, OpenAI's wins.
    """

    # For openapi.json; `ollama_body` checks it, with its own error.
    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {
                    "required": ["messages"],
                    "properties": {"messages": {"type": "array", "minItems": 1}},
                },
                {
                    "required": ["prompt"],
                    "properties": {"prompt": {"type": "string", "minLength": 1}},
                },
            ]
        }
    )
    harmless: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "store",
            "service_tier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            *_REFUSALS,
        }
    )

    messages: list[Message] | None = None
    prompt: Text | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: OutputMax | None = None
    max_completion_tokens: OutputMax | None = None
    logprobs: Flag = False
    top_logprobs: Int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: Flag = True
    response_format: ResponseFormat | None = None
    reasoning: Reasoning | None = None
    reasoning_effort: Text | None = None

    # Ollama's own.
    format: Any = None
    think: Think | None = None
    truncate: Flag | None = None
    shift: Flag | None = None

    def ignored(self, prefix: str = "") -> Iterator[str]:
        yield from super().ignored(prefix)
        # Only a wish: models call as many tools as they like.
        if not self.parallel_tool_calls:
            yield "parallel_tool_calls"
        for name in ("stream_options", "response_format", "reasoning"):
            part = getattr(self, name)
            if part is not None:
                yield from part.ignored(f"{name}.")
        for each in self.messages or ():
            yield from each.ignored("messages.")
            for call in each.tool_calls or ():
                yield from call.ignored("messages.tool_calls.")
            if isinstance(each.content, list):
                for part in each.content:
                    yield from part.ignored("messages.content.")


def chat_prompt(request: ChatRequest, default_model: str | None) -> Prompt:
    """What POST /v1/chat/completions asks. Raises ApiError (400)."""
    options = request.stream_options
    return Prompt(
        request=OllamaRequest("/api/chat", ollama_body(request, default_model)),
        new_answer=partial(ChatAnswer, include_usage=options is not None and options.include_usage),
        is_streamed=request.stream,
        session_id=request.session_id,
        session_strategy=request.session_strategy,
        user=request.user,
        ignored=shown(request.ignored()),
    )


def ollama_body(request: ChatRequest, default_model: str | None) -> dict[str, Any]:
    """The body for /api/chat; without `model` if neither names one. Raises ApiError (400)."""
    refuse(request.unknown, _REFUSALS)
    if request.n not in (None, 1):
        raise bad("is not supported but as 1; send as many prompts, in sessions of their own", "n")
    body: dict[str, Any] = {
        "messages": _messages(request),
        "stream": True,
        "model": request.model or default_model,
        "options": _options(request),
        "tools": _tools(request),
        "format": _format(request),
        "think": _think(request),
        "keep_alive": request.keep_alive,
        "truncate": request.truncate,
        "shift": request.shift,
        **_wanted_logprobs(request),
    }
    return without_empty(body)


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    if request.prompt is not None and request.messages is not None:
        raise bad("give either messages or prompt, not both", "prompt")
    if request.prompt is not None:
        if not request.prompt:
            raise bad("is empty; write what the model is to answer", "prompt")
        return [{"role": "user", "content": request.prompt}]
    if not request.messages:
        raise bad("is missing or empty; give at least one message", "messages")
    calls = [call.function for said in request.messages for call in said.tool_calls or ()]
    nested = (call.arguments for call in calls if isinstance(call.arguments, str))
    check_nested(nested, "messages.tool_calls.function.arguments")
    # By the id of their call. Ids are used again in later turns: the nearest before counts.
    tool_names: dict[str, str] = {}
    found = []
    for index, said in enumerate(request.messages):
        for call in said.tool_calls or ():
            tool_names[call.id] = call.function.name
        found.append(_message(said, f"messages.{index}", tool_names))
    return found


def _message(said: Message, param: str, tool_names: Mapping[str, str]) -> dict[str, Any]:
    for name, (_, instead) in _MESSAGE_REFUSALS.items():
        if name in said.unknown:
            raise bad(f"is not supported here; {instead}", f"{param}.{name}")
    content, images = _content(said.content, f"{param}.content")
    role = "system" if said.role == "developer" else said.role
    body: dict[str, Any] = {"role": role, "content": content or said.refusal or ""}
    thinking = said.reasoning_content or said.reasoning
    if thinking:
        body["thinking"] = thinking
    if images:
        body["images"] = images
    if said.tool_calls:
        body["tool_calls"] = [
            tool_call(call.id, call.function.name, call.function.arguments, f"{param}.tool_calls")
            for call in said.tool_calls
        ]
    if said.tool_call_id:
        body["tool_call_id"] = said.tool_call_id
    tool_name = said.name or tool_names.get(said.tool_call_id or "")
    if said.role == "tool" and tool_name:
        body["tool_name"] = tool_name
    return body


def _content(content: str | list[Part] | None, param: str) -> tuple[str, list[str]]:
    if not isinstance(content, list):
        return content or "", []
    texts, images = [], []
    for index, part in enumerate(content):
        value = getattr(part, part.type)
        if value is None:
            raise bad(f"is missing in a part of type {part.type!r}", f"{param}.{index}.{part.type}")
        if isinstance(value, ImageUrl):
            images.append(image_data(value.url, f"{param}.{index}.image_url"))
        else:
            texts.append(value)
    return "".join(texts), images


def tool_call(call_id: str, name: str, arguments: Any, param: str) -> dict[str, Any]:
    """A call of an earlier turn, as Ollama has it. Raises ApiError (400)."""
    if isinstance(arguments, str):
        try:
            arguments = _parsed(arguments or "{}")
        except (ValueError, RecursionError):
            raise bad("the arguments of a tool call are no JSON", param) from None
    if not isinstance(arguments, dict):
        raise bad("the arguments of a tool call are no JSON object", param)
    check_finite(arguments, param)
    return {"id": call_id, "function": {"name": name, "arguments": arguments}}


def _parsed(text: str) -> Any:
    """Raises ValueError or RecursionError. There may be thousands: the fast parser first."""
    try:
        return from_json(text)
    except ValueError:
        # Half a surrogate pair, or many levels, which only Python's own takes.
        return json.loads(text)


def _tools(request: ChatRequest) -> list[dict[str, Any]] | None:
    check_tool_choice(request.tool_choice)
    for index, tool in enumerate(request.tools or ()):
        check_tool_kind(tool, index)
    check_finite(request.tools, "tools")
    return None if request.tool_choice == "none" else request.tools


def check_tool_kind(tool: Mapping[str, Any], index: int) -> None:
    """Raises ApiError (400) for a tool that is not a function."""
    kind = tool.get("type") or "function"
    if kind != "function":
        # Cut before it is written: it is as long as its client likes.
        shown_kind = ascii(kind[:40]) if isinstance(kind, str) else "what is no text"
        raise bad(f"{shown_kind} is not supported; it has to be 'function'", f"tools.{index}.type")


def check_tool_choice(choice: Any) -> None:
    """Raises ApiError (400) for what Ollama cannot be made to do."""
    if choice not in (None, "auto", "none"):
        shown_choice = ascii(choice[:40]) if isinstance(choice, str) else "an object"
        raise bad(
            f"{shown_choice} is not supported: Ollama leaves it to the model whether it calls a "
            f"tool; send 'auto', or 'none', or only the tool that is meant",
            "tool_choice",
        )


def _options(request: ChatRequest) -> dict[str, Any]:
    output_max = request.max_completion_tokens
    return request.ollama_options(request.max_tokens if output_max is None else output_max)


def _wanted_logprobs(request: ChatRequest) -> dict[str, Any]:
    if not request.logprobs:
        if request.top_logprobs:
            raise bad("needs `logprobs`: true beside it", "top_logprobs")
        return {}
    return {"logprobs": True, "top_logprobs": request.top_logprobs}


def _format(request: ChatRequest) -> Any:
    form = request.response_format
    if form is None:
        check_finite(request.format, "format")
        return request.format
    if form.type == "json_schema":
        if form.json_schema is None:
            raise bad("is missing beside type 'json_schema'", "response_format.json_schema")
        check_finite(form.json_schema.schema_, "response_format.json_schema.schema")
        return form.json_schema.schema_ or "json"
    return "json" if form.type == "json_object" else None


def _think(request: ChatRequest) -> Any:
    reasoning = request.reasoning
    if reasoning is not None and reasoning.effort:
        return think_of(reasoning.effort, "reasoning.effort")
    if request.reasoning_effort:
        return think_of(request.reasoning_effort, "reasoning_effort")
    if reasoning is not None and reasoning.enabled is not None:
        return reasoning.enabled
    return request.think
