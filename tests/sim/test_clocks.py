"""Programs about clocks: what holds of them on stock asyncio is proved, on every clock there is."""

from __future__ import annotations

import asyncio
import copy
import datetime
import email.utils
import http.cookiejar
import logging
import os
import pickle
import resource
import sched
import time
import timeit
import uuid
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC
from typing import Any

import pytest

from sim import World, explore
from sim.schedulers import StateMatching

Program = Callable[[], Awaitable[None]]

MOVING: dict[str, Callable[[], float]] = {
    "time": lambda: time.time(),
    "monotonic": lambda: time.monotonic(),
    "perf_counter": lambda: time.perf_counter(),
    "loop.time": lambda: asyncio.get_running_loop().time(),
    "clock_gettime, real": lambda: time.clock_gettime(time.CLOCK_REALTIME),
    "clock_gettime, monotonic": lambda: time.clock_gettime(time.CLOCK_MONOTONIC),
    "os.times": lambda: os.times().elapsed,
    "timeit": lambda: timeit.default_timer(),
    "log record": lambda: logging.makeLogRecord({}).created,
}
"""In seconds, as floats."""

EXACT: dict[str, Callable[[], int]] = {
    "time_ns": lambda: time.time_ns(),
    "monotonic_ns": lambda: time.monotonic_ns(),
    "perf_counter_ns": lambda: time.perf_counter_ns(),
    "clock_gettime_ns": lambda: time.clock_gettime_ns(time.CLOCK_REALTIME),
    "datetime": lambda: _in_ns(datetime.datetime.now()),
    "datetime, utc": lambda: _in_ns(datetime.datetime.now(datetime.UTC)),
    "uuid1": lambda: uuid.uuid1().time * 100,
}
"""In nanoseconds."""


def _in_ns(moment: datetime.datetime) -> int:
    begin = datetime.datetime(1970, 1, 1, tzinfo=moment.tzinfo)
    return (moment - begin) // datetime.timedelta(microseconds=1) * 1000


DELAYS_S = (0.01, 0.001, 0.0123456, 0.003)


def sleeps_that_take_their_time(clock: Callable[[], float], unit: float) -> Program:
    async def program() -> None:
        begun = clock()
        for delay in DELAYS_S:
            before = clock()
            await asyncio.sleep(delay)
            passed = clock() - before
            assert passed >= int(delay * unit) if unit > 1 else passed >= delay, (passed, delay)
        assert clock() - begun >= int(sum(DELAYS_S) * unit)

    return program


def steps_at_other_moments(clock: Callable[[], float], unit: float) -> Program:
    async def program() -> None:
        seen = []
        for _ in range(20):
            seen.append(clock())
            await asyncio.sleep(0)
        assert sorted(set(seen)) == seen

    return program


def on_both(program: Program, **options: Any) -> None:
    """It holds on stock asyncio, so it is proved."""
    asyncio.run(program())  # type: ignore[arg-type]

    async def explored(world: World) -> None:
        await program()

    report = explore(explored, **options)
    assert report.verdict == "proved", report.text


CLOCKS = [
    *(pytest.param(clock, 1.0, id=name) for name, clock in MOVING.items()),
    *(pytest.param(clock, 1e9, id=name) for name, clock in EXACT.items()),
]


# `os.times` counts in hundredths.
@pytest.mark.socket
@pytest.mark.parametrize(("clock", "unit"), [each for each in CLOCKS if each.id != "os.times"])
@pytest.mark.parametrize("shape", [sleeps_that_take_their_time, steps_at_other_moments])
def test_a_clock_is_as_on_stock(
    shape: Callable[..., Program], clock: Callable[[], float], unit: float
) -> None:
    """A sleep takes no less than its time, alone and with others; no two steps read the same."""
    on_both(shape(clock, unit))


async def rates() -> None:
    begun = time.perf_counter()
    work = sum(range(10))
    assert work / (time.perf_counter() - begun) > 0


async def keys_of_nanoseconds() -> None:
    keys = [time.monotonic_ns() for _ in range(100)]
    assert len(set(keys)) == 100


async def a_thread_that_sleeps() -> None:
    def work() -> float:
        begun = time.time()
        time.sleep(0.01)
        return time.time() - begun

    assert await asyncio.to_thread(work) >= 0.01


