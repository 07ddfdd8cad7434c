"""Locks that were made before the exploration: a module's `LOCK = threading.Lock()`, a queue.

A lock of `threading` is written in C: a worker that waited for one would block the whole process,
and none is overtaken before it. So where modules of the program or the closure of the program hold
one, in a class, a Condition, an Event, a queue, a container, an instance, and where an installed
package's module holds one by a name, it is a stand-in in the block, in the same state, and
afterwards the lock again, in the state of its stand-in.

Not found are those that only a local variable, a default, a tuple, or a package's classes hold, and
those of the standard library's own modules, as logging's. As with other names, a module is looked
at again when it has grown.
"""

from __future__ import annotations

import _queue
import _thread
import contextlib
import queue
import sys
import threading
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from sim.kernel.isolation.as_it_is import attributes_of, is_a, slots_of
from sim.kernel.isolation.bound_names import (
    Site,
    SitesOfModules,
    attribute_site,
    functions_behind,
    installed_modules,
    item_site,
    own_modules,
)
from sim.kernel.threads.locks import SimLock, SimRLock

ITEMS_MAX = 64
"""Of a container."""

HOLDERS_MAX = 300
"""Of a module, or of a program: an exploration that looks may take a millisecond."""

_REAL_LOCK, _REAL_RLOCK = type(_thread.allocate_lock()), type(_thread.RLock())
# By identity: a metaclass of the program's may have an `__eq__` of its own.
_KINDS = frozenset(map(id, (_REAL_LOCK, _REAL_RLOCK, _queue.SimpleQueue)))
_METHOD = types.BuiltinMethodType
_CONTAINERS = frozenset(map(id, (dict, list, tuple, deque)))
_LEAVES = frozenset(map(id, (str, int, float, bool, bytes, types.NoneType, types.ModuleType)))
# The standard library's modules whose instances are made of locks.
_MADE_OF_LOCKS = ("threading", "queue", "concurrent.futures._base", "functools")

Place = tuple[Any, Callable[[], Site]]


def _holds(value: Any) -> bool:
    """Whether it is such a lock, or a method of one, as a Condition keeps it."""
    kind = type(value)
    return id(kind) in _KINDS or (kind is _METHOD and id(type(value.__self__)) in _KINDS)


class _Finder:
    """Finds the places that hold locks. entered: whose instances are looked into.

    module_name: only classes and functions of this module are looked into; None for all.
    """

    def __init__(self, entered: Callable[[Any], bool], module_name: str | None) -> None:
        self._entered = entered
        self._module_name = module_name

    def within(self, holder: Any) -> Iterator[Site]:
        """In what it holds, and in what that holds: the nearest first."""
        to_see, seen = deque([holder]), {id(holder)}
        while to_see:
            for value, place in _places(to_see.popleft()):
                if id(type(value)) in _LEAVES:
                    continue
                if _holds(value):
                    yield place()
                    continue
                for each in self._inner(value):
                    if id(each) not in seen and len(seen) < HOLDERS_MAX:
                        seen.add(id(each))
                        to_see.append(each)

    def _inner(self, value: Any) -> Iterable[Any]:
        if is_a(value, (type, types.FunctionType)):
            is_its = self._module_name in (None, value.__module__)
            return (value,) if is_its else ()
        if is_a(value, (classmethod, staticmethod, property)):
            return functions_behind(value)
        kind: Any = type(value)
        # Threads that run belong to the system, and so does what they wait for.
        if is_a(value, (threading.Thread, types.ModuleType)):
            return ()
        return (value,) if id(kind) in _CONTAINERS or self._entered(kind) else ()


def _places(holder: Any) -> Iterator[Place]:
    """What it holds, and how each is replaced in it."""
    kind = type(holder)
    if kind is dict:
        for name, value in tuple(holder.items())[:ITEMS_MAX]:
            yield value, partial(item_site, holder, name, value)
    elif id(kind) in _CONTAINERS:
        for index, value in enumerate(tuple(holder)[:ITEMS_MAX]):
            # What stands in a tuple itself stays there.
            if kind is not tuple or not _holds(value):
                yield value, partial(item_site, holder, index, value)
    elif kind is types.FunctionType:
        for cell in holder.__closure__ or ():
            with contextlib.suppress(ValueError):
                value = cell.cell_contents
                yield value, partial(attribute_site, cell, "cell_contents", value)
    else:
        yield from _attributes(holder)


def _attributes(holder: Any) -> Iterator[Place]:
    values, is_class = attributes_of(holder), is_a(holder, type)
    site = attribute_site if is_class else item_site
    for name, value in tuple(values.items()):
        yield value, partial(site, holder if is_class else values, name, value)
    for name, value in () if is_class else slots_of(holder):
        yield value, partial(attribute_site, holder, name, value)


