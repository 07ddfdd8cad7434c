"""The wire forms: the bytes that a client reads."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sim.fake_ollama.modes import Failure, Mode
from sim.fake_ollama.requests import Request

NDJSON = "application/x-ndjson"
JSON = "application/json; charset=utf-8"
JSON_IN_STREAM = "application/json"  # of an error that takes the place of a stream
TEXT = "text/plain"
TEXT_UTF8 = "text/plain; charset=utf-8"

VERSION = "0.12.6"
MODEL_BYTES = 2_019_393_189
CONTEXT_LENGTH = 4096
VECTOR_LENGTH = 8
MODIFIED_AT = "2026-08-01T12:00:00.000000000Z"
FOR_EVER_NS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Chunk:
    """One piece of model output; `done_reason` and the metrics (ns) stand on the last alone."""

    content: str = ""
    thinking: str = ""
    tool_calls: tuple[dict[str, object], ...] = ()
    done_reason: str | None = None
    metrics: dict[str, object] = field(default_factory=dict)


def encode(value: dict[str, object]) -> bytes:
    """Encode as compact JSON in UTF-8.

    Go would write U+2028 and U+2029 as escapes. Here they are not escaped, as neither escapes
    U+0085: the harder case for a reader that splits lines.
    """
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def rfc3339(time_ns: int) -> str:
    """Write nanoseconds since 1970 as `2026-08-01T12:00:00.000000000Z`."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def chunk_object(request: Request, chunk: Chunk, time_ns: int) -> dict[str, object]:
    """Return the JSON object of one chunk, in the form of the request's endpoint."""
    said: dict[str, object] = {
        "model": request.model,
        "created_at": rfc3339(time_ns),
    }
    extra: dict[str, object] = {"thinking": chunk.thinking} if chunk.thinking else {}
    if chunk.tool_calls:
        extra["tool_calls"] = list(chunk.tool_calls)
    if request.is_chat:
        said["message"] = {"role": "assistant", "content": chunk.content, **extra}
    else:
        said["response"] = chunk.content
        said.update(extra)
    said["done"] = chunk.done_reason is not None
    if chunk.done_reason is not None:
        said["done_reason"] = chunk.done_reason
    # Go leaves out what is zero or empty ("omitempty").
    said.update({name: value for name, value in chunk.metrics.items() if value})
    return said


def failure_object(failure: Failure) -> dict[str, object]:
    said: dict[str, object] = {"error": failure.text}
    if failure.signin_url is not None:
        said["signin_url"] = failure.signin_url
    return said


class Segments:
    """Gathers lines into TCP segments: a line each, all in one, or cut with no regard for them."""

    def __init__(self, mode: Mode, size_bytes: int) -> None:
        self._kind = mode.segments
        self._size_bytes = size_bytes
        self._held = b""

    def add(self, line: bytes) -> list[bytes]:
        """Return the segments that are full now."""
        if self._kind == "lines":
            return [line]
        self._held += line
        full: list[bytes] = []
        while self._kind == "bytes" and len(self._held) >= self._size_bytes:
            end = self._cut()
            full.append(self._held[:end])
            self._held = self._held[end:]
        return full

    def _cut(self) -> int:
        """Cut after the first byte of the next character that has several, if one is near."""
        near = self._held[: self._size_bytes]
        starts = [place for place, byte in enumerate(near) if byte >= 0xC0]
        return starts[0] + 1 if starts else self._size_bytes

    def rest(self) -> list[bytes]:
        """Return what is still held back, when no line follows."""
        held, self._held = self._held, b""
        return [held] if held else []


def full_name(name: str) -> str:
    """Return the name with its tag: `llama3.2` means `llama3.2:latest`."""
    return name if ":" in name else f"{name}:latest"


def model_object(name: str) -> dict[str, object]:
    """Return what /api/tags and /api/ps say about a model."""
    return {
        "name": name,
        "model": name,
        "size": MODEL_BYTES,
        "digest": hashlib.sha256(name.encode()).hexdigest(),
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "fake",
            "families": ["fake"],
            "parameter_size": "3.2B",
            "quantization_level": "Q4_K_M",
        },
    }


def tag_object(name: str) -> dict[str, object]:
    return {**model_object(name), "modified_at": MODIFIED_AT}


def vector_of(text: str, dimensions: int) -> list[float]:
    """Return a vector for the text: equal for equal texts, different for others."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    count = dimensions or VECTOR_LENGTH
    # Eighths are the same in float32.
    return [(digest[place % len(digest)] - 128) / 8 for place in range(count)]


def ps_object(name: str, expires_ns: int) -> dict[str, object]:
    return {
        **model_object(name),
        "expires_at": rfc3339(expires_ns),
        "size_vram": MODEL_BYTES,
        "context_length": CONTEXT_LENGTH,
    }


def show_object(name: str, mode: Mode) -> dict[str, object]:
    return {
        "modelfile": f"# {mode.sentence}\nFROM {name}\n",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": model_object(name)["details"],
        "model_info": {
            "general.architecture": "fake",
            "fake.context_length": CONTEXT_LENGTH,
        },
        "capabilities": list(mode.capabilities),
        "modified_at": MODIFIED_AT,
    }
