"""Sets of objects iterate by addresses, on stock Python, too: where runs differ they are named."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

import pytest

from sim import World, explore

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


@pytest.mark.fresh_copies
@pytest.mark.parametrize(
    ("program", "named", "kind"),
    [
        (has_a_set_of_objects, "pool in has_a_set_of_objects (", "Connection"),
        (has_one_in_an_object, "pool.free in has_one_in_an_object (", "Connection"),
        (has_a_weak_set, "weak in has_a_weak_set (", "Connection"),
        (has_subscribers, "subscribers in ", "Queue"),
        (has_functions, "calls in has_functions (", "function"),
    ],
)
def test_a_set_whose_order_differs_is_named(program: Any, named: str, kind: str) -> None:
    """With its variable, its line, and what has an order."""
    report = explore(program, strategy="natural")
    assert report.verdict == "inconclusive", report.text
    assert "nondeterminism found" in report.reason
    assert named in report.reason
    assert "test_orderless_sets.py:" in report.reason
    assert f"is a set of {kind}, whose members hash by address" in report.reason
    assert ADVICE in report.reason


def test_a_dict_has_an_order() -> None:
    """What the report advises is proved."""

    async def program(world: World) -> None:
        for each in dict.fromkeys(Connection(number) for number in range(MANY)):
            await asyncio.sleep(each.number)

    assert explore(program).verdict == "proved"
