"""Where the program's own modules hold a function that is replaced in executions.

`from time import time` leaves the function itself in the module, `def f(now=time.time)` in its
defaults, a dataclass's `field(default_factory=time.time)` in the closure of its `__init__`. All of
these can be rebound.
"""

from __future__ import annotations

import inspect
import sys
import sysconfig
import types
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sim.kernel.isolation.as_it_is import attribute_of, attributes_of, is_a

_INSTALLED = ("site-packages", "dist-packages")
_STDLIB = sysconfig.get_paths()["stdlib"]


def what_is_imported() -> tuple[int, types.ModuleType]:
    """Differs from before if a module was imported since, also where another was forgotten."""
    return len(sys.modules), next(reversed(sys.modules.values()))


@dataclass(frozen=True, slots=True)
class Site:
    """One place that held `real` when it was found."""

    real: Any
    get: Callable[[], Any]
    put: Callable[[Any], object]


class SitesOfModules:
    """The sites in some modules, each of which is looked at again when it has grown.

    modules: all of them that are imported. sites_in: those in one. An exploration may take a
    millisecond, so nothing is done for each module where none has grown.
    """

    def __init__(
        self,
        modules: Callable[[], list[types.ModuleType]],
        sites_in: Callable[[types.ModuleType], Iterable[Site]],
    ) -> None:
        self._imported = modules
        self._sites_in = sites_in
        self._seen: object = None
        # Held, so that no address is used twice while it is known.
        self._modules: list[types.ModuleType] = []
        self._values: list[dict[str, Any]] = []
        self._sizes: list[int] = []
        # By the module's address: how many names it had, and what was found.
        self._found: dict[int, tuple[int, list[Site]]] = {}
        self._sites: list[Site] = []

    def sites(self) -> list[Site]:
        if (imported := what_is_imported()) != self._seen:
            self._seen = imported
            self._modules = self._imported()
            self._values = [vars(each) for each in self._modules]
            self._sizes = []
        sizes = [*map(len, self._values)]
        if sizes != self._sizes:
            self._sizes = sizes
            self._found = {
                id(module): self._looked_at(module, size)
                for module, size in zip(self._modules, sizes, strict=True)
            }
            self._sites = [site for _, found in self._found.values() for site in found]
        return self._sites

    def _looked_at(self, module: types.ModuleType, size: int) -> tuple[int, list[Site]]:
        seen = self._found.get(id(module))
        if seen is not None and seen[0] == size:
            return seen
        return size, list(self._sites_in(module))


class BoundNames:
    """Finds the sites of all own modules that hold something with one of these ids.

    modules: which are looked through in the place of the program's own.
    """

    def __init__(
        self,
        ids: Container[int],
        modules: Callable[[], list[types.ModuleType]] | None = None,
    ) -> None:
        self._ids = ids
        self.sites = SitesOfModules(modules or own_modules, self._in_module).sites

    def _in_module(self, module: types.ModuleType) -> Iterator[Site]:
        for name, value in tuple(vars(module).items()):
            if id(value) in self._ids:
                yield item_site(vars(module), name, value)
            elif is_a(value, type) and value.__module__ == module.__name__:
                yield from self._in_class(value)
            else:
                yield from self._in_functions_of(value, module.__name__)

    def _in_class(self, cls: type) -> Iterator[Site]:
        for name, value in tuple(vars(cls).items()):
            if id(value) in self._ids:
                yield attribute_site(cls, name, value)
            elif is_a(value, staticmethod) and id(value.__func__) in self._ids:
                yield _static_site(cls, name, value.__func__)
            elif is_a(value, type):
                if value.__qualname__.startswith(f"{cls.__qualname__}."):
                    yield from self._in_class(value)
            else:
                yield from self._in_functions_of(value, cls.__module__)

    def _in_functions_of(self, value: Any, module_name: str) -> Iterator[Site]:
        for function in functions_behind(value):
            if function.__module__ == module_name:
                yield from self.in_function(function)

    def in_function(self, function: types.FunctionType) -> Iterator[Site]:
        for index, value in enumerate(function.__defaults__ or ()):
            if id(value) in self._ids:
                yield default_site(function, index, value)
        keywords = function.__kwdefaults__ or {}
        for name, value in keywords.items():
            if id(value) in self._ids:
                yield item_site(keywords, name, value)
        for cell in function.__closure__ or ():
            try:
                value = cell.cell_contents
            except ValueError:
                continue
            if id(value) in self._ids:
                yield attribute_site(cell, "cell_contents", value)


class BoundGlobals:
    """As BoundNames, of the globals of installed packages: what waits there would wait for real."""

    def __init__(self, ids: Container[int]) -> None:
        self._ids = ids
        self.sites = SitesOfModules(installed_modules, self._in_module).sites

    def _in_module(self, module: types.ModuleType) -> list[Site]:
        values = vars(module)
        return [
            item_site(values, name, value)
            for name, value in tuple(values.items())
            if id(value) in self._ids
        ]


