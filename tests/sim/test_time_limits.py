"""Time limits that a program computes from a clock, without a timer: they end between two steps."""

from __future__ import annotations

import asyncio
import copy
import datetime
import fractions
import json
import logging
import math
import pickle
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sim import World, explore
from sim.exploration import time_limits
from sim.export.file import NotExportable
from sim.kernel import forks, learned_limits
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.learned_limits import learning
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder

monotonic = time.monotonic


class Cache:
    """Entries that expire, as cachetools.TTLCache has them."""

    def __init__(self, ttl: float, clock: Callable[[], float]) -> None:
        self._ttl, self._clock = ttl, clock
        self._entries: dict[str, tuple[int, float]] = {}

    def __setitem__(self, key: str, value: int) -> None:
        self._entries[key] = value, self._clock() + self._ttl

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __getitem__(self, key: str) -> int:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def get(self, key: str) -> int | None:
        value, expires = self._entries[key]
        return value if self._clock() < expires else None


def cached(clock: Callable[[], Any], *, looks_twice: bool, nap_s: float | None) -> Program:
    async def program(world: World) -> None:
        cache = Cache(1.0, clock or asyncio.get_running_loop().time)
        cache["key"] = 1
        await world.outside("a request comes", latest=5.0)
        value = cache.get("key")
        if value is None:
            return
        if nap_s is not None:
            await asyncio.sleep(nap_s)
        world.check((cache["key"] if looks_twice else value) == 1, "what is cached is returned")

    return program


async def cached_over_a_sleep(world: World) -> None:
    await cached(monotonic, looks_twice=True, nap_s=0.3)(world)


async def cached_within_a_step(world: World) -> None:
    await cached(monotonic, looks_twice=True, nap_s=None)(world)


def bucket(*, reads_twice: bool) -> Program:
    """Who is refused is told how long to wait, by a token bucket of two a second."""

    async def program(world: World) -> None:
        tokens, last = 0.0, monotonic()

        def tokens_at(now: float) -> float:
            return min(3.0, tokens + (now - last) * 2)

        await world.outside("a request comes")
        now = monotonic()
        if tokens_at(now) < 1:
            if reads_twice:
                now = monotonic()
            world.check((1 - tokens_at(now)) / 2 > 0, "there is something to wait for")

    return program


def sessions(*, keeps: bool) -> Program:
    """A table whose old rows are pruned at each request, by the wall clock."""

    async def program(world: World) -> None:
        table: dict[str, datetime.datetime] = {"a": datetime.datetime.now()}

        def prune() -> None:
            oldest = datetime.datetime.now() - datetime.timedelta(minutes=5)
            for name in [name for name, seen in table.items() if seen < oldest]:
                del table[name]

        async def of_a() -> None:
            await world.outside("a comes back", latest=500)
            prune()
            if "a" in table:
                session = table["a"]
                await world.outside("the password is checked", latest=0.5)
                world.check((keeps and session is not None) or "a" in table, "a has its session")

        async def of_b() -> None:
            await world.outside("b comes", latest=500)
            prune()
            table["b"] = datetime.datetime.now()

        await asyncio.gather(of_a(), of_b())

    return program


def recent(*, asks_again: bool) -> Program:
    """An LRU with expiry, which forgets what is old whenever it is asked."""

    async def program(world: World) -> None:
        entries: OrderedDict[str, int] = OrderedDict(key=time.monotonic_ns())

        def forget() -> None:
            for key, made in [*entries.items()]:
                if time.monotonic_ns() - made > 250_000_000:
                    del entries[key]

        def has(key: str) -> bool:
            forget()
            return key in entries

        await world.outside("a request comes", earliest=0.1, latest=2.0)
        if has("key"):
            await asyncio.sleep(0)
            if not asks_again or has("key"):
                forget()
                if asks_again and "key" not in entries:
                    return
                entries.move_to_end("key")

    return program