def _once_for_each(ask: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Remembers the answers by the class itself: that of such a metaclass may have no hash."""
    known: dict[int, tuple[Any, bool]] = {}

    def asked(kind: Any) -> bool:
        answer = known.get(id(kind))
        if answer is None:
            answer = known[id(kind)] = kind, ask(kind)
        return answer[1]

    return asked


@_once_for_each
def _is_made_of_locks(kind: Any) -> bool:
    """Or of a class that is derived from such."""
    return any(getattr(each, "__module__", "") in _MADE_OF_LOCKS for each in kind.__mro__)


@_once_for_each
def _is_programs(kind: Any) -> bool:
    top = str(getattr(kind, "__module__", "")).partition(".")[0]
    return _is_made_of_locks(kind) or top not in (*sys.stdlib_module_names, "sim")


def _in_own(module: types.ModuleType) -> Iterator[Site]:
    return _Finder(_is_programs, module.__name__).within(module)


def _in_installed(module: types.ModuleType) -> Iterator[Site]:
    """By their names, or within a Condition, an Event, a queue that has one."""
    for name, value in tuple(vars(module).items()):
        if _holds(value):
            yield item_site(vars(module), name, value)
            continue
        kind: Any = type(value)
        if _is_made_of_locks(kind) and not is_a(value, threading.Thread):
            yield from _Finder(_is_made_of_locks, module.__name__).within(value)


_sites = (
    SitesOfModules(own_modules, _in_own),
    SitesOfModules(installed_modules, _in_installed),
)


def look_for_locks() -> list[Site]:
    """Where modules hold some; those that have not grown are not looked at again."""
    return [site for each in _sites for site in each.sites()]


class _StandIns:
    """One for each lock, wherever that is held."""

    def __init__(self) -> None:
        self._by_id: dict[int, tuple[Any, Any]] = {}
        self._has_others = threading.active_count() > 1

    def of(self, real: Any) -> Any:
        """None for a lock whose holder may be a thread of the system."""
        if type(real) is _METHOD:
            stand_in = self.of(real.__self__)
            return None if stand_in is None else getattr(stand_in, real.__name__, None)
        known = self._by_id.get(id(real))
        if known is None:
            known = self._by_id[id(real)] = real, self._made(real)
        return known[1]

    def _made(self, real: Any) -> Any:
        if type(real) is _queue.SimpleQueue:
            stand_in = queue._PySimpleQueue()  # type: ignore[attr-defined]
            _move(real, stand_in)
            return stand_in
        if type(real) is _REAL_RLOCK:
            return SimRLock() if _is_free(real) else None
        is_locked = real.locked()
        if is_locked and self._has_others:
            return None
        lock = SimLock()
        lock._sim_locked = is_locked
        return lock

    def give_back(self) -> None:
        """The locks are in the state of their stand-ins again."""
        for real, stand_in in self._by_id.values():
            if type(real) is _queue.SimpleQueue:
                _move(stand_in, real)
            elif isinstance(stand_in, SimLock) and stand_in.locked() != real.locked():
                if real.locked():
                    real.release()
                else:
                    real.acquire(blocking=False)


def _is_free(lock: Any) -> bool:
    if lock._is_owned() or not lock.acquire(blocking=False):
        return False
    lock.release()
    return True


def _move(source: Any, target: Any) -> None:
    while not source.empty():
        target.put(source.get_nowait())


class _Block:
    """The running block: what is replaced in it."""

    def __init__(self) -> None:
        self._stand_ins = _StandIns()
        self._replaced: list[tuple[Site, Any]] = []
        # The programs that were looked into, which are kept: so no other has the address of one.
        self.programs: dict[int, Any] = {}

    def replace(self, sites: Iterable[Site]) -> None:
        for site in sites:
            if type(site.real) is not _METHOD and site.get() is not site.real:
                continue
            stand_in = self._stand_ins.of(site.real)
            if stand_in is not None:
                site.put(stand_in)
                self._replaced.append((site, stand_in))

    def undo(self) -> None:
        for site, stand_in in reversed(self._replaced):
            # The program may have put something else there. (Methods are made anew, and equal.)
            with contextlib.suppress(Exception):
                if site.get() == stand_in:
                    site.put(site.real)
        self._stand_ins.give_back()


_block: _Block | None = None


@contextmanager
def earlier_locks_simulated() -> Iterator[None]:
    """Within the block, modules and programs hold stand-ins of the locks that they made before."""
    global _block
    _block = _Block()
    try:
        for each in _sites:
            _block.replace(each.sites())
        yield
    finally:
        _block.undo()
        _block = None


def look_into(program: Any) -> None:
    """To be called before each execution: in its closure, too, once in a block."""
    if _block is None or id(program) in _block.programs:
        return
    _block.programs[id(program)] = program
    finder = _Finder(_is_programs, None)
    for function in functions_behind(program):
        _block.replace(list(finder.within(function)))
