"""Objects of the program's classes hash by a counter of their execution, and not by address.

A set of connections or of subscribers' queues iterates by their hashes: by address in another order
each time, on stock Python, too. Here that order is the execution's own, as that of tasks is, and
others are looked at beside a search. Of this kind are classes of the program's own modules, of
installed packages, and asyncio's and other such of the standard library, that define no hash and no
equality, and whose objects can be weakly referred to. What was made before the executions keeps the
hash that it has, since it may lie in a set or a dict already.

Not of this kind: functions, bound methods, what is written in C, protocols of `typing`, and a class
that a program makes within a function and decorates.

`Class.__hash__` is `object.__hash__`, as on stock. What a program can see all the same: an entry in
`vars(Class)`, that `hash(x)` is no number of its address, and a weak reference more to an object
that was hashed.
"""

from __future__ import annotations

import asyncio
import builtins
import functools
import gc
import opcode
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from operator import is_
from types import CodeType, FrameType, MethodType, ModuleType
from typing import Any

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.hashing import GatheringFuture, in_set_order, next_serial
from sim.kernel.isolation import outside
from sim.kernel.isolation.bound_names import is_installed, is_own
from sim.kernel.living import (
    address_of,
    classes_below,
    made_since,
    note_what_is_there,
    objects_of,
)
from sim.kernel.notices import Special
from sim.kernel.origin import forwards

_OF_LIBRARY = ("asyncio", "concurrent", "queue", "threading")
# Of whose classes the simulator's own are derived.
_SIMULATORS = ("simpy",)
# They hash by names or numbers already, or in sets of the standard library's own.
_OTHERS = (
    *(asyncio.BaseProtocol, asyncio.BaseTransport, GatheringFuture, threading.Thread, type),
    # The loops of executions among them.
    asyncio.AbstractEventLoop,
)
# Flags of a type: made by a class statement; nothing in it can be replaced.
_HEAP_TYPE, _IMMUTABLE = 1 << 9, 1 << 8

# More than CPython itself freezes as it starts: then what was there before is not told.
_FROZEN_MAX = 1_000
_frozen = gc.get_freeze_count
_real_collect = gc.collect
# Of a class, without the code of a metaclass.
_attribute_of: Callable[[type, str], Any] = type.__getattribute__
_dict_of: Callable[[type], Any] = type.__dict__["__dict__"].__get__
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__

# Within a block: the classes that are replaced, and whether it was asked what was there before.
_replaced: list[type] | None = None
_has_looked = False
# Addresses of what was made in it, as far as is known.
_new: set[int] = set()
# By address, those that an execution has made; each is forgotten with its class.
_made: dict[int, weakref.ref[type]] = {}
# Classes that stay replaced after one, each with the hash that it defines itself.
_left: list[tuple[type, Any]] = []
# By address, of each object that was hashed or was there before; and what forgets it.
_numbers: dict[int, int] = {}
_kept: dict[int, _Kept] = {}
# While garbage is collected, what is to be forgotten behind that: its `__del__` comes later.
_dying: list[_Kept] | None = None


class _Kept(weakref.ref[Any]):
    __slots__ = ("address",)
    address: int


def _keep(each: Any, address: int, number: int) -> None:
    kept = _Kept(each, _forget)
    kept.address = address
    _kept[address], _numbers[address] = kept, number


def _forget(kept: _Kept) -> None:
    if _dying is not None:
        _dying.append(kept)
    elif _kept.get(kept.address) is kept:
        del _kept[kept.address], _numbers[kept.address]


class _ByNumber:
    """Stands for `object.__hash__` in a class of this kind, which says it has that."""

    __slots__ = ("_cls", "_hash")

    def __init__(self, cls: type) -> None:
        def hash_of_object(each: Any) -> int:
            address = address_of(each)
            known = _numbers.get(address)
            return _first_hash(each, address, cls) if known is None else known

        self._cls, self._hash = cls, hash_of_object

    def __get__(self, each: Any, kind: Any = None) -> Any:
        if each is not None:
            return MethodType(self._hash, each)
        other = _hash_behind(self._cls, kind)
        return None if other is None else other.__get__(None, kind)


def _hash_behind(cls: type, kind: type) -> Any:
    """What an object of that kind has where the class defines none: `object.__hash__`, mostly."""
    mro = iter(_mro_of(kind))
    next(each for each in mro if each is cls)
    return _own_hash(_provider(mro))


def _first_hash(each: Any, address: int, cls: type) -> int:
    other = _hash_behind(cls, type(each))
    if other is None:
        raise TypeError(f"unhashable type: {type(each).__name__!r}")
    if other is not object.__hash__:
        # Of a `type("Name", (Mixin, str), {})`, in which ours comes before it.
        return int(other.__get__(each, type(each))())
    if _replaced is None:
        return address
    is_new = _is_new(address)
    if address in _numbers:
        return _numbers[address]
    execution = execution_of_this_thread()
    number = address
    if execution is not None and is_new:
        number = in_set_order(next_serial())
        observer = execution.loop.environment.observer
        observer.meets(Special.OBJECTS_HASHED)
        if "<locals>" in type(each).__qualname__:
            observer.meets(Special.OBJECTS_OF_ITS_OWN_HASHED)
    _keep(each, address, number)
    return number


