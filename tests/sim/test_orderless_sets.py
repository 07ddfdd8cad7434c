"""Sets of objects iterate by addresses, on stock Python, too: where runs differ they are named."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from weakref import WeakSet

import pytest

from sim import World, explore
from tests.limits import HANGS_S

ROOT = Path(__file__).parents[2]
ADVICE = "keep them in a list, or in a dict (dict.fromkeys(…)), which have an order"
MANY = 12


class Connection:
    def __init__(self, number: int) -> None:
        self.number = number


class Pool:
    def __init__(self) -> None:
        self.free = {Connection(number) for number in range(MANY)}


async def has_a_set_of_objects(world: World) -> None:
    pool = {Connection(number) for number in range(MANY)}
    for each in pool:
        await asyncio.sleep(each.number)


async def has_one_in_an_object(world: World) -> None:
    pool = Pool()
    for each in pool.free:
        await asyncio.sleep(each.number)


async def has_a_weak_set(world: World) -> None:
    kept = [Connection(number) for number in range(MANY)]
    weak = WeakSet(kept)
    for each in weak:
        await asyncio.sleep(each.number)


async def has_subscribers(world: World) -> None:
    subscribers: set[asyncio.Queue[int]] = set()

    async def subscribe() -> None:
        queue: asyncio.Queue[int] = asyncio.Queue()
        subscribers.add(queue)
        await queue.get()

    tasks = [asyncio.create_task(subscribe()) for _ in range(MANY)]
    await asyncio.sleep(0)
    for each in subscribers:
        each.put_nowait(1)
    await asyncio.gather(*tasks)


async def has_functions(world: World) -> None:
    called: list[int] = []
    calls = {lambda number=number: called.append(number) for number in range(MANY)}
    for call in calls:
        call()
    for number in called:
        await asyncio.sleep(number)


PROGRAMS = {
    has_a_set_of_objects: ("pool in has_a_set_of_objects (", "Connection"),
    has_one_in_an_object: ("pool.free in has_one_in_an_object (", "Connection"),
    has_a_weak_set: ("weak in has_a_weak_set (", "Connection"),
    has_subscribers: ("subscribers in ", "Queue"),
    has_functions: ("calls in has_functions (", "function"),
}

PRINTED = f"""
import json
from sim import explore
from {__name__} import PROGRAMS
reports = [explore(program, strategy="natural") for program in PROGRAMS]
print(json.dumps([(each.verdict, each.reason) for each in reports]))
"""


@pytest.fixture(scope="module")
def reports() -> list[tuple[str, str]]:
    """Verdict and reason of each, from a process of their own.

    They are asked in forks, and these read what all modules hold: those of the suite are many.
    """
    ran = subprocess.run(
        [sys.executable, "-c", PRINTED], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S
    )
    assert ran.returncode == 0, ran.stderr
    return [(verdict, reason) for verdict, reason in json.loads(ran.stdout)]


@pytest.mark.socket
@pytest.mark.parametrize("number", range(len(PROGRAMS)), ids=[each.__name__ for each in PROGRAMS])
def test_a_set_whose_order_differs_is_named(number: int, reports: list[tuple[str, str]]) -> None:
    """With its variable, its line, and what has an order."""
    named, kind = [*PROGRAMS.values()][number]
    verdict, reason = reports[number]
    assert verdict == "inconclusive", reason
    assert "nondeterminism found" in reason
    assert named in reason
    assert "test_orderless_sets.py:" in reason
    assert f"is a set of {kind}, whose members hash by address" in reason
    assert ADVICE in reason


def test_a_dict_has_an_order() -> None:
    """What the report advises is proved."""

    async def program(world: World) -> None:
        for each in dict.fromkeys(Connection(number) for number in range(MANY)):
            await asyncio.sleep(each.number)

    assert explore(program).verdict == "proved"
