"""A reader for each type: what of an object belongs to the state; see `state_reader`."""

from __future__ import annotations

import abc
import asyncio
import builtins
import collections
import concurrent.futures
import datetime
import decimal
import enum
import functools
import gc
import io
import itertools
import logging
import marshal
import re
import sys
import threading
import types
import typing
import uuid
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, ContextVar, Token
from typing import Any

from sim.kernel.errors import Opaque
from sim.kernel.hashing import (
    GatheringFuture,
    SimCancelScope,
    SimFuture,
    serials_given,
    stable_name,
)
from sim.kernel.isolation.as_it_is import is_a, stored_in
from sim.kernel.isolation.bound_names import is_own
from sim.kernel.living import (
    address_of,
    classes_below,
    made_since,
    note_what_is_there,
    objects_of,
)
from sim.kernel.threads.local_values import THREAD_LOCAL, values_here
from sim.kernel.threads.plain import NUMBERS_OF_THREADS
from sim.kernel.threads.pools import NUMBERS_OF_FUTURES
from sim.schedulers.states.abstraction import DESCRIPTIONS, LEFT_OUT
from sim.schedulers.states.awaited import AWAITED, TASK_STEPS
from sim.schedulers.states.caches import kept_in
from sim.schedulers.states.frame_memory import handles_none
from sim.schedulers.states.set_layout import (
    LISTED,
    layout_around_one,
    layout_of_empty,
    layout_of_set,
)
from sim.schedulers.states.thread_stacks import of_frame

VALUES = {int, str, bytes, bool, float, complex, type(None), type(...)}
"""Types whose objects are the same if they are equal."""

CONSTANTS: set[type] = {
    type,
    abc.ABCMeta,
    enum.EnumMeta,
    type(NotImplemented),
    types.ModuleType,
    types.CodeType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
    property,
    staticmethod,
    classmethod,
    ContextVar,
    re.Pattern,
    logging.Logger,
    object,
    # Since 3.15.
    getattr(builtins, "sentinel", object),
}
"""Types whose objects are compared by identity, and hold nothing that an execution changes."""

Reader = Callable[[Any], Iterable[object]]


class Constants:
    """The constants of one exploration, by address. To be made before it begins.

    What each execution makes has another address each time, or that of something else. So a class
    that the program makes is read like any other object; and a plain `object()` is refused: a state
    that holds one never matches.
    """

    def __init__(self) -> None:
        note_what_is_there()
        # Held, so that no address is used twice while they are known.
        self._held: dict[int, object] = {}
        self._holds_classes = False
        self._holds_sentinels = False
        # Numbers by address.
        self.descriptions: dict[int, int] = {}
        # Whether the first execution goes on, and whether it may have met any.
        self._is_first, self._meets_descriptions = True, False

    def note_descriptions(self, state: list[object]) -> None:
        """In the first execution: whether there are any among the objects of a state."""
        if self._is_first and not self._meets_descriptions:
            self._meets_descriptions = any(_name_of(type(each)) in DESCRIPTIONS for each in state)

    def note_unread(self) -> None:
        """In the first execution: a state was not read to its end, where there may be some."""
        self._meets_descriptions = self._meets_descriptions or self._is_first

    def admit_descriptions(self) -> None:
        """From now on the descriptions that exist are constants, if the first execution met any.

        To be called after it, when it has made what is made only once: an application, say. What is
        made later, or met later, is read like any other object. A search for them is dear.
        """
        self._is_first = False
        if not self._meets_descriptions:
            return
        kinds = [each for each in classes_below(object) if _name_of(each) in DESCRIPTIONS]
        found = objects_of(kinds)
        self._held.update((address_of(each), each) for each in found)
        numbers = enumerate(found, _DESCRIPTIONS_FROM)
        self.descriptions = {address_of(each): number for number, each in numbers}

    def address(self, constant: Any) -> int | None:
        """None for a class that the execution made. Raises Opaque for an object() that it made."""
        if address_of(constant) not in self._held:
            if is_a(constant, type) and not _is_importable(constant):
                self._hold_classes()
                if address_of(constant) not in self._held:
                    return None
            if type(constant) is object:
                self._hold_sentinels()
                if address_of(constant) not in self._held:
                    raise Opaque(
                        "an object() made by the execution",
                        "make it once, when the module is imported, or take a member of an Enum",
                    )
            self._held[address_of(constant)] = constant
        return address_of(constant)

    def _hold_classes(self) -> None:
        """Those that no module has by their name, as of a function's, and that there were before.

        Once, when the first is met: most programs have none, and there may be thousands.
        """
        if self._holds_classes:
            return
        self._holds_classes = True
        made = {*map(address_of, made_since())}
        there = classes_below(object)
        self._held.update(
            (address_of(each), each) for each in there if address_of(each) not in made
        )

    def _hold_sentinels(self) -> None:
        """Each object() of a module or class, once, when the first is met.

        One that the execution under way has put there is held as well: the next puts another there.
        """
        if self._holds_sentinels:
            return
        self._holds_sentinels = True
        for owner in (*sys.modules.values(), *classes_below(object)):
            for value in tuple(getattr(owner, "__dict__", {}).values()):
                if type(value) is object:
                    self._held[address_of(value)] = value


