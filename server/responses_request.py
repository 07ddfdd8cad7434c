"""OpenAI's Responses: what a request means to Ollama.

The reference is `FromResponsesRequest` in Ollama's openai/responses.go. Nothing is kept from one
request to the next, so that what names an earlier response is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from server.body import check_nested
from server.fields import (
    Fields,
    Flag,
    OutputMax,
    PromptFields,
    Text,
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
from server.openai import Reasoning, check_tool_choice, check_tool_kind, tool_call
from server.prompt import Prompt
from server.responses_answer import ResponsesAnswer

_WHOLE = "nothing is kept here: send the whole conversation as `input`"
_REFUSALS: Mapping[str, tuple[Sequence[Any], str]] = {
    "previous_response_id": ([], _WHOLE),
    "conversation": ([], _WHOLE),
    "prompt": ([], "no prompts are kept here; send `instructions` and `input`"),
    "background": ([False], "send it with `stream`, and look at GET /v1/streams meanwhile"),
    "top_logprobs": ([0], "POST /v1/chat/completions tells log probabilities"),
    "context_management": ([[]], "leave it out"),
}


class ResponsePart(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"annotations", "logprobs", "detail"})

    type: Literal[
        "input_text", "output_text", "reasoning_text", "summary_text", "input_image", "refusal"
    ]
    text: Text | None = None
    refusal: Text | None = None
    image_url: Text | None = None


class InputItem(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"id", "status", "phase", "encrypted_content"})

    type: Literal["message", "function_call", "function_call_output", "reasoning"] = "message"
    # Of a message.
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: text_or_list(ResponsePart, "parts") | None = None  # type: ignore[valid-type]
    # Of a call, and of its result.
    call_id: Text = ""
    name: Text | None = None
    arguments: Any = "{}"
    output: text_or_list(ResponsePart, "parts") | None = None  # type: ignore[valid-type]
    # Of a thought.
    summary: list[ResponsePart] | None = None


class TextFormat(Fields):
    harmless: ClassVar[frozenset[str]] = frozenset({"name", "strict", "description"})

    type: Literal["text", "json_object", "json_schema"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class TextOutput(Fields):
    format: TextFormat | None = None


class ResponsesRequest(PromptFields):
    """The body of POST /v1/responses."""

    harmless: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "store",
            "service_tier",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "stream_options",
            "max_tool_calls",
            *_REFUSALS,
        }
    )

    input: text_or_list(InputItem, "items")  # type: ignore[valid-type]
    instructions: Text | None = None
    max_output_tokens: OutputMax | None = None
    reasoning: Reasoning | None = None
    text: TextOutput | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    parallel_tool_calls: Flag = True
    truncation: Literal["auto", "disabled"] | None = None
    include: list[Text] | None = None

    def ignored(self, prefix: str = "") -> Iterator[str]:
        yield from super().ignored(prefix)
        if not self.parallel_tool_calls:
            yield "parallel_tool_calls"
        # Thoughts go out as text, and come back so.
        if any(name != "reasoning.encrypted_content" for name in self.include or ()):
            yield "include"
        for name in ("reasoning", "text"):
            part = getattr(self, name)
            if part is not None:
                yield from part.ignored(f"{name}.")
        for item in self.input if isinstance(self.input, list) else ():
            yield from item.ignored("input.")
            for part in item.content if isinstance(item.content, list) else ():
                yield from part.ignored("input.content.")


def responses_prompt(request: ResponsesRequest, default_model: str | None) -> Prompt:
    """What POST /v1/responses asks. Raises ApiError (400)."""
    return Prompt(
        request=OllamaRequest("/api/chat", _body(request, default_model)),
        new_answer=partial(ResponsesAnswer, echoed=_echoed(request)),
        is_streamed=request.stream,
        session_id=request.session_id,
        session_strategy=request.session_strategy,
        user=request.user,
        ignored=shown(request.ignored()),
    )


def _body(request: ResponsesRequest, default_model: str | None) -> dict[str, Any]:
    refuse(request.unknown, _REFUSALS)
    check_tool_choice(request.tool_choice)
    reasoning = request.reasoning
    body: dict[str, Any] = {
        "messages": _messages(request),
        "stream": True,
        "model": request.model or default_model,
        "options": request.ollama_options(request.max_output_tokens),
        "tools": None if request.tool_choice == "none" else _tools(request.tools or []),
        "format": _format(request.text.format if request.text else None),
        "think": think_of(reasoning.effort, "reasoning.effort")
        if reasoning and reasoning.effort
        else None,
        "keep_alive": request.keep_alive,
        # Ollama's own default is to cut.
        "truncate": False if request.truncation == "disabled" else None,
    }
    return without_empty(body)


def _tools(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Here a tool is flat; Ollama's form is that of the chat."""
    found = []
    check_finite(tools, "tools")
    for index, tool in enumerate(tools):
        check_tool_kind(tool, index)
        names = ("name", "description", "parameters", "strict")
        function = {name: tool[name] for name in names if tool.get(name) is not None}
        found.append({"type": "function", "function": function})
    return found


