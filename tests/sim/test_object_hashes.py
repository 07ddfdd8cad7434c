"""Sets of a program's objects iterate in an order of the execution, the same in every process."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakSet

import pytest

from sim import World, explore, run
from sim.export.sources import NotExportable
from tests.limits import HANGS_S

ROOT = Path(__file__).parents[2]
FEW, MANY = 3, 300


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number


class Kept:
    """Of this module, from before all executions, in a set and as a key."""


KEPT = [Kept() for _ in range(5)]
KEPT_SET, KEPT_KEYS = {*KEPT}, {each: number for number, each in enumerate(KEPT)}
SURVIVORS: set[Kept] = set()


async def a_pool() -> int:
    return next(iter({Connection(number) for number in range(FEW)})).number


async def a_weak_set() -> int:
    kept = [Connection(number) for number in range(FEW)]
    return next(iter(WeakSet(kept))).number


async def a_class_of_its_own() -> int:
    class Own:
        def __init__(self, number: int) -> None:
            self.number = number

    return next(iter({Own(number) for number in range(FEW)})).number


async def subscribers() -> int:
    queues: set[asyncio.Queue[int]] = set()
    got: list[int] = []

    async def subscribe(number: int) -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        queues.add(queue)
        await queue.get()
        got.append(number)

    tasks = [asyncio.create_task(subscribe(number)) for number in range(FEW)]
    await asyncio.sleep(0)
    for each in queues:
        each.put_nowait(1)
    await asyncio.gather(*tasks)
    return got[0]


async def events() -> int:
    made = [asyncio.Event() for _ in range(FEW)]
    return made.index(next(iter({*made})))


class Mine(asyncio.Task[Any]):
    """A task of the program's own class."""


async def tasks_of_its_own_class() -> int:
    loop = asyncio.get_running_loop()
    tasks = [Mine(asyncio.sleep(0), loop=loop, name=f"own {number}") for number in range(FEW)]
    first = next(iter({*tasks}))
    await asyncio.gather(*tasks)
    return tasks.index(first)


FIRSTS = [a_pool, a_weak_set, a_class_of_its_own, subscribers, events, tasks_of_its_own_class]


def program_of(first: Callable[[], Awaitable[int]]) -> Any:
    async def program(world: World) -> None:
        world.check(await first() != 1, "the second is never the first")

    return program


@pytest.mark.parametrize("first", FIRSTS, ids=lambda each: each.__name__)
def test_an_order_that_stock_may_have_refutes(first: Callable[[], Awaitable[int]]) -> None:
    """Any may come first there, and the schedule of the one that violates comes back."""
    program = program_of(first)
    report = explore(program, max_executions=MANY)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    for _ in range(3):
        assert report.counterexample.replay(program).violation is not None


async def each_comes_once(world: World) -> None:
    seen = []
    for each in {Connection(number) for number in range(FEW)}:
        await asyncio.sleep(each.number)
        seen.append(each.number)
    world.check(sorted(seen) == [*range(FEW)], "each comes once")


def test_what_holds_in_every_order_is_proved() -> None:
    """The claim says that others were looked at."""
    report = explore(each_comes_once, max_executions=MANY)
    assert report.verdict == "proved", report.text
    assert "with sets in one order (32 executions looked at others)" in report.claim


PRINTED = f"""
import json
from sim import explore
from {__name__} import FIRSTS, MANY, each_comes_once, program_of
programs = each_comes_once, *map(program_of, FIRSTS)
reports = [explore(program, max_executions=MANY) for program in programs]
schedules = [each.counterexample and each.counterexample.schedule for each in reports]
print(json.dumps([(each.verdict, each.executions) for each in reports] + schedules))
"""


@pytest.mark.socket
def test_the_verdict_is_the_same_in_every_process() -> None:
    """With the same number of executions and the same schedule."""
    said = set()
    for seed in "012":
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        ran = subprocess.run(
            [sys.executable, "-c", PRINTED],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=HANGS_S,
            env=environment,
        )
        assert ran.returncode == 0, ran.stderr
        said.add(ran.stdout)
    assert len(said) == 1
    assert [each[0] for each in json.loads(said.pop())[:-7]] == ["proved", *["refuted"] * 6]


