"""Two readings of the wall clock: equal, or one later, as on stock where both happen.

What stock never shows, no execution shows: time that seems shorter than it was, or equal readings
with a poll or another thread's turn between them.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import re
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import World, explore, outcomes
from sim.cli import main
from sim.export.sources import NotExportable
from sim.kernel.hosts.run import How
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder

Program = Callable[[], Awaitable[None]]

STOCK_RUNS = 20_000
"""In each an equal pair has a fair chance: of one in ten at least, where stock was measured."""

CLOCKS: dict[str, Callable[[], Any]] = {
    "time": lambda: time.time(),
    "datetime": lambda: datetime.datetime.now(),
    "microseconds": lambda: time.time_ns() // 1000,
    "clock_gettime": lambda: time.clock_gettime(time.CLOCK_REALTIME),
}


async def keys(clock: Callable[[], Any]) -> None:
    kept = {clock(): name for name in "abc"}
    assert len(kept) == 3


async def newer_than_the_last(clock: Callable[[], Any]) -> None:
    last = clock()
    assert clock() > last


async def a_rate(clock: Callable[[], Any]) -> None:
    begun = clock()
    passed = clock() - begun
    one = datetime.timedelta(seconds=1) if isinstance(passed, datetime.timedelta) else 1
    assert one / passed > 0


async def the_newest_last(clock: Callable[[], Any]) -> None:
    entries = [(clock(), name) for name in "zyx"]
    assert [name for _, name in sorted(entries)] == ["z", "y", "x"]


async def two_steps_of_an_iteration(clock: Callable[[], Any]) -> None:
    seen: list[Any] = []
    loop = asyncio.get_running_loop()
    for _ in range(3):
        loop.call_soon(lambda: seen.append(clock()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(set(seen)) == 3


async def all_the_same(clock: Callable[[], Any]) -> None:
    assert clock() == clock()


ABOUT_EQUAL = [keys, newer_than_the_last, a_rate, the_newest_last]


def on_stock(program: Callable[[], Awaitable[None]]) -> set[bool]:
    """Whether it held, in some runs or others."""
    seen = set()

    async def run_all() -> None:
        for _ in range(STOCK_RUNS):
            try:
                await program()
                seen.add(True)
            except (AssertionError, ZeroDivisionError):
                seen.add(False)
            if len(seen) == 2:
                return

    asyncio.run(run_all())
    return seen


def explored(program: Program, **options: Any) -> Any:
    async def main(world: World) -> None:
        await program()

    return explore(main, **options)


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
@pytest.mark.parametrize("shape", ABOUT_EQUAL, ids=lambda each: each.__name__)
def test_equal_readings_refute(shape: Any, clock: Callable[[], Any]) -> None:
    """What holds only where no two are equal does not always hold on stock, and is refuted."""
    assert False in on_stock(lambda: shape(clock))
    report = explored(lambda: shape(clock))
    assert report.verdict == "refuted", report.text
    assert report.found_by == "two readings of the clock equal"
    assert "two readings of the wall clock are equal in it" in report.reason


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS)
def test_later_readings_refute(clock: Callable[[], Any]) -> None:
    """What holds only where all are equal is refuted as well, by the search itself."""
    assert on_stock(lambda: all_the_same(clock)) == {True, False}
    report = explored(lambda: all_the_same(clock))
    assert report.verdict == "refuted", report.text
    assert "equal" not in str(report.found_by)


def test_steps_of_one_iteration_may_read_the_same() -> None:
    """Less than a microsecond lies between two callbacks that are ready together."""
    clock = CLOCKS["datetime"]
    report = explored(lambda: two_steps_of_an_iteration(clock))
    assert report.found_by == "two readings of the clock equal", report.text


_DOCUMENT = json.dumps([{str(number): [number] * 10} for number in range(2_000)])
_LONG = [*range(200_000)]
IN_C: list[Callable[[], object]] = [
    lambda: sorted(range(30_000), key=int.__neg__),
    lambda: sum(_LONG),
    lambda: json.loads(_DOCUMENT),
    lambda: re.findall("[0-9]+", _DOCUMENT),
    # None of a function.
    lambda: -1 in _LONG,
    lambda: _LONG * 2,
]


_NUMBERS = [*range(20_000)]
_TEXT = "a" * 20_000


class Store:
    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries = _NUMBERS


_STORE = Store()
_BY_NAME = {"numbers": _NUMBERS}
# Less than a millisecond each, and far more than a clock stands still.
SOONER_IN_C: list[Callable[[], object]] = [
    lambda: sum(_NUMBERS),
    lambda: sorted(_STORE.entries),
    lambda: -1 in _BY_NAME["numbers"],
    lambda: _TEXT.count("b"),
    lambda: sum(range(20_000)),
    lambda: [0] * 200_000,
    lambda: [*_NUMBERS],
    lambda: 3**20_000,
]


def _named(number: int) -> str:
    return ["sum", "slot", "element", "text", "range", "repeated", "copied", "power"][number]


@pytest.mark.parametrize("number", range(len(SOONER_IN_C)), ids=_named)
def test_how_long_it_takes_is_told_by_its_size(number: int) -> None:
    """A line that works on something large lies between no equal readings, on any machine."""
    clock, work = CLOCKS["time"], SOONER_IN_C[number]

    async def program() -> None:
        begun = clock()
        work()
        assert clock() > begun

    for _ in range(100):
        asyncio.run(program())  # type: ignore[arg-type]
    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "no two readings of the clock equal" in report.reason


async def units(clock: Callable[[], Any]) -> None:
    factor = 1_000_000
    assert int(time.time() * 1_000_000) != int(time.time() * factor)


async def few_of_many(clock: Callable[[], Any]) -> None:
    kept = {clock(): name for name in ("a" * 100, "b" * 100, sum([1, 2, 3]), sorted("xyz")[0])}
    assert len(kept) == 4


@pytest.mark.parametrize("shape", [units, few_of_many], ids=lambda each: each.__name__)
def test_small_things_take_no_time(shape: Any) -> None:
    """Calls of C on them may lie between equal readings, and a unit is no size."""
    clock = CLOCKS["time"]
    assert False in on_stock(lambda: shape(clock))
    report = explored(lambda: shape(clock))
    assert report.found_by == "two readings of the clock equal", report.text


class Freed:
    pass


@pytest.mark.parametrize("is_large", [True, False])
def test_what_is_deleted_after_two_readings_is_freed(is_large: bool) -> None:
    """Its frame keeps none of the variables that were looked at, and `locals()` what it had."""

    async def program() -> None:
        def reads() -> None:
            assert time.time() <= time.time()

        freed, number = Freed(), 5
        seen = weakref.ref(freed)
        reads()
        kept = [0] * 20_000 if is_large else [each for each in range(200)]
        del freed
        assert seen() is None
        assert kept
        own = locals()
        reads()
        kept = [0] * 20_000
        assert own["number"] == number

    asyncio.run(program())  # type: ignore[arg-type]
    assert explored(program).verdict == "proved"


@pytest.mark.parametrize("work", IN_C, ids=["sorted", "sum", "json", "re", "in", "*"])
def test_what_computes_in_c_takes_time(work: Callable[[], object]) -> None:
    """It runs no lines, and on stock no reading after it is equal to one before."""
    clock = CLOCKS["time"]

    async def program() -> None:
        begun = clock()
        work()
        assert clock() > begun

    for _ in range(3):
        asyncio.run(program())  # type: ignore[arg-type]
    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "no two readings of the clock equal" in report.reason


async def sleeps_and_reads(clock: Callable[[], float], unit: float) -> None:
    for delay in (0.1, 0.0123456, 0.001):
        before = [clock() for _ in range(3)]
        await asyncio.sleep(delay)
        after = [clock() for _ in range(3)]
        assert before == sorted(before)
        assert after == sorted(after)
        # To the microsecond where the clock shows no more.
        assert after[0] - before[-1] >= (delay if unit == 1 else int(delay * unit))


async def numbers_of_nanoseconds() -> None:
    assert len({time.time_ns() for _ in range(100)}) == 100


async def other_clocks() -> None:
    for clock in (time.monotonic_ns, time.perf_counter_ns, time.monotonic, time.perf_counter):
        time.time()
        assert clock() < clock()
        time.time()


async def polls_between() -> None:
    seen = []
    for _ in range(10):
        seen += [time.time()]
        await asyncio.sleep(0)
    assert len(set(seen)) == 10
    assert time.time() <= time.time()


async def a_thread_between() -> None:
    seen = [time.time(), time.time()]
    thread = threading.Thread(target=lambda: seen.append(time.time()))
    thread.start()
    thread.join()
    seen.append(time.time())
    assert seen[0] <= seen[1] < seen[2] < seen[3]


async def waits_in_a_step() -> None:
    begun = time.time()
    while time.time() == begun:
        pass
    assert time.time() > begun


ON_STOCK: dict[str, Program] = {
    "sleeps": lambda: sleeps_and_reads(time.time, 1),
    "sleeps, datetime": lambda: sleeps_and_reads(lambda: datetime.datetime.now().timestamp(), 1),
    "sleeps, nanoseconds": lambda: sleeps_and_reads(time.time_ns, 1e9),
    "nanoseconds": numbers_of_nanoseconds,
    "other clocks": other_clocks,
    "polls": polls_between,
    "a thread": a_thread_between,
    "a busy step": waits_in_a_step,
}


@pytest.mark.socket
@pytest.mark.parametrize("program", ON_STOCK.values(), ids=ON_STOCK)
def test_equal_readings_hide_no_time(program: Program) -> None:
    """What stock guarantees is proved, and executions with equal readings have looked at it."""
    asyncio.run(program())  # type: ignore[arg-type]
    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "with no two readings of the clock equal (" in report.claim
    assert "equal_readings" in report.bounds_hit


def test_a_program_that_reads_no_clock_twice_is_not_looked_at() -> None:
    """Its claim is what it was."""

    async def program() -> None:
        begun = time.time()
        await asyncio.sleep(1)
        assert time.time() - begun >= 1

    report = explored(program)
    assert report.verdict == "proved", report.text
    assert "readings" not in report.reason


@pytest.mark.parametrize("strategy", ["staged", "states", "depth-first", "departures"])
def test_what_is_equal_is_not_the_searchs_own(strategy: str) -> None:
    """The executions beside it change neither how many it has nor whether it proves."""

    async def program() -> None:
        assert time.time() <= time.time()

    report = explored(program, strategy=strategy)
    assert report.verdict == "proved", report.text
    assert report.executions == 1


async def keys_are_unique(world: World) -> None:
    world.check(time.time() != time.time(), "keys are unique")


def test_a_schedule_has_its_equal_readings() -> None:
    """It is replayed by its text, with the same readings; the file cannot show them."""
    report = explore(keys_are_unique)
    found = report.counterexample
    assert found is not None, report.text
    assert "equal_readings=1" in found.schedule
    replayed = found.replay(keys_are_unique)
    assert replayed.violation is not None
    with pytest.raises(NotExportable, match="two readings of the clock are equal"):
        found.export(keys_are_unique)


def test_equal_readings_are_found_with_forks() -> None:
    """An exploration in forks looks at them, too."""
    report = explore(keys_are_unique, isolate=True)
    assert report.found_by == "two readings of the clock equal", report.text


def test_a_process_of_a_host_has_equal_readings() -> None:
    """Its clock is its own, and read twice in a row it mostly shows the same as well."""

    async def process() -> None:
        assert time.time() != time.time()

    async def program(world: World) -> None:
        ended = await world.host("a").run(process).ended()
        world.check(ended.how is How.RETURNED, "the process finds no fault")

    report = explore(program)
    assert report.found_by == "two readings of the clock equal", report.text


def test_some_of_the_readings_are_equal_in_other_executions() -> None:
    """Not all or none: two that are equal, and a later one, come in some."""
    shapes = set()

    async def program(world: World) -> None:
        a, b, c = (time.time() for _ in range(3))
        shapes.add((a == b, b == c))

    for which in range(9):
        list(outcomes(program, NaturalOrder(), bounds=Bounds(equal_readings=which)))
    assert shapes == {(True, True), (True, False), (False, True), (False, False)}


KEYS = """
import time

