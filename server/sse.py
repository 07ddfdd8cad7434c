"""Server-sent events as OpenAI's clients read them: `data:` lines and comments, nothing else.

No `id:` and no `retry:` field: the official Python client fails on both (openai-python#2722).
"""

from __future__ import annotations

import json
from typing import Any

# Without a blank line: openai-go before v3.43 takes that for the end of an event, and fails.
PING = b": ping\n"
DONE = b"data: [DONE]\n\n"

# A NaN would be a fault of this server: it is refused where it comes in.
_ENCODER = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def encode_json(value: Any) -> bytes:
    """JSON in ASCII: U+2028 would end a line for some readers, and a lone surrogate for ours."""
    return _ENCODER.encode(value).encode("ascii")


def message(value: Any) -> bytes:
    """One message that carries a JSON value."""
    return b"data: " + encode_json(value) + b"\n\n"