class BoundAnew:
    """Lets every module that is not the standard library's find a replacement."""

    def __init__(self) -> None:
        self._replaced: dict[int, Any] = {}
        self._kinds = BoundNames(self._replaced), BoundGlobals(self._replaced)

    @contextmanager
    def within(
        self, replaced: Iterable[tuple[Any, Any]], wrappers: Iterable[object] = ()
    ) -> Iterator[None]:
        """replaced: what stands there, the same in each such block, and what is to be found.

        wrappers: functions of no such module that may hold it as well.
        """
        self._replaced.update((id(real), stand_in) for real, stand_in in replaced)
        found = [site for kind in self._kinds for site in kind.sites()]
        for wrapper in wrappers:
            for function in functions_behind(wrapper):
                found += self._kinds[0].in_function(function)
        sites = [site for site in found if site.get() is site.real]
        for site in sites:
            site.put(self._replaced[id(site.real)])
        try:
            yield
        finally:
            for site in sites:
                site.put(site.real)


def modules_of(sources: Iterable[object]) -> list[types.ModuleType]:
    """The modules in which these objects are defined, each once."""
    found = [
        each if isinstance(each, types.ModuleType) else inspect.getmodule(each) for each in sources
    ]
    return list(dict.fromkeys(module for module in found if module is not None))


def modules_behind(sources: Iterable[object]) -> list[types.ModuleType]:
    """Those of `modules_of`, and of the program's own those that they import, and these, …"""
    found = modules_of(sources)
    known = {*map(id, found)}
    for module in found:
        for value in tuple(vars(module).values()):
            behind = value
            if is_a(value, (type, types.FunctionType)):
                behind = sys.modules.get(str(value.__module__))
            if is_a(behind, types.ModuleType) and id(behind) not in known and is_own(behind):
                known.add(id(behind))
                found.append(behind)
    return found


def item_site(holder: Any, name: Any, real: Any) -> Site:
    return Site(real, lambda: _item(holder, name), lambda value: holder.__setitem__(name, value))


def _item(holder: Any, name: Any) -> Any:
    try:
        return holder[name]
    except LookupError:
        return None


def attribute_site(holder: Any, name: str, real: Any) -> Site:
    def put(value: Any) -> None:
        # Not the class's own, which may forbid it, as a frozen dataclass's does.
        set_attribute = setattr if isinstance(holder, type) else object.__setattr__
        set_attribute(holder, name, value)

    return Site(real, lambda: getattr(holder, name), put)


def _static_site(cls: type, name: str, real: Any) -> Site:
    def put(value: Any) -> None:
        setattr(cls, name, staticmethod(value))

    return Site(real, lambda: getattr(cls, name), put)


def default_site(function: types.FunctionType, index: int, real: Any) -> Site:
    def put(value: Any) -> None:
        defaults = list(function.__defaults__ or ())
        defaults[index] = value
        function.__defaults__ = tuple(defaults)

    def get() -> Any:
        defaults = function.__defaults__ or ()
        return defaults[index] if index < len(defaults) else None

    return Site(real, get, put)


def functions_behind(value: Any) -> Iterator[types.FunctionType]:
    """The functions behind a function, method or property, and those that decorators wrap."""
    if is_a(value, property):
        behind: list[Any] = [value.fget, value.fset, value.fdel]
    else:
        behind = [attribute_of(value, "__func__", value)]
    for each in behind:
        while each is not None:
            if is_a(each, types.FunctionType):
                yield each
            each = attributes_of(each).get("__wrapped__")


def own_modules() -> list[types.ModuleType]:
    """The program's own, that are imported."""
    return [each for each in tuple(sys.modules.values()) if is_own(each)]


def installed_modules() -> list[types.ModuleType]:
    """Those of installed packages that are imported."""
    return [each for each in tuple(sys.modules.values()) if is_installed(each)]


def nested_codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from nested_codes(constant)


def is_installed(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    # Ours may be installed, and must not find its own replacements.
    is_ours = getattr(module, "__name__", "").partition(".")[0] == "sim"
    return isinstance(file, str) and not is_ours and any(part in file for part in _INSTALLED)


def is_own(module: types.ModuleType) -> bool:
    """Neither the standard library's, nor an installed package's, nor the simulator's."""
    name = getattr(module, "__name__", "")
    file = getattr(module, "__file__", None)
    if name == "__main__":
        return True
    if file is None or name.partition(".")[0] in ("sim", *sys.stdlib_module_names):
        return False
    return not file.startswith(_STDLIB) and not any(part in file for part in _INSTALLED)
