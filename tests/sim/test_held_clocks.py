"""Clocks that anything has held since before the exploration: virtual within it, real after."""

from __future__ import annotations

import asyncio
import calendar
import collections
import contextlib
import contextvars
import dataclasses
import datetime
import functools
import importlib.util
import logging
import sqlite3
import subprocess
import sys
import time
import types
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import attr
import pydantic
import pytest

from sim import World, explore
from sim.kernel.isolation import entropy
from sim.kernel.isolation.where_held import where_held

Clock = Callable[[], Any]

_FORMAT = "%Y-%m-%d %H:%M:%S"

_IN_DICT = {"m": time.monotonic}
_IN_LIST = [time.perf_counter]
_IN_TUPLE = (time.time, time.monotonic)
_IN_DEEP: dict[str, Any] = {"clocks": [{"cpu": [time.monotonic_ns]}]}
_PARTIALS = {"p": functools.partial(time.perf_counter)}
_GIVEN = functools.partial(lambda clock: clock(), time.monotonic)
_DEQUE = collections.deque([time.monotonic])
_ORDERED = collections.OrderedDict(clock=time.monotonic)
_NESTED = {"tuples": (("clock", time.monotonic),)}
_GETTIME = {"c": time.clock_gettime}
_OF_NOW: dict[str, Callable[..., Any]] = {
    "gmtime": time.gmtime,
    "localtime": time.localtime,
    "ctime": time.ctime,
    "asctime": time.asctime,
    "strftime": time.strftime,
    "a partial": functools.partial(time.strftime, _FORMAT),
}
_DATES = {
    "now": datetime.datetime.now,
    "utc": functools.partial(datetime.datetime.now, datetime.UTC),
}


class _Keeps:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock


class _Slots:
    __slots__ = ("clock",)

    def __init__(self, clock: Clock) -> None:
        self.clock = clock


@dataclasses.dataclass(frozen=True, slots=True)
class _Frozen:
    clock: Clock


class _Named(NamedTuple):
    clock: Clock


@dataclasses.dataclass
class _Stamp:
    at: time.struct_time = dataclasses.field(default_factory=time.localtime)


@dataclasses.dataclass
class _Order:
    at: datetime.datetime = dataclasses.field(default_factory=datetime.datetime.now)


@attr.s(auto_attribs=True)
class _Attrs:
    at: float = attr.ib(factory=time.monotonic)


class _Model(pydantic.BaseModel):
    at: float = pydantic.Field(default_factory=time.time)
    day: datetime.datetime = pydantic.Field(default_factory=datetime.datetime.now)


class _Within(pydantic.BaseModel):
    inner: _Model


class _Deep(pydantic.BaseModel):
    withins: list[_Within]
    # Made anew after the other, though it holds the innermost itself.
    also: _Model


class _Itself(pydantic.BaseModel):
    at: float = pydantic.Field(default_factory=time.time)
    children: list[_Itself] = []


@pydantic.dataclasses.dataclass
class _Checked:
    at: float = pydantic.Field(default_factory=time.monotonic)


class _OfChecked(pydantic.BaseModel):
    checked: _Checked


@pydantic.validate_call
def _called(model: _Model) -> float:
    return model.at


_ADAPTER = pydantic.TypeAdapter(list[_Within])


def _default(clock: Clock = time.monotonic) -> Any:
    return clock()


def _closure(clock: Clock) -> Clock:
    return lambda: clock()


def _deep() -> _Deep:
    return _Deep.model_validate({"withins": [{"inner": {}}], "also": {}})


_KEEPS, _SLOTS, _FROZEN = _Keeps(time.monotonic), _Slots(time.monotonic), _Frozen(time.time)
_NAMED = _Named(time.monotonic)
_FORMATTER = logging.Formatter()
_FORMATTER.converter = time.gmtime
_IN_CLOSURE = _closure(time.monotonic)


def _seconds(shown: str) -> float:
    return time.mktime(time.strptime(shown, _FORMAT))


