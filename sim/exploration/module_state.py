"""What outlives an execution: the state that modules, classes and closures hold, read and compared.

It is read in a fork, where time and memory do not matter much; only what differs is ever shown.
"""

from __future__ import annotations

import _thread
import asyncio
import functools
import inspect
import itertools
import operator
import os
import random  # noqa: TID251 - to recognise generators
import sys
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sim.kernel.errors import Opaque
from sim.kernel.isolation.as_it_is import attribute_of, attributes_of, is_a, slots_of
from sim.kernel.isolation.bound_names import (
    functions_behind,
    installed_modules,
    modules_of,
    own_modules,
)
from sim.kernel.threads.locks import SimLock
from sim.schedulers.states.caches import kept_in

NODES_MAX = 100_000
"""Beyond that many objects nothing is read; the program's own come first."""
DEPTH_OWN, DEPTH_INSTALLED = 8, 4
ITEMS_MAX = 500
WORDS_MAX = 60
NAMED_MAX = 3

_PLAIN = (int, float, complex, bool, str, bytes, type(None))
# What these hold is none of the program's state, or says nothing to a reader.
_LEFT_OUT = (
    "sim",
    "logging",
    "typing",
    "inspect",
    "importlib",
    "re",
    "weakref",
    "threading",
    "abc",
    # What runs a suite keeps account of it.
    "_pytest",
    "pytest",
    "pluggy",
    "hypothesis",
    "xdist",
    "execnet",
)
_LRU = type(functools.lru_cache(lambda: None))
_FUNCTIONS = types.FunctionType | types.MethodType | property | staticmethod | classmethod | _LRU
_LOCKS = type(_thread.allocate_lock()) | SimLock
_PARTIAL = ("func", "args", "keywords")
_LEAVES = (types.ModuleType, asyncio.AbstractEventLoop, asyncio.Future)


@dataclass(frozen=True, slots=True)
class _Value:
    """key: equal where nothing has changed. is_loop: of an event loop, whose change says most."""

    words: str
    key: object
    is_loop: bool = False


@dataclass(frozen=True, slots=True)
class _Node:
    """variable: the path of the module's, class's or closure's variable in which it lies.

    depth: how many levels below it are read.
    """

    path: str
    value: Any
    depth: int
    variable: str | None = None

    def below(self, path: str, value: Any) -> _Node:
        is_variable = is_a(self.value, type | _Namespace | types.FunctionType)
        variable = path if is_variable else self.variable
        return _Node(path, value, self.depth - 1, variable)


class ModuleState:
    """The state that a program holds itself, and that of the modules of its own.

    held: what it is given from outside, by name, as the fixtures of a test. installed: with those
    of installed packages; the standard library's are left out. functions: with what they hold.
    asked: a full cache differs as soon as it was asked, since it then keeps something else in
    another order of calls, though in this one it ends as it began.
    """

    def __init__(
        self,
        program: object,
        sources: Iterable[object] = (),
        held: Mapping[str, object] = {},
        *,
        installed: bool = False,
        functions: bool = True,
        asked: bool = False,
    ) -> None:
        self._with_functions, self._with_asked = functions, asked
        self.values: dict[str, _Value] = {}
        self._variables: dict[str, str | None] = {}
        # Alive as long as this is: an address stands for one object.
        self._kept: dict[int, object] = {}
        self._nodes: deque[_Node] = deque()
        self._installed = {each.__name__ for each in installed_modules()} if installed else set()
        for root in _roots(program, sources, held, installed):
            self._nodes.append(root)
            self._read()

    def changes(self, then: ModuleState) -> list[str]:
        """What differs in the other, a sentence for each variable."""
        found: dict[str | None, str] = {}
        new = []
        # Packages are loaded lazily, by being read, say: much is new then, and says nothing.
        is_loading = bool(then._installed - self._installed)
        for path, value in then.values.items():
            before, variable = self.values.get(path), then._variables[path]
            if before is None and not value.is_loop:
                if is_loading or path.rpartition(".")[0] in then._installed:
                    continue
                new.append(f"{path} is new: {value.words}")
                continue
            is_other = before is None or before.key != value.key
            if is_other and (variable not in found or value.is_loop):
                was = before.words if before is not None else "not set"
                found[variable] = f"{path} was {was}, then {value.words}"
        return list(found.values()) or new

    def _read(self) -> None:
        while self._nodes and len(self._kept) < NODES_MAX:
            node = self._nodes.popleft()
            with suppress(Exception):
                # A lazy proxy, say, that is not bound outside of its context.
                self._read_node(node)

    def _read_node(self, node: _Node) -> None:
        value = node.value
        is_namespace = is_a(value, _Namespace)
        if not is_namespace:
            self.values[node.path] = _value_of(value)
            if self._with_asked and is_a(value, _LRU) and _forgets(value):
                self.values[node.path] = _of_asked(value)
            self._variables[node.path] = node.variable
            if is_a(value, _PLAIN) or id(value) in self._kept:
                return
            self._kept[id(value)] = value
        if node.depth and (self._with_functions or not is_a(value, _FUNCTIONS)):
            children = value.children() if is_namespace else _children(value, node.path)
            self._nodes.extend(node.below(path, child) for path, child in children)


