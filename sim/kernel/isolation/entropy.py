"""Clocks and randomness that a program under exploration reads, made part of the execution.

Within an execution the functions of `time` read the virtual clock; `random`, `os.urandom`, and so
`uuid` and `secrets`, draw from a generator with the same seed in every execution. Outside of one
the replacements do what they replaced, so that measuring an exploration measures real time.

Names that the program's own modules had bound before are rebound for the duration of an
exploration: globals, default arguments, class attributes and what a closure holds; in installed
packages globals. For what objects and libraries hold see `held_clocks.py`, for `datetime`
`dates.py`. `clocks_held` and `Generators` name what stays real, and running twice finds the rest
where it changes a step.
"""

from __future__ import annotations

import functools
import os
import random  # noqa: TID251 - it is this module that makes it deterministic
import sys
import time
import types
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sim.kernel.current import execution_of_this_thread, executions, os_thread
from sim.kernel.entropy import Entropy, restore_module
from sim.kernel.isolation.bound_names import BoundGlobals, BoundNames, modules_behind
from sim.kernel.isolation.dates import dates_virtual, methods_of_dates
from sim.kernel.isolation.held_clocks import HeldClocks, stand_in_of
from sim.kernel.isolation.where_held import Holding
from sim.kernel.origin import forwards

try:
    import resource
except ImportError:
    # Windows has none.
    resource = None  # type: ignore[assignment]

_NODE = 0x02_00_5E_00_53_01
_inst: random.Random = random._inst
_real_random_seed = random.Random.seed
_real_time = time.time  # noqa: TID251 - what else would the clock outside be


def wall_clock() -> float:
    """What `time.time()` returns now, patched or not; equal to no reading of the program's."""
    execution = execution_of_this_thread()
    return _wall_of_no_execution() if execution is None else execution.entropy.wall_clock_apart()


def _wall_of_no_execution() -> float:
    """Not behind the clock of a loop that stands alone in another thread: it may have jumped."""
    shown = [_real_time()]
    for each in executions:
        if each.entropy.seed is None:
            shown.append(each.entropy.wall_seen)
    return max(shown)


def _drawn() -> Entropy | None:
    """The innermost execution with draws of its own."""
    # A stand-alone loop has none, also within an exploration.
    this = os_thread()
    for execution in reversed(executions):
        if execution.os_thread == this and execution.entropy.seed is not None:
            return execution.entropy
    return None


def clocks_held(sources: Iterable[object]) -> list[Holding]:
    """Where these objects' modules hold a clock that is not replaced."""
    names = {module.__name__ for module in modules_behind(sources)}
    return [each for each in _held.left if each.module in names]


class Generators:
    """Those that these objects' modules hold: what one execution draws, the next one does not."""

    def __init__(self, sources: Iterable[object]) -> None:
        self._before = [
            (f"{module.__name__}.{name}", value, value.getstate())
            for module in modules_behind(sources)
            for name, value in tuple(vars(module).items())
            if type(value) is random.Random
        ]

    def drawn(self) -> list[str]:
        """The names of those from which somebody has drawn since."""
        return [name for name, value, state in self._before if value.getstate() != state]


# ---- replacements --------------------------------------------------------------------------


def _clock(real: Callable[[], Any], virtual: Callable[[Entropy], Any]) -> Callable[[], Any]:
    @functools.wraps(real)
    @forwards
    def clock() -> Any:
        execution = execution_of_this_thread()
        return real() if execution is None else virtual(execution.entropy)

    return clock


def _in_ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _ns_of(clock: Callable[[Entropy], float]) -> Callable[[Entropy], int]:
    return lambda entropy: _in_ns(clock(entropy))


def _by_number(real: Callable[[int], Any], read: str) -> Callable[[int], Any]:
    """`clock_gettime`, or with the suffix `_ns` that: each clock is one of the others."""

    @functools.wraps(real)
    @forwards
    def by_number(clk_id: int, /) -> Any:
        execution = execution_of_this_thread()
        if execution is None:
            return real(clk_id)
        if clk_id not in _NUMBERED:
            execution.loop.refuse(f"time.{read}({clk_id!r})", NO_SUCH_CLOCK)
        suffix = "_ns" if read.endswith("_ns") else ""
        return getattr(time, _NUMBERED[clk_id] + suffix)()

    return by_number