def _is_new(address: int) -> bool:
    """Whether it was made within the block; what was not keeps its hash."""
    if not _has_looked and _frozen() > _FROZEN_MAX:
        # What is frozen is not listed, so what is new is: anew for each that is hashed.
        if address not in _new:
            note_what_is_new()
        return address in _new
    _look()
    return address not in _numbers


def _look() -> None:
    """Once for all, for the first that is hashed: it takes a while, and most programs hash none."""
    global _has_looked
    if _has_looked:
        return
    _has_looked = True
    note_what_is_new()
    # Also of those that define a hash: it may ask `super()`.
    for each in objects_of(classes_below(*(_replaced or []))):
        address = address_of(each)
        if address not in _new and address not in _numbers:
            _keep(each, address, address)


def note_what_is_new() -> None:
    """To be called before garbage is collected: until then what an execution has made is known."""
    if _replaced is not None:
        # One that is freed leaves its address to what is new as well.
        _new.update(map(address_of, made_since()))


def collect(*args: Any, **options: Any) -> int:
    """`gc.collect`: an object keeps its number until its `__del__`, and that of others, is over.

    The collector has cleared all weak references by then.
    """
    global _dying
    if execution_of_this_thread() is not None:
        note_what_is_new()
    before, _dying = _dying, []
    try:
        return _real_collect(*args, **options)
    finally:
        dying, _dying = _dying, before
        for each in dying:
            _forget(each)


_collect = functools.wraps(_real_collect)(forwards(collect))


def has_number(each: object) -> bool:
    """Whether it is of this kind."""
    return has_ours(type(each))


def has_ours(cls: type) -> bool:
    """Whether a class has its hash from here."""
    found = (_own_hash(each) for each in _mro_of(cls) if "__hash__" in _dict_of(each))
    return type(next(found)) is _ByNumber


def _own_hash(cls: type) -> Any:
    return _dict_of(cls)["__hash__"]


def _provider(mro: Iterable[type]) -> type:
    """The class from which it has its hash, but for ours."""
    return next(filter(_defines_another, mro))


def _defines_another(cls: type) -> bool:
    return "__hash__" in _dict_of(cls) and type(_own_hash(cls)) is not _ByNumber


def _keeps_its_hash(execution: Execution, each: object, name: object, *value: Any) -> None:
    """Heard before `each.__class__ = value`, which on stock changes no hash by address."""
    if name != "__class__" or not value or not isinstance(value[0], type):
        return
    had, has = has_number(each), has_ours(value[0])
    if has and not had and _hashes_by_address(type(each)):
        _keep(each, address_of(each), address_of(each))
    elif had and not has and number_of(each) is not None and _hashes_by_address(value[0]):
        execution.loop.refuse(f"{type(each).__name__}.__class__ = {value[0].__name__}", _NO_CLASS)


_NO_CLASS = (
    "the object lies in a set or a dict, by a hash of the execution, and would have another there "
    "as one of that class; give it a class of the program's, derived from that one"
)
outside.hearers["object.__setattr__"] = _keeps_its_hash


def number_of(each: object) -> int | None:
    """Its hash, if that is of the execution and was asked for."""
    address = address_of(each)
    number = _numbers.get(address)
    return None if number == address else number


# ---- which classes -----------------------------------------------------------------------------


@contextmanager
def objects_numbered() -> Iterator[None]:
    """Within the block they hash by the counter."""
    global _replaced, _has_looked
    note_what_is_there()
    _put_back(_left)
    classes = _replaced = _to_be_replaced()
    _has_looked = False
    before: list[tuple[type, Any]]
    before = [(each, _dict_of(each).get("__hash__")) for each in classes]
    for each in classes:
        type.__setattr__(each, "__hash__", _ByNumber(each))
    try:
        yield
    finally:
        _replaced = None
        _new.clear()
        before += [(cls, None) for kept in _made.values() if (cls := kept()) is not None]
        _made.clear()
        survivors = _of_survivors()
        # One of their objects that is in a set would not be found there any more.
        _left[:] = [each for each in before if address_of(each[0]) in survivors]
        _put_back([each for each in before if address_of(each[0]) not in survivors])
        if not survivors:
            _kept.clear()
            _numbers.clear()


def _put_back(classes: list[tuple[type, Any]]) -> None:
    for each, own in classes:
        if type(_dict_of(each).get("__hash__")) is not _ByNumber:
            """The program has put its own there."""
        elif own is None:
            type.__delattr__(each, "__hash__")
        else:
            type.__setattr__(each, "__hash__", own)


def _of_survivors() -> set[int]:
    """Of objects that have a number and are still there, the classes, by address."""
    numbered = [kept for address, kept in _kept.items() if _numbers[address] != address]
    return {address_of(cls) for kept in numbered for cls in _mro_of(type(kept()))}