@dataclass(frozen=True, slots=True)
class _Namespace:
    """A module's globals; not the module itself, which others refer to."""

    name: str
    values: Mapping[str, Any]

    def children(self) -> Iterator[tuple[str, Any]]:
        for name, value in tuple(self.values.items()):
            if not name.startswith("__") and not is_a(value, types.ModuleType):
                yield f"{self.name}.{name}", value


def named(changes: list[str]) -> str:
    """The first few, in one sentence."""
    words = "; ".join(changes[:NAMED_MAX])
    more = len(changes) - NAMED_MAX
    return f"{words}; and {more} more" if more > 0 else words


def _roots(
    program: object, sources: Iterable[object], held: Mapping[str, object], installed: bool
) -> Iterator[_Node]:
    yield _Node(_name_of(program), program, DEPTH_OWN)
    for name, value in held.items():
        yield _Node(name, value, DEPTH_OWN)
    for module in dict.fromkeys([*modules_of((program, *sources)), *own_modules()]):
        yield _Node("", _Namespace(module.__name__, vars(module)), DEPTH_OWN)
    yield _Node("", _Namespace("os.environ", os.environ), 1)
    for module in installed_modules() if installed else ():
        if module.__name__.partition(".")[0] in _LEFT_OUT:
            continue
        yield _Node("", _Namespace(module.__name__, vars(module)), DEPTH_INSTALLED)


def _name_of(value: object) -> str:
    module = getattr(value, "__module__", None)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return f"{module}.{name}" if module else str(name)


# ---- what a value is, and what it holds --------------------------------------------------------


def _value_of(value: Any) -> _Value:
    for kinds, read in _READERS:
        if is_a(value, kinds):
            return read(value)
    if hasattr(type(value), "__length_hint__"):
        left = operator.length_hint(value)
        return _Value(f"an iterator with {left} left", (id(value), left))
    name = _kind_of(value)
    return _Value(f"{'an' if name[0] in 'aeiou' else 'a'} {name}", id(value))


def _kind_of(value: object) -> str:
    kind = type(value)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _of_plain(value: Any) -> _Value:
    return _Value(_clipped(repr(value)), (type(value), value))


def _of_count(value: Any) -> _Value:
    return _Value(repr(value), repr(value))


def _of_cache(value: Any) -> _Value:
    info = value.cache_info()
    return _Value(f"a cache of {info.currsize}", (id(value), info.currsize, _kept_by(value)))


def _kept_by(cache: Any) -> frozenset[Any] | None:
    """In no order, which decides nothing as long as there is room. None if that is not known."""
    try:
        _, *kept = kept_in(cache)
    except Opaque:
        return None
    if cache.cache_info().maxsize is None:
        kept = [part for table in kept if isinstance(table, dict) for part in _both(table)]
    return _contents(kept)


def _both(table: dict[object, object]) -> list[object]:
    return [*table.keys(), *table.values()]


def _forgets(cache: Any) -> bool:
    """Whether another call may take the place of one that it keeps."""
    info = cache.cache_info()
    code = getattr(cache.__wrapped__, "__code__", None)
    takes = code is None or code.co_argcount or code.co_kwonlyargcount or code.co_flags & _STARS
    return bool(takes and info.currsize and info.currsize == info.maxsize)


_STARS = inspect.CO_VARARGS | inspect.CO_VARKEYWORDS


def _of_asked(value: Any) -> _Value:
    kept, info = _of_cache(value), value.cache_info()
    asked = info.hits + info.misses
    return _Value(f"a full cache (calls so far: {asked})", (kept.key, asked))


