"""pydantic's errors on a request, in a sentence that names the field and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from server.errors import ApiError
from server.fields import TAG_MARK

_VALUE_MAX_CHARS = 60
_EXPECTED = {
    "string_type": "a text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "a text"),
    (list, "a list"),
    (dict, "an object"),
)


def as_refusal(errors: Sequence[Mapping[str, Any]]) -> ApiError:
    """The first of pydantic's errors as the answer: 400, with the field as `param`."""
    first = errors[0]
    place = [str(part) for part in first["loc"] if not str(part).startswith(TAG_MARK)]
    param = ".".join(place[1:] if place[:1] == ["body"] else place) or None
    return ApiError(
        400, "invalid_request", f"{param or 'the body'}: {_problem(first)}", param=param
    )


def _problem(error: Mapping[str, Any]) -> str:
    kind, value = str(error["type"]), error.get("input")
    if kind in _EXPECTED:
        return f"has to be {_EXPECTED[kind]}, not {_kind_of(value)}"
    if kind == "literal_error":
        return f"{_shown(value)} is not supported; it has to be {error['ctx']['expected']}"
    if kind == "missing":
        return "is missing"
    if kind in ("whole_number", "number") and _kind_of(value) == "a number":
        return f"{error['msg']}, not {_shown(value)}"
    if kind in ("whole_number", "number", "text_or_list", "duration", "think"):
        return f"{error['msg']}, not {_kind_of(value)} ({_shown(value)})"
    return str(error["msg"])


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "that")


def _shown(value: Any) -> str:
    # Not the whole of it: a large one would be written out first.
    if isinstance(value, dict | list):
        return f"{len(value)} elements"
    text = ascii(value[:_VALUE_MAX_CHARS] if isinstance(value, str) else value)
    return text[:_VALUE_MAX_CHARS]