WAYS: dict[str, Clock] = {
    "a dict": lambda: _IN_DICT["m"](),
    "a list": lambda: _IN_LIST[0](),
    "a tuple": lambda: _IN_TUPLE[1](),
    "a list in a dict in a list": lambda: _IN_DEEP["clocks"][0]["cpu"][0]() / 1e9,
    "a partial": lambda: _PARTIALS["p"](),
    "an argument of a partial": lambda: _GIVEN(),
    "a deque": lambda: _DEQUE[0](),
    "an OrderedDict": lambda: _ORDERED["clock"](),
    "a tuple in a tuple in a dict": lambda: _NESTED["tuples"][0][1](),  # type: ignore[operator]
    "an object": lambda: _KEEPS.clock(),
    "a slot": lambda: _SLOTS.clock(),
    "a frozen slot": lambda: _FROZEN.clock(),
    "a default": lambda: _default(),
    "a closure": lambda: _IN_CLOSURE(),
    "datetime.now in a dict": lambda: _DATES["now"]().timestamp(),
    "datetime.now in a partial": lambda: _DATES["utc"]().timestamp(),
    "datetime.now of a dataclass": lambda: _Order().at.timestamp(),
    "a named tuple": lambda: _NAMED.clock(),
    "clock_gettime in a dict": lambda: _GETTIME["c"](time.CLOCK_MONOTONIC),
    "gmtime in a dict": lambda: calendar.timegm(_OF_NOW["gmtime"]()),
    "localtime in a dict": lambda: time.mktime(_OF_NOW["localtime"]()),
    "ctime in a dict": lambda: time.mktime(time.strptime(_OF_NOW["ctime"]())),
    "asctime in a dict": lambda: time.mktime(time.strptime(_OF_NOW["asctime"]())),
    "strftime in a dict": lambda: _seconds(_OF_NOW["strftime"](_FORMAT)),
    "strftime in a partial": lambda: _seconds(_OF_NOW["a partial"]()),
    "gmtime of a formatter": lambda: calendar.timegm(_FORMATTER.converter()),
    "localtime of a dataclass": lambda: time.mktime(_Stamp().at),
    "a factory of attrs": lambda: _Attrs().at,
    "a default of pydantic": lambda: _Model().at,
    "datetime.now of pydantic": lambda: _Model().day.timestamp(),
    "a model within a model": lambda: _Within.model_validate({"inner": {}}).inner.at,
    "a model in a list of models": lambda: _deep().withins[0].inner.at,
    "a model beside one that holds it": lambda: _deep().also.at,
    "a model that contains itself": lambda: _Itself(children=[{}]).children[0].at,  # type: ignore[list-item]
    "a dataclass of pydantic": lambda: _Checked().at,
    "a dataclass within a model": lambda: _OfChecked.model_validate({"checked": {}}).checked.at,
    "an adapter of models": lambda: _ADAPTER.validate_python([{"inner": {}}])[0].inner.at,
    "an argument that is validated": lambda: _called({}),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("way", WAYS)
def test_a_held_clock_is_virtual_within_and_real_after(way: str) -> None:
    """Time passes there as everywhere in an execution, and afterwards as on stock."""
    read = WAYS[way]
    assert _is_real(read)

    async def program(world: World) -> None:
        began = read()
        await asyncio.sleep(1_000)
        # Some show whole seconds alone.
        assert 1_000 <= read() - began <= 1_001

    report = explore(program, horizon_s=5_000)
    assert report.verdict == "proved", report.text
    assert _is_real(read)


def _is_real(read: Clock) -> bool:
    """Whether it shows what one of the system's clocks shows."""
    clocks = (time.time, time.monotonic, time.perf_counter)
    before = [clock() for clock in clocks]
    shown = read()
    is_near = any(
        # Rounded to a microsecond by a datetime.
        was - 1e-5 <= shown <= clock() + 1e-5
        for was, clock in zip(before, clocks, strict=True)
    )
    # A whole second may be of time(2), which is behind clock_gettime(2) by up to a tick of the
    # kernel (10 ms at its slowest): at the border of two seconds it shows the one before.
    return is_near or shown in range(int(before[0] - 0.01), int(time.time()) + 1)


_HOLDER = """
import functools, time

class Cache:
    def __init__(self, timer=time.monotonic):
        self.__timer = timer
        self.made = timer()

    def age(self):
        return self.__timer() - self.made

def elapsed(since, *, clock=time.perf_counter):
    return clock() - since

def wraps(clock=time.monotonic):
    return functools.lru_cache(1)(lambda: clock)
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """An installed module with clocks among its defaults."""
    path = tmp_path / "site-packages" / "holds_clocks.py"
    path.parent.mkdir()
    path.write_text(_HOLDER)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, path.stem, module)
    spec.loader.exec_module(module)
    return module


def test_a_default_of_an_installed_library_is_virtual(library: types.ModuleType) -> None:
    """As the timer of cachetools' TTLCache, and afterwards it is the clock."""

    async def program(world: World) -> None:
        cache = library.Cache()
        await asyncio.sleep(1_000)
        assert cache.age() >= 1_000

    report = explore(program, horizon_s=5_000)
    assert report.verdict == "proved", report.text
    assert library.Cache.__init__.__defaults__ == (time.monotonic,)
    assert library.elapsed.__kwdefaults__ == {"clock": time.perf_counter}


def test_an_object_made_before_each_exploration_is_found_each_time(
    library: types.ModuleType,
) -> None:
    """No module has grown since the last, and the one before is gone."""
    for _ in range(3):
        cache = library.Cache()

        async def program(world: World, cache: Any = cache) -> None:
            began = cache.age()
            await asyncio.sleep(1_000)
            assert 1_000 <= cache.age() - began < 1_001

        report = explore(program, horizon_s=5_000)
        assert report.verdict == "proved", report.text
        del cache, program


def test_a_wrong_claim_about_a_held_clock_is_refuted() -> None:
    """That no time passes there, which once was proved."""

    async def program(world: World) -> None:
        began = _IN_DICT["m"](), _Attrs().at, _Model().at
        await asyncio.sleep(0.3)
        assert _IN_DICT["m"]() - began[0] < 0.2
        assert _Attrs().at - began[1] < 0.2
        assert _Model().at - began[2] < 0.2

    assert explore(program).verdict == "refuted"


def test_all_is_restored_after_an_exception() -> None:
    """What leaves the block by an exception leaves no stand-in behind."""
    validator = _Model.__pydantic_validator__
    entropy.find_held_clocks()
    with pytest.raises(LookupError):
        _fail_within(validator)
    assert _IN_DICT["m"] is time.monotonic
    assert _IN_LIST[0] is time.perf_counter
    assert _IN_TUPLE[0] is time.time
    assert _PARTIALS["p"].func is time.perf_counter
    assert _KEEPS.clock is _SLOTS.clock is time.monotonic
    assert _FROZEN.clock is time.time
    assert _Model.__pydantic_validator__ is validator


def _fail_within(validator: object) -> None:
    with entropy.held_clocks_virtual():
        assert _IN_DICT["m"] is not time.monotonic
        assert _Model.__pydantic_validator__ is not validator
        raise LookupError


_LOOKS_TWICE = """
import asyncio, time
import pydantic
from sim import explore

clocks = (time.time, time.monotonic)

class Model(pydantic.BaseModel):
    at: float = pydantic.Field(default_factory=time.time)

async def program(world):
    began = clocks[1](), Model().at
    await asyncio.sleep(1_000)
    assert min(clocks[1]() - began[0], Model().at - began[1]) >= 1_000

for _ in range(3):
    print(explore(program, horizon_s=5_000).verdict)
    more = [globals().get("more"), time.time]
"""


def test_what_was_found_before_hides_nothing() -> None:
    """A second look, where nothing is frozen, finds tuples and validators as the first did."""
    ran = subprocess.run(
        [sys.executable, "-c", _LOOKS_TWICE], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == ["proved"] * 3, ran.stdout


def test_a_look_leaves_nothing_to_be_found() -> None:
    """The lists of one search are no holders to the next, which finds as many places."""
    held = entropy._held
    found = {len(held._look()) for _ in range(3)}
    assert len(found) == 1


def test_nothing_is_looked_for_where_nothing_came() -> None:
    """A second exploration after one asks the collector for no referrers."""

    async def program(world: World) -> None:
        await asyncio.sleep(1)

    explore(program)
    looks = []
    held = entropy._held
    look = held._look
    held._look = lambda: looks.append(1) or look()  # type: ignore[func-returns-value, method-assign]
    try:
        explore(program)
        assert not looks
        kept = [time.monotonic]
        explore(program)
        assert looks and kept == [time.monotonic]
    finally:
        del held._look  # type: ignore[method-assign]


def test_the_simulator_and_the_standard_library_keep_theirs() -> None:
    """Guards and budgets read the clocks of the system, also while an exploration is under way."""
    import sched

    from sim.exploration import search
    from sim.kernel import watchdog

    with entropy.held_clocks_virtual():
        assert search.perf_counter is time.perf_counter
        assert watchdog._now in (time.monotonic, time.perf_counter)
        assert sched.scheduler.__init__.__defaults__[0] is time.monotonic  # type: ignore[index]


_MADE_BEFORE = """
import asyncio, contextvars, ctypes, functools, itertools, os, sqlite3, sys, time, types
from sim import explore

def endless(clock):
    while True:
        yield clock()

def closure(it):
    return lambda: next(it)

def database(function=time.monotonic):
    made = sqlite3.connect(":memory:", check_same_thread=False)
    made.create_function("clock", 0, function)
    return made

# No module: so imports are made to fail.
sys.modules["no_such_module"] = None
"""

_CASE = """
HELD = {held}

async def program(world):
    began = {read}
    await asyncio.sleep(30)
    assert {read} - began < 20

report = explore(program)
print(report.verdict, "__main__.HELD" in report.reason, flush=True)
"""

# A fork for each, so that none finds what another holds.
_EACH = """
for case in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        try:
            exec(case)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
"""

IN_C = [
    ("iter(time.monotonic, None)", "next(HELD)"),
    ("map(time.clock_gettime, itertools.repeat(time.CLOCK_MONOTONIC))", "next(HELD)"),
    ("itertools.starmap(time.monotonic, itertools.repeat(()))", "next(HELD)"),
    ("functools.lru_cache(maxsize=0)(time.monotonic)", "HELD()"),
    ("{1: [functools.lru_cache(maxsize=0)(time.monotonic)]}", "HELD[1][0]()"),
    ("types.SimpleNamespace(it=iter(time.monotonic, None))", "next(HELD.it)"),
    ("[endless(time.monotonic)]", "next(HELD[0])"),
    ("closure(iter(time.monotonic, None))", "HELD()"),
    ("iter(time.monotonic, None).__next__", "HELD()"),
    ("zip(iter(time.monotonic, None))", "next(HELD)[0]"),
    ("[ctypes.CFUNCTYPE(ctypes.c_double)(time.monotonic)]", "HELD[0]()"),
    ("ValueError(time.monotonic)", "HELD.args[0]()"),
]
DATABASES = [
    ("database()", "HELD.execute('select clock()').fetchone()[0]"),
    ("[database().cursor()]", "HELD[0].execute('select clock()').fetchone()[0]"),
    ("functools.partial(database().execute, 'select clock()')", "HELD().fetchone()[0]"),
]


@functools.cache
def _verdicts() -> dict[tuple[str, str], str]:
    """Of all of them, by a process whose main module holds what is looked for."""
    cases = [*IN_C, *DATABASES]
    texts = (_CASE.format(held=held, read=read) for held, read in cases)
    command = [sys.executable, "-c", _MADE_BEFORE + _EACH, *texts]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return dict(zip(cases, ran.stdout.splitlines(), strict=True))


@pytest.mark.parametrize("case", IN_C, ids=lambda case: case[0])
def test_what_is_written_in_c_and_holds_a_clock_is_named(case: tuple[str, str]) -> None:
    """Also deep in what a module has: it reads the real clock, and a wrong claim would hold."""
    assert _verdicts()[case] == "inconclusive True"


@pytest.mark.parametrize("case", DATABASES, ids=lambda case: case[0])
def test_a_database_that_was_opened_before_is_named(case: tuple[str, str]) -> None:
    """Nobody can ask it for its functions, and it keeps what each execution writes."""
    assert _verdicts()[case] == "inconclusive True"


def test_a_database_of_the_execution_is_as_any_object() -> None:
    """It is opened within the program, so a claim about it is proved."""

    async def program(world: World) -> None:
        with contextlib.closing(sqlite3.connect(":memory:")) as db:
            assert db.execute("select 1").fetchone() == (1,)

    assert explore(program).verdict == "proved"


_HELPER = """
import itertools, random, time
HELD = iter(time.monotonic, None)
"""


def test_what_an_imported_module_of_the_program_holds_is_named(tmp_path: Path) -> None:
    """As what its own module does: a helper beside it is of the program, too."""
    (tmp_path / "helper.py").write_text(_HELPER)
    program = _MADE_BEFORE + _CASE.format(held="0", read="next(helper.HELD)")
    (tmp_path / "main.py").write_text(f"import helper\n{program}\nprint(report.reason)")
    command = [sys.executable, str(tmp_path / "main.py")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("inconclusive")
    assert "helper.HELD, a callable_iterator, holds a clock" in ran.stdout


def test_a_clock_in_a_context_variable_is_virtual_within_and_real_after() -> None:
    """It is put there for the executions, which run in a copy of this context."""
    clock: contextvars.ContextVar[Clock] = contextvars.ContextVar("clock")
    clock.set(time.monotonic)
    entropy.find_held_clocks()

    async def program(world: World) -> None:
        began = clock.get()()
        await asyncio.sleep(1_000)
        assert 1_000 <= clock.get()() - began <= 1_001

    assert explore(program, horizon_s=5_000).verdict == "proved"
    assert clock.get() is time.monotonic


def test_today_in_a_dict_is_the_day_of_the_execution() -> None:
    """A bound `date.today` shows the execution's date, and the system's after it."""
    days = {"today": date.today}
    # Nothing counts the references to a bound method: so it is looked for here.
    entropy.find_held_clocks()

    async def program(world: World) -> None:
        first = days["today"]()
        await asyncio.sleep(86_400 * 3)
        assert (days["today"]() - first).days == 3
        assert days["today"]() == datetime.datetime.now().date()

    report = explore(program, horizon_s=1e6)
    assert report.verdict == "proved", report.text
    assert days["today"] == date.today


def test_the_globals_of_a_module_that_is_not_imported_are_no_part_of_its_functions() -> None:
    """As of one that was run by `exec`: a function refers to them, and holds nothing in them."""
    kept = [iter(time.monotonic, None)]
    names: dict[str, Any] = {"__name__": "run_by_exec", "kept": kept}
    exec("def function(): return 1", names)
    assert not [each for each in where_held(kept) if each.module == "run_by_exec"]
