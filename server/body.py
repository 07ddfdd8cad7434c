"""The body of a request: read, parsed and validated at a price that its sender cannot choose.

Every call into C that parses, checks or copies holds the whole server up, in a thread as well: so
the work is bounded by what is counted beforehand, and done in pieces between which the loop turns.

    @router.post("/v1/x", openapi_extra=body_schema(XRequest))
    async def x(body: Annotated[XRequest, Depends(json_body(XRequest))], owner: Owner): …
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial, reduce
from typing import Any, cast

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic.annotated_handlers import GetCoreSchemaHandler
from pydantic.json_schema import models_json_schema
from pydantic_core import CoreSchema, from_json

from server.errors import ApiError
from server.twice import check_names

# Where the front leaves a request's body in its scope.
HELD_BODY_KEY = "onestream.body"
# Up to here a body costs so little that it is worked on in one step.
SMALL_BYTES = 64 * 1024
SMALL_VALUES = 2_000
# Longer ones are looked through in pieces, a few milliseconds each.
PIECE_BYTES = 512 * 1024
# Elements of any list of a request, unless its field says otherwise; longest known use: messages.
LIST_MAX = 10_000
# JSON values in texts that are themselves JSON, of one body.
NESTED_VALUES_MAX = 50_000
# And their length, all together: they are parsed in one step.
NESTED_MAX_BYTES = 8 * 1024 * 1024
# Bodies with half a surrogate pair, which only Python's own slower parser takes.
_SURROGATES_MAX_BYTES = 1024 * 1024


def _limit_lists(schema: Any) -> None:
    parts: Any = ()
    if isinstance(schema, dict):
        if schema.get("type") in ("list", "set", "frozenset", "tuple"):
            schema["fail_fast"] = True
            schema.setdefault("max_length", LIST_MAX)
        # `metadata` is pydantic's own, and a schema in it is none of the model's.
        parts = (value for key, value in schema.items() if key != "metadata")
    elif isinstance(schema, list | tuple):
        parts = schema
    for part in parts:
        _limit_lists(part)


class RequestModel(BaseModel):
    """Validates a request's body.

    Only the first wrong element of a list is reported, so the rest is not validated; and every list
    has a limit: `LIST_MAX`, or the `max_length` of its field.
    """

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: type[BaseModel], handler: GetCoreSchemaHandler, /
    ) -> CoreSchema:
        schema = handler(source)
        _limit_lists(schema)
        return schema


# ---- in an endpoint ---------------------------------------------------------------------------


def json_body(
    model: type[RequestModel],
    *more_steps: Callable[[Any, Request], Any],
    any_content_type: bool = False,
) -> Callable[[Request], Awaitable[Any]]:
    """A dependency: the body as `model`. Raises ApiError (400, 415) or RequestValidationError.

    more_steps: functions applied to it in turn; with a long body the loop turns between two of
    them.
    any_content_type: as Ollama accepts it, whose users send JSON without declaring it.
    """

    async def parsed(request: Request) -> Any:
        _check_headers(request, any_content_type)
        bodies = cast(Bodies, request.app.state.service.bodies)
        held = cast(HeldBody, request.scope[HELD_BODY_KEY])
        steps = [
            partial(_validated, model),
            *(partial(_with, step, request) for step in more_steps),
        ]
        try:
            return await bodies.work_on(held.data, *steps)
        finally:
            held.drop()

    return parsed


def _with(step: Callable[[Any, Request], Any], request: Request, value: Any) -> Any:
    return step(value, request)


def _validated(model: type[RequestModel], value: dict[str, Any]) -> RequestModel:
    try:
        return model.model_validate(value)
    except ValidationError as exc:
        errors = [
            {**error, "loc": ("body", *error["loc"])} for error in exc.errors(include_url=False)
        ]
        raise RequestValidationError(errors, body=value) from None


# The models that `body_schema` was asked for, by name: openapi.json has to have them.
_DESCRIBED: dict[str, type[BaseModel]] = {}


def body_schema(model: type[BaseModel]) -> dict[str, Any]:
    """Documents such a body for FastAPI, as `openapi_extra`; `described` has the schema."""
    _DESCRIBED[model.__name__] = model
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def described() -> dict[str, Any]:
    """The schemas of all bodies and of their parts, by name."""
    _, document = models_json_schema(
        [(model, "validation") for model in _DESCRIBED.values()],
        ref_template="#/components/schemas/{model}",
    )
    return cast(dict[str, Any], document.get("$defs", {}))


def _check_headers(request: Request, any_content_type: bool) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise ApiError(
            415,
            "invalid_request",
            f"the body is compressed (Content-Encoding: {encoding[:40]!a}); send it as it is",
        )
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not any_content_type and kind != "application/json" and not kind.endswith("+json"):
        sent = f"not {kind[:80]!a}" if kind else "and there is none"
        raise _bad(
            f"the body has to be a JSON object, sent with Content-Type: application/json, {sent}"
        )


# ---- parsing ----------------------------------------------------------------------------------


class HeldBody:
    """The part of one body that has come; counted from the first byte until parsed or dropped."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._parts = bytearray()
        # Counts all that has come, also after it was dropped.
        self.size_bytes = 0

    def add(self, part: bytes) -> None:
        """Raises ApiError (503) if the bodies of all requests are too long together."""
        self._bodies.hold(len(part))
        self._parts += part
        self.size_bytes += len(part)

    @property
    def data(self) -> bytes:
        return bytes(self._parts)

    def drop(self) -> None:
        """Frees it; may be called again."""
        self._bodies.release(len(self._parts))
        self._parts = bytearray()


