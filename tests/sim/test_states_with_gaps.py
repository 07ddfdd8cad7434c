"""Sets that have lost members which hash by address: their slots are others in each run."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore
from sim.exploration.runs import outcomes
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.schedulers import DepthFirst, Scheduler, StateMatching
from sim.schedulers.states import matching


class Member:
    """Hashes by its address."""


async def has_been_empty(world: World) -> None:
    """A set of those that are connected, as servers have one."""
    connected = set[Member]()
    for number in range(3):
        member = Member()
        connected.add(member)
        await world.outside(f"client {number} leaves")
        connected.discard(member)
    await asyncio.gather(*(world.outside(f"event {number}") for number in range(3)))
    world.reached(f"{len(connected)}")


def left_in(container: Callable[[], Any], keep: Callable[[Any, Member], object]) -> Program:
    """One that lets go of what nobody else holds."""

    async def program(world: World) -> None:
        kept = container()

        async def one(number: int) -> None:
            member = Member()
            keep(kept, member)
            await world.outside(f"event {number}")
            # By iterating over them.
            world.reached(f"{number}, {len(list(kept))} left")

        await asyncio.gather(*(one(number) for number in range(3)))

    return program


by_key = left_in(weakref.WeakKeyDictionary, lambda kept, each: kept.setdefault(each, 1))
by_value = left_in(weakref.WeakValueDictionary, lambda kept, each: kept.setdefault(len(kept), each))
in_a_set = left_in(weakref.WeakSet, weakref.WeakSet.add)

PROGRAMS = {
    "has been empty": has_been_empty,
    "by key": by_key,
    "by value": by_value,
    "in a set": in_a_set,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_slots_that_hang_on_addresses_are_no_error(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where each match is audited: such a state is not met again, and not compared."""
    monkeypatch.setattr(matching, "AUDIT_PROBABILITY", 1.0)
    report = explore(program, strategy="states")
    assert report.verdict == Verdict.PROVED, report.text
    assert ends_of(program, StateMatching(with_labels=True)) == ends_of(program, DepthFirst())


def ends_of(program: Program, scheduler: Scheduler) -> set[tuple[str, ...]]:
    """Which labels the executions reach that are not pruned."""
    ends = set[tuple[str, ...]]()
    for outcome in outcomes(program, scheduler):
        assert outcome.violation is None and outcome.error is None
        if not getattr(scheduler, "is_cut", False):
            ends.add(tuple(sorted(outcome.labels)))
    return ends


@pytest.mark.parametrize("program", [by_key, by_value], ids=["by key", "by value"])
def test_who_iterates_over_a_weak_dictionary_leaves_no_slot(program: Program) -> None:
    """Of the guards that CPython before 3.14 keeps in a set there, the number counts alone."""
    scheduler = StateMatching()
    assert explore(program, strategy=scheduler).verdict == Verdict.PROVED
    assert not scheduler.opaque
    assert scheduler.met_again > 0


async def forgets_who_was_first(world: World) -> None:
    """Wrong after one order of three, in which the set has been empty twice."""
    connected, told = set[Member](), list[int]()

    async def client(number: int) -> None:
        member = Member()
        await world.outside(f"client {number} comes")
        connected.add(member)
        told.append(number)
        await world.outside(f"client {number} leaves")
        connected.discard(member)

    await asyncio.gather(*(client(number) for number in range(2)))
    await world.outside("somebody looks")
    world.check(told != [1, 0], "the first is first")


def test_a_violation_after_such_slots_is_found() -> None:
    """What is not compared is still explored."""
    assert explore(forgets_who_was_first, strategy="states").verdict == Verdict.REFUTED
