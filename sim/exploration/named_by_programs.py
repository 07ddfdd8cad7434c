"""Which names the code of a program may use, followed from function to function.

What a module merely holds, and no line of the program's names, is used in no execution: so a
connection of SQLite, or an iterator over a clock, is nothing to a program that names neither.
"""

from __future__ import annotations

import gc
import types
from collections.abc import Iterable, Iterator
from typing import Any

from sim.kernel.isolation.as_it_is import is_a
from sim.kernel.isolation.bound_names import modules_behind, nested_codes

LOOKED_INTO_MAX = 20_000
"""How many objects are looked into for functions: with more of them all names may be used."""

NAME_MAX = 200

_ANY = {"globals", "vars", "locals", "__dict__", "eval", "exec"}
"""What names one of these in the program's own modules may use whatever they hold."""

_LEAVES = (types.ModuleType, types.FrameType, types.CodeType, str, bytes, int, float)


class NamesOf:
    """Those that a program, and what is listed with it, may use."""

    def __init__(self, sources: Iterable[object]) -> None:
        sources = [*sources]
        self._names: set[str] = set()
        self._modules = modules_behind(sources)
        self._seen: dict[int, Any] = {}
        self._is_any = False
        self._follow(sources)

    def may_use(self, name: str) -> bool:
        return self._is_any or not self._names.isdisjoint(name.split("."))

    def _follow(self, sources: list[object]) -> None:
        to_see = [*sources]
        looked_up: set[str] = set()
        while to_see and not self._is_any:
            while to_see and not self._is_any:
                self._see(to_see.pop(), to_see)
            new = self._names - looked_up
            looked_up |= new
            for module in self._modules:
                values = vars(module)
                to_see += [values[name] for name in new if name in values]

    def _see(self, value: Any, to_see: list[Any]) -> None:
        if id(value) in self._seen or is_a(value, _LEAVES):
            return
        self._seen[id(value)] = value
        if len(self._seen) > LOOKED_INTO_MAX:
            self._is_any = True
            return
        if is_a(value, types.FunctionType):
            self._see_function(value, to_see)
        elif not is_a(value, type) or self._is_own_class(value):
            to_see.extend(self._within(value))

    def _see_function(self, function: types.FunctionType, to_see: list[Any]) -> None:
        self._names.update(function.__qualname__.split("."))
        is_own = any(each.__name__ == function.__module__ for each in self._modules)
        for code in nested_codes(function.__code__):
            self._names.update(code.co_names)
            self._is_any = self._is_any or (is_own and not _ANY.isdisjoint(code.co_names))
            for text in code.co_consts:
                if isinstance(text, str) and len(text) < NAME_MAX:
                    # Of what is asked for by its name, as by `getattr`.
                    self._names.update(text.split("."))
        to_see.extend(self._within(function))

    def _within(self, value: Any) -> Iterator[Any]:
        if is_a(value, type):
            yield from vars(value).values()
            yield from value.__mro__[1:]
            return
        yield type(value)
        # A function refers to the globals of its module, of which it uses those that it names.
        of_module = value.__globals__ if is_a(value, types.FunctionType) else None
        yield from (each for each in gc.get_referents(value) if each is not of_module)

    def _is_own_class(self, cls: type) -> bool:
        return any(each.__name__ == cls.__module__ for each in self._modules)
