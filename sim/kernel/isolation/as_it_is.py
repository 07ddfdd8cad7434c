"""What a value is and holds, as the interpreter knows it: no code of the value's own runs.

A program's modules hold proxies, whose every attribute is that of something else, and raises where
that is not there yet: flask's `request`, Django's `settings`. `isinstance` asks for `__class__`,
and `getattr` for `__getattr__`; who only looks around must wake neither.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

_DICT, _MRO = type.__dict__["__dict__"], type.__dict__["__mro__"]
_NOTHING: Mapping[str, Any] = types.MappingProxyType({})
_STORED: Any = (types.GetSetDescriptorType, types.MemberDescriptorType)


def is_a(value: object, kinds: Any) -> bool:
    """As isinstance, which would ask the value for its `__class__`."""
    return issubclass(type(value), kinds)


def attributes_of(value: object) -> Mapping[str, Any]:
    """Its `__dict__`; empty where it has none, also if its class says that it has another."""
    stored = stored_in(type(value))
    if stored is None:
        return _NOTHING
    try:
        attributes: Mapping[str, Any] = stored.__get__(value)
    except Exception:
        # Of a proxy in C, as wrapt's, it is that of another object, which may have none.
        return _NOTHING
    return attributes


def stored_in(cls: type) -> Any:
    """The descriptor of the `__dict__` of its objects; None where they have none."""
    for base in _MRO.__get__(cls):
        found = _DICT.__get__(base).get("__dict__")
        if type(found) in _STORED:
            return found
    return None


def slots_of(value: object) -> Iterator[tuple[str, Any]]:
    """What it holds in the slots that the classes of it name, but for those that hold nothing."""
    for cls in _MRO.__get__(type(value)):
        names = _DICT.__get__(cls)
        if "__slots__" not in names:
            continue
        for name, slot in tuple(names.items()):
            if type(slot) is types.MemberDescriptorType:
                try:
                    held = slot.__get__(value)
                except AttributeError:
                    continue
                yield name, held


def of_class(kind: type, name: str) -> Any:
    """What its objects have by this name of it or of a class below it; None for nothing."""
    for cls in _MRO.__get__(kind):
        held = _DICT.__get__(cls)
        if name in held:
            return held[name]
    return None


def owner_of(callback: object) -> Any:
    """Whose method it is; None for what is none."""
    return attribute_of(callback, "__self__")


def name_of(callback: object) -> str:
    function = attribute_of(callback, "__func__", callback)
    return str(attribute_of(function, "__qualname__") or type(callback).__qualname__)


def code_of(callback: object) -> types.CodeType | None:
    """Of a function or method in Python."""
    code = attribute_of(attribute_of(callback, "__func__", callback), "__code__")
    return code if type(code) is types.CodeType else None


def attribute_of(value: object, name: str, otherwise: Any = None) -> Any:
    """As getattr, of what stands in its `__dict__` or a class of it, unless its code would run."""
    for cls in _MRO.__get__(type(value)):
        found = _DICT.__get__(cls).get(name)
        if type(found) in _STORED:
            with suppress(Exception):
                return found.__get__(value)
        if found is not None:
            break
    return attributes_of(value).get(name, otherwise)
