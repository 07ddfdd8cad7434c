"""The clocks and the random numbers that the program reads: the same in each run of the file.

`onestream export` copies this file into each test, between `shim.py` and `shim_run.py`. They are
what they were in the recorded execution: the functions of `time` read the loop's clock, `random`
begins with a seed, and what is drawn of the operating system (`os.urandom`, and so `uuid` and
`secrets`) comes of a generator. `datetime` is written in C: a stand-in, whose instances are real
dates, replaces it where a module of the program has it by a name.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import random  # noqa: TID251 - it is this module that makes it deterministic
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from sim.export.shim import READING_S, Clock

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

BUSY_READINGS = 1000  # beyond this number in a row it waits for the clock
BUSY_STEP_S = 0.001
GRAIN_US = 0.3  # more than lies between two readings of time.time()
READINGS_AHEAD = 50  # as many in a row do not put it ahead for longer than their instant
MAC = 0x02_00_5E_00_53_01
WALL = {"gmtime": 0, "localtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
NUMBERED = {  # what clock_gettime calls them, on systems that have them
    "time": "REALTIME TAI",
    "monotonic": "MONOTONIC MONOTONIC_RAW BOOTTIME UPTIME HIGHRES UPTIME_RAW",
    "process_time": "PROCESS_CPUTIME_ID PROF",
    "thread_time": "THREAD_CPUTIME_ID",
}


class Numbers:
    """What one run reads of clocks, and draws."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self._clock = clock
        self._last, self._readings = -1.0, 0
        self._wall_us, self._wall_at = 0, 0.0
        self._processor_s = 0.0
        self._bytes = random.Random(f"bytes {seed}")

    def monotonic(self) -> float:
        return self._read(self._clock())

    def processor(self) -> float:
        """It does not work while the loop sleeps."""
        before = self._clock.now
        self.monotonic()
        self._processor_s += self._clock.now - before
        return self._processor_s

    def wall_us(self) -> int:
        """Never less later than the last reading than has passed, to the grain of each clock."""
        catches_up = self._readings > READINGS_AHEAD
        self._read(self._clock.now)
        now = self._clock.now
        shown = round((self._clock.epoch_s + now) * 1e6)
        if self._wall_us:
            passed_us = 0.0 if catches_up else (now - self._wall_at) * 1e6
            shown = max(shown, self._wall_us + max(1, math.ceil(passed_us + GRAIN_US)))
        self._wall_us, self._wall_at = shown, now
        return shown

    def wall_clock(self) -> float:
        return self.wall_us() / 1e6

    def _read(self, now: float) -> float:
        self._readings = self._readings + 1 if now <= self._last + 2 * READING_S else 0
        self._last = now
        if self._readings > BUSY_READINGS:
            self._clock.now = self._last = now + BUSY_STEP_S
        return now

    def urandom(self, size: int, *flags: int) -> bytes:
        return self._bytes.randbytes(size)


# Of the run that is going on.
_numbers: list[Numbers] = []

REAL_LOCALTIME = time.localtime


class _Stands(type):
    """A class that passes for another: calling it makes instances of the other."""

    real: type

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, cls.real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.real)


class _Datetime(datetime.datetime, metaclass=_Stands):
    real = datetime.datetime

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return datetime.datetime(*args, **kwargs)

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        if not _numbers:
            return datetime.datetime.now(tz)
        return datetime.datetime.fromtimestamp(_numbers[-1].wall_clock(), tz)

    @classmethod
    def today(cls) -> Any:
        return cls.now()

    @classmethod
    def utcnow(cls) -> Any:
        return cls.now(datetime.UTC).replace(tzinfo=None)


class _Date(datetime.date, metaclass=_Stands):
    real = datetime.date

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return datetime.date(*args, **kwargs)

    @classmethod
    def today(cls) -> Any:
        return _Datetime.now().date()


DATETIME = types.ModuleType("datetime")
vars(DATETIME).update(vars(datetime), datetime=_Datetime, date=_Date)


def dates_replaced(modules: Iterable[types.ModuleType]) -> None:
    """In what these have by a name; classes that they derive from it stay as they are."""
    stands = {id(datetime): DATETIME, id(_Datetime.real): _Datetime, id(_Date.real): _Date}
    for module in modules:
        for name, value in tuple(vars(module).items()):
            if id(value) in stands:
                setattr(module, name, stands[id(value)])


def _read(real: Callable[[], Any], virtual: Callable[[Numbers], Any]) -> Callable[[], Any]:
    return lambda: virtual(_numbers[-1]) if _numbers else real()