# Less than any number of what a StateReader knows.
_DESCRIPTIONS_FROM = -1_000_000


def _name_of(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


# Of CPython's Py_TPFLAGS_HEAPTYPE: without it a class is written in C, and as old as its module.
_ON_THE_HEAP = 1 << 9


def _is_importable(cls: type) -> bool:
    """Whether it belongs to a module, which was imported meanwhile."""
    return not cls.__flags__ & _ON_THE_HEAP or _is_of_its_module(cls)


def _is_of_its_module(each: Any) -> bool:
    found: Any = sys.modules.get(each.__module__)
    for name in each.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is each


def of_made_class(each: Any) -> Iterator[object]:
    """A class that the execution made: what it is called, what it inherits, and what it holds."""
    yield each.__module__
    yield each.__qualname__
    yield each.__bases__
    for name, value in tuple(vars(each).items()):
        if name in _OF_EACH_CLASS or is_a(value, (*_IN_C, types.MemberDescriptorType)):
            continue
        yield name
        if is_a(value, property):
            yield from (value.fget, value.fset, value.fdel)
        elif is_a(value, staticmethod | classmethod):
            yield value.__func__
        else:
            yield value


_OF_EACH_CLASS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__"),
    *("__static_attributes__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__abstractmethods__", "_abc_impl"),
}
"""What a class has by itself, and what no step of a program depends on."""


def _of_dict(each: dict[Any, Any]) -> Iterator[object]:
    yield len(each)
    for item in each.items():
        yield from item


def _of_default_dict(each: collections.defaultdict[Any, Any]) -> Iterator[object]:
    yield each.default_factory
    yield from _of_dict(each)


def _of_sequence(each: Any) -> Iterator[object]:
    yield len(each)
    yield from each


def _of_deque(each: collections.deque[Any]) -> Iterator[object]:
    yield each.maxlen
    yield from _of_sequence(each)


def _of_set(each: Any) -> Iterator[object]:
    """In the order of its iteration. Raises Opaque if the state does not decide that order.

    Where its members lie decides in which order later ones come, and which one `pop` takes.
    """
    by_address = [
        member
        for member in each
        if not is_a(_referent(member), _NUMBERED) and hashes_by_address(member)
    ]
    if not each:
        yield layout_of_empty(each)
    else:
        yield layout_around_one(each) if by_address and len(each) == 1 else layout_of_set(each)
    for member in each:
        if is_a(_referent(member), _NUMBERED):
            # Its number, and that of the next, decide how the two lie in a set.
            yield hash(member), serials_given()
    if by_address and len(each) > 1:
        kind = type(by_address[0]).__qualname__
        raise Opaque(f"a set of {kind}, which hash by address", LISTED)
    yield from _of_sequence(each)