def _refused(real: Callable[..., Any]) -> Callable[..., Any]:
    """`clock_settime`: it would set the clock of the machine."""

    @functools.wraps(real)
    @forwards
    def refuse(*args: Any) -> Any:
        execution = execution_of_this_thread()
        if execution is not None:
            execution.loop.refuse(f"time.{real.__name__}", NO_SUCH_CLOCK)
        return real(*args)

    return refuse


def _times() -> os.times_result:
    """`os.times`: what the processor has worked, and a clock that goes on."""
    execution = execution_of_this_thread()
    if execution is None:
        return _REAL_TIMES()
    worked = execution.entropy.processor()
    return os.times_result((worked, 0.0, 0.0, 0.0, execution.entropy.monotonic()))


def _usage(who: int, /) -> Any:
    """`resource.getrusage`: of this process or thread the time is virtual, the rest as it is."""
    usage = _REAL_USAGE(who)
    execution = execution_of_this_thread()
    if execution is None or who == resource.RUSAGE_CHILDREN:
        return usage
    return type(usage)((execution.entropy.processor(), 0.0, *usage[2:]))


def _of_now(real: Callable[..., Any], position: int) -> Callable[..., Any]:
    """A function of `time` whose argument at this position is the wall clock if left out."""
    from_seconds = _REAL_LOCALTIME if real.__name__ in ("asctime", "strftime") else float

    @functools.wraps(real)
    @forwards
    def of_now(*args: Any) -> Any:
        given = [*args, *[None] * (position + 1 - len(args))]
        execution = execution_of_this_thread()
        if given[position] is None and execution is not None:
            given[position] = from_seconds(execution.entropy.wall_clock())
            return real(*given)
        return real(*args)

    return of_now


def _drawing(real: Callable[..., Any]) -> Callable[..., Any]:
    """A function of the module `random`, which begins with a seeded generator."""

    @functools.wraps(real)
    @forwards
    def draw(*args: Any, **kwargs: Any) -> Any:
        entropy = _drawn()
        if entropy is not None:
            entropy.seed_module()
        return real(*args, **kwargs)

    return draw


@forwards
def _seed(self: random.Random, a: Any = None, version: int = 2) -> None:
    """`Random.seed`, with the execution's bytes in place of the operating system's."""
    entropy = _drawn()
    if a is None and entropy is not None:
        a = int.from_bytes(entropy.bytes(16), "big")
    _real_random_seed(self, a, version)


@forwards
def _module_seed(a: Any = None, version: int = 2) -> None:
    entropy = _drawn()
    if entropy is not None:
        entropy.seed_module()
    _seed(_inst, a, version)


def _os_bytes(real: Callable[..., bytes]) -> Callable[..., bytes]:
    @functools.wraps(real)
    @forwards
    def urandom(size: int, *flags: int) -> bytes:
        entropy = _drawn()
        return real(size, *flags) if entropy is None else entropy.bytes(size)

    return urandom


_REAL_LOCALTIME = time.localtime
_REAL_TIMES = os.times
_REAL_USAGE: Any = getattr(resource, "getrusage", None)
NO_SUCH_CLOCK = (
    "an execution has the clocks of time.time(), monotonic() and process_time(), each of which "
    "it reads and none of which it sets; use these"
)
_COUNTING = {
    "monotonic": Entropy.monotonic,
    "perf_counter": Entropy.monotonic,
    "process_time": Entropy.processor,
    "thread_time": Entropy.processor,
}
# What `clock_gettime` calls them, on systems that have them.
_NUMBERED: dict[int, str] = {
    getattr(time, f"CLOCK_{number}"): name
    for name, numbers in {
        "time": "REALTIME TAI",
        "monotonic": "MONOTONIC MONOTONIC_RAW BOOTTIME UPTIME HIGHRES UPTIME_RAW",
        "process_time": "PROCESS_CPUTIME_ID PROF",
        "thread_time": "THREAD_CPUTIME_ID",
    }.items()
    for number in numbers.split()
    if hasattr(time, f"CLOCK_{number}")
}
_OF_NOW = {"gmtime": 0, "localtime": 0, "ctime": 0, "asctime": 0, "strftime": 1}
_DRAWS = [
    name
    for name, value in vars(random).items()
    if getattr(value, "__self__", None) is _inst and name != "seed"
]


