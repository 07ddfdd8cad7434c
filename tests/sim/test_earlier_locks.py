"""Locks that were made before the exploration exclude simulated threads, and block nobody else."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from sim import World, explore, run
from sim.kernel.threads.locks import SimLock
from sim.schedulers import DepartureBounded

LOCK = threading.Lock()
REENTRANT = threading.RLock()
CONDITION = threading.Condition()
PLAIN_CONDITION = threading.Condition(threading.Lock())
SEMAPHORE = threading.BoundedSemaphore(1)
EVENT = threading.Event()
QUEUE: queue.Queue[int] = queue.Queue(maxsize=1)
LETTERS: queue.SimpleQueue[int] = queue.SimpleQueue()


class Slotted:
    __slots__ = ("lock",)

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Service:
    of_class = threading.Lock()

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inner = {"slotted": [Slotted()]}


SERVICE = Service()
LISTED = [threading.Lock()]


def _closed_over() -> Callable[[], Any]:
    lock = threading.Lock()
    return lambda: lock


CLOSED_OVER = _closed_over()

EXCLUDES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "a lock": lambda: LOCK,
    "an RLock": lambda: REENTRANT,
    "a Condition": lambda: CONDITION,
    "a Condition with a Lock": lambda: PLAIN_CONDITION,
    "a Semaphore": lambda: SEMAPHORE,
    "a queue's lock": lambda: QUEUE.mutex,
    "of an object": lambda: SERVICE.lock,
    "of a class": lambda: Service.of_class,
    "in slots, deeper": lambda: SERVICE.inner["slotted"][0].lock,
    "in a list": lambda: LISTED[0],
    "of a closure": CLOSED_OVER,
}


def _updates(lock: Callable[[], AbstractContextManager[Any]], *, locked: bool) -> Any:
    async def program(world: World) -> None:
        count = 0

        def add() -> None:
            nonlocal count
            seen = count
            time.sleep(0.1)
            count = seen + 1

        def add_locked() -> None:
            with lock():
                add()

        work = add_locked if locked else add
        await asyncio.gather(*(asyncio.to_thread(work) for _ in range(2)))
        world.check(count == 2, "both count", str(count))

    return program


@pytest.mark.parametrize("which", EXCLUDES)
def test_workers_exclude_each_other(which: str) -> None:
    """A worker that sleeps with it keeps the other waiting, in virtual time, as on stock."""
    report = explore(_updates(EXCLUDES[which], locked=True), strategy=DepartureBounded(1))
    assert report.verdict == "proved", report.text


def test_without_the_lock_an_update_is_lost() -> None:
    """The program of the test above finds what a lock prevents."""
    assert explore(_updates(EXCLUDES["a lock"], locked=False)).verdict == "refuted"


def test_a_lock_of_the_test_itself_is_found() -> None:
    """Where the program has it from a closure, also in an object, a dict or another function."""
    lock, service = threading.Lock(), {"service": Service()}

    def deeper() -> Any:
        return service["service"].inner["slotted"][0].lock

    for each in (lambda: lock, deeper):
        report = explore(_updates(each, locked=True), strategy=DepartureBounded(1))
        assert report.verdict == "proved", report.text
    assert type(lock) is type(LOCK) is type(deeper())


def test_what_waits_between_threads_works() -> None:
    """A queue, an Event, a Condition and a SimpleQueue hand over from thread to thread."""

    async def program(world: World) -> None:
        EVENT.clear()

        def consume() -> list[object]:
            EVENT.wait()
            got: list[object] = [QUEUE.get(), QUEUE.get(), LETTERS.get()]
            with CONDITION:
                got.append(CONDITION.wait_for(lambda: got and told, timeout=5))
            return got

        def produce() -> None:
            EVENT.set()
            for number in range(2):
                QUEUE.put(number)
            LETTERS.put(3)
            time.sleep(1)
            with CONDITION:
                told.append(True)
                CONDITION.notify()

        told: list[bool] = []
        got, _ = await asyncio.gather(asyncio.to_thread(consume), asyncio.to_thread(produce))
        world.check(got == [0, 1, 3, [True]], "it is handed over", str(got))

    report = explore(program, strategy=DepartureBounded(1), max_executions=300)
    assert report.verdict in ("proved", "inconclusive"), report.text
    assert report.counterexample is None


def test_a_worker_that_nobody_lets_go_on_is_a_deadlock() -> None:
    """It does not block the process."""

    async def program(_: World) -> None:
        with LOCK:
            await asyncio.to_thread(LOCK.acquire)

    report = explore(program)
    assert report.counterexample is not None, report.text
    assert "no deadlock" in report.counterexample.property


def test_afterwards_they_are_what_they_were() -> None:
    """The same objects, in the state that the program left."""
    before = LOCK, REENTRANT, QUEUE.mutex, CONDITION._lock, CONDITION.acquire, LISTED[0]  # type: ignore[attr-defined]
    LETTERS.put(7)

    async def program(world: World) -> None:
        world.check(LETTERS.get_nowait() == 7, "what was in it is in it")
        LETTERS.put(7)
        world.check(not LOCK.locked(), "it is free at first")
        SERVICE.lock.acquire()
        await asyncio.sleep(0)
        SERVICE.lock.release()
        LOCK.acquire()
        LOCK.release()

    report = explore(program, strategy="natural")
    assert report.counterexample is None, report.text
    after = LOCK, REENTRANT, QUEUE.mutex, CONDITION._lock, CONDITION.acquire, LISTED[0]  # type: ignore[attr-defined]
    assert [one is other or one == other for one, other in zip(before, after, strict=True)] == [
        True
    ] * len(before)
    assert LETTERS.get_nowait() == 7
    assert LETTERS.empty()


def test_a_lock_that_the_program_keeps_stays_locked() -> None:
    """As on stock, where a module's lock is there for the next execution, too."""
    lock = threading.Lock()

    async def program(_: World) -> None:
        lock.acquire()

    run(program)
    assert lock.locked()


class _Compares(type):
    """Without a hash, since it has an `__eq__`."""

    def __eq__(cls, other: object) -> bool:
        raise AssertionError("a class is compared")


class OfOddClass(metaclass=_Compares):
    def __init__(self) -> None:
        self.lock = threading.Lock()


ODD = OfOddClass()


def test_a_class_is_never_compared() -> None:
    """Whatever its metaclass calls equal, its instances are looked into."""
    found: list[object] = []

    async def program(world: World) -> None:
        found.append(ODD.lock)

    assert explore(program, max_executions=1).counterexample is None
    assert isinstance(found[0], SimLock)


KIND, REENTRANT_KIND = type(threading.Lock()), type(threading.RLock())


async def tells_locks_by_kinds(*_: World) -> None:
    assert isinstance(threading.Lock(), KIND)
    assert isinstance(threading.RLock(), REENTRANT_KIND)
    assert not isinstance(threading.RLock(), KIND)
    assert type(threading.Lock()) is KIND


def test_kinds_of_locks_from_before() -> None:
    """A lock of an execution is of the type that a module has taken from a lock of its own."""
    asyncio.run(tells_locks_by_kinds())
    report = explore(tells_locks_by_kinds, max_executions=20)
    assert report.verdict == "proved", report.text
    assert isinstance(threading.Lock(), KIND)
