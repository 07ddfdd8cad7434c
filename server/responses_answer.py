"""OpenAI's Responses: an answer as its events, or as one `response`.

The order of the events is that of `ResponsesStreamConverter` in Ollama's openai/responses.go, with
the parts of a summary in OpenAI's events. There is no [DONE]: the last event is the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.answer import Answer
from server.errors import ApiError
from server.ollama import Chunk, ToolCall
from server.sse import message

Event = dict[str, Any]


class ResponsesAnswer(Answer):
    """echoed: what every `response` repeats of its request."""

    last = b""

    def __init__(self, trace_id: str, created: int, *, echoed: Mapping[str, Any]) -> None:
        super().__init__(trace_id, created)
        self._echoed = echoed
        self._sequence = 0
        # Items that are complete, in order; the open one, a message or a thought, comes next.
        self._output: list[dict[str, Any]] = []
        self._open: str | None = None
        self._texts: list[str] = []
        self._status = "in_progress"
        self._usage: dict[str, Any] | None = None
        self._failure: dict[str, Any] | None = None

    def begin(self) -> bytes:
        kinds = ("response.created", "response.in_progress")
        events = [self._event(kind, response=self._response()) for kind in kinds]
        return b"".join(map(_encoded, events))

    def encoded(self, chunk: Chunk) -> bytes:
        return b"".join(map(_encoded, self.events(chunk)))

    def gather(self, chunk: Chunk) -> None:
        self.events(chunk)

    def whole(self) -> dict[str, Any]:
        return self._response()

    def error(self, error: ApiError) -> bytes:
        self._status = "failed"
        self._failure = {"code": error.code, "message": error.message}
        events = [self._event("response.failed", response=self._response())]
        # The official clients raise what stands in `error`, and only pass `response.failed` on.
        events.append(self._event("error", **error.body(), **self._failure, param=error.param))
        return b"".join(map(_encoded, events))

    def events(self, chunk: Chunk) -> list[Event]:
        """What one chunk becomes."""
        events: list[Event] = []
        if chunk.thinking:
            events += self._say("reasoning", chunk.thinking)
        if chunk.content:
            events += self._say("message", chunk.content)
        if chunk.tool_calls:
            events += self._close()
            for call in chunk.tool_calls:
                events += self._call(call)
        if chunk.done_reason is not None:
            events += self._close()
            events.append(self._finish(chunk))
        return events

    # -- items

    def _say(self, kind: str, text: str) -> list[Event]:
        events: list[Event] = []
        if self._open != kind:
            events += self._close()
            self._open = kind
            item = self._item(kind, "in_progress", None)
            events.append(self._event("response.output_item.added", **self._place(), item=item))
            events.append(self._part_event("added", ""))
        self._texts.append(text)
        if kind == "message":
            events.append(self._text_event("response.output_text.delta", delta=text, logprobs=[]))
        else:
            events.append(self._text_event("response.reasoning_summary_text.delta", delta=text))
        return events

    def _close(self) -> list[Event]:
        kind = self._open
        if kind is None:
            return []
        text = "".join(self._texts)
        if kind == "message":
            done = self._text_event("response.output_text.done", text=text, logprobs=[])
        else:
            done = self._text_event("response.reasoning_summary_text.done", text=text)
        item = self._item(kind, "completed", text)
        events = [
            done,
            self._part_event("done", text),
            self._event("response.output_item.done", **self._place(), item=item),
        ]
        self._output.append(item)
        self._open = None
        self._texts.clear()
        return events

    def _call(self, call: ToolCall) -> list[Event]:
        place = self._place()
        item_id = self._item_id("fc")
        about = {"item_id": item_id, **place}
        item = {
            "id": item_id,
            "type": "function_call",
            "status": "completed",
            "call_id": call.id or f"call_{self.trace_id}_{len(self._output)}",
            "name": call.name,
            "arguments": call.arguments,
        }
        begun = {**item, "status": "in_progress", "arguments": ""}
        arguments = "response.function_call_arguments"
        events = [
            self._event("response.output_item.added", **place, item=begun),
            self._event(f"{arguments}.delta", **about, delta=call.arguments),
            self._event(f"{arguments}.done", **about, name=call.name, arguments=call.arguments),
            self._event("response.output_item.done", **place, item=item),
        ]
        self._output.append(item)
        return events

    def _finish(self, chunk: Chunk) -> Event:
        self.is_complete = True
        self._status = "incomplete" if chunk.done_reason == "length" else "completed"
        self._usage = {
            "input_tokens": chunk.prompt_count,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": chunk.output_count,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": chunk.prompt_count + chunk.output_count,
        }
        return self._event(f"response.{self._status}", response=self._response())

    # -- forms

    def _item(self, kind: str, status: str, text: str | None) -> dict[str, Any]:
        parts = [] if text is None else [_part(kind, text)]
        if kind == "reasoning":
            return {"id": self._item_id("rs"), "type": kind, "summary": parts}
        return {
            "id": self._item_id("msg"),
            "type": kind,
            "status": status,
            "role": "assistant",
            "content": parts,
        }

    def _item_id(self, prefix: str) -> str:
        return f"{prefix}_{self.trace_id}_{len(self._output)}"

    def _place(self) -> dict[str, Any]:
        return {"output_index": len(self._output)}

    def _about(self) -> dict[str, Any]:
        is_message = self._open == "message"
        index = "content_index" if is_message else "summary_index"
        item_id = self._item_id("msg" if is_message else "rs")
        return {"item_id": item_id, **self._place(), index: 0}

    def _text_event(self, kind: str, /, **more: Any) -> Event:
        return self._event(kind, **self._about(), **more)

    def _part_event(self, what: str, text: str) -> Event:
        assert self._open is not None
        part = "content_part" if self._open == "message" else "reasoning_summary_part"
        return self._event(f"response.{part}.{what}", **self._about(), part=_part(self._open, text))

    def _event(self, kind: str, /, **more: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **more}
        self._sequence += 1
        return event

    def _response(self) -> dict[str, Any]:
        incomplete = {"reason": "max_output_tokens"} if self._status == "incomplete" else None
        return {
            **self._echoed,
            "id": f"resp_{self.trace_id}",
            "object": "response",
            "created_at": self.created,
            "status": self._status,
            "error": self._failure,
            "incomplete_details": incomplete,
            "model": self.model,
            "output": list(self._output),
            "usage": self._usage,
        }


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "summary_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _encoded(event: Event) -> bytes:
    return f"event: {event['type']}\n".encode("ascii") + message(event)
