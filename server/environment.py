"""Reads the settings from the environment: a line for each error, a warning for unknown names."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import AliasChoices, ValidationError
from pydantic_settings import SettingsError

from server.lines import line
from server.security import StartRefused
from server.settings import Settings

_logger = logging.getLogger("onestream.server")

PREFIX = "JARVIS_"
_VALUE_MAX_CHARS = 40
_NEAR_PREFIX = 0.7
_OF_HEADERS = 'has to be a JSON object of texts: {"X-Token": "…"}'
# Of settings that are texts: those in which no secret stands.
_SHOWN_TEXTS = ("metrics_listen", "sessions_prefix")


def read_settings() -> Settings:
    """The settings of the environment; an unknown variable is a warning of the log.

    Raises StartRefused with a line for each value that cannot be read.
    """
    for sentence in unknown_variables(os.environ):
        _logger.warning(line("unknown_setting", sentence))
    try:
        return Settings()
    except ValidationError as exc:
        raise StartRefused("\n".join(_sentence(error) for error in exc.errors())) from None
    except SettingsError:
        # Of the one setting that is JSON; its own text names classes, not the variable.
        raise StartRefused(f"JARVIS_OLLAMA_HEADERS: {_OF_HEADERS}") from None


def variables_of(field_name: str) -> tuple[str, ...]:
    """The environment variables of a setting, the first that counts first."""
    alias = Settings.model_fields[field_name].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(choice) for choice in alias.choices)
    return (str(alias) if alias else f"{PREFIX}{field_name.upper()}",)


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """A sentence for each variable with our prefix that no setting has: a limit with a typo."""
    known = {name for field in Settings.model_fields for name in variables_of(field)}
    return [
        f"{name} is not known{_nearest(name.upper(), known)}"
        for name in sorted(environment)
        if name.upper() not in known and _is_meant_for_us(name.upper(), known)
    ]


def _is_meant_for_us(name: str, known: Iterable[str]) -> bool:
    """Our prefix, or one that differs in a letter or two, and all of a setting's name behind it."""
    if name.startswith(PREFIX):
        return True
    prefix, _, rest = name.partition("_")
    is_near = difflib.SequenceMatcher(None, prefix, PREFIX[:-1]).ratio() >= _NEAR_PREFIX
    return is_near and f"{PREFIX}{rest}" in known


def _nearest(name: str, known: Iterable[str]) -> str:
    # What all have in common makes nothing near.
    _, _, rest = name.partition("_")
    ours = {each.removeprefix(PREFIX): each for each in known}
    near = difflib.get_close_matches(rest, sorted(ours), n=1, cutoff=0.75)
    return f"; did you mean {ours[near[0]]}?" if near else ", and has no effect"


def _sentence(error: Any) -> str:
    """One line of one error of pydantic's, without its address and without what may be secret."""
    what = str(error["msg"]).removeprefix("Value error, ")
    is_ours = error["type"] == "value_error"
    if not error["loc"]:
        return what
    location, *place = map(str, error["loc"])
    # pydantic names the first of several variables, or the field's.
    field = next(
        (name for name in Settings.model_fields if location in (name, *variables_of(name))), ""
    )
    variables = variables_of(field) if field else (location,)
    variable = next((name for name in variables if name in os.environ), variables[0])
    if field == "ollama_headers":
        at = f"; the value of {place[0][:_VALUE_MAX_CHARS]!a} is none" if place else ""
        what = f"{_OF_HEADERS}{at}"
    elif field and not is_ours:
        what = f"has to be {_wanted(field, error)}"
    return f"{variable}{_shown(field, error['input'])}: {what}"


def _wanted(field: str, error: Any) -> str:
    """What a setting may be, where pydantic would say what it is not; and what it is if unset."""
    info = Settings.model_fields[field]
    if info.annotation is float:
        wanted = f"a number of seconds {_bounds(info.metadata)} (a year), without a unit"
    elif info.annotation is int:
        wanted = f"a whole number {_bounds(info.metadata)}, without a unit"
    else:
        wanted = str(error.get("ctx", {}).get("expected", "a text"))
    if info.default is None:
        return wanted
    default = info.default if isinstance(info.default, str) else f"{info.default:.10g}"
    return f"{wanted}; unset it is {default}"


def _bounds(limits: Iterable[Any]) -> str:
    """Of a field's constraints: each has one, as annotated_types have them."""
    found = {
        name: getattr(limit, name)
        for limit in limits
        for name in ("gt", "ge", "le")
        if hasattr(limit, name)
    }
    least = f"from {found['ge']:.0f}" if "ge" in found else f"above {found['gt']:.0f}"
    return f"{least} to {found['le']:.0f}"


def _shown(field: str, value: object) -> str:
    """`=value` where it cannot be a secret: of numbers and of words to choose from."""
    secret = ("api_keys", "ollama_host", "ollama_api_key", "ollama_headers")
    if field in _SHOWN_TEXTS:
        return f"={str(value)[:_VALUE_MAX_CHARS]!a}"
    is_text = field in ("", "default_model") or field.startswith(secret)
    annotation = Settings.model_fields[field].annotation if field else str
    if is_text or annotation in (str, bytes):
        return ""
    return f"={str(value)[:_VALUE_MAX_CHARS]!a}"