class Bodies:
    """Shared by all requests: one long body is worked on at a time, and all are counted.

    values_max: JSON values in one body. total_max_bytes: of the bodies that are being read.
    """

    def __init__(self, *, values_max: int, total_max_bytes: int) -> None:
        self._values_max = values_max
        self._total_max_bytes = total_max_bytes
        # At most total_max_bytes, of the bodies that are held.
        self._total_bytes = 0
        self._one_at_a_time = asyncio.Lock()

    def hold(self, more_bytes: int) -> None:
        """Counts bytes that have come. Raises ApiError (503) if they are too many."""
        if self._total_bytes + more_bytes > self._total_max_bytes:
            raise ApiError(
                503,
                "server_busy",
                f"the requests that are being read have {self._total_bytes} bytes already, and "
                f"no more than {self._total_max_bytes} are held (JARVIS_BODIES_MAX_BYTES); send "
                f"it later",
            )
        self._total_bytes += more_bytes

    def release(self, held_bytes: int) -> None:
        self._total_bytes -= held_bytes

    async def work_on(self, data: bytes, *steps: Callable[[Any], Any]) -> Any:
        """Parses the data as a JSON object, and applies the steps to it in turn.

        Raises ApiError (400), and what a step raises. With a long body the loop turns between two
        steps; and only one long body at a time is parsed, which takes many times its size.
        """
        if len(data) <= SMALL_BYTES and _values_at_most(data) <= min(
            self._values_max, SMALL_VALUES
        ):
            data = _in_utf8(data)
            count = _Count(self._values_max)
            count.add(data)
            value = _object(data)
            check_names(data, value, count.names, count.values)
            return reduce(_applied, (_check_numbers, *steps), cast(Any, value))
        async with self._one_at_a_time:
            data = _in_utf8(data)
            count = await self._counted(data)
            value = _object(data)
            await asyncio.sleep(0)
            check_names(data, value, count.names, count.values)
            del data
            for step in (_check_numbers, *steps):
                await asyncio.sleep(0)
                value = step(value)
            await asyncio.sleep(0)
            return value

    async def _counted(self, data: bytes) -> _Count:
        """Raises ApiError (400) if there are more values than values_max."""
        count = _Count(self._values_max)
        for piece in _pieces(data):
            if not count.add(piece):
                raise _bad(
                    f"the body has more than {self._values_max} JSON values "
                    f"(JARVIS_BODY_MAX_VALUES); send fewer messages, parts or tools"
                )
            await asyncio.sleep(0)
        return count


def check_nested(texts: Iterable[str], param: str) -> None:
    """Checks JSON within texts of a body, as in the arguments of tool calls: all of it together.

    Raises ApiError (400) if it has too many values to be parsed, or is too long.
    """
    texts = list(texts)
    if sum(map(len, texts)) > NESTED_MAX_BYTES:
        problem = f"is longer than {NESTED_MAX_BYTES} characters, all together"
        raise ApiError(400, "invalid_request", f"{param}: {problem}", param=param)
    left = NESTED_VALUES_MAX
    # Each but the first of a text has a character at least: thousands of short ones are not read.
    if sum(map(len, texts)) + len(texts) <= left:
        return
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        count = _Count(left)
        if _values_at_most(data) > left and not all(count.add(piece) for piece in _pieces(data)):
            raise ApiError(
                400,
                "invalid_request",
                f"{param}: has more than {NESTED_VALUES_MAX} JSON values",
                param=param,
            )
        left -= min(_values_at_most(data), count.values or left)


