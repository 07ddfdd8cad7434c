"""Fields that stand twice in one object of a body: JSON says not which counts, and readers differ.

The parser takes the last one. Here names are counted: as many in the text as in what became of it,
or some stand twice; only then is the text read again, to say which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from server.errors import ApiError

# What is longer or has more values is not read again: that is one step of work on all of it.
READ_AGAIN_MAX_BYTES = 8 * 1024 * 1024
READ_AGAIN_MAX_VALUES = 50_000
_SHOWN_CHARS = 40


def check_names(data: bytes, value: dict[str, Any], names: int, values: int) -> None:
    """data: the text, in UTF-8, whose value it is; how many names and values it has.

    Raises ApiError (400). The same said twice is said once, but where nobody reads what was said.
    """
    if _has_names(value, names):
        return
    if len(data) > READ_AGAIN_MAX_BYTES or values > READ_AGAIN_MAX_VALUES:
        raise _refusal(
            "a field stands twice in one object of the body, which is too long to be read again "
            "for its name; send each field once"
        )
    found = next(_twice(data), None)
    if found is not None:
        name, first, last = found
        name = name[:_SHOWN_CHARS]
        raise _refusal(
            f"{name}: stands twice in one object of the body, as {_shown(first)} and as "
            f"{_shown(last)}; send it once",
            name,
        )


def _refusal(problem: str, param: str | None = None) -> ApiError:
    return ApiError(400, "invalid_request", problem, param=param)


def _has_names(value: dict[str, Any], names: int) -> bool:
    """Whether there are as many; once they are found, the rest is not looked at."""
    found = 0
    rest: list[Any] = [value]
    while rest and found < names:
        each = rest.pop()
        if isinstance(each, dict):
            found += len(each)
            each = each.values()
        rest += [part for part in each if isinstance(part, dict | list)]
    return found == names


def _twice(data: bytes) -> Iterator[tuple[str, Any, Any]]:
    """Such names, each with its first value and one that differs."""
    found: list[tuple[str, Any, Any]] = []

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        first: dict[str, Any] = {}
        for name, value in pairs:
            if not _are_alike(first.setdefault(name, value), value):
                found.append((name, first[name], value))
        return dict(pairs)

    json.loads(data, object_pairs_hook=look)
    yield from found


def _are_alike(one: Any, other: Any) -> bool:
    """Whether a reader of JSON takes them for the same: to Python, true is 1 and 1.0 is 1."""
    return one == other and json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _shown(value: Any) -> str:
    return json.dumps(value)[:_SHOWN_CHARS]
