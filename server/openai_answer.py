"""OpenAI's chat completions: how chunks look on the way back; for requests see `openai.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.answer import Answer, usage_of
from server.ollama import Chunk
from server.sse import encode_json, message


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
        # The model, and what stands before and behind the content in a message that has only that.
        self._around = ("", b"", b"")

    def encoded(self, chunk: Chunk) -> bytes:
        if self._has_role and chunk.has_only_content:
            before, behind = self._around_content()
            return before + encode_json(chunk.content) + behind
        return b"".join(message(value) for value in self.messages(chunk))

    def _around_content(self) -> tuple[bytes, bytes]:
        """The message of a chunk as most are: all but its content is the same for a whole stream.

        Within a text of JSON a quote has a backslash before it, so that the name of a model holds
        no second empty content.
        """
        model, before, behind = self._around
        if not before or model != self.model:
            whole = message(self._message({"content": ""}, None))
            before, _, behind = whole.partition(b'"content":""')
            before += b'"content":'
            self._around = (self.model, before, behind)
        return before, behind

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