_FUTURES = (SimFuture, GatheringFuture)
_NUMBERED = (SimCancelScope, *_FUTURES, asyncio.BaseProtocol, asyncio.BaseTransport)


def _referent(member: Any) -> object:
    if is_a(member, weakref.ref):
        return _referent(member())
    return member.__self__ if is_a(member, types.MethodType) else member


def hashes_by_address(member: Any) -> bool:
    if is_a(member, weakref.ref):
        return hashes_by_address(member())
    if is_a(member, types.MethodType):
        return hashes_by_address(member.__self__)
    if is_a(member, (tuple, frozenset)):
        return any(map(hashes_by_address, member))
    if is_a(member, type) and "<locals>" in member.__qualname__:
        return not _is_importable(member)
    # Of constants the address is the same in each execution, as is that of a value that is equal.
    kind: Any = type(member)
    return kind.__hash__ is object.__hash__ and kind not in CONSTANTS


def _of_function(each: types.FunctionType) -> tuple[object, ...]:
    made = each.__closure__, each.__defaults__, each.__kwdefaults__, each.__dict__ or None
    code: Any = each.__code__
    if code.co_filename[:1] == "<" and not code.co_filename.startswith("<frozen "):
        # Of no file, so it may have been written in the execution: `dataclass` does that.
        code = marshal.dumps((code, each.__module__), 2)
    return (code, *made) if any(made) else (code,)


def _of_cached_function(each: Any) -> Iterator[object]:
    """What one of a module has kept counts as what its module holds, as does a function's globals.

    Of the program's own modules natural order must change none, and ask none that is full: see
    `exploration/module_state.py`.
    """
    yield each.__module__
    yield each.__qualname__
    if not _is_of_its_module(each):
        yield each.__dict__
        yield from kept_in(each)


def _of_cell(each: types.CellType) -> Iterator[object]:
    try:
        yield each.cell_contents
    except ValueError:
        yield "empty"


def _of_method(each: types.MethodType) -> Iterator[object]:
    yield each.__func__
    yield each.__self__


def _of_builtin(each: Any) -> Iterator[object]:
    yield each.__name__
    yield each.__self__


def _of_frame_owner(prefix: str) -> Reader:
    """For coroutines and generators: where they stand, their locals and their value stack."""

    def reader(each: Any) -> Iterator[object]:
        frame = getattr(each, f"{prefix}_frame")
        yield getattr(each, f"{prefix}_code")
        is_running = getattr(each, f"{prefix}_running")
        yield is_running
        if is_running:
            # In a thread that stands: the collector sees nothing of it but what it handles, last.
            yield frame
            yield [one for one in gc.get_referents(each)[-1:] if is_a(one, BaseException)]
            return
        if frame is None:
            yield "over"
            return
        yield frame.f_lasti
        # Which locals are bound; from the collector come only their values. Before 3.13 this makes
        # a dict that the frame keeps, and it must keep nothing alive.
        names = frame.f_locals
        yield ",".join(names)
        if type(names) is dict:
            names.clear()
        parts = gc.get_referents(each)
        if parts and parts[-1] is None and handles_none(frame, parts[:-1]):
            # There is none yet where no exception was handled below it, as an import does it once.
            del parts[-1]
        for part in parts:
            if part is not frame and part is not names and type(part) is not types.CodeType:
                yield part

    return reader


def _of_task(each: Any) -> Iterator[object]:
    yield from _of_future(each)
    yield stable_name(each.get_name())
    yield each.get_coro()
    yield each._fut_waiter
    yield each._must_cancel
    yield each.cancelling()
    yield each.get_context() if hasattr(each, "get_context") else None
    # By the name it once had.
    yield hash(each)


def _of_future(each: Any) -> Iterator[object]:
    yield each._state
    yield each._callbacks
    yield each._cancel_message
    if each._state == "FINISHED":
        yield each._exception
        if each._exception is None:
            yield each._result
    yield from _of_attributes(each, but=_SERIAL)


_SERIAL = ("_sim_hash",)


def _of_timer(each: Any) -> Iterator[object]:
    yield each._when
    yield from _of_handle(each)


