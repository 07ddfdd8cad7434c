"""Ollama's own /api/chat and /api/generate: its fields, its lines, and the session's rule.

What a client says reaches Ollama as it is, and Ollama's lines reach the client as they are, so
that programs for Ollama work unmodified. Types stand in Ollama's api/types.go.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import ConfigDict, model_validator

from server.answer import Answer
from server.errors import ApiError
from server.fields import Fields, Flag, Text, shown
from server.ollama import Chunk, OllamaRequest
from server.prompt import Prompt
from server.sse import encode_json


class OllamaBody(Fields):
    """A body that Ollama itself is to judge; only what is ours to decide on is declared."""

    # This server's own; the rest is passed on.
    own: ClassVar[frozenset[str]] = frozenset({"session_id", "session_strategy"})

    model: Text | None = None
    stream: Flag = True
    session_id: Text | None = None
    session_strategy: Text | None = None

    @model_validator(mode="before")
    @classmethod
    def _named_as_ollama_reads(cls, value: Any) -> Any:
        """`Prompt` is `prompt` to Ollama, so that it is to us: what we decide on is what it reads.

        Raises ApiError (400) for two of them, of which Ollama would take the last.
        """
        if not isinstance(value, dict) or value.keys() <= cls.model_fields.keys():
            return value
        found: dict[str, Any] = {}
        spelled: dict[str, str] = {}
        for name, each in value.items():
            folded = _folded(name)
            meant = folded if folded in cls.model_fields else name
            if each is None:
                continue
            if meant in found and found[meant] != each:
                raise _twice(spelled[meant], name)
            found[meant], spelled[meant] = each, name
        return found

    def ignored(self, prefix: str = "") -> Iterator[str]:
        """What is this server's own, where no session is asked for; the rest Ollama judges."""
        for name in type(self).model_fields:
            if name in self.own & self.model_fields_set and getattr(self, name) is not None:
                yield f"{prefix}{name}"

    def passed_on(self, default_model: str | None = None) -> dict[str, Any]:
        """The body for Ollama."""
        declared = {
            name: getattr(self, name) for name in type(self).model_fields if name not in self.own
        }
        declared["model"] = self.model or default_model
        return {
            name: value for name, value in {**self.unknown, **declared}.items() if value is not None
        }


def _folded(name: str) -> str:
    """As Go compares names: letter by letter, so that no ligature is `st`. Beyond ASCII two letters
    fold into it: the long s, and Kelvin's K, which `lower` knows as well.
    """
    return name.replace("\u017f", "s").lower()


def _twice(first: str, second: str) -> ApiError:
    problem = (
        f"{second}: is the same field as {first}: Ollama does not tell capitals from small letters "
        f"in the name of a field; send it once"
    )
    return ApiError(400, "invalid_request", problem, param=second)


class OllamaChatRequest(OllamaBody):
    """The body of POST /api/chat."""

    messages: list[dict[str, Any]] | None = None

    @property
    def is_blank(self) -> bool:
        """Whether the model is to be loaded or unloaded, and nothing is to be answered."""
        return not self.messages


class OllamaGenerateRequest(OllamaBody):
    """The body of POST /api/generate."""

    prompt: Text | None = None

    @property
    def is_blank(self) -> bool:
        """Whether the model is to be loaded or unloaded, and nothing is to be answered."""
        return not self.prompt


class OllamaEmbedRequest(OllamaBody):
    """The body of POST /api/embed and of the older /api/embeddings."""

    own: ClassVar[frozenset[str]] = frozenset({"session_id", "session_strategy", "stream"})


class OllamaShowRequest(OllamaBody):
    """The body of POST /api/show."""

    model_config = ConfigDict(protected_namespaces=())
    own: ClassVar[frozenset[str]] = frozenset({"session_id", "session_strategy", "stream"})


def ollama_prompt(
    path: str, request: OllamaChatRequest | OllamaGenerateRequest, default_model: str | None
) -> Prompt:
    """What POST /api/chat or /api/generate asks."""
    body = request.passed_on(default_model)
    if not request.is_blank:
        body["stream"] = True
    return Prompt(
        request=OllamaRequest(path, body, keeps_lines=True),
        new_answer=OllamaAnswer,
        is_streamed=request.stream,
        session_id=request.session_id,
        session_strategy=request.session_strategy,
        user=None,
        ignored=shown(request.ignored()) if request.is_blank else (),
        is_blank=request.is_blank,
    )


class OllamaAnswer(Answer):
    """Ollama's own lines, or one object that says the same.

    There is no line without content, so none is sent in a silence: the head comes with the
    first line, as Ollama's does.
    """

    content_type = "application/x-ndjson"
    ping = b""
    last = b""

    def __init__(self, trace_id: str, created: int) -> None:
        super().__init__(trace_id, created)
        self._lines: list[dict[str, Any]] = []

    def encoded(self, chunk: Chunk) -> bytes:
        self.is_complete = chunk.done_reason is not None
        return chunk.line + b"\n"

    def gather(self, chunk: Chunk) -> None:
        self.is_complete = chunk.done_reason is not None
        self._lines.append(json.loads(chunk.line))

    def whole(self) -> dict[str, Any]:
        last = self._lines[-1]
        logprobs = [entry for line in self._lines for entry in line.get("logprobs") or ()]
        extra = {"logprobs": logprobs} if logprobs else {}
        # As it was read: a line with a message has no other text.
        said = [line["message"] for line in self._lines if line.get("message") is not None]
        if said:
            message = {**(last.get("message") or {}), **_joined(said, "content")}
            return {**last, "message": message, **extra}
        return {**last, **_joined(self._lines, "response"), **extra}

    def error(self, error: ApiError) -> bytes:
        return encode_json(error.flat_body()) + b"\n"


def _joined(said: list[dict[str, Any]], text: str) -> dict[str, Any]:
    joined: dict[str, Any] = {text: "".join(each.get(text) or "" for each in said)}
    thinking = "".join(each.get("thinking") or "" for each in said)
    if thinking:
        joined["thinking"] = thinking
    calls = [call for each in said for call in each.get("tool_calls") or ()]
    if calls:
        joined["tool_calls"] = calls
    return joined
