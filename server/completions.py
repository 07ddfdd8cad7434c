"""OpenAI's older completions: a text that goes on, by Ollama's /api/generate.

The reference is `FromCompleteRequest` in Ollama's openai/openai.go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from server.answer import Answer, usage_of
from server.fields import (
    Flag,
    Int,
    OutputMax,
    PromptFields,
    Text,
    Think,
    bad,
    check_finite,
    refuse,
    shown,
    text_or_list,
    without_empty,
)
from server.ollama import Chunk, OllamaRequest
from server.openai import StreamOptions
from server.prompt import Prompt
from server.sse import message

_REFUSALS: Mapping[str, tuple[Sequence[Any], str]] = {
    "best_of": ([1], "one answer is generated; send as many prompts, in sessions of their own"),
    "echo": ([False], "the answer does not repeat the prompt"),
    "logit_bias": ([{}], "Ollama cannot weigh single tokens; leave it out"),
}


class CompletionRequest(PromptFields):
    """The body of POST /v1/completions."""

    harmless: ClassVar[frozenset[str]] = frozenset({"metadata", "store", *_REFUSALS})

    # Tokens are refused with a sentence of their own.
    prompt: text_or_list(Any, "one text")  # type: ignore[valid-type]
    suffix: Text | None = None
    stream_options: StreamOptions | None = None
    n: Int | None = None
    max_tokens: OutputMax | None = None
    # How many of the likeliest tokens are listed for each.
    logprobs: Int | None = None

    # Ollama's own.
    system: Text | None = None
    template: Text | None = None
    raw: Flag | None = None
    format: Any = None
    think: Think | None = None
    truncate: Flag | None = None
    shift: Flag | None = None


def completion_prompt(request: CompletionRequest, default_model: str | None) -> Prompt:
    """What POST /v1/completions asks. Raises ApiError (400)."""
    options = request.stream_options
    return Prompt(
        request=OllamaRequest("/api/generate", _body(request, default_model)),
        new_answer=partial(
            CompletionAnswer, include_usage=options is not None and options.include_usage
        ),
        is_streamed=request.stream,
        session_id=request.session_id,
        session_strategy=request.session_strategy,
        user=request.user,
        ignored=shown(request.ignored()),
    )


def _body(request: CompletionRequest, default_model: str | None) -> dict[str, Any]:
    refuse(request.unknown, _REFUSALS)
    if request.n not in (None, 1):
        raise bad("is not supported but as 1; send as many prompts, in sessions of their own", "n")
    body: dict[str, Any] = {
        "prompt": _text_of(request.prompt),
        "stream": True,
        "model": request.model or default_model,
        "options": request.ollama_options(request.max_tokens),
        "logprobs": request.logprobs is not None,
        "top_logprobs": request.logprobs,
        **{name: getattr(request, name) for name in _PASSED_ON},
    }
    check_finite(request.format, "format")
    return without_empty(body)


_PASSED_ON = (
    "suffix",
    "system",
    "template",
    "raw",
    "format",
    "think",
    "truncate",
    "shift",
    "keep_alive",
)


def _text_of(prompt: Any) -> str:
    texts = [prompt] if isinstance(prompt, str) else prompt
    if not all(isinstance(text, str) for text in texts):
        raise bad("has to be text: Ollama takes no tokens", "prompt")
    if len(texts) != 1:
        raise bad(f"has to be one text, not {len(texts)}; send each by itself", "prompt")
    if not texts[0]:
        raise bad("is empty; write what the model is to go on with", "prompt")
    return texts[0]


class CompletionAnswer(Answer):
    """`text_completion` objects, one for each chunk, or one for all."""

    def __init__(self, trace_id: str, created: int, *, include_usage: bool = False) -> None:
        super().__init__(trace_id, created)
        self._include_usage = include_usage
        self._text_chars = 0
        self._chunks: list[Chunk] = []

    def encoded(self, chunk: Chunk) -> bytes:
        self.is_complete = chunk.done_reason is not None
        answer = self._object(chunk)
        if not self._include_usage:
            return message(answer)
        answer["usage"] = None
        if not self.is_complete:
            return message(answer)
        return message(answer) + message({**answer, "choices": [], "usage": usage_of(chunk)})

    def gather(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self.is_complete = chunk.done_reason is not None

    def whole(self) -> dict[str, Any]:
        last = self._chunks[-1]
        all_of_it = Chunk(
            content="".join(chunk.content for chunk in self._chunks),
            thinking="".join(chunk.thinking for chunk in self._chunks),
            done_reason=last.done_reason,
            logprobs=tuple(entry for chunk in self._chunks for entry in chunk.logprobs),
        )
        return {**self._object(all_of_it), "usage": usage_of(last)}

    def _object(self, chunk: Chunk) -> dict[str, Any]:
        reason = "length" if chunk.done_reason == "length" else "stop"
        choice: dict[str, Any] = {
            "index": 0,
            "text": chunk.content,
            "logprobs": self._logprobs(chunk),
            "finish_reason": reason if chunk.done_reason is not None else None,
        }
        if chunk.thinking:
            choice["reasoning_content"] = chunk.thinking
        self._text_chars += len(chunk.content)
        return {
            "id": f"cmpl-{self.trace_id}",
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice],
        }

    def _logprobs(self, chunk: Chunk) -> dict[str, Any] | None:
        if not chunk.logprobs:
            return None
        offsets, at = [], self._text_chars
        for entry in chunk.logprobs:
            offsets.append(at)
            at += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in chunk.logprobs],
            "token_logprobs": [entry["logprob"] for entry in chunk.logprobs],
            "top_logprobs": [
                {other["token"]: other["logprob"] for other in entry.get("top_logprobs") or ()}
                for entry in chunk.logprobs
            ],
            "text_offset": offsets,
        }