def limiter(*, in_one_step: bool) -> Program:
    """A window of one call in ten seconds, counted from whole multiples of the wall clock."""

    async def program(world: World) -> None:
        admitted: list[int] = []
        counted: dict[int, int] = {}

        async def call(name: str) -> None:
            await world.outside(f"{name} calls", latest=60)
            window = int(time.time() // 10)
            if counted.get(window, 0):
                return
            if in_one_step:
                counted[window] = 1
                admitted.append(window)
                return
            now = int(time.time() // 10)
            counted[now] = 1
            admitted.append(window)
            world.check(window == now, "a call counts in its own window")

        await asyncio.gather(call("a"), call("b"))
        world.check(len(set(admitted)) == len(admitted), "a window has one call")

    return program


def breaker(*, is_asked_twice: bool) -> Program:
    """After a failure the circuit is open for 30 s; the page says so, and until when."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        opened_at = loop.time()

        def left() -> float:
            return 30 - (loop.time() - opened_at)

        await world.outside("somebody looks at the page", latest=100)
        seconds = left()
        if seconds > 0:
            await world.outside("the page is rendered", latest=0)
            seconds = left() if is_asked_twice else seconds
            world.check(seconds > 0, "an open circuit has time left")

    return program


BROKEN = {
    "a cache, between two steps": cached(monotonic, looks_twice=True, nap_s=0),
    "a cache, within a step": cached_within_a_step,
    "a cache, over a sleep": cached_over_a_sleep,
    "a cache by the loop's clock": cached(None, looks_twice=True, nap_s=0),  # type: ignore[arg-type]
    "a token bucket": bucket(reads_twice=True),
    "a table that is pruned": sessions(keeps=False),
    "an LRU with expiry": recent(asks_again=False),
    "a rate limiter": limiter(in_one_step=False),
    "a circuit breaker": breaker(is_asked_twice=True),
}
MENDED = {
    "a cache, between two steps": cached(monotonic, looks_twice=False, nap_s=0),
    "a cache by the loop's clock": cached(None, looks_twice=False, nap_s=0),  # type: ignore[arg-type]
    "a token bucket": bucket(reads_twice=False),
    "a table that is pruned": sessions(keeps=True),
    "an LRU with expiry": recent(asks_again=True),
    "a rate limiter": limiter(in_one_step=True),
    "a circuit breaker": breaker(is_asked_twice=False),
}


@pytest.mark.parametrize("program", BROKEN.values(), ids=BROKEN)
def test_what_relies_on_an_earlier_reading_is_refuted(program: Program) -> None:
    """The limit ends between two readings, where no timer ends; a replay shows it again."""
    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert report.found_by == "a time limit that ends", report.text
    assert report.counterexample is not None
    assert "time_limits=" in report.counterexample.schedule
    assert report.counterexample.replay(program).violation is not None


@pytest.mark.parametrize("program", MENDED.values(), ids=MENDED)
def test_what_relies_on_one_reading_is_proved(program: Program) -> None:
    """And the claim says that some executions had other instants than those of the model."""
    report = explore(program)
    assert report.verdict == "proved", report.text
    assert "with outside events at the instants of the model (" in report.claim


@pytest.mark.parametrize("strategy", ["states", "depth-first", "departures"])
def test_a_time_limit_is_looked_at_beside_each_search(strategy: str) -> None:
    """Any strategy that would prove looks around the ends of time limits first."""
    report = explore(BROKEN["a cache, between two steps"], strategy=strategy)
    assert report.verdict == "refuted", report.text
    report = explore(MENDED["a cache, between two steps"], strategy=strategy)
    assert report.verdict == "proved", report.text


@pytest.mark.skipif(not forks.are_possible(), reason="this system cannot fork")
def test_time_limits_are_learned_in_forks() -> None:
    """What an execution in a process of its own has learned comes back with its outcome."""
    report = explore(cached_over_a_sleep, isolate=True, strategy="depth-first")
    assert report.verdict == "refuted", report.text


def test_an_event_at_another_instant_is_exported(tmp_path: Path) -> None:
    """Where an event lands is up to a selector; how long a step takes is up to none."""
    found = explore(cached_over_a_sleep).counterexample
    assert found is not None
    assert "nothing happens until 0.700 s, around the end of a time limit" in found.text
    file = tmp_path / "test_it.py"
    file.write_text(found.export(cached_over_a_sleep), encoding="utf-8")
    run = subprocess.run([sys.executable, "-I", file], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stdout + run.stderr
    found = explore(cached_within_a_step).counterexample
    assert found is not None
    assert "a step takes until a time limit ends, at 1.000 s, and reads a clock" in found.text
    with pytest.raises(NotExportable, match="a step takes until a time limit ends"):
        found.export(cached_within_a_step)


async def waits_for_timers(world: World) -> None:
    """It reads no clock, though asyncio does for its timers."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1.0):
            await world.outside("it comes", latest=2.0)
    await asyncio.wait([asyncio.create_task(asyncio.sleep(0.1))], timeout=0.2)


async def writes_a_log(world: World) -> None:
    """Its clock is read for the lines of a log alone."""
    await world.outside("it comes", latest=2.0)
    logging.getLogger("of a program").warning("it came")


async def measures(world: World) -> None:
    """It compares no reading with anything."""
    began = monotonic()
    await world.outside("it comes", latest=2.0)
    world.reached(f"{monotonic() - began > -1}")


def test_a_program_without_a_clock_has_no_such_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only asyncio reads a clock, none is run to learn of time limits."""

    def learned(*_: object) -> Any:
        raise AssertionError("an execution was run to learn of time limits")

    monkeypatch.setattr(time_limits, "learned", learned)
    report = explore(waits_for_timers)
    assert report.verdict == "proved", report.text
    with pytest.raises(AssertionError, match="to learn of time limits"):
        explore(measures)


@pytest.mark.parametrize("program", [writes_a_log, measures])
def test_a_clock_on_which_nothing_hangs_is_no_time_limit(program: Program) -> None:
    """What is written into a log, or never compared with a time that could come, is none."""
    report = explore(program)
    assert report.verdict == "proved", report.text
    assert "outside events" not in report.claim


async def sleeps_towards_the_horizon(world: World) -> None:
    began = monotonic()
    await world.outside("the first comes")
    world.check(monotonic() - began < 700, "the first comes in time")
    if monotonic() - began < 590:
        await asyncio.sleep(30)


def test_what_is_kept_waiting_is_no_endless_program() -> None:
    """A program that would end beyond the horizon, for what was kept waiting so long, is proved."""
    report = explore(sleeps_towards_the_horizon)
    assert report.verdict == "proved", report.text
    assert "with outside events at the instants of the model (" in report.claim


async def measures_each_call(world: World) -> None:
    began = monotonic()
    for _ in range(4):
        called = monotonic()
        world.reached(f"{monotonic() - called > 0.008}")
    world.check(monotonic() - began < 0.015, "a step takes no longer than lateness_s")


def test_a_step_takes_no_longer_than_its_lateness() -> None:
    """However often it reads a clock: the limits that end in it are not added up."""
    report = explore(measures_each_call)
    assert report.verdict == "proved", report.text
    assert "with outside events at the instants of the model (" in report.claim


LEARNED: dict[str, tuple[Callable[[], object], list[float]]] = {
    "a deadline": (lambda: monotonic() + 2.5, [2.5]),
    "an age": (lambda: age() > 7, [7.0]),
    "an age that is never so small": (lambda: age() > -7, []),
    "a limit in ns": (lambda: age(time.monotonic_ns) > 3 * 10**9, [3.0]),
    "a limit in whole ms": (lambda: age(milliseconds) > 5_000, [5.0]),
    "minutes": (lambda: age() / 60 >= 2, [120.0]),
    "tokens": (lambda: min(8.0, 1.0 + age() * 2), [3.5]),
    "a window": (lambda: time.time() // 60, [60.0]),
    "whole seconds": (lambda: int(time.time()), [1.0]),
    "dates": (lambda: datetime.datetime.now() + datetime.timedelta(minutes=1), [60.0]),
    "an age of dates": (
        lambda: age(datetime.datetime.now) > datetime.timedelta(hours=1),
        [3600.0],
    ),
    "seconds of dates": (lambda: age(datetime.datetime.now).total_seconds() > 90, [90.0]),
    "a stamp": (lambda: datetime.datetime.now(datetime.UTC).timestamp() + 5, [5.0]),
    "less than a step takes": (lambda: monotonic() + 1e-6, []),
    "the loop's": (lambda: asyncio.get_running_loop().time() + 4, [4.0]),
}


def milliseconds() -> int:
    return time.time_ns() // 10**6


def age(clock: Callable[[], Any] = monotonic) -> Any:
    began = clock()
    return clock() - began


@pytest.mark.parametrize(("computes", "limits"), LEARNED.values(), ids=LEARNED)
def test_time_limits_are_learned(computes: Callable[[], object], limits: list[float]) -> None:
    """From what a reading is added to, and when a comparison would come out otherwise."""

    async def program(world: World) -> None:
        computes()

    with guarded(), learning():
        outcome = run_execution(program, NaturalOrder(), Bounds())
    assert outcome.error is None
    assert outcome.violation is None
    assert [round(each, 3) for each in outcome.time_limits] == limits


def test_no_more_limits_are_kept_than_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is compared with those that are kept, and a program may compute thousands."""
    kept: list[int] = []

    def noted(durations: list[float], seconds: float) -> None:
        note(durations, seconds)
        kept.append(len(durations))

    note = learned_limits.note
    monkeypatch.setattr(learned_limits, "note", noted)

    async def program(world: World) -> None:
        for limit in range(1, 50):
            world.loop.call_later(limit, int)
            world.check(age() < limit, "it is young")

    with guarded(), learning():
        outcome = run_execution(program, NaturalOrder(), Bounds())
    assert len(outcome.time_limits) == learned_limits.LIMITS_MAX
    assert max(kept) == learned_limits.LIMITS_MAX


def test_known_readings_are_as_the_plain_ones() -> None:
    """They add, compare, round, hash and print as what they are, also with what is none of them."""

    async def program(world: World) -> None:
        now, then = monotonic(), datetime.datetime.now()
        world.check(now == float(now), "equal")
        world.check(hash(now) == hash(float(now)), "of one hash")
        world.check(repr(now) == repr(float(now)), "printed alike")
        world.check(type(copy.deepcopy(pickle.loads(pickle.dumps(now)))) is float, "pickled")
        world.check(fractions.Fraction(1, 2) + now == 0.5 + float(now), "added to others")
        world.check(divmod(now + 7, 2)[0] == 3, "divided")
        world.check((2 - now) < 2 < 2 + now, "subtracted from others")
        world.check(isinstance(time.time_ns(), int), "whole numbers")
        world.check(round(time.time()) == int(time.time()) == math.floor(time.time()), "rounded")
        world.check(then.date() == datetime.date(2020, 1, 1), "dates")
        world.check(then.replace(hour=3) - datetime.timedelta(hours=3) > datetime.datetime.min, "")
        world.check(now < 10**400 > time.time_ns() // 10**400, "less than any float")
        world.check(json.dumps([now]) == f"[{float(now)!r}]", "written")
        with pytest.raises(TypeError):
            print(now + "a")
        with pytest.raises(TypeError):
            print(then > then.astimezone(datetime.UTC))
        world.reached("the end")

    with guarded(), learning():
        outcome = run_execution(program, NaturalOrder(), Bounds())
    assert outcome.violation is None, outcome.violation
    assert outcome.labels == {"the end"}


def test_a_schedule_has_its_time_limits() -> None:
    """As text, by which it is replayed; and other durations are refused."""
    bounds = Bounds(time_limits=(0.5, 300))
    assert bounds.written_out() == ["time_limits=0.5:300.0"]
    assert Bounds.parse(bounds.written_out()) == bounds
    assert "time_limits=0.5:300" in str(bounds)
    with pytest.raises(ValueError, match="time_limits"):
        Bounds(time_limits=(0.0,))
