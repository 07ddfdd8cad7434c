"""Which lines of Python work on something large: one of them may take as long as many others.

`sorted(names)` or `7 in numbers` runs no line of its own, so that a count of lines says nothing of
it, and a clock would say what the machine is like. What such a line works on it mostly names.
"""

from __future__ import annotations

import dis
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FrameType
from typing import Any

from sim.kernel.isolation.as_it_is import attributes_of, is_a, of_class

LARGE = 10_000
"""Elements, characters or bytes; also a number, as in `range(300_000)`."""

NUMBER_MAX = 1_000_000_000
"""A larger one is a reading of a clock, or a hash: nobody means to count so far."""

LOOKED_INTO_MAX = 100
"""Elements of a dict, list, …: what has more of them is mostly known by its own size."""

LEVELS = 2
"""How many attributes or elements deep: `self.store.entries`."""

_ELEMENTS: tuple[type, ...] = (list, tuple, set, frozenset, deque)
_REPEATED = (str, bytes, bytearray, list, tuple)
_IN_C = (types.WrapperDescriptorType, types.MethodDescriptorType)
_MAKES = ("BUILD_LIST", "BUILD_TUPLE", "BUILD_STRING", "LIST_EXTEND")


@dataclass(slots=True)
class _Line:
    """words: names of variables and attributes. units: of those which are reckoned with.

    is_large: by a constant of its own. products: what is multiplied, where both stand there: each a
    name as `_Name`, or a value.
    """

    words: set[str] = field(default_factory=set)
    units: set[str] = field(default_factory=set)
    is_large: bool = False
    products: list[tuple[object, object]] = field(default_factory=list)


class _Name(str):
    """Of a variable or an attribute."""


def works_on_much(frame: FrameType) -> bool:
    """Whether the line on which the frame stands names something large."""
    its = _lines_of(frame.f_code).get(frame.f_lineno)
    if its is None:
        return False
    if its.is_large:
        return True
    values = _values(frame, its.words)
    if any(_is_large_product(each, values) for each in its.products):
        return True
    named = [
        each for word, each in values.items() if type(each) is not int or word not in its.units
    ]
    for _ in range(LEVELS):
        if any(map(is_large, named)):
            return True
        named = [inner for each in named for inner in _within(each, its.words)]
    return any(map(is_large, named))


def _is_large_product(operands: tuple[object, object], values: dict[str, Any]) -> bool:
    """`[0] * 300_000`, and no number of microseconds."""
    one, other = (values.get(each) if isinstance(each, _Name) else each for each in operands)
    if is_a(other, _REPEATED):
        one, other = other, one
    return is_a(one, _REPEATED) and type(other) is int and is_large(other)


def is_large(value: Any) -> bool:
    kind = type(value)
    if kind is int:
        return bool(LARGE < abs(value) <= NUMBER_MAX)
    for name in ("__len__", "__length_hint__"):
        # One that is written in Python would run lines of the program's, or ours.
        size: Any = of_class(kind, name)
        if type(size) in _IN_C:
            try:
                return bool(size(value) > LARGE)
            except OverflowError:
                return True
            except Exception:
                # As of an array without a dimension.
                return False
    return False


def _values(frame: FrameType, words: set[str]) -> dict[str, Any]:
    known, of_module = frame.f_locals, frame.f_globals
    return {
        word: known[word] if word in known else of_module[word]
        for word in words
        if word in known or word in of_module
    }


def _within(value: Any, words: set[str]) -> Iterator[Any]:
    """Its attributes of these names, and the elements of a small container."""
    kind = type(value)
    if kind in _ELEMENTS or kind is dict:
        if len(value) <= LOOKED_INTO_MAX:
            yield from value.values() if kind is dict else value
        return
    attributes = attributes_of(value)
    for word in words:
        if word in attributes:
            yield attributes[word]
            continue
        slot = of_class(kind, word)
        if type(slot) is types.MemberDescriptorType:
            try:
                yield slot.__get__(value)
            except AttributeError:
                """It is empty."""


@lru_cache(maxsize=1_000)
def _lines_of(code: CodeType) -> dict[int, _Line]:
    lines: dict[int, _Line] = {}
    # What the last two instructions have put on the stack.
    one: object = None
    other: object = None
    for each, follows in pairwise([*dis.get_instructions(code), _END]):
        number = None if each.positions is None else each.positions.lineno
        line = lines.setdefault(number or 0, _Line())
        names = _names_in(each)
        line.words.update(names)
        if names and follows.opname == "BINARY_OP":
            line.units.add(names[-1])
        if each.opcode in dis.hasconst and is_large(each.argval):
            line.is_large |= _is_more_than_a_unit(each.argval, follows)
        if each.opname == "BINARY_OP" and each.argrepr in ("*", "*="):
            line.products.append((one, other))
        for name in names:
            one, other = other, _Name(name)
        if not names:
            constant = each.argval if each.opcode in dis.hasconst else None
            one, other = other, [] if each.opname in _MAKES else constant
    return lines


def _names_in(instruction: dis.Instruction) -> list[str]:
    value = instruction.argval
    if instruction.opcode in dis.hasconst or instruction.opcode in dis.hascompare:
        return []
    # Some instructions are for two variables.
    several = value if isinstance(value, tuple) else (value,)
    return [each for each in several if isinstance(each, str)]


def _is_more_than_a_unit(value: object, follows: dis.Instruction) -> bool:
    """A number that is given a name, or reckoned with as in `time.time() * 1_000_000`, is not."""
    if type(value) is not int:
        return True
    is_power = follows.opname == "BINARY_OP" and follows.argrepr in ("**", "**=")
    return is_power or not follows.opname.startswith(("BINARY_OP", "STORE_"))


_END = [*dis.get_instructions(compile("", "", "exec"))][-1]
