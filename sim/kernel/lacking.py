"""What a stand-in lacks of what it stands for: reading it refuses, where it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from sim.kernel.origin import forwards


class Lacking:
    """An attribute for each name, not `__getattr__`, of which CPython makes every read slow.

    To the class it is absent, as CPython's descriptors without a value are.
    """

    def __init__(self, name: str, refuse: Callable[[Any, str], NoReturn]) -> None:
        self._name = name
        self._refuse = refuse

    @forwards
    def __get__(self, instance: object, owner: type | None = None) -> NoReturn:
        if instance is None:
            raise AttributeError(self._name)
        self._refuse(instance, self._name)


def refuse_lacking(cls: type, real: Iterable[str], refuse: Callable[[Any, str], NoReturn]) -> None:
    """Of the names that the real class has, those that this one lacks call `refuse` when read."""
    for name in real:
        if not hasattr(cls, name):
            setattr(cls, name, Lacking(name, refuse))
