"""What the things had that lines read and change: before a line that reads, after one that changes.

To read them runs no code of the program's.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import FrameType, MemberDescriptorType
from typing import Any

from sim.counterexamples.ran import Ran, Touched, What
from sim.kernel.isolation.as_it_is import of_class

_UNKNOWN = object()
# What a `get` finds where there is no such key.
_NOTHING = "nothing"
_PLAIN = (str, int, bytes, bool)


class LineValues:
    def __init__(self, in_words: Callable[[object], str]) -> None:
        self._in_words = in_words
        # By the number of the line that ran.
        self._read: dict[int, dict[Touched, str]] = {}
        self._changed: dict[int, dict[Touched, str]] = {}
        # Lines that are not over yet: what they change is known once their call goes on.
        self._pending: dict[int, tuple[FrameType, int, Ran]] = {}

    def before(self, number: int, touched: Touched) -> str:
        """What it had when the line read it; empty where that is not known."""
        return _of(self._read.get(number, {}), touched)

    def after(self, number: int, touched: Touched) -> str:
        """What it had once the line had changed it; empty where that is not known."""
        return _of(self._changed.get(number, {}), touched)

    def note(self, number: int, ran: Ran, frame: FrameType, owners: Mapping[int, object]) -> None:
        """The line is to run. owners: by their identity."""
        if ran.what is What.RAISES:
            # It may have changed nothing.
            self._pending.pop(id(frame), None)
            return
        self.settle(frame, owners)
        if ran.reads:
            self._read[number] = self._values(ran.reads, frame, owners)
        if ran.writes:
            self._pending[id(frame)] = frame, number, ran

    def settle(self, frame: FrameType, owners: Mapping[int, object]) -> None:
        """The call goes on, or returns: its last line is over."""
        found = self._pending.pop(id(frame), None)
        if found is not None:
            _, number, ran = found
            self._changed[number] = self._values(ran.writes, frame, owners)

    def end(self) -> None:
        self._pending.clear()

    def _values(
        self, touched: tuple[Touched, ...], frame: FrameType, owners: Mapping[int, object]
    ) -> dict[Touched, str]:
        found = {each: _value_of(each, frame, owners) for each in touched}
        return {each: self._shown(value) for each, value in found.items() if value is not _UNKNOWN}

    def _shown(self, value: object) -> str:
        return _NOTHING if value is _NO_KEY else self._in_words(value)


_NO_KEY = object()


def _of(values: Mapping[Touched, str], touched: Touched) -> str:
    """Of the same thing, under the same key."""
    same = (
        text for each, text in values.items() if each.key == touched.key and each.meets(touched)
    )
    return next(same, "")


def _value_of(touched: Touched, frame: FrameType, owners: Mapping[int, object]) -> object:
    if isinstance(touched.owner, int):
        owner = owners.get(touched.owner, _UNKNOWN)
        value = _attribute(owner, touched.name) if touched.name else owner
    else:
        value = frame.f_locals.get(touched.name, frame.f_globals.get(touched.name, _UNKNOWN))
    if touched.key is None or value is _UNKNOWN:
        return value
    return _under(touched.key, value)


def _under(key: str, value: Any) -> object:
    """key: as its `repr`."""
    if type(value) is not dict:
        return _UNKNOWN
    return next(
        (part for name, part in value.items() if type(name) in _PLAIN and repr(name) == key),
        _NO_KEY,
    )


def _attribute(owner: object, name: str) -> object:
    found = inspect.getattr_static(owner, name, _UNKNOWN)
    if type(found) is MemberDescriptorType:
        return found.__get__(owner) if _is_set(found, owner) else _UNKNOWN
    return _UNKNOWN if of_class(type(found), "__get__") is not None else found


def _is_set(slot: MemberDescriptorType, owner: object) -> bool:
    try:
        slot.__get__(owner)
    except AttributeError:
        return False
    return True
