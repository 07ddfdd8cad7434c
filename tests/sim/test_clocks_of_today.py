"""Programs in which it matters what the clocks show at the beginning get those of today."""

from __future__ import annotations

import asyncio
import datetime
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pytest

from sim import World, explore
from sim.exploration import clocks_of_today
from sim.exploration.clocks_of_today import of_today
from sim.kernel.execution import run_execution
from sim.kernel.guards import guarded
from sim.kernel.schedule import CLOCK_MAX_S, Bounds, Schedule
from sim.schedulers import NaturalOrder

IMPORTED_AT = time.monotonic()
IMPORTED_ON = datetime.datetime.now()

Program = Callable[[World], Awaitable[None]]


async def up_for_less_than(world: World) -> None:
    await asyncio.sleep(0.3)
    assert time.monotonic() - IMPORTED_AT < 0.2


async def up_for_no_time(world: World) -> None:
    assert time.monotonic() - IMPORTED_AT >= 0
    assert datetime.datetime.now() >= IMPORTED_ON


async def fetched_once(world: World) -> None:
    last, calls = 0.0, 0

    async def token() -> None:
        nonlocal last, calls
        if time.monotonic() - last > 30:
            calls += 1
            await asyncio.sleep(0.01)
            last = time.monotonic()

    await asyncio.gather(token(), token())
    assert calls <= 1


async def long_ago(world: World) -> None:
    assert datetime.date.today() < datetime.date(2025, 12, 31)


async def this_century(world: World) -> None:
    assert datetime.date.today().year >= 2024
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    loop.call_at(time.monotonic() + 0.01, done.set_result, None)
    await done
    assert loop.time() > 1


FAILS = [up_for_less_than, fetched_once, long_ago]
HOLDS = [up_for_no_time, this_century]


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("program", [*FAILS, *HOLDS])
def test_the_verdict_is_that_of_stock_python(program: Program, isolate: bool) -> None:
    """What compares a reading with an earlier real one, with 0 or a year, is refuted and proved."""
    report = explore(program, isolate=isolate)
    assert report.verdict == ("refuted" if program in FAILS else "proved"), report.text
    if report.counterexample is not None:
        bounds = Schedule.parse(report.counterexample.schedule).bounds
        assert bounds.clock_s >= IMPORTED_AT
        assert bounds.wall_s > Bounds.wall_s
        assert report.counterexample.replay(program).violation is not None


@pytest.mark.parametrize("program", [*FAILS, *HOLDS])
def test_stock_python_says_so(program: Program) -> None:
    """The same programs without the simulator."""
    ends: AbstractContextManager[Any] = (
        pytest.raises(AssertionError) if program in FAILS else nullcontext()
    )
    with ends:
        # None of them asks the world for anything.
        asyncio.run(program(cast(World, None)))  # type: ignore[arg-type]


def test_who_reads_a_clock_after_a_departure_is_looked_at_as_well() -> None:
    """Natural order reads none: executions beside the search have the clocks of today."""

    async def program(world: World) -> None:
        if world.choose("it is late", [False, True]):
            world.check(time.monotonic() - 0.0 < 30, "it was never asked")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "found by the clocks of today" in report.text
    assert report.counterexample is not None
    assert report.counterexample.replay(program).violation is not None


def test_what_is_violated_on_the_first_clocks_alone_says_so() -> None:
    """A machine may have begun a second ago; which the refutation tells."""

    async def program(world: World) -> None:
        if world.choose("it is late", [False, True]):
            world.check(time.monotonic() > 30, "it runs for long")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "with those of today this schedule violates nothing" in " ".join(report.text.split())


def test_a_proof_tells_how_many_had_them() -> None:
    """And of a program that reads no clock it says nothing."""

    async def reads(world: World) -> None:
        await world.outside("it comes", latest=1.0)
        assert time.monotonic() >= 0

    async def does_not(world: World) -> None:
        await world.outside("it comes", latest=1.0)

    assert "with clocks that begin in 2020 (" in explore(reads).reason
    assert "clocks" not in explore(does_not).reason


def test_most_programs_have_the_same_clocks_on_every_day() -> None:
    """Who only waits, counts what passed and dates what it writes, has the schedules it had."""

    async def program(world: World) -> None:
        begun = time.monotonic()
        await world.outside("it comes", latest=1.0)
        async with asyncio.timeout(5):
            await asyncio.sleep(0.1 + 0.2)
        assert time.monotonic() - begun < 2
        world.check(False, "it holds")

    report = explore(program)
    assert report.counterexample is not None
    assert "clock_s" not in report.counterexample.schedule


def test_what_a_counterexample_tells_counts_from_the_beginning() -> None:
    """Its rows, its departures and the violation, with the clocks of today too."""

    async def program(world: World) -> None:
        assert time.monotonic() > 60
        host = world.host("other", clock_offset_s=5.0, clock_rate=1.01)

        async def main() -> None:
            await asyncio.sleep(1.0)

        host.run(main)
        await world.outside("it comes", earliest=2.0, latest=2.0)
        await asyncio.sleep(1.0)
        world.check(False, "it holds", f"{world.now:.3f}")

    found = explore(program).counterexample
    assert found is not None
    assert "clock_s=" in found.schedule
    assert "violated at 3.000 s" in found.text
    assert "seen: 3.000" in found.text
    times = re.findall(r"^ *(\d+\.\d{3}) ", found.text, re.MULTILINE)
    assert times
    assert all(float(each) <= 3.1 for each in times)


def test_the_horizon_counts_from_the_beginning() -> None:
    """A program that waits for longer than that is refuted, and one that waits for less is not."""

    async def waits(world: World) -> None:
        assert time.monotonic() > 60
        await asyncio.sleep(59)

    assert explore(waits, horizon_s=60).verdict == "proved"
    assert "not within horizon_s=50" in explore(waits, horizon_s=50).text


def test_an_exported_file_has_them() -> None:
    """The clocks of the schedule are those of the file, whenever it is run."""
    report = explore(long_ago)
    assert report.counterexample is not None
    schedule = Schedule.parse(report.counterexample.schedule)
    text = report.counterexample.export(long_ago)
    assert f"wall_s={schedule.bounds.wall_s!r}" in text


def test_a_machine_that_runs_for_long_keeps_the_first_clocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """So far from 0 two readings could not be told apart."""
    monkeypatch.setattr(clocks_of_today, "_real_monotonic", lambda: CLOCK_MAX_S)
    assert of_today(Bounds()) is None


def test_a_clock_far_from_zero_still_shows_more_at_each_reading() -> None:
    """Up to the largest that is allowed, and timers still fire."""

    async def program(world: World) -> None:
        one, other = time.monotonic(), time.monotonic()
        assert one < other
        await asyncio.sleep(0.001)
        assert time.monotonic() - other >= 0.001

    with guarded():
        bounds = Bounds(clock_s=CLOCK_MAX_S)
        scheduler = NaturalOrder()
        scheduler.next_execution()
        outcome = run_execution(program, scheduler, bounds)
    assert outcome.violation is None
    assert outcome.error is None
