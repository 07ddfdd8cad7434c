"""`datetime.now`, `utcnow` and `today` show the clock of the execution, in the types themselves.

These are written in C, and take no attributes. But what a type finds by name stands in a dict that
the collector knows, and `PyType_Modified` (CPython, Objects/typeobject.c) makes caches forget it. A
stand-in for the type was not found by an import within a function, and not the type of its
instances.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import gc
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.origin import forwards

_forget_cached = ctypes.pythonapi.PyType_Modified
_forget_cached.argtypes, _forget_cached.restype = [ctypes.py_object], None


def _names_of(kind: type) -> dict[str, Any]:
    """The dict behind `kind.__dict__`. Raises RuntimeError where the interpreter has none."""
    for each in gc.get_referents(kind.__dict__):
        if type(each) is dict:
            return each
    raise RuntimeError(f"this interpreter keeps the names of {kind!r} where none can be set")


_of_datetime, _of_date = _names_of(datetime.datetime), _names_of(datetime.date)
_real_now, _real_utcnow = _of_datetime["now"], _of_datetime["utcnow"]
_real_today = _of_date["today"]


@functools.wraps(_real_now)
@forwards
def _now(cls: type[datetime.datetime], tz: datetime.tzinfo | None = None) -> datetime.datetime:
    execution = execution_of_this_thread()
    if execution is None:
        real: datetime.datetime = _real_now.__get__(None, cls)(tz)
        return real
    return execution.entropy.wall_date(cls, tz)


@functools.wraps(_real_utcnow)
@forwards
def _utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
    execution = execution_of_this_thread()
    if execution is None:
        real: datetime.datetime = _real_utcnow.__get__(None, cls)()
        return real
    return execution.entropy.wall_date(cls, datetime.UTC).replace(tzinfo=None)


@functools.wraps(_real_today)
@forwards
def _today(cls: type[datetime.date]) -> datetime.date:
    execution = execution_of_this_thread()
    if execution is None:
        real: datetime.date = _real_today.__get__(None, cls)()
        return real
    if issubclass(cls, datetime.datetime):
        return execution.entropy.wall_date(cls, None)
    return cls.fromtimestamp(execution.entropy.wall_clock())


_PUT = [
    (datetime.datetime, _of_datetime, "now", classmethod(_now)),
    (datetime.datetime, _of_datetime, "utcnow", classmethod(_utcnow)),
    (datetime.date, _of_date, "today", classmethod(_today)),
]


def methods_of_dates() -> dict[tuple[type, str], Any]:
    """By type and name, what stands in for the method that somebody has bound before."""
    date, moment = datetime.date, datetime.datetime
    pairs: list[tuple[type, str, Any]] = [(moment, "now", _now), (moment, "utcnow", _utcnow)]
    pairs += [(moment, "today", _today), (date, "today", _today)]
    return {(kind, name): types.MethodType(method, kind) for kind, name, method in pairs}


@contextmanager
def dates_virtual() -> Iterator[None]:
    """Within the block they show an execution's clock; outside of executions the system's."""
    before = [(kind, names, name, names[name]) for kind, names, name, _ in _PUT]
    for kind, names, name, method in _PUT:
        names[name] = method
        _forget_cached(kind)
    try:
        yield
    finally:
        for kind, names, name, method in before:
            names[name] = method
            _forget_cached(kind)
