"""`threading.local` for simulated threads, which are one thread to the interpreter.

The type is written in C, and its values belong to a thread of the operating system. So while a
worker runs, the values that all locals have in this thread are put aside, and the worker's stand in
their place. That needs every `threading.local` there is: those from before the first worker are
found among the garbage collector's objects, those made later by what makes them.

A subclass with `__init__` is initialised in each thread that meets it; its instances ask at each
use whether the running one has. Nothing of this costs anything before the first worker begins.
"""

from __future__ import annotations

import _thread
import abc
import gc
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sim.kernel.errors import Opaque
from sim.kernel.living import classes_below, objects_of
from sim.kernel.origin import forwards

_Local: type = _thread._local

# Who has values: a ThreadIdentity, or None for the thread's own.
Owner = Any


class _Known:
    """One `threading.local`.

    here: its `__dict__` in this thread of the system, with the values of who runs. aside: those of
    the others. met: who has initialised it, if its class says how. is_new: made since others were
    looked for.
    """

    __slots__ = ("_name", "aside", "given", "here", "is_new", "met", "ref")

    def __init__(
        self,
        local: Any,
        made_by: Owner,
        given: tuple[tuple[Any, ...], dict[str, Any]],
        on_end: Callable[[Any], object],
    ) -> None:
        self.ref = weakref.ref(local, on_end)
        self.here: dict[str, Any] = local.__dict__
        self.aside: dict[Owner, dict[str, Any]] = {}
        self.met: set[Owner] = {made_by}
        self.given = given
        self.is_new = False
        self._name = ""

    @property
    def name(self) -> str:
        """Of one that a module holds. Raises Opaque for another."""
        local = self.ref()
        if not self._name:
            self._name = next(
                (
                    f"{module}.{name}"
                    for module, holder in tuple(sys.modules.items())
                    for name, value in tuple(getattr(holder, "__dict__", {}).items())
                    if value is local
                ),
                "",
            )
        if not self._name:
            raise Opaque(
                "a thread's threading.local, which no module holds by a name",
                "let each job delete what it has set, or make it within the program",
            )
        return self._name


class Locals:
    """Every `threading.local` that is known, with its values in the simulated threads."""

    def __init__(self) -> None:
        # By the address of the local.
        self._known: dict[int, _Known] = {}
        self.running: Owner = None

    def find_all(self) -> None:
        """Those that the collector knows, but for the simulator's own."""
        kinds = [each for each in classes_below(_Local) if not issubclass(each, OfThisThread)]
        for each in objects_of(kinds):
            if id(each) not in self._known:
                self.add(each, None, _given_to(each))

    def add(
        self, local: Any, made_by: Owner, given: tuple[tuple[Any, ...], dict[str, Any]]
    ) -> None:
        address = id(local)
        self._known[address] = _Known(
            local, made_by, given, lambda _: self._known.pop(address, None)
        )

    def note_new(self, local: Any) -> None:
        self._known[id(local)].is_new = True

    def switch(self, to: Owner) -> None:
        """From now on every local has the values of this one."""
        leaves, self.running = self.running, to
        # One more may become known meanwhile, by what a value's end calls.
        for each in [*self._known.values()]:
            values, aside = each.here, each.aside
            if values:
                aside[leaves] = values.copy()
                values.clear()
            if aside:
                values.update(aside.pop(to, ()))

    def end_values(self) -> None:
        """The one who runs has ended, and its values with it."""
        for each in [*self._known.values()]:
            each.here.clear()

    def forget(self, owner: Owner) -> None:
        """It has ended, and its values with it."""
        for each in tuple(self._known.values()):
            each.aside.pop(owner, None)
            each.met.discard(owner)

    def values_of(self, owner: Owner) -> list[tuple[object, dict[str, Any]]]:
        """Of one who does not run: each local in which it has some, with these. Raises Opaque.

        A module's local stands for itself by its name, as it is there in each execution.
        """
        owned = [each for each in self._known.values() if owner in each.aside]
        return [(each.ref() if each.is_new else each.name, each.aside[owner]) for each in owned]

    def values_here(self, local: Any) -> dict[str, Any] | None:
        known = self._known.get(id(local))
        return None if known is None else known.here

    @forwards
    def meet(self, local: Any) -> None:
        """Initialises it if the one who runs has not used it before."""
        known = self._known.get(id(local))
        if known is None or self.running in known.met:
            return
        running = self.running
        known.met.add(running)
        args, kwargs = known.given
        try:
            type(local).__init__(local, *args, **kwargs)
        except BaseException:
            # As in CPython, which tries anew at the next use.
            known.met.discard(running)
            known.here.clear()
            raise