def _to_be_replaced() -> list[type]:
    """The topmost of them: from these the others have it."""
    every = classes_below(object)
    if not _are_as_before(every):
        _walked[:] = map(weakref.ref, every)
        _topmost[:] = map(weakref.ref, _topmost_of(every))
    topmost = (kept() for kept in _topmost)
    # The program may have given one of them a hash since.
    return [each for each in topmost if each is not None and _hashes_by_address(each)]


def _topmost_of(every: list[type]) -> Iterator[type]:
    of_kind = [each for each in every if _is_programs(each) and _may_be(each)]
    free = {*map(address_of, of_kind)} - _hiding_another(of_kind)
    for each in of_kind:
        is_topmost = free.isdisjoint(map(address_of, _mro_of(each)[1:]))
        if address_of(each) in free and (is_topmost or "__hash__" in _dict_of(each)):
            yield each


def _hashes_by_address(cls: type) -> bool:
    return _attribute_of(cls, "__hash__") is object.__hash__


def _may_be(cls: type) -> bool:
    is_made_of_python = cls.__flags__ & _HEAP_TYPE and not cls.__flags__ & _IMMUTABLE
    if not (is_made_of_python and cls.__weakrefoffset__ and _hashes_by_address(cls)):
        return False
    # Before 3.12 a protocol asks for whatever stands in its class.
    return not _dict_of(cls).get("_is_protocol") and not issubclass(cls, _OTHERS)


def _hiding_another(classes: Iterable[type]) -> set[int]:
    """By address, each `Mixin` of a `class Name(Mixin, str)`: its hash would come first."""
    found: set[int] = set()
    for each in classes_below(*classes):
        if not _hashes_by_address(each):
            without = takewhile(lambda cls: not _defines_another(cls), _mro_of(each))
            found.update(map(address_of, without))
    return found


# All classes that there were, and which of them are to be replaced: an exploration may be short.
_walked: list[weakref.ref[type]] = []
_topmost: list[weakref.ref[type]] = []
# By the name of a module, the one that was asked, and whether its classes are the program's.
_of_program: dict[str, tuple[ModuleType | None, bool]] = {}


def _are_as_before(classes: list[type]) -> bool:
    there = (kept() for kept in _walked)
    return len(_walked) == len(classes) and all(map(is_, there, classes))


def _is_programs(cls: type) -> bool:
    name = _attribute_of(cls, "__module__")
    if type(name) is not str:
        return False
    module = sys.modules.get(name)
    asked, is_programs = _of_program.get(name, (None, False))
    if asked is module is not None:
        return is_programs
    of_library = name.partition(".")[0] in _OF_LIBRARY
    is_programs = of_library or (module is not None and _is_loaded_by_program(module))
    _of_program[name] = module, is_programs
    return is_programs


def _is_loaded_by_program(module: ModuleType) -> bool:
    package = getattr(module, "__name__", "").partition(".")[0]
    return is_own(module) or (is_installed(module) and package not in _SIMULATORS)


# ---- classes that an execution makes -----------------------------------------------------------

_build_class: Any = builtins.__build_class__
# By code and instruction, whether the class that is made there is decorated.
_decorated: dict[tuple[CodeType, int], bool] = {}


@forwards
def _class_built(function: Any, name: str, /, *bases: Any, **options: Any) -> Any:
    """In place of `builtins.__build_class__`, which a class statement calls."""
    made = _build_class(function, name, *bases, **options)
    if isinstance(made, type) and execution_of_this_thread() is not None:
        _admit(made, function.__globals__, sys._getframe(1))
    return made


def _admit(cls: type, of_module: dict[str, Any], frame: FrameType) -> None:
    own = _own_hash(_provider(_mro_of(cls)))
    if has_ours(cls):
        if own is not object.__hash__:
            # What asks whether it can be hashed finds that one.
            type.__setattr__(cls, "__hash__", own)
    elif own is object.__hash__ and _may_be(cls) and _is_of_program(of_module, frame):
        type.__setattr__(cls, "__hash__", _ByNumber(cls))
        address = address_of(cls)
        _made[address] = weakref.ref(cls, lambda _: _made.pop(address, None))


def _is_of_program(of_module: dict[str, Any], frame: FrameType) -> bool:
    """And not decorated: a decorator may ask which methods the class itself has."""
    module = sys.modules.get(str(of_module.get("__name__")))
    return module is not None and _is_loaded_by_program(module) and not _is_decorated(frame)


def _is_decorated(frame: FrameType) -> bool:
    place = frame.f_code, frame.f_lasti
    if place not in _decorated:
        code, at = frame.f_code.co_code, frame.f_lasti + 2
        while code[at] == 0:
            # The caches of the call.
            at += 2
        _decorated[place] = not opcode.opname[code[at]].startswith("STORE_")
    return _decorated[place]


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of the interpreter's functions."""
    return [(builtins, "__build_class__", _class_built), (gc, "collect", _collect)]
