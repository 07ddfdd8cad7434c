"""OpenAI's wire forms: what a request means to Ollama, and how chunks look on the way back."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StrictBool, StrictInt, StrictStr

from server.answer import Answer, usage_of
from server.body import RequestModel
from server.errors import ApiError
from server.ollama import Chunk, OllamaRequest
from server.prompt import Prompt
from server.sse import message

# ---- requests -------------------------------------------------------------------------------

_Number = Annotated[float, Field(allow_inf_nan=False)]
# Of a data URL, all but the data: that may be 30 MB, which no pattern is let loose on.
_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,")
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()


class _Model(RequestModel):
    # Fields that Ollama has no use for are passed over: clients send many.
    model_config = ConfigDict(extra="ignore")


class FunctionCall(_Model):
    name: StrictStr
    arguments: StrictStr = "{}"


class RequestToolCall(_Model):
    id: StrictStr = ""
    function: FunctionCall


class ImageUrl(_Model):
    url: StrictStr


class Part(_Model):
    type: Literal["text", "image_url"]
    text: StrictStr | None = None
    image_url: ImageUrl | None = None


class Message(_Model):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: StrictStr | list[Part] | None = None
    tool_calls: list[RequestToolCall] | None = None
    tool_call_id: StrictStr | None = None
    name: StrictStr | None = None


class StreamOptions(_Model):
    include_usage: StrictBool = False


class JsonSchema(_Model):
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")


class ResponseFormat(_Model):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatRequest(_Model):
    """The body of POST /v1/chat/completions: OpenAI's `messages`, or the note's `prompt`."""

    # For openapi.json; `ollama_body` holds to it, with words of its own.
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

    model: StrictStr | None = None
    messages: list[Message] | None = None
    prompt: StrictStr | None = None
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    session_id: StrictStr | None = None
    user: StrictStr | None = None
    n: Literal[1] | None = None
    temperature: _Number | None = None
    top_p: _Number | None = None
    frequency_penalty: _Number | None = None
    presence_penalty: _Number | None = None
    max_tokens: StrictInt | None = None
    max_completion_tokens: StrictInt | None = None
    seed: StrictInt | None = None
    stop: StrictStr | list[StrictStr] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    response_format: ResponseFormat | None = None
    reasoning_effort: StrictStr | None = None


def chat_prompt(request: ChatRequest, default_model: str | None) -> Prompt:
    """What POST /v1/chat/completions asks. Raises ApiError (400)."""
    options = request.stream_options
    return Prompt(
        request=OllamaRequest("/api/chat", ollama_body(request, default_model)),
        new_answer=partial(ChatAnswer, include_usage=options is not None and options.include_usage),
        is_streamed=request.stream,
        session_id=request.session_id,
        user=request.user,
    )


def ollama_body(request: ChatRequest, default_model: str | None) -> dict[str, Any]:
    """The body for /api/chat; without `model` if neither names one. Raises ApiError (400)."""
    body: dict[str, Any] = {"messages": _messages(request), "stream": True}
    model = request.model or default_model
    if model:
        body["model"] = model
    options = _options(request)
    if options:
        body["options"] = options
    if request.tools and request.tool_choice != "none":
        body["tools"] = request.tools
    form = _format(request.response_format)
    if form is not None:
        body["format"] = form
    if request.reasoning_effort is not None:
        effort = request.reasoning_effort
        body["think"] = False if effort == "none" else "low" if effort == "minimal" else effort
    return body


def _messages(request: ChatRequest) -> list[dict[str, Any]]:
    if request.prompt is not None and request.messages is not None:
        raise _bad("give either messages or prompt, not both", "prompt")
    if request.prompt is not None:
        if not request.prompt:
            raise _bad("prompt is empty; write what the model is to answer", "prompt")
        return [{"role": "user", "content": request.prompt}]
    if not request.messages:
        raise _bad("messages is missing or empty; give at least one message", "messages")
    return [_message(message, index) for index, message in enumerate(request.messages)]


def _message(message: Message, index: int) -> dict[str, Any]:
    content, images = _content(message.content, f"messages.{index}.content")
    role = "system" if message.role == "developer" else message.role
    body: dict[str, Any] = {"role": role, "content": content}
    if images:
        body["images"] = images
    if message.tool_calls:
        body["tool_calls"] = [_tool_call(call, index) for call in message.tool_calls]
    if message.tool_call_id:
        body["tool_call_id"] = message.tool_call_id
    if message.role == "tool" and message.name:
        body["tool_name"] = message.name
    return body


def _content(content: str | list[Part] | None, param: str) -> tuple[str, list[str]]:
    if not isinstance(content, list):
        return content or "", []
    images = []
    for part in content:
        if part.type != "image_url":
            continue
        data = _image(part.image_url.url) if part.image_url else None
        if not data:
            raise _bad("an image has to be a data:image/…;base64,… URL; none is fetched", param)
        images.append(data)
    return "".join(part.text or "" for part in content if part.type == "text"), images


def _image(url: str) -> str | None:
    """The data of a data URL in base64, without white space; None if it is none."""
    match = _DATA_URL.match(url)
    if match is None or not url.isascii():
        return None
    data = url.encode("ascii")[match.end() :].translate(None, string.whitespace.encode())
    return None if data.translate(None, _BASE64) else data.decode("ascii")


def _tool_call(call: RequestToolCall, index: int) -> dict[str, Any]:
    param = f"messages.{index}.tool_calls"
    try:
        arguments = json.loads(call.function.arguments or "{}")
    except (ValueError, RecursionError):
        raise _bad("the arguments of a tool call are no JSON", param) from None
    if not isinstance(arguments, dict):
        raise _bad("the arguments of a tool call are no JSON object", param)
    return {"id": call.id, "function": {"name": call.function.name, "arguments": arguments}}


def _options(request: ChatRequest) -> dict[str, Any]:
    output_max = request.max_completion_tokens
    options = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "frequency_penalty": request.frequency_penalty,
        "presence_penalty": request.presence_penalty,
        "num_predict": request.max_tokens if output_max is None else output_max,
        "seed": request.seed,
        "stop": [request.stop] if isinstance(request.stop, str) else request.stop,
    }
    return {name: value for name, value in options.items() if value is not None}


def _format(form: ResponseFormat | None) -> str | dict[str, Any] | None:
    if form is None or form.type == "text":
        return None
    if form.type == "json_schema" and form.json_schema and form.json_schema.schema_:
        return form.json_schema.schema_
    return "json"


def _bad(message: str, param: str) -> ApiError:
    return ApiError(400, "invalid_request", message, param=param)


# ---- answers --------------------------------------------------------------------------------


class ChatAnswer(Answer):
    """`chat.completion.chunk` objects, or one `chat.completion`."""

    def __init__(self, trace_id: str, created: int, *, include_usage: bool = False) -> None:
        super().__init__(trace_id, created)
        self._include_usage = include_usage
        self._finish_reason: str | None = None
        self._has_role = False
        self._tool_calls = 0
        self._usage: dict[str, int] | None = None
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._logprobs: list[Mapping[str, Any]] = []

    def encoded(self, chunk: Chunk) -> bytes:
        return b"".join(message(value) for value in self.messages(chunk))

    def messages(self, chunk: Chunk) -> list[dict[str, Any]]:
        """What one chunk becomes: `chat.completion.chunk` objects, in order."""
        messages = []
        delta: dict[str, Any] = {}
        if not self._has_role:
            self._has_role = True
            messages.append(self._message({"role": "assistant", "content": ""}, None))
        if chunk.content:
            delta["content"] = chunk.content
        if chunk.thinking:
            delta["reasoning_content"] = chunk.thinking
        if chunk.tool_calls:
            calls = self._number(chunk)
            delta["tool_calls"] = [{"index": index, **call} for index, call in calls]
        if delta or chunk.logprobs:
            messages.append(self._message(delta, None, _logprobs(chunk.logprobs)))
        if chunk.done_reason is not None:
            self._finish(chunk)
            messages.append(self._message({}, self._finish_reason))
            if self._include_usage:
                messages.append({**self._head(), "choices": [], "usage": self._usage})
        return messages

    def gather(self, chunk: Chunk) -> None:
        self._content.append(chunk.content)
        self._thinking.append(chunk.thinking)
        self._calls.extend(call for _, call in self._number(chunk))
        self._logprobs.extend(chunk.logprobs)
        if chunk.done_reason is not None:
            self._finish(chunk)

    def whole(self) -> dict[str, Any]:
        content, thinking = "".join(self._content), "".join(self._thinking)
        said: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if thinking:
            said["reasoning_content"] = thinking
        if self._calls:
            said["tool_calls"] = self._calls
            said["content"] = content or None
        choice = {
            "index": 0,
            "message": said,
            "logprobs": _logprobs(self._logprobs),
            "finish_reason": self._finish_reason,
        }
        return {
            **self._head(),
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage,
        }

    def _number(self, chunk: Chunk) -> list[tuple[int, dict[str, Any]]]:
        # Ollama numbers the calls of one chunk, OpenAI those of the whole answer.
        numbered = []
        for call in chunk.tool_calls:
            index, self._tool_calls = self._tool_calls, self._tool_calls + 1
            function = {"name": call.name, "arguments": call.arguments}
            call_id = call.id or f"call_{self.trace_id}_{index}"
            numbered.append((index, {"id": call_id, "type": "function", "function": function}))
        return numbered

    def _finish(self, chunk: Chunk) -> None:
        self.is_complete = True
        reason = "length" if chunk.done_reason == "length" else "stop"
        self._finish_reason = "tool_calls" if self._tool_calls else reason
        self._usage = usage_of(chunk)

    def _message(
        self,
        delta: dict[str, Any],
        finish_reason: str | None,
        logprobs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        said = {**self._head(), "choices": [choice]}
        if self._include_usage:
            said["usage"] = None
        return said

    def _head(self) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-{self.trace_id}",
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
        }


def _logprobs(entries: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """OpenAI's `logprobs` of a choice; Ollama leaves empty lists out, OpenAI's clients don't."""
    if not entries:
        return None
    content = [
        {**_token(entry), "top_logprobs": [_token(t) for t in entry.get("top_logprobs") or ()]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _token(entry: Mapping[str, Any]) -> dict[str, Any]:
    raw = entry.get("bytes") or list(entry["token"].encode("utf-8", "replace"))
    return {"token": entry["token"], "logprob": entry["logprob"], "bytes": raw}
