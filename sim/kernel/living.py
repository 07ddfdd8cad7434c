"""The classes and objects that there are at a moment, as the interpreter and its collector say."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

address_of: Callable[[object], int] = object.__hash__
"""A number of the object alone, as of `id`, which raises an audit event: and ours are heard.

Classes are told apart by it, since a metaclass may define equality and hash as it likes.
"""


def classes_below(base: type) -> list[type]:
    """The class, and all that are derived from it."""
    found = {address_of(base): base}
    level = [base]
    while level:
        # Called on `type` itself, `__subclasses__` needs its argument.
        derived: list[type] = [*chain.from_iterable(map(type.__subclasses__, level))]
        by_address = dict(zip(map(address_of, derived), derived, strict=True))
        level = [each for address, each in by_address.items() if address not in found]
        found.update(by_address)
    return [*found.values()]


def note_what_is_there() -> None:
    """What is made from now on is `made_since`, while no garbage is collected."""
    gc.collect(0)


def made_since() -> list[Any]:
    """The objects that were made since `note_what_is_there`, as far as the collector knows them."""
    return gc.get_objects(generation=0)


def objects_of(classes: Iterable[type]) -> list[Any]:
    """The objects of exactly these classes that the garbage collector knows.

    All objects of the process are touched, which also copies the memory that a fork shares.
    """
    wanted = {*map(address_of, classes)}
    if not wanted:
        return []
    return [each for each in gc.get_objects() if address_of(type(each)) in wanted]