def test_what_was_there_before_keeps_its_hash() -> None:
    """Sets and dicts that are older than the execution find it, also once garbage was collected."""

    async def program(world: World) -> None:
        gc.collect()
        later = Kept()
        assert later not in KEPT_SET
        assert all(each in KEPT_SET for each in KEPT)
        assert [KEPT_KEYS[each] for each in KEPT] == [*range(5)]
        KEPT_SET.discard(KEPT[0])
        assert len(KEPT_SET) == 4
        KEPT_SET.add(KEPT[0])
        assert {later, *KEPT_SET} > KEPT_SET

    assert explore(program, max_executions=MANY).verdict == "proved"
    assert all(each in KEPT_SET for each in KEPT)


def test_what_an_execution_leaves_in_a_set_is_found_afterwards() -> None:
    """Its class stays as it is until it is gone."""

    async def program(world: World) -> None:
        SURVIVORS.add(Kept())

    run(program)
    assert SURVIVORS
    for each in [*SURVIVORS]:
        SURVIVORS.remove(each)
    del each
    run(each_comes_once)
    assert vars(Kept).get("__hash__") is None


def test_classes_are_as_before_afterwards() -> None:
    """No trace of the counter stays in them."""
    explore(program_of(a_pool), max_executions=MANY)
    for cls in (Connection, asyncio.Event, asyncio.Queue, Mine):
        assert "__hash__" not in vars(cls)
        assert cls.__hash__ is object.__hash__ or cls is Mine


class Mixin:
    pass


def test_a_hash_that_a_class_defines_or_inherits_is_its_own() -> None:
    """As on stock, of classes that an execution makes as well."""

    async def program(world: World) -> None:
        class Name(Mixin, str):
            pass

        class Compared(Mixin):
            def __eq__(self, other: object) -> bool:
                return True

        @dataclass
        class Data(Mixin):
            number: int

        @dataclass(frozen=True)
        class Frozen(Mixin):
            number: int

        assert {Name("a"): 1}["a"] == 1  # type: ignore[index]
        assert hash(Frozen(1)) == hash(Frozen(1))
        for each in (Compared(), Data(1)):
            with pytest.raises(TypeError, match="unhashable"):
                hash(each)

    asyncio.run(program(None))  # type: ignore[arg-type]
    assert explore(program, max_executions=MANY).verdict == "proved"


def test_an_object_shows_nothing_of_its_number() -> None:
    """Neither its attributes nor its copies have one."""

    async def program(world: World) -> None:
        connection = Connection(1)
        assert connection in {connection}
        assert vars(connection) == {"number": 1}

    assert explore(program, max_executions=MANY).verdict == "proved"


MODULE = """
import asyncio

KEPT = []


class Connection:
    def __init__(self, number):
        self.number = number


KEPT += [Connection(9)]


async def program(world):
    connections = {Connection(number) for number in range(5)}
    queues = {asyncio.Queue() for _ in range(5)}
    future = asyncio.get_running_loop().create_future()
    {future}
    assert {KEPT[0]} == {*KEPT}
    await world.outside("it comes")
    numbers = [each.number for each in connections]
    world.check(len(queues) == 5 and numbers[0] != 1, "the second is never the first")
"""


@pytest.mark.socket
def test_the_order_comes_back_on_stock_asyncio(tmp_path: Path) -> None:
    """An exported file has it, too, in each process."""
    (tmp_path / "with_objects.py").write_text(MODULE)
    sys.path.insert(0, str(tmp_path))
    try:
        module = importlib.import_module("with_objects")
    finally:
        sys.path.remove(str(tmp_path))
    report = explore(module.program, max_executions=MANY)
    assert report.counterexample is not None, report.text
    file = tmp_path / "test_it.py"
    file.write_text(report.counterexample.export(module.program))
    assert "hashes_objects=True" in file.read_text()
    for _ in range(3):
        ended = subprocess.run([sys.executable, "-I", file], capture_output=True, timeout=HANGS_S)
        assert ended.returncode == 1, ended.stdout + ended.stderr


def test_a_class_within_a_function_is_not_exported() -> None:
    """Its objects would lie by their addresses in the file."""
    program = program_of(a_class_of_its_own)
    found = explore(program, max_executions=MANY).counterexample
    assert found is not None
    with pytest.raises(NotExportable):
        found.export(program)