def _at_wall_clock(real: Callable[..., Any], position: int) -> Callable[..., Any]:
    """What takes the wall clock where the argument at this position is left out."""
    from_seconds = REAL_LOCALTIME if real.__name__ in ("asctime", "strftime") else float

    def at(*args: Any) -> Any:
        given = [*args, *[None] * (position + 1 - len(args))]
        if given[position] is not None or not _numbers:
            return real(*args)
        given[position] = from_seconds(_numbers[-1].wall_clock())
        return real(*given)

    return at


def _by_number(real: Callable[[int], Any]) -> Callable[[int], Any]:
    ns = "_ns" if real.__name__.endswith("_ns") else ""
    names = {
        getattr(time, f"CLOCK_{number}", None): name
        for name, numbers in NUMBERED.items()
        for number in numbers.split()
    }
    return lambda number: (
        getattr(time, names[number] + ns)() if _numbers and number in names else real(number)
    )


def _times(real: Callable[[], os.times_result]) -> Callable[[], os.times_result]:
    def times() -> os.times_result:
        if not _numbers:
            return real()
        worked = _numbers[-1].processor()
        return os.times_result((worked, 0.0, 0.0, 0.0, _numbers[-1].monotonic()))

    return times


def _usage(real: Callable[[int], Any]) -> Callable[[int], Any]:
    def usage(who: int) -> Any:
        used = real(who)
        if not _numbers or who == resource.RUSAGE_CHILDREN:
            return used
        return type(used)((_numbers[-1].processor(), 0.0, *used[2:]))

    return usage


def _drawn(real: Callable[..., bytes]) -> Callable[..., bytes]:
    return lambda *args: _numbers[-1].urandom(*args) if _numbers else real(*args)


def _seed_with(real: Callable[..., None]) -> Callable[..., None]:
    """As `Random.seed`, of an object or of the module."""

    def seed(*args: Any, **kwargs: Any) -> None:
        names = ("a", "version") if getattr(real, "__self__", None) else ("self", "a", "version")
        given = dict(zip(names, args, strict=False)) | kwargs
        if given.get("a") is None and _numbers:
            given["a"] = int.from_bytes(_numbers[-1].urandom(16), "big")
        real(*([given.pop("self")] if "self" in given else []), **given)

    return seed


def _in_ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _replaced() -> Iterator[tuple[Any, str, Any]]:
    yield time, "time", _read(time.time, Numbers.wall_clock)  # noqa: TID251
    yield time, "time_ns", _read(time.time_ns, lambda numbers: numbers.wall_us() * 1000)
    for name in ("monotonic", "perf_counter"):
        yield time, name, _read(getattr(time, name), Numbers.monotonic)
        ns = f"{name}_ns"
        yield time, ns, _read(getattr(time, ns), lambda numbers: _in_ns(numbers.monotonic()))
    for name in ("process_time", "thread_time"):
        yield time, name, _read(getattr(time, name), Numbers.processor)
        ns = f"{name}_ns"
        yield time, ns, _read(getattr(time, ns), lambda numbers: _in_ns(numbers.processor()))
    for name in ("clock_gettime", "clock_gettime_ns"):
        if hasattr(time, name):
            yield time, name, _by_number(getattr(time, name))
    for name, position in WALL.items():
        yield time, name, _at_wall_clock(getattr(time, name), position)
    yield os, "times", _times(os.times)
    if resource is not None:
        yield resource, "getrusage", _usage(resource.getrusage)
    yield os, "urandom", _drawn(os.urandom)
    yield random, "_urandom", _drawn(os.urandom)
    yield random, "seed", _seed_with(random.seed)
    yield random.Random, "seed", _seed_with(random.Random.seed)
    # Its own clock, and the address of the machine's network card.
    yield uuid, "_generate_time_safe", None
    yield uuid, "_node", MAC


@contextlib.contextmanager
def numbers_replaced() -> Iterator[None]:
    """So that what the program's modules import are the replacements; they begin with `drawing`."""
    before = []
    for holder, name, value in list(_replaced()):
        before.append((holder, name, getattr(holder, name, None)))
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, value in reversed(before):
            setattr(holder, name, value)


@contextlib.contextmanager
def drawing(clock: Clock, seed: int) -> Iterator[None]:
    """Within the block they read this clock, and draw from this seed."""
    state = random.getstate()
    random.seed(seed)
    uuid._last_timestamp = None  # type: ignore[attr-defined]
    _numbers.append(Numbers(clock, seed))
    try:
        yield
    finally:
        _numbers.pop()
        random.setstate(state)