def _of_loop(value: asyncio.AbstractEventLoop) -> _Value:
    words = "an event loop that is closed" if value.is_closed() else "an event loop"
    return _Value(words, (id(value), value.is_closed()), is_loop=True)


def _of_lock(value: Any) -> _Value:
    """A stand-in, or the lock that it stands for: they are one."""
    is_held = value.locked()
    return _Value("a lock that is held" if is_held else "a lock that is free", ("a lock", is_held))


def _of_future(value: Any) -> _Value:
    return _Value(f"a {_kind_of(value)} that is {value._state.lower()}", (id(value), value._state))


def _of_generator(value: types.GeneratorType[Any, Any, Any]) -> _Value:
    is_over = value.gi_frame is None
    return _Value("a generator that is over" if is_over else "a generator", (id(value), is_over))


def _of_random(value: random.Random) -> _Value:
    # That of the module begins alike in each execution.
    state = None if value is random._inst else value.getstate()
    return _Value("a random generator", state)


def _of_bytes(value: bytearray) -> _Value:
    return _Value(f"a bytearray of {len(value)}", bytes(value))


def _of_sized(value: Any) -> _Value:
    contents = _contents(value) if is_a(value, set | frozenset) else None
    return _Value(f"a {_kind_of(value)} of {len(value)}", (id(value), len(value), contents))


_READERS: list[tuple[Any, Callable[[Any], _Value]]] = [
    (_PLAIN, _of_plain),
    (itertools.count, _of_count),
    (_LRU, _of_cache),
    (asyncio.AbstractEventLoop, _of_loop),
    (asyncio.Future, _of_future),
    (_LOCKS, _of_lock),
    (types.GeneratorType, _of_generator),
    (random.Random, _of_random),
    (bytearray, _of_bytes),
    (dict | list | tuple | set | frozenset | deque, _of_sized),
]


def _contents(value: Iterable[Any]) -> frozenset[Any]:
    return frozenset(each if is_a(each, _PLAIN) else id(each) for each in value)


def _children(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if is_a(value, type):
        yield from _of_class(value, path)
    elif is_a(value, dict | list | tuple | deque):
        yield from _of_container(value, path)
        yield from _attributes(value, path)
    elif is_a(value, functools.partial):
        yield from ((f"{path}.{name}", getattr(value, name)) for name in _PARTIAL)
    elif is_a(value, _FUNCTIONS):
        yield from _of_functions(attribute_of(value, "__func__", value), path)
        if is_a(value, types.MethodType):
            yield f"{path}.__self__", value.__self__
    elif is_a(value, types.GeneratorType):
        frame = value.gi_frame
        for name, held in frame.f_locals.items() if frame is not None else ():
            yield f"{path}, in its frame {name},", held
    elif not is_a(value, _LEAVES) and not _is_left_out(type(value)):
        yield from _attributes(value, path)


def _of_class(cls: type, path: str) -> Iterator[tuple[str, Any]]:
    if _is_left_out(cls) or cls.__module__.partition(".")[0] in sys.stdlib_module_names:
        return
    for name, held in tuple(vars(cls).items()):
        if not name.startswith("__"):
            yield f"{path}.{name}", held


def _of_container(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if is_a(value, dict):
        items: Iterable[tuple[Any, Any]] = tuple(value.items())
    else:
        items = enumerate(tuple(value))
    for key, held in itertools.islice(items, ITEMS_MAX):
        words = repr(key) if is_a(key, _PLAIN) else type(key).__name__
        yield f"{path}[{_clipped(words)}]", held


def _of_functions(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    for function in functions_behind(value):
        if function.__globals__.get("__name__", "").startswith("sim."):
            continue
        cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
        for name, cell in cells:
            # One that is not bound yet has no contents.
            with suppress(ValueError):
                yield f"{name}, a variable of {_name_of(function)},", cell.cell_contents
        for index, default in enumerate(function.__defaults__ or ()):
            yield f"{path}.__defaults__[{index}]", default
        for name, default in (function.__kwdefaults__ or {}).items():
            yield f"{path}'s default {name}", default
        for name, held in vars(function).items():
            if name != "__wrapped__":
                yield f"{path}.{name}", held


def _attributes(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name, held in (*tuple(attributes_of(value).items()), *slots_of(value)):
        yield f"{path}.{name}", held


def _is_left_out(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in _LEFT_OUT


def _clipped(text: str) -> str:
    return text if len(text) <= WORDS_MAX else text[: WORDS_MAX - 1] + "…"
