"""The fake's answers: a function of the prompt, so that one sees which prompt is answered."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from itertools import count, cycle, islice
from typing import TypeAlias

from sim.fake_ollama.modes import MIDSTREAM_TEXT, Failure, Mode
from sim.fake_ollama.profiles import Profile
from sim.fake_ollama.requests import Request
from sim.fake_ollama.steps import Drop, Hang, Sleep
from sim.fake_ollama.wire import Chunk

# What an answer is made of, before it has a wire form.
Item: TypeAlias = Chunk | Failure | Sleep | Hang | Drop

WORD_MAX_CHARS = 1_000

# Each of these breaks a reader that splits lines, decodes segments or counts bytes in a naive way.
UNICODE_PIECES = (
    " next\u0085line",
    " line\u2028separator",
    " paragraph\u2029separator",
    " 日本語",
    " 한국어",
    " 👩‍👩‍👧‍👦",
    " 🎉",
    " naïve",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one call that has its slot; `number` and `started_ns` are the call's."""

    request: Request
    mode: Mode
    profile: Profile
    number: int
    started_ns: int
    now_ns: Callable[[], int]

    def items(self) -> Iterator[Item]:
        """Say what the model says, with the waits between; the form of it comes later."""
        mode, profile = self.mode, self.profile
        if mode.busy_first:
            yield from sleep(profile.busy_s)
        loaded_ns = self.now_ns()
        if mode.deaf_prompt_eval:
            yield from sleep(profile.late_s, deaf=True)
        yield from sleep(profile.prompt_eval_s)
        if mode.hangs_before_headers:
            yield Hang()
        if mode.error is not None:
            yield mode.error
            return
        evaluated_ns = self.now_ns()
        chunks, reason = self._chunks()
        if (yield from self._say(chunks)):
            metrics = self._metrics(chunks, loaded_ns, evaluated_ns)
            if mode.zero_metrics:
                metrics = dict.fromkeys(metrics, 0)
            yield Chunk(done_reason=reason, metrics=metrics)

    def _say(self, chunks: list[Chunk]) -> Generator[Item, None, bool]:
        """Say the chunks and do the mode's fault after some; False if that ended the answer."""
        mode, profile = self.mode, self.profile
        chunk_s = profile.slow_chunk_s if mode.slow else profile.chunk_s
        faulty = mode.fault is not None
        for place, chunk in enumerate(chunks):
            if place > 0:
                yield from sleep(chunk_s)
            if faulty and place == profile.fault_after_chunks and not (yield from self._fault()):
                return False
            yield chunk
        if faulty and len(chunks) <= profile.fault_after_chunks:
            return (yield from self._fault())
        return True

    def _fault(self) -> Generator[Item, None, bool]:
        """Do what the mode does in the midst of a stream; False if that ends the answer."""
        if self.mode.fault == "pause":
            yield from sleep(self.profile.pause_s)
            return True
        if self.mode.fault == "error":
            yield Failure(500, MIDSTREAM_TEXT)
        elif self.mode.fault == "hang":
            yield Hang()
        elif self.mode.fault == "crash":
            yield Drop()
        return False

    def _chunks(self) -> tuple[list[Chunk], str]:
        """Return the chunks of the answer but the last, and the reason for which it ends."""
        mode, profile, request = self.mode, self.profile, self.request
        if mode.empty:
            return [], "stop"
        thoughts: list[Chunk] = []
        if "thinking" in mode.capabilities and request.think is not False:
            pieces = thinking_pieces(request.prompt, profile.thinking_chunks)
            thoughts = [Chunk(thinking=piece) for piece in pieces]
        if request.tool is not None:
            answer = [Chunk(tool_calls=(tool_call(request.tool, request.prompt, self.number),))]
        else:
            length = profile.slow_chunks if mode.slow else profile.chunks
            pieces = content_pieces(mode, request.prompt, length)
            answer = [Chunk(content=piece) for piece in pieces]
        chunks = thoughts + answer
        if request.num_predict is not None and request.num_predict < len(chunks):
            return chunks[: request.num_predict], "length"
        return chunks, "stop"

    def _metrics(self, chunks: list[Chunk], loaded_ns: int, evaluated_ns: int) -> dict[str, object]:
        """Return the metrics of the last chunk; durations in ns, none of them zero."""
        now_ns = self.now_ns()
        metrics: dict[str, object] = {
            "total_duration": max(1, now_ns - self.started_ns),
            "load_duration": max(1, loaded_ns - self.started_ns),
            "prompt_eval_count": max(1, self.request.prompt_words),
            "prompt_eval_duration": max(1, evaluated_ns - loaded_ns),
            "eval_count": len(chunks) + 1,
            "eval_duration": max(1, now_ns - evaluated_ns),
        }
        if not self.request.is_chat:
            metrics["context"] = list(range(1, self.request.prompt_words + len(chunks) + 1))
        return metrics


def sleep(seconds: float, *, deaf: bool = False) -> Iterator[Sleep]:
    """Sleep; without a step where `seconds` is 0, so that instant profiles have none to explore."""
    if seconds > 0:
        yield Sleep(seconds, deaf)


def content_pieces(mode: Mode, prompt: str, chunks: int) -> list[str]:
    """Return the answer in `chunks` pieces: the prompt's first words, then numbered words."""
    if mode.content == "unicode":
        echoed = first_words(prompt, 2)
        more: Iterator[str] = cycle(UNICODE_PIECES)
    else:
        echoed = first_words(prompt, 20)
        more = (f" word{number}" for number in count(1))
    pieces = [word if place == 0 else f" {word}" for place, word in enumerate(echoed)][:chunks]
    return pieces + list(islice(more, chunks - len(pieces)))


def first_words(prompt: str, count_max: int) -> list[str]:
    """Return the first words of the prompt; no model writes a word of megabytes in one chunk."""
    words = prompt[: count_max * WORD_MAX_CHARS].split()
    return [word[:WORD_MAX_CHARS] for word in words[:count_max]]


def thinking_pieces(prompt: str, chunks: int) -> list[str]:
    """Return the thoughts before the answer, in `chunks` pieces."""
    first = f"Thinking about {' '.join(first_words(prompt, 5))}:"
    pieces = [first] + [f" thought{number}" for number in range(1, chunks)]
    return pieces[:chunks]


def tool_call(tool: dict[str, object], prompt: str, number: int) -> dict[str, object]:
    """Return a call of the tool, the prompt's start in the place of its first parameter."""
    function = tool.get("function")
    declared = function if isinstance(function, dict) else {}
    parameters = declared.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, dict) else None
    names = list(properties)[:1] if isinstance(properties, dict) else []
    return {
        "id": f"call_{number:08d}",
        "function": {
            "index": 0,
            "name": str(declared.get("name", "")),
            "arguments": {name: prompt[:WORD_MAX_CHARS] for name in names},
        },
    }
