"""The forms that one stream of chunks takes on the wire, one for each endpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from server.errors import ApiError
from server.ollama import Chunk
from server.sse import DONE, PING, message


class Answer(ABC):
    """One answer, sent chunk by chunk (`encoded`), or gathered and sent as one object (`whole`).

    ping: what may be sent while Ollama is silent, and is not part of the answer; empty for a form
    that has none, whose head then comes with the first chunk. last: what ends a complete stream.
    """

    content_type: ClassVar[str] = "text/event-stream; charset=utf-8"
    ping: ClassVar[bytes] = PING
    last: ClassVar[bytes] = DONE

    def __init__(self, trace_id: str, created: int) -> None:
        self.trace_id = trace_id
        self.created = created
        # Of the model that answers; set before anything is sent.
        self.model = ""
        # Set with the last chunk: nothing comes after it.
        self.is_complete = False

    def begin(self) -> bytes:
        """What comes before all of the answer, and even before an error; not part of the answer."""
        return b""

    @abstractmethod
    def encoded(self, chunk: Chunk) -> bytes:
        """What a chunk becomes in a stream."""

    @abstractmethod
    def gather(self, chunk: Chunk) -> None:
        """Adds a chunk to what `whole` returns."""

    @abstractmethod
    def whole(self) -> dict[str, Any]:
        """All that was gathered, as one object."""

    def error(self, error: ApiError) -> bytes:
        """The end of a stream that was not completed, once its head is out."""
        return message(error.body()) + DONE


def usage_of(chunk: Chunk) -> dict[str, int]:
    """The counts of the last chunk, as OpenAI's chat and completions have them."""
    return {
        "prompt_tokens": chunk.prompt_count,
        "completion_tokens": chunk.output_count,
        "total_tokens": chunk.prompt_count + chunk.output_count,
    }