def _format(form: TextFormat | None) -> Any:
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return "json"
    if form.schema_ is None:
        raise bad("is missing beside type 'json_schema'", "text.format.schema")
    check_finite(form.schema_, "text.format.schema")
    return form.schema_ or "json"


# ---- the conversation -----------------------------------------------------------------------


def _messages(request: ResponsesRequest) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if request.instructions:
        messages.append({"role": "system", "content": request.instructions})
    if isinstance(request.input, str):
        items = [InputItem(role="user", content=request.input)]
    else:
        items = request.input
    if not items or request.input == "":
        raise bad("is empty; write what the model is to answer", "input")
    nested = (item.arguments for item in items if isinstance(item.arguments, str))
    check_nested(nested, "input.arguments")
    conversation = _Conversation(messages)
    for index, item in enumerate(items):
        conversation.add(item, f"input.{index}")
    return conversation.messages


class _Conversation:
    """The messages so far, and what the next of them has to carry."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages
        # A thought comes before what it led to.
        self._thinking = ""
        self._tool_names: dict[str, str] = {}

    def add(self, item: InputItem, param: str) -> None:
        if item.type == "reasoning":
            thoughts = [*(item.summary or ()), *(item.content or ())]
            self._thinking = "\n".join(t.text or "" for t in thoughts if not isinstance(t, str))
        elif item.type == "function_call":
            self._add_call(item, param)
        elif item.type == "function_call_output":
            self._add_output(item, param)
        else:
            if item.role is None:
                raise bad("is missing", f"{param}.role")
            content, images = _content(item.content, f"{param}.content")
            role = "system" if item.role == "developer" else item.role
            self._add({"role": role, "content": content, "images": images})

    def _add_call(self, item: InputItem, param: str) -> None:
        if not item.name:
            raise bad("is missing", f"{param}.name")
        call = tool_call(item.call_id, item.name, item.arguments, f"{param}.arguments")
        self._tool_names[item.call_id] = item.name
        last = self.messages[-1] if self.messages else {}
        if last.get("role") == "assistant" and not self._thinking:
            last.setdefault("tool_calls", []).append(call)
        else:
            self._add({"role": "assistant", "content": "", "tool_calls": [call]})

    def _add_output(self, item: InputItem, param: str) -> None:
        content, images = _content(item.output, f"{param}.output")
        output = {
            "role": "tool",
            "content": content,
            "images": images,
            "tool_call_id": item.call_id,
        }
        self._add({**output, "tool_name": self._tool_names.get(item.call_id)})

    def _add(self, said: dict[str, Any]) -> None:
        if said["role"] == "assistant" and self._thinking:
            said["thinking"], self._thinking = self._thinking, ""
        self.messages.append(
            {name: value for name, value in said.items() if value or name == "content"}
        )


def _content(content: str | list[ResponsePart] | None, param: str) -> tuple[str, list[str]]:
    if not isinstance(content, list):
        return content or "", []
    texts, images = [], []
    for index, part in enumerate(content):
        place = f"{param}.{index}"
        field = {"input_image": "image_url", "refusal": "refusal"}.get(part.type, "text")
        value = getattr(part, field)
        if value is None:
            raise bad(f"is missing in a part of type {part.type!r}", f"{place}.{field}")
        if part.type == "input_image":
            images.append(image_data(value, f"{place}.image_url"))
        else:
            texts.append(value)
    return "".join(texts), images


def _echoed(request: ResponsesRequest) -> dict[str, Any]:
    """What an answer repeats of its request; clients' types ask for it."""
    reasoning = request.reasoning
    form = request.text.format if request.text else None
    return {
        "instructions": request.instructions,
        "tools": request.tools or [],
        "tool_choice": request.tool_choice or "auto",
        "parallel_tool_calls": request.parallel_tool_calls,
        "max_output_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "truncation": request.truncation or "auto",
        "reasoning": {"effort": reasoning and reasoning.effort, "summary": None},
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True)}
        if form
        else {"format": {"type": "text"}},
        "metadata": request.unknown.get("metadata") or {},
        "previous_response_id": None,
        "store": False,
    }
