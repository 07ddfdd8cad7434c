"""What a client has of its answer: status, headers, body, and what these say."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod


class Answer(ABC):
    """The answer to the request of this name, as far as it has come.

    is_whole: its end has come. is_reading: whether the client takes what is sent; else it stays in
    the buffers on the way. reads_since, heard_at: since when it has been, and when something was
    last sent to it, in virtual seconds.
    """

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.body = b""
        self.is_whole = False
        self.has_left = False
        self.is_reading = True
        self.reads_since = self.heard_at = now

    @property
    @abstractmethod
    def given_id(self) -> str | None:
        """The trace id, also where the client has not got it yet; None before there is one."""

    @property
    def trace_id(self) -> str | None:
        return self.headers.get("x-trace-id")

    @property
    def is_told_the_end(self) -> bool:
        """It has the whole of its answer, and of a streamed one the last message."""
        return self.is_whole and (not self.is_streamed or self.messages[-1:] == ["[DONE]"])

    @property
    def messages(self) -> list[str]:
        """The data of the SSE messages so far, `[DONE]` included, pings left out."""
        return sse_data(self.body)

    @property
    def is_listening(self) -> bool:
        """It reads, and its answer is not over."""
        return self.is_reading and not self.has_left and not self.is_whole

    @property
    def pings(self) -> int:
        """How many comments came, which keep a silent SSE connection alive."""
        return self.body.count(b": ping\n")

    @property
    def is_streamed(self) -> bool:
        return self.headers.get("content-type", "").startswith("text/event-stream")

    @property
    def error_code(self) -> str | None:
        """The code of the error that the client got, in the body or in a message."""
        if not self.is_streamed:
            return _code(self.body.decode()) if self.is_whole else None
        return next((code for each in self.messages if (code := _code(each))), None)

    @property
    def text(self) -> str:
        """The content of the answer so far."""
        return content_of(self.body)


def sse_data(body: bytes) -> list[str]:
    """The data of the messages in an SSE body, whole lines only; comments are left out."""
    lines = body.decode("utf-8", "replace").split("\n")[:-1]
    return [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]


def content_of(body: bytes) -> str:
    """What a body says: messages, or of one object the JSON that it is."""
    parts = []
    for text in sse_data(body) or [body.decode("utf-8", "replace")]:
        if not text.startswith("{"):
            continue
        for choice in json.loads(text).get("choices", ()):
            delta = choice.get("delta") or choice.get("message") or {}
            parts.append(delta.get("content") or "")
    return "".join(parts)


def _code(text: str) -> str | None:
    if text == "[DONE]" or not text:
        return None
    error = json.loads(text).get("error")
    return error["code"] if error else None
