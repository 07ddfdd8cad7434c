"""Clocks and randomness are part of the execution: alike in each, and the process's own after."""

from __future__ import annotations

import asyncio
import ctypes
import datetime
import logging
import os
import random
import secrets
import sys
import time
import types
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from datetime import datetime as bound_datetime
from os import urandom as bound_urandom
from pathlib import Path
from random import random as bound_random
from time import monotonic as bound_monotonic
from time import time as bound_time
from typing import Any, cast
from uuid import uuid4 as bound_uuid4

import pytest

from sim import World, explore, new_event_loop
from sim.kernel.current import Execution
from sim.kernel.entropy import EPOCH_S, Entropy
from sim.kernel.environment import Environment
from sim.kernel.isolation.entropy import _held as held_clocks
from sim.kernel.isolation.entropy import virtualised
from sim.kernel.isolation.where_held import Holding
from sim.kernel.loop import SimLoop
from sim.kernel.schedule import Bounds
from tests.limits import AMPLE_S


@dataclass
class Order:
    """A class whose clock is bound in the closure of its `__init__`."""

    made: float = field(default_factory=time.time)


class Clocked:
    clock = staticmethod(time.monotonic)
    wall = time.time

    def age(self, now: Callable[[], float] = time.monotonic) -> float:
        return now()


def keyword_default(*, now: Callable[[], float] = time.perf_counter) -> float:
    return now()