def _given_to(local: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that it was made with, which the type in C keeps for other threads."""
    held = gc.get_referents(local)
    args = next((each for each in held if type(each) is tuple), ())
    # Beside it are its values by thread, whose keys are no words.
    words = (each for each in held if type(each) is dict and each)
    return args, next((each for each in words if all(type(key) is str for key in each)), {})


# ---- what makes, and what uses, a local ------------------------------------------------------


class OfThisThread(_thread._local):
    """What the simulator keeps for each thread of the system, also while a simulated one runs."""


class _Here(OfThisThread):
    # The simulated thread whose turn it is; None for the thread's own.
    identity: Any = None
    # None until the first worker begins.
    locals: Locals | None = None
    # In which block those were looked for last.
    found_in: Any = None


here = _Here()


def _made(local: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    known = here.locals
    if known is not None and isinstance(local, _Local):
        known.add(local, known.running, (args, kwargs))
        known.note_new(local)


class _Stands(abc.ABCMeta):
    """Of a class that passes for threading.local. As ABCMeta, so that it may be mixed with it."""

    def __instancecheck__(cls, instance: object) -> bool:
        if cls is SimLocal:
            return isinstance(instance, _Local)
        return super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        if cls is SimLocal:
            return issubclass(subclass, _Local)
        return super().__subclasscheck__(subclass)


THREAD_LOCAL = _Local


def values_here(local: Any) -> dict[str, Any] | None:
    """Of who runs, without asking the local, which may call the program's code."""
    return None if here.locals is None else here.locals.values_here(local)


class SimLocal(_thread._local, metaclass=_Stands):
    """threading.local, whose instances are known from when they are made."""

    __slots__ = ()

    @forwards
    def __new__(cls, /, *args: Any, **kwargs: Any) -> Any:
        made = _Local.__new__(cls, *args, **kwargs)
        _made(made, args, kwargs)
        return made

    @forwards
    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            for name, value in _meeting(cls).items():
                setattr(cls, name, value)


def _making(original: Callable[..., Any]) -> Any:
    """What makes instances of a class that was derived before."""

    @forwards
    def __new__(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        made = original(cls, *args, **kwargs)
        _made(made, args, kwargs)
        return made

    return staticmethod(__new__)


def _meeting(cls: Any) -> dict[str, Any]:
    """How the attributes of its instances are used, by threads that may not have met them."""

    def first_met(original: Callable[..., Any]) -> Callable[..., Any]:
        @forwards
        def use(local: Any, /, *args: Any) -> Any:
            if here.locals is not None:
                here.locals.meet(local)
            return original(local, *args)

        return use

    return {name: first_met(getattr(cls, name)) for name in _USES}


_USES = ("__getattribute__", "__setattr__", "__delattr__")


# ---- for as long as there may be workers ------------------------------------------------------


REPLACED = [
    (holder, name, SimLocal) for holder, name in ((threading, "local"), (_thread, "_local"))
]
"""By module and name, within executions."""


class _Guard:
    """The running block of `classes_patched_with_first_worker`."""

    def __init__(self, undo: ExitStack) -> None:
        self.undo = undo
        self.is_patched = False


_guard: _Guard | None = None


@contextmanager
def classes_patched_with_first_worker() -> Iterator[None]:
    """In the block, from the first worker on, classes derived before tell of their instances."""
    global _guard
    with ExitStack() as undo:
        _guard = _Guard(undo)
        try:
            yield
        finally:
            _guard = None


def a_worker_begins() -> None:
    """To be called before each: finds the locals that there are, once in a block."""
    guard = _guard
    if guard is None:
        return
    if not guard.is_patched:
        guard.is_patched = True
        _patch_classes(guard.undo)
    if here.found_in is not guard:
        here.found_in = guard
        here.locals = here.locals or Locals()
        here.locals.find_all()


def _patch_classes(undo: ExitStack) -> None:
    """Those that were derived from threading.local before."""
    for cls in classes_below(_Local)[1:]:
        if issubclass(cls, OfThisThread) or SimLocal in cls.__mro__:
            continue
        if _Local in cls.__bases__:
            _put(undo, cls, "__new__", _making(cls.__new__))
        if "__init__" in vars(cls):
            for name, value in _meeting(cls).items():
                _put(undo, cls, name, value)


def _put(undo: ExitStack, holder: Any, name: str, value: Any) -> None:
    before = vars(holder).get(name, _ABSENT)
    setattr(holder, name, value)
    if before is _ABSENT:
        undo.callback(delattr, holder, name)
    else:
        undo.callback(setattr, holder, name, before)


_ABSENT = object()
