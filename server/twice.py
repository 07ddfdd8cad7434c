"""Fields that stand twice in one object of a body: JSON says not which counts, and readers differ.

The parser takes the last one. Here names are counted: as many in the text as in what became of it,
or some stand twice; only then is the text read again, to say which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.errors import ApiError

# Longer bodies are not looked at: it is one step of work on all of it.
LOOKED_AT_MAX_BYTES = 8 * 1024 * 1024
_SHOWN_CHARS = 40


def check_names(data: bytes, value: dict[str, Any]) -> None:
    """data: the text, in UTF-8, whose value it is. Raises ApiError (400).

    The same said twice is said once.
    """
    if len(data) > LOOKED_AT_MAX_BYTES or _names_in_text(data) == _names_in(value):
        return
    found = next(_twice(data), None)
    if found is not None:
        name, first, last = found
        name = name[:_SHOWN_CHARS]
        raise ApiError(
            400,
            "invalid_request",
            f"{name}: stands twice in one object of the body, as {_shown(first)} and as "
            f"{_shown(last)}; send it once",
            param=name,
        )


def _names_in_text(data: bytes) -> int:
    """Strings with a colon behind them: what stands between two strings is the odd part."""
    plain = data.replace(rb"\\", b"").replace(rb"\"", b"")
    return sum(part.lstrip().startswith(b":") for part in plain.split(b'"')[2::2])


def _names_in(value: dict[str, Any]) -> int:
    count = 0
    rest: list[Any] = [value]
    while rest:
        each = rest.pop()
        if isinstance(each, dict):
            count += len(each)
            each = each.values()
        rest += [part for part in each if isinstance(part, dict | list)]
    return count


def _twice(data: bytes) -> Iterator[tuple[str, Any, Any]]:
    """Such names, each with its first value and one that differs."""
    found: list[tuple[str, Any, Any]] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        first: dict[str, Any] = {}
        for name, value in pairs:
            if first.setdefault(name, value) != value:
                found.append((name, first[name], value))
        return dict(pairs)

    json.loads(data, object_pairs_hook=look)
    yield from found


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN_CHARS]