async def main(world):
    await world.outside("one")
    await world.outside("other")
    world.check(time.time() != time.time(), "keys are unique")
"""

CHAIN = """
import asyncio

async def main(world):
    log = []

    async def actor(name, *delays):
        for delay in delays:
            await asyncio.sleep(delay)
        log.append(name)

    await asyncio.gather(actor("chain", 0.1, 0.1), actor("one", 0.2))
    world.check(log[0] == "one", "the single sleep ends first")
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize(
    ("source", "found_by"), [(KEYS, "two readings of the clock equal"), (CHAIN, "timers apart")]
)
def test_several_jobs_look_beside_the_search(
    tmp_path: Any, capsys: pytest.CaptureFixture[str], source: str, found_by: str, jobs: str
) -> None:
    """Readings that are equal and timers apart are looked at as with one job."""
    # Each is a module of its own.
    file = tmp_path / f"{found_by.replace(' ', '_')}_{jobs}.py"
    file.write_text(source)
    options = ("--jobs", jobs, "--strategy", "depth-first", "--quiet")
    assert main(["explore", f"{file}:main", *options]) == 1
    assert f"found by {found_by}" in capsys.readouterr().out


async def a_rate_of_much() -> None:
    """What lies between takes some ten microseconds, on the fastest machine too."""
    begun = time.time()
    done = 0
    for _ in range(1_000):
        done += 1
    assert done / (time.time() - begun) > 0


async def a_rate_of_calls() -> None:
    def count(number: int) -> int:
        return count(number - 1) + 1 if number else 0

    begun = datetime.datetime.now()
    done = count(300)
    assert done / (datetime.datetime.now() - begun).total_seconds() > 0


@pytest.mark.parametrize("program", [a_rate_of_much, a_rate_of_calls])
def test_readings_with_much_between_are_never_equal(program: Program) -> None:
    """Stock Python needs longer for 100 lines than its clock stands still."""
    assert on_stock(program) == {True}
    report = explored(program)
    assert report.verdict == "proved", report.text


def test_readings_with_little_between_are_equal_after_much() -> None:
    """Only what lies between two of them counts."""

    async def program() -> None:
        await a_rate_of_much()
        assert time.time() != time.time()

    assert explored(program).found_by == "two readings of the clock equal"