def _of_handle(each: Any) -> Iterator[object]:
    yield each._cancelled
    yield each._callback
    yield each._args
    yield each._context


def _of_context(each: Context) -> Iterator[object]:
    yield len(each)
    for item in each.items():
        yield from item


def _of_token(each: Token[Any]) -> Iterator[object]:
    yield each.var
    yield each.old_value if each.old_value is not Token.MISSING else None


def _of_exception(each: BaseException) -> Iterator[object]:
    """Without the traceback, which is for people."""
    yield each.args
    yield each.__cause__
    yield each.__context__
    # As OSError's `filename`, which is none of its arguments.
    for name in _members_in_c(type(each)):
        yield getattr(each, name, _UNBOUND)
    yield from _of_attributes(each)


def _of_traceback(each: types.TracebackType) -> Iterator[object]:
    """The places that it lists, as a thread's `__exit__` is told; what lies there is for people."""
    yield each.tb_frame.f_code
    yield each.tb_lasti
    yield each.tb_next


def _members_in_c(cls: type) -> Iterator[str]:
    for base in cls.__mro__:
        if not _is_written_in_python(base):
            for name, value in vars(base).items():
                if is_a(value, types.MemberDescriptorType):
                    yield name


def _of_thread(each: threading.Thread) -> Iterator[object]:
    """Without where and how it would print what ends it."""
    # By which it lies in a set.
    yield NUMBERS_OF_THREADS.of(each)
    yield from _of_attributes(each, but=("_stderr", "_invoke_excepthook"))


def _of_job(each: concurrent.futures.Future[Any]) -> Iterator[object]:
    yield NUMBERS_OF_FUTURES.of(each)
    yield from _of_attributes(each)


def _of_local(each: Any) -> Iterator[object]:
    """The main thread's values; those of the others are read with these."""
    yield values_here(each)


def _of_weak(each: weakref.ref[Any]) -> Iterator[object]:
    yield each()
    yield each.__callback__


def _of_weak_container(each: Any) -> Iterator[object]:
    """Who iterates over it puts a guard into a set of its own, of which only the number counts."""
    yield len(getattr(each, "_iterating", ()))
    yield from _of_attributes(each, but=("_iterating",))


def _of_partial(each: functools.partial[Any]) -> Iterator[object]:
    yield each.func
    yield each.args
    yield each.keywords
    yield each.__dict__ or None


def _of_bytes_io(each: io.BytesIO) -> Iterator[object]:
    yield each.closed
    if not each.closed:
        yield each.getvalue()
        yield each.tell()


def _of_iterator(each: Any) -> Iterator[object]:
    try:
        yield from each.__reduce__()[1:]
    except RuntimeError as exc:
        instead = "use it up between two awaits, or iterate over a list"
        raise Opaque(f"an iterator: {exc}", instead) from None


def _of_repr(each: object) -> Iterator[object]:
    yield repr(each)


def _of_datetime(each: datetime.datetime) -> Iterator[object]:
    """In seconds: by these a reading of the clock is known, see `Entropy.shown`."""
    naive = each.replace(tzinfo=None)
    yield (naive - datetime.datetime(1970, 1, 1)).total_seconds()
    yield repr(each.tzinfo)
    yield each.fold


def _of_memory(each: memoryview) -> Iterator[object]:
    yield each.tobytes()


def _of_lock(each: Any) -> Iterator[object]:
    yield each.locked() if hasattr(each, "locked") else repr(each).split()[0]


def _of_referents(each: object) -> Iterator[object]:
    yield from gc.get_referents(each)


def _of_enum(each: enum.Enum) -> Iterator[object]:
    yield each.name


def _of_canonical_state(each: Any) -> Iterator[object]:
    yield each.canonical_state()


def _of_attributes(each: Any, but: tuple[str, ...] = ()) -> Iterator[object]:
    but += LEFT_OUT.get(type(each), ())
    stored, slots = _places_in(type(each))
    if stored is not None:
        for name, value in stored.__get__(each).items():
            if name not in but:
                yield name
                yield value
    for name, slot in slots:
        if name not in but:
            try:
                yield slot.__get__(each)
            except AttributeError:
                yield _UNBOUND


