"""The classes and objects that there are at a moment, as the interpreter and its collector say."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

address_of: Callable[[object], int] = object.__hash__
"""A number of the object alone, as of `id`, which raises an audit event: and ours are heard.

Classes are told apart by it, since a metaclass may define equality and hash as it likes.
"""


def classes_below(base: type) -> list[type]:
    """The class, and all that are derived from it."""
    found = [base]
    seen = {address_of(base)}
    for each in found:
        # Called on `type` itself, `__subclasses__` needs its argument.
        derived: list[type] = type.__subclasses__(each)
        for one in derived:
            if address_of(one) not in seen:
                seen.add(address_of(one))
                found.append(one)
    return found


def objects_of(classes: Iterable[type]) -> list[Any]:
    """The objects of exactly these classes that the garbage collector knows.

    All objects of the process are touched, which also copies the memory that a fork shares.
    """
    wanted = {*map(address_of, classes)}
    if not wanted:
        return []
    return [each for each in gc.get_objects() if address_of(type(each)) in wanted]
