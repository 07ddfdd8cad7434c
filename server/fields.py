"""Fields of requests: how a value may be written, and that none is dropped silently.

Each field of a request either has its effect, or is refused, or is named in the answer's header
X-Ignored-Fields. Only what makes no difference to an answer is ignored silently (`harmless`).
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, ClassVar
from urllib.parse import quote

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StrictBool,
    StrictStr,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from server.body import LIST_MAX, RequestModel
from server.errors import ApiError

# Named in a header, so neither many nor long.
IGNORED_MAX = 20
IGNORED_NAME_MAX_CHARS = 40
# Characters besides letters and digits; a comma separates two names.
_IN_HEADER = "!#$&'()*+-./:;=?@[]^_`|~"
# The location of an error also contains the tags of unions, which are not fields.
TAG_MARK = "("
_DATA_URL_KINDS = "data:image/"
_BASE64 = (string.ascii_letters + string.digits + "+/=").encode()
_WHITE_SPACE = string.whitespace.encode()


_NULL = {"type": "null"}


class Fields(RequestModel):
    """An object of a request. null counts as absent; what is not declared is kept by its name.

    harmless: names of undeclared fields that make no difference to an answer anyway.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    harmless: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict) and None in value.values():
            return {name: each for name, each in value.items() if each is not None}
        return value

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        schema = handler(core_schema)
        described = handler.resolve_ref_schema(schema)
        for name, value in described.get("properties", {}).items():
            if name not in described.get("required", ()) and _NULL not in value.get("anyOf", ()):
                described["properties"][name] = {"anyOf": [value, _NULL]}
        return schema

    @property
    def unknown(self) -> Mapping[str, Any]:
        """What the request says beyond the declared fields."""
        return self.model_extra or {}

    def ignored(self, prefix: str = "") -> Iterator[str]:
        """The names of what has no effect here though its sender may think so."""
        for name in self.unknown:
            if name not in self.harmless:
                yield f"{prefix}{name}"


def shown(names: Iterable[str]) -> tuple[str, ...]:
    """Names for a header: each once, in order, and not too many.

    Escaped as in a URL: with a space at its end, or a line's end in it, it would be no header.
    """
    found: dict[str, str] = {}
    for name in names:
        short = name[:IGNORED_NAME_MAX_CHARS]
        # Ten thousand messages may have the same: it is escaped once.
        if short not in found:
            found[short] = quote(short, safe=_IN_HEADER, errors="backslashreplace")
        if len(found) == IGNORED_MAX:
            break
    return tuple(dict.fromkeys(name for name in found.values() if name))


def ignored_query(names: Iterable[str]) -> tuple[str, ...]:
    """Parameters of a request's query that have no effect: for that header."""
    return shown(f"?{name}" for name in names)


# ---- values ---------------------------------------------------------------------------------


def _whole_number(value: Any) -> Any:
    # Serializers of languages with one kind of number write 5 as 5.0.
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticCustomError("whole_number", "has to be a whole number")
    if abs(value) >= 2**63:
        raise PydanticCustomError("whole_number", "has to be a whole number of less than 2**63")
    return value


def _output_max(value: Any) -> Any:
    if value == 0 and not isinstance(value, bool):
        # Its runner counts up to num_predict only where that is above 0.
        raise PydanticCustomError(
            "output_max",
            "has to be 1 or more: Ollama takes 0 for no limit; for none, leave it out or send -1",
        )
    return _whole_number(value)


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError("number", "has to be a number")
    return _within_doubles(value)


def _within_doubles(value: float) -> float:
    """The same. Raises PydanticCustomError for what no double holds."""
    with suppress(OverflowError):
        if math.isfinite(value):
            return value
    raise PydanticCustomError("number", "has to be a number of less than 1.8e308")


Text = StrictStr
Flag = StrictBool
Int = Annotated[int, BeforeValidator(_whole_number)]
OutputMax = Annotated[int, BeforeValidator(_output_max)]
Number = Annotated[float, BeforeValidator(_number)]


def _text_or(kind: str) -> Discriminator:
    # A union's error would only be about its first member.
    return Discriminator(
        lambda value: (
            f"{TAG_MARK}text)"
            if isinstance(value, str)
            else f"{TAG_MARK}list)"
            if isinstance(value, list)
            else None
        ),
        custom_error_type="text_or_list",
        custom_error_message=f"has to be a text or a list of {kind}",
    )


def text_or_list(item: Any, kind: str, items_max: int = LIST_MAX) -> Any:
    """The type of a field that is a text or a list of `item`, called `kind` in its errors."""
    return Annotated[
        Annotated[StrictStr, Tag(f"{TAG_MARK}text)")]
        | Annotated[list[item], Field(max_length=items_max), Tag(f"{TAG_MARK}list)")],
        _text_or(kind),
    ]