async def a_deadline_of_the_wall_clock() -> None:
    end = time.time() + 0.02
    rounds = 0
    while (left := end - time.time()) > 0:
        rounds += 1
        await asyncio.sleep(left)
    assert time.time() >= end
    assert rounds < 10


async def a_timeout() -> None:
    begun = datetime.datetime.now()
    try:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    except TimeoutError:
        assert datetime.datetime.now() - begun >= datetime.timedelta(seconds=0.01)
    else:
        raise AssertionError


async def clocks_of_one_time() -> None:
    one, other = time.monotonic(), time.clock_gettime(time.CLOCK_MONOTONIC)
    assert one <= other < one + 5
    wall = time.time()
    assert abs(time.clock_gettime(time.CLOCK_REALTIME) - wall) < 5
    assert abs(email.utils.localtime().timestamp() - wall) < 5
    parsed = email.utils.parsedate_to_datetime(email.utils.formatdate(wall))
    assert abs(parsed.timestamp() - wall) < 5
    written = http.cookiejar.time2isoz()
    assert abs(datetime.datetime.fromisoformat(written).timestamp() - wall) < 5
    assert abs(time.mktime(time.strptime(time.ctime())) - wall) < 5


async def the_processor_rests() -> None:
    def worked() -> list[float]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        times = os.times()
        numbered = time.clock_gettime(time.CLOCK_PROCESS_CPUTIME_ID)
        return [usage.ru_utime, times.user, numbered, time.process_time(), time.thread_time()]

    before = worked()
    await asyncio.sleep(0.5)
    assert max(b - a for a, b in zip(before, worked(), strict=True)) < 0.4


async def a_scheduler_of_the_standard_library() -> None:
    begun = time.monotonic()
    done: list[float] = []
    scheduler = sched.scheduler()
    for delay in (0.02, 0.01):
        scheduler.enter(delay, 1, lambda: done.append(time.monotonic() - begun))
    await asyncio.to_thread(scheduler.run)
    assert done[0] >= 0.01
    assert done[1] >= 0.02


async def a_stopwatch() -> None:
    watch = timeit.Timer("pass")
    assert watch.timeit(3) > 0


PROGRAMS = [
    rates,
    keys_of_nanoseconds,
    a_thread_that_sleeps,
    a_deadline_of_the_wall_clock,
    a_timeout,
    clocks_of_one_time,
    the_processor_rests,
    a_scheduler_of_the_standard_library,
    a_stopwatch,
]


@pytest.mark.socket
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_a_program_is_judged_as_on_stock(program: Program) -> None:
    """What holds there is proved."""
    on_both(program)


@pytest.mark.parametrize("call", ["clock_settime", "clock_gettime"])
def test_a_clock_that_is_none_of_an_execution_is_refused(call: str) -> None:
    """The machine's clock is not set, and one of another process not read."""

    async def program(world: World) -> None:
        # A number that no clock has: on stock it fails for everybody.
        getattr(time, call)(*((77, 0.0) if call == "clock_settime" else (77,)))

    report = explore(program)
    assert report.verdict == "error", report.text
    assert f"time.{call}" in report.reason
    assert "test_clocks.py" in report.reason


@pytest.mark.parametrize("stamp", [time.time, datetime.datetime.now], ids=["time", "datetime"])
def test_stamps_do_not_keep_states_apart(stamp: Callable[[], Any]) -> None:
    """How often the clock was read before is no part of a state; which stamp is older is one."""

    def program(reads: bool, keeps: bool) -> Callable[[World], Awaitable[None]]:
        async def main(world: World) -> None:
            stamps: dict[str, Any] = dict.fromkeys("abc")

            async def actor(name: str) -> None:
                await world.outside(name, latest=0)
                now = _read(stamp)
                if name == "a" and reads:
                    for _ in range(5):
                        _read(stamp)
                if keeps:
                    stamps[name] = now

            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(actor(name))
            await world.outside("then", latest=0)
            await world.outside("last", latest=0)
            if keeps:
                world.reached(min(stamps, key=lambda name: stamps[name]))

        return main

    labels = ["a", "b", "c"]

    def executions(reads: bool, keeps: bool) -> int:
        report = explore(program(reads, keeps), strategy="states", labels=labels if keeps else [])
        assert report.verdict == "proved", report.text
        return report.executions

    assert executions(reads=False, keeps=False) == executions(reads=True, keeps=False)
    assert executions(reads=False, keeps=True) == executions(reads=True, keeps=True)