CLOCKS: dict[str, tuple[Callable[[], float], float]] = {
    "time.time": (lambda: time.time(), EPOCH_S),
    "time.time_ns": (lambda: time.time_ns() / 1e9, EPOCH_S),
    "time.monotonic": (lambda: time.monotonic(), 0.0),
    "time.monotonic_ns": (lambda: time.monotonic_ns() / 1e9, 0.0),
    "time.perf_counter": (lambda: time.perf_counter(), 0.0),
    "time.perf_counter_ns": (lambda: time.perf_counter_ns() / 1e9, 0.0),
    "time.localtime": (lambda: time.mktime(time.localtime()), EPOCH_S),
    "datetime.now": (lambda: datetime.datetime.now(datetime.UTC).timestamp(), EPOCH_S),
    "datetime.now, local": (lambda: datetime.datetime.now().timestamp(), EPOCH_S),
    "datetime.today": (lambda: datetime.datetime.today().timestamp(), EPOCH_S),
    "from time import time": (lambda: bound_time(), EPOCH_S),
    "from time import monotonic": (lambda: bound_monotonic(), 0.0),
    "from datetime import datetime": (
        lambda: bound_datetime.now(datetime.UTC).timestamp(),
        EPOCH_S,
    ),
    "default_factory": (lambda: Order().made, EPOCH_S),
    "class attribute": (lambda: Clocked.wall(), EPOCH_S),
    "static method": (lambda: Clocked.clock(), 0.0),
    "default argument": (lambda: Clocked().age(), 0.0),
    "keyword default": (lambda: keyword_default(), 0.0),
    "log record": (lambda: logging.makeLogRecord({}).created, EPOCH_S),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_clocks_are_virtual(name: str) -> None:
    """After five minutes' sleep each clock says so, and outside it is real time."""
    read, epoch_s = CLOCKS[name]

    async def program(world: World) -> None:
        # Of the first executions, or of today.
        bounds = world.loop.bounds
        begun_s = bounds.wall_s if epoch_s else bounds.clock_s
        await asyncio.sleep(300)
        seen = read() - begun_s
        world.check(abs(seen - 300) < 1.0, "five minutes have passed")

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert read() != pytest.approx(epoch_s + 300, abs=60)


def test_clocks_of_passing_time_never_stand() -> None:
    """Two readings differ, as on a real machine, so that rates can be divided by their difference.

    And they read what the loop's clock reads."""

    async def program(world: World) -> None:
        await asyncio.sleep(1)
        one, loop_time, other = time.perf_counter(), world.loop.time(), time.monotonic()
        world.check(one < loop_time < other < one + 1e-6, "they are one clock")

    assert explore(program).verdict == "proved"


def test_who_waits_for_a_clock_is_not_kept_waiting() -> None:
    """A loop that reads the clock until it has moved takes virtual seconds, and few readings."""

    async def program(world: World) -> None:
        readings = 0
        for clock in (time.monotonic, time.time):
            until = clock() + 5.0
            while clock() < until:
                readings += 1
        world.check(10.0 <= world.now < 10.1, "ten seconds have passed", f"{world.now}")
        world.check(readings < 20_000, "a second takes some thousand", f"{readings}")

    report = explore(program)
    assert report.verdict == "proved", report.text


DRAWS: dict[str, Callable[[], object]] = {
    "random.random": lambda: random.random(),
    "random.shuffle": lambda: random.sample(range(100), 20),
    "random.gauss": lambda: random.gauss(),
    "random.Random()": lambda: random.Random().random(),
    "random.Random().seed()": lambda: _reseeded(random.Random(1)),
    "random.seed()": lambda: (random.seed(), random.random()),
    "random.SystemRandom": lambda: random.SystemRandom().random(),
    "os.urandom": lambda: os.urandom(16),
    "secrets.token_hex": lambda: secrets.token_hex(),
    "secrets.choice": lambda: secrets.choice(range(10**9)),
    "uuid.uuid1": lambda: uuid.uuid1(),
    "uuid.uuid4": lambda: uuid.uuid4(),
    "from random import random": lambda: bound_random(),
    "from os import urandom": lambda: bound_urandom(8),
    "from uuid import uuid4": lambda: bound_uuid4(),
}


def _reseeded(generator: random.Random) -> float:
    generator.seed()
    return generator.random()


@pytest.mark.parametrize("name", DRAWS)
def test_draws_are_alike_in_every_execution(name: str) -> None:
    """Each execution draws the same; another seed, another; one execution's draws differ."""
    draw = DRAWS[name]
    drawn: list[list[object]] = []

    async def program(world: World) -> None:
        world.choose("branch", "abcd")
        drawn.append([draw() for _ in range(3)])

    report = explore(program)
    assert report.verdict == "proved", report.text
    assert len(drawn) >= 4
    # Beside the search readings of the clock may be equal, which a UUID is made of.
    # That has the clocks of today.
    del drawn[2]
    assert all(each == drawn[0] for each in drawn[: report.executions])
    assert len(set(map(str, drawn[0]))) == 3
    explore(program, entropy_seed=7)
    assert drawn[-1] != drawn[0]


def test_a_schedule_carries_the_seed_of_the_draws() -> None:
    """What failed by a draw fails again on replay, with the seed that the schedule names."""

    async def program(world: World) -> None:
        await world.outside("event", latest=1.0)
        world.check(random.Random().random() > 0.5, "the draw is high")

    reports = {seed: explore(program, entropy_seed=seed) for seed in range(3)}
    assert {report.verdict for report in reports.values()} == {"proved", "refuted"}
    for seed, report in reports.items():
        if report.counterexample is not None:
            assert (f"entropy_seed={seed}" in report.counterexample.schedule) == bool(seed)
            assert report.counterexample.replay(program).violation is not None


def test_a_module_in_the_place_of_another_is_looked_through(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As many modules as before, one of them another: its bound clock is virtual as well."""

    async def program(world: World) -> None:
        module = next(reversed(sys.modules.values()))
        world.check(vars(module)["now"]() < world.loop.bounds.clock_s + 1e-3, "it is virtual")

    for name in ("one", "two", "three"):
        module = types.ModuleType(name)
        module.__file__ = str(Path(__file__).with_name(f"{name}.py"))
        vars(module)["now"] = bound_monotonic
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, module)
            report = explore(program, max_executions=3)
            assert report.verdict == "proved", f"{name}: {report.text}"


def test_the_process_is_as_it_was() -> None:
    """Functions, types and the state of `random` are the process's own after an exploration."""

    async def program(world: World) -> None:
        random.seed(1)
        random.random()
        uuid.uuid1()

    def held() -> list[object]:
        functions = [value for value in vars(time).values() if callable(value)]
        functions += [value for value in vars(random).values() if callable(value)]
        bound = [bound_time, bound_datetime, bound_urandom, bound_random, datetime, date]
        defaults = [Clocked.age.__defaults__, keyword_default.__kwdefaults__, Clocked.clock]
        return [*functions, *bound, *defaults, os.urandom, uuid._node, random.Random.seed]  # type: ignore[attr-defined]

    random.seed(3)
    state, before = random.getstate(), held()
    for explored in (program, _fails):
        explore(explored)
        assert random.getstate() == state
        assert held() == before


async def _fails(world: World) -> None:
    random.random()
    raise OSError


def test_dates_are_still_dates() -> None:
    """Within an execution a date is made, compared, checked and printed as ever."""

    async def program(world: World) -> None:
        made = datetime.datetime(2024, 2, 29, 12, tzinfo=datetime.UTC)
        for each in (
            made,
            bound_datetime.now(),
            bound_datetime.fromisoformat("2024-02-29"),
            bound_datetime.fromtimestamp(0.5, datetime.UTC),
            bound_datetime.combine(date(2024, 1, 1), datetime.time(3)),
            bound_datetime.strptime("2024", "%Y"),
            made + datetime.timedelta(1),
        ):
            assert isinstance(each, bound_datetime)
            assert isinstance(each, date)
            assert type(each) is type(made)
        assert type(made).__module__ == "datetime"
        assert type(made).__name__ == "datetime"
        assert not isinstance(date.today(), bound_datetime)
        assert issubclass(type(made), datetime.date)
        assert datetime.datetime.min.year == 1
        assert f"{made:%d.%m.}" == "29.02."

    report = explore(program)
    assert report.verdict == "proved", report.text


def test_a_loop_within_an_execution_draws_from_it() -> None:
    """What a thread's own loop draws, and the clocks it reads, are the execution's."""
    drawn: list[tuple[object, ...]] = []

    def blocking() -> None:
        async def inner() -> None:
            drawn.append((random.random(), uuid.uuid4(), time.time()))

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(inner())

    async def program(world: World) -> None:
        world.choose("branch", "ab")
        await asyncio.to_thread(blocking)

    report = explore(program)
    assert report.verdict == "proved", report.text
    # Some have the clocks of today.
    drawn = [each for each in drawn if cast(float, each[2]) < EPOCH_S + 60]
    assert len(drawn) >= 2
    assert len(set(drawn)) == 1


# ---- what is not virtualised -----------------------------------------------------------------


class _Hidden:
    """An object that knows the address alone of a clock in an iterator, as memory of C's would."""

    def __init__(self, clock: Callable[[], float]) -> None:
        clocks = iter(clock, None)
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(clocks))
        self._address = id(clocks)

    def now_ns(self) -> int:
        return round(next(ctypes.cast(self._address, ctypes.py_object).value) * 1e9)


_hidden = _Hidden(time.perf_counter)


@pytest.mark.fresh_copies
def test_what_is_not_virtualised_is_found_by_running_twice() -> None:
    """A clock to which nothing refers: inconclusive, with the first step that differed."""

    async def program(world: World) -> None:
        await asyncio.sleep(1 + _hidden.now_ns() % 1_000_003 / 1e6)
        await asyncio.sleep(1)

    # As many as it takes that two of those in forks differ as well.
    report = explore(program, max_executions=50)
    assert report.verdict == "inconclusive", report.text
    assert "nondeterminism found: step 2 in natural order was: " in report.reason


def _module_with(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> None:
    monkeypatch.setitem(globals(), name, value)


def test_a_clock_that_nobody_can_replace_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a library written in C keeps of a class of the program's: inconclusive, by name."""
    left = [Holding(__name__, "Order", f"{__name__}.Order, of which a Validator")]
    monkeypatch.setattr(held_clocks, "left", left)

    async def program(world: World) -> None:
        await world.outside("event", latest=1.0)
        assert Order

    report = explore(program)
    assert report.verdict == "inconclusive"
    assert f"not virtualised: {__name__}.Order, of which a Validator holds" in report.reason


async def _waits(world: World, generator: random.Random | None) -> None:
    await world.outside("event", latest=1.0)
    assert generator is None or generator.random() < 1


def _draws_from(generator: random.Random | None) -> Any:
    async def program(world: World) -> None:
        await _waits(world, generator)

    return program


def test_a_generator_that_nobody_draws_from_withholds_no_proof(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is there, and no execution depends on it."""
    _module_with(monkeypatch, "_found", random.Random())
    assert explore(_draws_from(None)).verdict == "proved"


@pytest.mark.parametrize("strategy", ["staged", "depth-first"])
def test_a_generator_that_executions_draw_from_is_named(
    strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds it where the one before left it, though no step shows that; a fork does not."""
    generator = random.Random(5)
    _module_with(monkeypatch, "_found", generator)
    report = explore(_draws_from(generator), strategy=strategy)
    assert report.verdict == "inconclusive"
    assert "draw from a generator made before them" in report.reason
    assert f"{__name__}._found" in report.reason
    assert explore(_draws_from(generator), strategy="depth-first", isolate=True).verdict == "proved"


# ---- cost -----------------------------------------------------------------------------------


def test_the_budget_is_real_time() -> None:
    """A program that sleeps for days does not use up the hour of its exploration."""

    async def program(world: World) -> None:
        for _ in range(2):
            await world.outside("event", earliest=100_000, latest=100_050)

    report = explore(program, budget_s=AMPLE_S, horizon_s=1e6)
    assert report.verdict == "proved", report.text
    assert report.seconds < AMPLE_S


def test_an_execution_that_draws_nothing_seeds_nothing() -> None:
    """Seeding takes longer than all else that begins an execution; it is done on the first draw."""
    state = random._inst.getstate()
    with virtualised():
        loop = SimLoop(Environment(), lambda kind, options, costs: 0, Bounds())
        with Execution(loop, Entropy(loop.environment, seed=0)):
            assert random._inst.getstate() == state
            random.random()
            assert random._inst.getstate() != state
        loop.close()
    assert random._inst.getstate() == state