def _duration(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        raise PydanticCustomError(
            "duration", 'has to be a number of seconds or a duration such as "5m"'
        )
    return value if isinstance(value, str) else _within_doubles(value)


def _thinking(value: Any) -> Any:
    if not isinstance(value, bool | str) or value == "":
        raise PydanticCustomError(
            "think", 'has to be true, false, "low", "medium", "high" or "max"'
        )
    return value


# Texts of both are Ollama's to judge: it knows its units and its models' levels. An empty one it
# refuses, and it would be left out of what it is asked.
Duration = Annotated[int | float | str, BeforeValidator(_duration)]
Think = Annotated[bool | str, BeforeValidator(_thinking)]


def image_data(url: str, param: str) -> str:
    """An image's data in base64, without white space. Raises ApiError (400).

    A `data:` URL of an image or of no kind, as Ollama's decodeImageURL (openai/openai.go) has it,
    or the data alone, as its /api/chat has it.
    """
    if url.startswith(("http://", "https://")):
        raise bad("no image is fetched from its address; send it as data:image/…;base64,…", param)
    head, separator, data = url.partition(",") if url.startswith("data:") else ("", "", url)
    if separator and not (
        head.endswith(";base64") and (head == "data:;base64" or head.startswith(_DATA_URL_KINDS))
    ):
        raise bad(f"an image has to be data:image/…;base64,…, not {head[:40]!a}", param)
    raw = data.encode("utf-8", "replace").translate(None, _WHITE_SPACE)
    if not raw or raw.translate(None, _BASE64):
        raise bad("an image has to be in base64: data:image/…;base64,… or the data alone", param)
    return raw.decode("ascii")


def check_finite(value: Any, param: str) -> None:
    """Raises ApiError (400) for NaN and the infinities, which no JSON can carry to Ollama."""
    left = [value]
    while left:
        each = left.pop()
        if isinstance(each, float) and not math.isfinite(each):
            raise bad("holds NaN or a number that is too large", param)
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list):
            left.extend(each)


def without_empty(body: Mapping[str, Any]) -> dict[str, Any]:
    """A body for Ollama without what says nothing; an empty format is Ollama's to judge."""
    return {
        name: value
        for name, value in body.items()
        if value is not None and (name == "format" or value not in ({}, [], ""))
    }


# ---- what is refused ------------------------------------------------------------------------


def refuse(unknown: Mapping[str, Any], refusals: Mapping[str, tuple[Sequence[Any], str]]) -> None:
    """Raises ApiError (400) for the first field of `refusals` that asks for anything.

    refusals: by name, the values that ask for nothing, and what to do instead.
    """
    for name, (harmless, instead) in refusals.items():
        if name in unknown and unknown[name] not in harmless:
            raise bad(f"is not supported here; {instead}", name)


def bad(problem: str, param: str) -> ApiError:
    """400; `problem` goes on from the name of the field."""
    return ApiError(400, "invalid_request", f"{param}: {problem}", param=param)


# ---- Ollama's options -----------------------------------------------------------------------


class Options(Fields):
    """Ollama's options (`Options` and `Runner` in api/types.go) as fields of their own.

    A client has them there or in `options`, which is passed on whole; there a field wins.
    """

    options: dict[str, Any] | None = None

    num_keep: Int | None = None
    num_predict: Int | None = None
    top_k: Int | None = None
    min_p: Number | None = None
    typical_p: Number | None = None
    repeat_last_n: Int | None = None
    repeat_penalty: Number | None = None
    num_ctx: Int | None = None
    num_batch: Int | None = None
    num_gpu: Int | None = None
    main_gpu: Int | None = None
    use_mmap: Flag | None = None
    num_thread: Int | None = None
    draft_num_predict: Int | None = None
    # Other servers' name for repeat_penalty.
    repetition_penalty: Number | None = None

    temperature: Number | None = None
    top_p: Number | None = None
    frequency_penalty: Number | None = None
    presence_penalty: Number | None = None
    seed: Int | None = None
    stop: text_or_list(StrictStr, "texts") | None = None  # type: ignore[valid-type]

    keep_alive: Duration | None = None

    def ignored(self, prefix: str = "") -> Iterator[str]:
        yield from super().ignored(prefix)
        for name, value in (self.options or {}).items():
            # It is passed on all the same: another release of Ollama's may know it.
            if value is not None and name not in _OPTION_NAMES:
                yield f"{prefix}options.{name}"

    def ollama_options(self, output_max: int | None) -> dict[str, Any]:
        """Ollama's `options`; `output_max` is what OpenAI's names say of num_predict."""
        check_finite(self.options, "options")
        found = {name: value for name, value in (self.options or {}).items() if value is not None}
        named = {name: getattr(self, name) for name in _OPTION_NAMES}
        named["stop"] = [self.stop] if isinstance(self.stop, str) else self.stop
        if named["repeat_penalty"] is None:
            named["repeat_penalty"] = self.repetition_penalty
        if output_max is not None:
            named["num_predict"] = output_max
        found.update({name: value for name, value in named.items() if value is not None})
        return found


_OPTION_NAMES = tuple(
    name
    for name in Options.model_fields
    if name not in ("options", "keep_alive", "repetition_penalty")
)


class PromptFields(Options):
    """What the bodies of OpenAI's prompts have in common: the model, and of which session it is."""

    model: Text | None = None
    stream: Flag = False
    session_id: Text | None = None
    session_strategy: Text | None = None
    user: Text | None = None


# OpenAI's tiers go further than Ollama's on both ends (`thinkFromReasoningEffort`).
_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "ultra": "max",
    "max": "max",
}


def think_of(effort: str, param: str) -> bool | str:
    """Ollama's `think` for OpenAI's effort. Raises ApiError (400)."""
    if effort not in _EFFORTS:
        raise bad(f"{effort[:40]!a} is no effort; it is one of {', '.join(_EFFORTS)}", param)
    return _EFFORTS[effort]
