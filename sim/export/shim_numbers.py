"""The clocks and the random numbers that the program reads: the same in each run of the file.

`onestream export` copies this file into each test, between `shim.py` and `shim_run.py`. They are
what they were in the recorded execution: the functions of `time` read the loop's clock, `random`
begins with a seed, and what is drawn of the operating system (`os.urandom`, and so `uuid` and
`secrets`) comes of a generator. The dates of `datetime` are real; it is written in C.
"""

from __future__ import annotations

import contextlib
import math
import os
import random  # noqa: TID251 - it is this module that makes it deterministic
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from sim.export.shim import READING_S, Clock

EPOCH_S = 1_577_836_800.0  # what the wall clock shows at the beginning
BUSY_READINGS = 1000  # beyond this number in a row it waits for the clock
BUSY_STEP_S = 0.001
GRAIN_US = 0.3  # more than lies between two readings of time.time()
READINGS_AHEAD = 50  # so many in a row do not put it ahead for longer than their instant
MAC = 0x02_00_5E_00_53_01
MONOTONIC = ("monotonic", "perf_counter", "process_time", "thread_time")
WALL = ("gmtime", "localtime", "ctime")


class Numbers:
    """What one run reads of clocks, and draws."""

    def __init__(self, clock: Clock, seed: int) -> None:
        self._clock = clock
        self._last, self._readings = -1.0, 0
        self._wall_us, self._wall_at = 0, 0.0
        self._bytes = random.Random(f"bytes {seed}")

    def monotonic(self) -> float:
        return self._read(self._clock())

    def wall_us(self) -> int:
        """Never less later than the last reading than has passed, to the grain of each clock."""
        catches_up = self._readings > READINGS_AHEAD
        self._read(self._clock.now)
        now = self._clock.now
        shown = round((EPOCH_S + now) * 1e6)
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


def _read(real: Callable[[], Any], virtual: Callable[[Numbers], Any]) -> Callable[[], Any]:
    return lambda: virtual(_numbers[-1]) if _numbers else real()


def _at_wall_clock(real: Callable[..., Any]) -> Callable[..., Any]:
    def at(*args: Any) -> Any:
        return real(*args) if args or not _numbers else real(_numbers[-1].wall_clock())

    return at


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
    for name in MONOTONIC:
        yield time, name, _read(getattr(time, name), Numbers.monotonic)
        ns = f"{name}_ns"
        yield time, ns, _read(getattr(time, ns), lambda numbers: _in_ns(numbers.monotonic()))
    for name in WALL:
        yield time, name, _at_wall_clock(getattr(time, name))
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
