"""Where a program finds an object that it cannot be rid of: modules, classes, functions above it.

The collector says who refers to it, who to that, and so on, up to the global of a module, the
class or the function in which it lies. What only a local variable holds has none of these.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.kernel.isolation.as_it_is import attributes_of, is_a

LEVELS_MAX = 10
"""How many objects may lie one within the other."""
OBJECTS_MAX = 20_000
"""In all: who is held by so much is held by nobody in particular."""

_FUNCTIONS = (types.FunctionType, types.MethodType)


@dataclass(frozen=True, slots=True)
class Holding:
    """module: whose name is in `words`, which ends where a verb goes on.

    name: in the module, of the variable, class or function.
    """

    module: str
    name: str
    words: str


class _Level(list[Any]):
    """A list of this search, which is no owner of what it has found."""


def where_held(objects: Iterable[Any], but: tuple[type, ...] = ()) -> list[Holding]:
    """Each place once. but: classes of what is no owner."""
    return list(dict.fromkeys(_Climb(_Level(objects), (*but, _Level, types.FrameType)).found()))


class _Climb:
    def __init__(self, objects: _Level, but: tuple[type, ...]) -> None:
        self._but = but
        # What is no module may stand there, as None where an import is to fail.
        modules = tuple(sys.modules.values())
        self._modules = {id(attributes_of(each)): each for each in modules}
        # By id, in which of the objects the climb to this one began; all of them stay alive.
        self._begun_at: dict[int, Any] = {id(each): each for each in objects}
        self._kept = _Level([objects])

    def found(self) -> Iterator[Holding]:
        level: _Level = self._kept[0]
        for _ in range(LEVELS_MAX):
            if not level or len(self._begun_at) > OBJECTS_MAX:
                return
            ids = {*map(id, level)}
            above = _Level()
            for owner in _Level(gc.get_referrers(*level)):
                if id(owner) in self._begun_at or is_a(owner, self._but):
                    continue
                held = [each for each in gc.get_referents(owner) if id(each) in ids]
                if not held or _is_of_simulator(owner):
                    continue
                yield from self._named(owner, held)
                if id(owner) not in self._modules and not is_a(owner, type):
                    self._begun_at[id(owner)] = self._begun_at[id(held[0])]
                    above.append(owner)
            self._kept.append(above)
            level = above

    def _named(self, owner: Any, held: list[Any]) -> Iterator[Holding]:
        if id(owner) in self._modules:
            module = str(owner.get("__name__"))
            for each in held:
                begun_at = self._begun_at[id(each)]
                how = (
                    f"a {_kind(begun_at)}," if each is begun_at else f"in which a {_kind(begun_at)}"
                )
                names = [name for name, value in tuple(owner.items()) if value is each]
                yield from (Holding(module, name, f"{module}.{name}, {how}") for name in names)
        elif is_a(owner, (type, *_FUNCTIONS)):
            words = f"{owner.__module__}.{owner.__qualname__}, of which a"
            # Its module's globals are no part of a function, though it refers to them.
            of_module = getattr(owner, "__globals__", None)
            for each in (each for each in held if each is not of_module):
                kind = _kind(self._begun_at[id(each)])
                yield Holding(str(owner.__module__), owner.__qualname__, f"{words} {kind}")


def _kind(each: Any) -> str:
    return type(each).__name__


def _is_of_simulator(owner: Any) -> bool:
    is_named = is_a(owner, (type, *_FUNCTIONS))
    module = (owner if is_named else type(owner)).__module__
    return str(module).partition(".")[0] == "sim"