def _read(stamp: Callable[[], Any]) -> Any:
    return time.time() if stamp.__name__ == "time" else datetime.datetime.now()


def test_dates_are_virtual_however_they_are_found_and_of_their_own_type() -> None:
    """By an import in a function as well; a subclass's, too; and a table by type finds them."""

    class Own(datetime.datetime):
        pass

    async def program(world: World) -> None:
        import datetime as module
        from datetime import date
        from datetime import datetime as inner

        began = inner.now(UTC)
        await asyncio.sleep(2)
        for kind in (inner, module.datetime, datetime.datetime, Own):
            shown = kind.now(UTC)
            assert 2 <= (shown - began).total_seconds() < 3
            assert type(shown) is kind
        assert {inner: "a date"}[type(inner.now(UTC))] == "a date"
        assert date.today() == inner.today().date() == date.fromtimestamp(time.time())
        assert pickle.loads(pickle.dumps(began)) == copy.deepcopy(began) == began

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert datetime.datetime.now(UTC).year > 2020


async def stamped_in_order(stamp: Callable[[], Any], which: int) -> tuple[Any, Any]:
    """Two stamps of two instants less than a millisecond apart, the later one first if asked."""
    earlier = _read(stamp)
    await asyncio.sleep(0.0002)
    later = _read(stamp)
    return (later, earlier) if which else (earlier, later)


async def times(which: int) -> Any:
    return await stamped_in_order(time.time, which)


async def dates(which: int) -> Any:
    return await stamped_in_order(datetime.datetime.now, which)


async def nanoseconds(which: int) -> Any:
    earlier = time.time_ns()
    await asyncio.sleep(0.0002)
    later = time.time_ns()
    return (later, earlier) if which else (earlier, later)


async def deadlines(which: int) -> Any:
    return time.time() + 5.0 + 0.0001 * which


async def written_out(which: int) -> Any:
    return 1_577_836_900.0002 + 0.0002 * which


async def numbers_of_that_size(which: int) -> Any:
    return 1_577_836_900_000_000_000 + which


@pytest.mark.parametrize(
    "held", [times, dates, nanoseconds, deadlines, written_out, numbers_of_that_size]
)
def test_what_is_less_than_a_millisecond_apart_is_told_apart(
    held: Callable[[int], Awaitable[Any]],
) -> None:
    """States that differ in stamps of two instants, or in a number of their size, never meet."""

    async def program(world: World) -> None:
        kept = [await held(world.choose("which", (0, 1)))]
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "ab"))
        world.reached(str(kept))

    search = StateMatching()
    report = explore(program, strategy=search)
    assert report.verdict == "proved", report.text
    assert search.opaque == set()
    assert search.met_again == 0
    assert len(report.labels) == 2


@pytest.mark.parametrize("held", [pytest.param(True, marks=pytest.mark.thorough), False])
def test_a_clock_that_is_milliseconds_ahead_is_told_apart(held: bool) -> None:
    """It was read a thousand times, and what it has shown, or will show, tells of that."""

    async def program(world: World) -> None:
        reads = world.choose("reads", (0, 40))
        for _ in range(28):
            deque((time.time() for _ in range(reads)), maxlen=0)
            await asyncio.sleep(0.1)
        del reads
        shown = time.time() if held else 0.0
        await asyncio.sleep(0.1)
        await asyncio.gather(*(world.outside(name, latest=0.0) for name in "ab"))
        passed_s = (shown or time.time()) - world.loop.bounds.wall_s
        world.reached("ahead" if 1000 < round(passed_s * 1e6) % 100_000 < 90_000 else "on time")

    search = StateMatching()
    report = explore(program, strategy=search)
    assert report.verdict == "proved", report.text
    assert search.opaque == set()
    assert report.labels == {"ahead", "on time"}