_UNBOUND = "unbound"


_Places = tuple[Any, tuple[tuple[str, Any], ...]]
_PLACES: dict[type, _Places] = {}


def _places_in(cls: type) -> _Places:
    """Where an object of it holds something: the descriptor of its `__dict__`, and its slots."""
    if cls not in _PLACES:
        found: list[tuple[str, Any]] = []
        for base in filter(_is_written_in_python, cls.__mro__):
            slots = types.MemberDescriptorType
            found += [(name, value) for name, value in vars(base).items() if type(value) is slots]
        places = stored_in(cls), tuple(found)
        if not _is_importable(cls):
            # Each execution makes another.
            return places
        _PLACES[cls] = places
    return _PLACES[cls]


# Py_TPFLAGS_HEAPTYPE: made by a class statement, or by one of the newer extension modules.
_HEAP_TYPE = 1 << 9


def _types_of(*examples: object) -> list[type]:
    return [type(each) for each in examples]


READERS: dict[type, Reader] = {
    list: _of_sequence,
    tuple: _of_sequence,
    collections.deque: _of_deque,
    dict: _of_dict,
    collections.OrderedDict: _of_dict,
    collections.defaultdict: _of_default_dict,
    io.BytesIO: _of_bytes_io,
    types.MappingProxyType: _of_dict,
    # Since 3.15.
    getattr(builtins, "frozendict", dict): _of_dict,
    set: _of_set,
    frozenset: _of_set,
    types.FunctionType: _of_function,
    type(functools.lru_cache(id)): _of_cached_function,
    types.CellType: _of_cell,
    types.MethodType: _of_method,
    types.BuiltinFunctionType: _of_builtin,
    types.MethodWrapperType: _of_builtin,
    types.CoroutineType: _of_frame_owner("cr"),
    types.GeneratorType: _of_frame_owner("gi"),
    types.AsyncGeneratorType: _of_frame_owner("ag"),
    types.FrameType: of_frame,
    types.TracebackType: _of_traceback,
    Context: _of_context,
    Token: _of_token,
    weakref.ref: _of_weak,
    weakref.WeakMethod: _of_weak,
    functools.partial: _of_partial,
    bytearray: _of_repr,
    memoryview: _of_memory,
    types.GenericAlias: _of_repr,
    types.UnionType: _of_repr,
    range: _of_repr,
    slice: _of_repr,
    itertools.count: _of_repr,
    decimal.Decimal: _of_repr,
    datetime.datetime: _of_datetime,
    datetime.date: _of_repr,
    datetime.timedelta: _of_repr,
    datetime.timezone: _of_repr,
    uuid.UUID: _of_repr,
    type(threading._allocate_lock()): _of_lock,  # type: ignore[attr-defined]
    type(threading._CRLock()): _of_lock,  # type: ignore[attr-defined]
    **dict.fromkeys(
        _types_of(iter([]), iter(()), iter(""), iter({}), iter(set()), iter(range(0)), iter(b""))
        + _types_of(iter({}.items()), iter({}.values()), reversed([]))
        + [enumerate, zip, map, filter],
        _of_iterator,
    ),
    **dict.fromkeys(AWAITED, _of_referents),
}


def is_constant(cls: type) -> bool:
    """Whether all objects of the type are constants."""
    if cls not in CONSTANTS and cls not in READERS:
        # Those of the two modules describe types and shapes.
        describes = str(cls.__module__).partition(".")[0] in ("typing", "pydantic_core")
        if describes or issubclass(cls, type):
            CONSTANTS.add(cls)
    return cls in CONSTANTS


def reader_for(cls: type) -> Reader:
    """Raises Opaque for a type of which nothing is known."""
    if any("canonical_state" in vars(base) for base in cls.__mro__):
        # The object itself says which part of it decides what happens next.
        return _of_canonical_state
    for base, reader in _OF_BASES.items():
        if issubclass(cls, base):
            return reader
    if cls.__name__ in _STEPS and not _is_written_in_python(cls):
        return _of_referents
    return _reader_of_instances(cls)


