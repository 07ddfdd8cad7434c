"""What every endpoint that generates makes of its request: one form for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from server.answer import Answer
from server.ollama import OllamaRequest
from server.repeats import digest_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A prompt, from any endpoint: what Ollama is asked, and how the answer is sent.

    new_answer: makes the answer of a trace id and a time in seconds since 1970.
    session_id, user: what the body says of its session; a header goes before both.
    session_strategy: what it says of a session that is busy; a header goes before it as well.
    ignored: names of fields that have no effect here, for a header of the answer.
    is_blank: nothing is to be answered: Ollama loads the model, or unloads it.
    digest: the same for a repetition of the prompt, and only for that.
    """

    request: OllamaRequest
    new_answer: Callable[[str, int], Answer]
    is_streamed: bool
    session_id: str | None
    session_strategy: str | None
    user: str | None
    ignored: tuple[str, ...] = ()
    is_blank: bool = False
    digest: bytes = b""

    def encoded(self) -> Prompt:
        """The same, with the content for Ollama."""
        return replace(self, request=self.request.encoded())

    def with_digest(self) -> Prompt:
        """The same of an encoded one, with its digest."""
        return replace(self, digest=digest_of(self.request.content))