class _Count:
    """The values and the names of a JSON text that comes in pieces."""

    def __init__(self, values_max: int) -> None:
        self._values_max = values_max
        self._quotes = 0
        self.values = 0
        self.names = 0

    def add(self, piece: bytes) -> bool:
        """False if there are more than values_max, by now."""
        plain = piece.replace(rb"\\", b"").replace(rb"\"", b"")
        more_quotes = plain.count(b'"')
        # Before they are split: each part is an object of its own. A value has a name at most.
        if self._quotes + more_quotes > 4 * self._values_max:
            return False
        outside = b"".join(plain.split(b'"')[self._quotes % 2 :: 2])
        self._quotes += more_quotes
        self.values += _values_at_most(outside)
        # Outside of strings a colon stands behind each name, and nowhere else.
        self.names += outside.count(b":")
        return self.values <= self._values_max


def _values_at_most(text: bytes) -> int:
    """Outside of strings every value except the first follows one of these."""
    return 1 + text.count(b",") + text.count(b"[") + text.count(b"{")


def _pieces(data: bytes) -> Iterator[bytes]:
    """`data` in pieces, none of which ends within an escape sequence."""
    start = 0
    while start < len(data):
        piece = data[start : start + PIECE_BYTES]
        backslashes = len(piece) - len(piece.rstrip(b"\\"))
        if backslashes % 2 and start + PIECE_BYTES < len(data):
            piece = piece[:-1]
        start += len(piece)
        yield piece


def _applied(value: Any, step: Callable[[Any], Any]) -> Any:
    return step(value)


def _object(data: bytes) -> dict[str, Any]:
    if not data.strip():
        raise _bad("the body of the request is empty; send a JSON object")
    try:
        value = _value(data)
    except (ValueError, RecursionError) as exc:
        raise _no_json(exc) from None
    if not isinstance(value, dict):
        raise _bad(
            f"the body has to be a JSON object; this is {_KINDS.get(type(value), 'a number')}"
        )
    return value


_KINDS = {list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


def _in_utf8(data: bytes) -> bytes:
    """In others a byte of a letter may look like a quote or a colon. Raises ApiError (400)."""
    encoding = json.detect_encoding(data)
    if encoding == "utf-8":
        return data
    try:
        return data.decode(encoding, "surrogatepass").encode("utf-8", "surrogatepass")
    except ValueError as exc:
        raise _no_json(exc) from None


def _value(data: bytes) -> Any:
    try:
        return from_json(data, cache_strings="keys")
    except ValueError as exc:
        if "escape" not in str(exc) or len(data) > _SURROGATES_MAX_BYTES:
            raise
        return json.loads(data)


def _check_numbers(value: dict[str, Any]) -> dict[str, Any]:
    """The same. Raises ApiError (400) for NaN and numbers that are too large: neither is JSON."""
    bad = next(_not_finite(value), None)
    if bad is not None:
        param, number = bad
        raise ApiError(
            400,
            "invalid_request",
            f"{param}: {number} is no number that JSON has, or is too large for it",
            param=param,
        )
    return value


# Of texts and whole numbers nothing is kept: there may be a million.
_LOOKED_AT = (dict, list, float)


def _not_finite(value: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Such numbers, each with the names and indices that lead to it."""
    # Names as (name of the parent, own name): they are as long as the client likes, so only those
    # that are reported are joined.
    rest: list[tuple[Any, Any]] = [(None, value)]
    while rest:
        name, each = rest.pop()
        if isinstance(each, float):
            if not math.isfinite(each):
                yield _joined(name), each
            continue
        parts = each.items() if isinstance(each, dict) else enumerate(each)
        rest += [((name, key), part) for key, part in parts if isinstance(part, _LOOKED_AT)]


def _joined(name: Any) -> str:
    parts: list[str] = []
    while name is not None:
        name, own = name
        parts.append(str(own)[:40])
    return ".".join(reversed(parts))


def _no_json(why: Exception) -> ApiError:
    return _bad(f"the body is no JSON: {why}")


def _bad(message: str) -> ApiError:
    return ApiError(400, "invalid_request", message)