_STEPS = {"FutureIter", *TASK_STEPS}

_OF_BASES: dict[type, Reader] = {
    enum.Enum: _of_enum,
    asyncio.Task: _of_task,
    asyncio.Future: _of_future,
    asyncio.TimerHandle: _of_timer,
    asyncio.Handle: _of_handle,
    BaseException: _of_exception,
    threading.Thread: _of_thread,
    concurrent.futures.Future: _of_job,
    weakref.WeakSet: _of_weak_container,
    weakref.WeakKeyDictionary: _of_weak_container,
    weakref.WeakValueDictionary: _of_weak_container,
    THREAD_LOCAL: _of_local,
}


def _reader_of_instances(cls: type) -> Reader:
    """Attributes and slots; and what its base in C holds, if that is a container."""
    # Generic is written in C from 3.12 on, and holds nothing.
    bases = (base for base in cls.__mro__ if base is not typing.Generic)
    native = next(base for base in bases if not _is_written_in_python(base))
    if native is object:
        return _of_attributes
    of_native = _of_repr_by(native) if native in VALUES else _reader_of_native(native)
    if of_native is None:
        raise _opaque(cls, native)

    def reader(each: Any) -> Iterator[object]:
        yield from of_native(each)
        yield from _of_attributes(each)

    return reader


def _opaque(cls: type, native: type) -> Opaque:
    """native: what of it is written in C."""
    package = cls.__module__.partition(".")[0]
    instead = _INSTEAD_OF.get(package) or _INSTEAD_OF.get(native.__module__)
    if instead is None:
        module = sys.modules.get(cls.__module__)
        makes_it = package in sys.stdlib_module_names or module is None or is_own(module)
        instead = _SUBCLASS if makes_it else _OF_LIBRARY
    return Opaque(f"{cls.__module__}.{cls.__qualname__}", instead)


_SUBCLASS = (
    "use a subclass with a method canonical_state(), which returns all of it that decides what "
    "happens next"
)
_OF_LIBRARY = (
    "it is written in C, and what it holds is not known: let something of your own, with the "
    "methods that the program calls, stand in for it or for what has made it"
)
_NO_TLS = (
    "what TLS knows OpenSSL keeps to itself; let the program connect without TLS, and hold no "
    "context (a client of httpx makes one in any case)"
)
_INSTEAD_OF = {
    "ssl": _NO_TLS,
    "_ssl": _NO_TLS,
    "httptools": 'let uvicorn parse in Python, with http="h11"',
    "sqlite3": (
        "no state has what a database holds: open it, use it and close it within one step of a "
        "task or one job of a thread, or let a dict behind methods of your own stand in for it"
    ),
    "_io": (
        "no state has what is in a file: read or write it whole within one step, as "
        "Path.read_text and write_text do, so that none is open meanwhile"
    ),
}
"""What to do about what is written in C, by its package."""


def _reader_of_native(native: Any) -> Reader | None:
    """Of a class derived from it, which may iterate in its own way, and do more meanwhile."""
    if native in (list, tuple, collections.deque):
        return lambda each: (native.__len__(each), *native.__iter__(each))
    if native in (dict, collections.OrderedDict):
        return lambda each: (native.__len__(each), *itertools.chain(*native.items(each)))
    return READERS.get(native)


def _of_repr_by(native: type) -> Reader:
    def reader(each: Any) -> Iterator[object]:
        yield str(native.__repr__(each))  # type: ignore[call-arg]

    return reader


def _is_written_in_python(cls: type) -> bool:
    """Whether it has no methods in C, and no attributes in C except its slots."""
    if not cls.__flags__ & _HEAP_TYPE:
        return False
    return not any(
        is_a(value, _IN_C) and value.__objclass__ is cls and name not in ("__dict__", "__weakref__")
        for name, value in vars(cls).items()
    )


_IN_C = (
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
)
