"""Reading a request the way Ollama reads it, with the texts of its refusals."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from sim.fake_ollama.modes import Failure

THINK_LEVELS = ("low", "medium", "high", "max")

_DURATION = re.compile(r"(?P<number>\d+\.?\d*|\.\d+)(?P<unit>[^\d.]*)")
_UNIT_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1, "m": 60, "h": 3600}


class BadRequest(Exception):
    """The request is refused; `failure` is the answer to the client."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.failure = Failure(status, text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A POST to /api/chat or /api/generate, as far as the fake uses it.

    `is_blank` means no messages or no prompt: the model is loaded or unloaded, nothing answered.
    `keep_alive_s` is None where the request does not say; negative means for ever.
    `think` is None where the request does not say. `tool` is the first tool offered.
    """

    path: str
    model: str
    prompt: str
    prompt_words: int
    is_blank: bool
    stream: bool
    keep_alive_s: float | None
    think: bool | None
    tool: dict[str, object] | None
    num_predict: int | None

    @property
    def is_chat(self) -> bool:
        return self.path == "/api/chat"


def read_request(path: str, body: bytes) -> Request:
    """Read the body of a POST to /api/chat or /api/generate. Raises BadRequest."""
    fields = _Fields(read_object(body, _struct_name(path)), _struct_name(path))
    messages = fields.objects("messages") if path == "/api/chat" else []
    prompt, prompt_words = _prompt_of(messages) if messages else _single_prompt(fields)
    tools = fields.objects("tools")
    return Request(
        path=path,
        model=fields.string("model"),
        prompt=prompt,
        prompt_words=prompt_words,
        is_blank=not messages if path == "/api/chat" else not prompt,
        stream=fields.boolean("stream", default=True),
        keep_alive_s=_keep_alive_s(fields.values.get("keep_alive")),
        think=_think(fields.values.get("think")),
        tool=tools[0] if tools else None,
        num_predict=_num_predict(fields.mapping("options")),
    )


def read_object(body: bytes, struct_name: str) -> dict[str, object]:
    """Read a JSON object. Raises BadRequest with the texts of Go's decoder, more or less."""
    text = body.decode("utf-8", "replace").strip()
    if not text:
        raise BadRequest("missing request body")
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text) or error.msg.startswith("Unterminated"):
            raise BadRequest("unexpected EOF") from None
        wrong = text[error.pos]
        raise BadRequest(f"invalid character '{wrong}' looking for beginning of value") from None
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadRequest(
            f"json: cannot unmarshal {_kind(value)} into Go value of type api.{struct_name}"
        )
    return value


def read_embed(body: bytes, *, is_old: bool) -> tuple[str, list[str], int]:
    """Read the body of a POST to /api/embed, or to /api/embeddings. Raises BadRequest.

    Returns the model, the texts and the length of the vectors, 0 where the request does not say.
    """
    fields = _Fields(read_object(body, "EmbedRequest"), "EmbedRequest")
    given = fields.values.get("prompt" if is_old else "input")
    texts = given if isinstance(given, list) else [given or ""]
    if not all(isinstance(text, str) for text in texts):
        raise BadRequest("invalid input type")
    dimensions = fields.values.get("dimensions") or 0
    if not isinstance(dimensions, int):
        raise BadRequest("json: cannot unmarshal into Go struct field EmbedRequest.dimensions")
    return fields.string("model"), [str(text) for text in texts], dimensions


class _Fields:
    """The fields of one JSON object; null counts as absent, a wrong type is a BadRequest."""

    def __init__(self, values: dict[str, object], struct_name: str) -> None:
        self.values = values
        self._struct_name = struct_name

    def string(self, name: str) -> str:
        value = self.values.get(name)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self._wrong_type(name, value, "string")
        return value

    def boolean(self, name: str, *, default: bool) -> bool:
        value = self.values.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._wrong_type(name, value, "bool")
        return value

    def mapping(self, name: str) -> dict[str, object]:
        value = self.values.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise self._wrong_type(name, value, "map[string]interface {}")
        return value

    def objects(self, name: str) -> list[dict[str, object]]:
        value = self.values.get(name)
        if value is None:
            return []
        type_name = {"messages": "[]api.Message", "tools": "api.Tools"}.get(name, "[]interface {}")
        if not isinstance(value, list):
            raise self._wrong_type(name, value, type_name)
        for item in value:
            if not isinstance(item, dict):
                raise self._wrong_type(name, item, type_name.removeprefix("[]"))
        return value

    def _wrong_type(self, name: str, value: object, type_name: str) -> BadRequest:
        return BadRequest(
            f"json: cannot unmarshal {_kind(value)} into Go struct field "
            f"{self._struct_name}.{name} of type {type_name}"
        )


def _struct_name(path: str) -> str:
    return {"/api/chat": "ChatRequest", "/api/generate": "GenerateRequest"}.get(path, "ShowRequest")


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"


def _prompt_of(messages: list[dict[str, object]]) -> tuple[str, int]:
    """Return the last user message (or the last of all), and the words of all messages."""
    contents = [
        (message.get("role"), _Fields(message, "ChatRequest.messages").string("content"))
        for message in messages
    ]
    of_user = [content for role, content in contents if role == "user"]
    prompt = of_user[-1] if of_user else contents[-1][1]
    return prompt, sum(len(content.split()) for _, content in contents)


def _single_prompt(fields: _Fields) -> tuple[str, int]:
    prompt = fields.string("prompt")
    return prompt, len(f"{fields.string('system')} {prompt}".split())


def _keep_alive_s(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise BadRequest(f"Unsupported type: '{_kind(value)}'")
    seconds = go_duration_s(value) if isinstance(value, str) else float(value)
    return -1.0 if seconds < 0 else seconds


def go_duration_s(text: str) -> float:
    """Read a Go duration such as "5m" or "1h30m". Raises BadRequest; a bare "300" is one too."""
    sign = -1 if text.startswith("-") else 1
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    seconds = 0.0
    position = 0
    while position < len(rest):
        match = _DURATION.match(rest, position)
        if match is None:
            break
        unit = match["unit"]
        if not unit:
            raise BadRequest(f'time: missing unit in duration "{text}"')
        if unit not in _UNIT_S:
            raise BadRequest(f'time: unknown unit "{unit}" in duration "{text}"')
        seconds += float(match["number"]) * _UNIT_S[unit]
        position = match.end()
    if not rest or position < len(rest):
        raise BadRequest(f'time: invalid duration "{text}"')
    return sign * seconds


def _think(value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and value in THINK_LEVELS:
        return True
    raise BadRequest(
        f'invalid think value: {json.dumps(value)} (must be "high", "medium", "low", "max", '
        "true, or false)"
    )


def _num_predict(options: dict[str, object]) -> int | None:
    value = options.get("num_predict")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if value > 0 else None