def _replacements() -> list[tuple[Any, str, Any]]:
    """Where is set what, in a block of `virtualised`."""
    found: list[tuple[Any, str, Any]] = [
        (time, "time", _clock(time.time, Entropy.wall_clock)),  # noqa: TID251
        (time, "time_ns", _clock(time.time_ns, Entropy.wall_ns)),
        (random.Random, "seed", _seed),
        (random, "seed", _module_seed),
        (os, "urandom", _os_bytes(os.urandom)),
        (random, "_urandom", _os_bytes(os.urandom)),
        # Its own clock, and the address of the machine's network card.
        (uuid, "_generate_time_safe", None),
        (uuid, "_node", _NODE),
    ]
    for name in ("clock_gettime", "clock_gettime_ns"):
        if hasattr(time, name):
            found.append((time, name, _by_number(getattr(time, name), name)))
    for name in ("clock_settime", "clock_settime_ns"):
        if hasattr(time, name):
            found.append((time, name, _refused(getattr(time, name))))
    found.append((os, "times", functools.wraps(os.times)(_times)))
    if resource is not None:
        found.append((resource, "getrusage", functools.wraps(resource.getrusage)(_usage)))
    if hasattr(os, "getrandom"):
        found.append((os, "getrandom", _os_bytes(os.getrandom)))
    for name, virtual in _COUNTING.items():
        found.append((time, name, _clock(getattr(time, name), virtual)))
        found.append((time, f"{name}_ns", _clock(getattr(time, f"{name}_ns"), _ns_of(virtual))))
    found += [(time, name, _of_now(getattr(time, name), at)) for name, at in _OF_NOW.items()]
    found += [(random, name, _drawing(getattr(random, name))) for name in _DRAWS]
    return found


_REPLACEMENTS = _replacements()
_REAL = [(holder, name, getattr(holder, name, None)) for holder, name, _ in _REPLACEMENTS]
# By id, what a program's module may have bound, and what replaces it.
_REPLACED_BY_ID: dict[int, Any] = {
    id(real): replacement
    for (holder, name, real), (_, _, replacement) in zip(_REAL, _REPLACEMENTS, strict=True)
    if callable(real) and replacement is not None and isinstance(holder, types.ModuleType)
}

_CLOCKS = {id(real) for holder, _, real in _REAL if holder is time}
# Modules of the standard library that hold a clock, as a default or by name; `threading` and
# `queue` have theirs of `threads/locks.py`.
_HOLDERS = ("email.utils", "http.cookiejar", "sched", "socketserver", "timeit")


def _holders() -> list[types.ModuleType]:
    return [sys.modules[name] for name in _HOLDERS if name in sys.modules]


# What objects hold to read it later, as a cache does.
_NAMES_READ = ["time", "clock_gettime", *_COUNTING]
_NAMES_READ += [*(f"{name}_ns" for name in _NAMES_READ), *_OF_NOW]
_READABLE = [real for holder, name, real in _REAL if holder is time and name in _NAMES_READ]

_bound = (
    BoundNames(_REPLACED_BY_ID),
    BoundGlobals(_CLOCKS),
    BoundNames(_CLOCKS, _holders),
)
_held = HeldClocks(
    _READABLE,
    {id(each): _REPLACED_BY_ID[id(each)] for each in _READABLE},
    methods_of_dates(),
    # A list that is another one where own modules have grown.
    _bound[0].sites,
)


@contextmanager
def virtualised() -> Iterator[None]:
    """Within the block, executions have their own clocks and draws; afterwards all is as before.

    Not to be nested: see `sim.kernel.guards.guarded`.
    """
    replaced = []
    for (holder, name, value), (_, _, real) in zip(_REPLACEMENTS, _REAL, strict=True):
        before = getattr(holder, name, None)
        # What a test has put there, a clock that stands still say, is what it wants to be read.
        if before is real or holder is uuid:
            replaced.append((holder, name, before))
            setattr(holder, name, value)
    sites = [site for kind in _bound for site in kind.sites() if site.get() is site.real]
    for site in sites:
        site.put(_REPLACED_BY_ID[id(site.real)])
    try:
        with dates_virtual():
            yield
    finally:
        for site in sites:
            site.put(site.real)
        for holder, name, before in replaced:
            setattr(holder, name, before)
        restore_module()


def find_held_clocks() -> None:
    """To be called before a `gc.freeze`, so that none is needed to be undone."""
    _held.find_all()


@contextmanager
def held_clocks_virtual() -> Iterator[None]:
    """The same for what `held_clocks.py` finds; around all else that the guards put in a place."""
    sites = [(site, put) for site, put in _held.sites() if site.get() is site.real]
    for site, stand_in in sites:
        site.put(stand_in_of(stand_in))
    try:
        yield
    finally:
        for site, _ in sites:
            site.put(site.real)
        _held.note()
