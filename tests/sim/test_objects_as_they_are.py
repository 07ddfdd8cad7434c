"""Objects of a program that answer for others, or to nobody: only they themselves are looked at.

This module holds some, so that each exploration here meets them.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sim import World, explore
from sim.kernel.execution import run_execution
from sim.kernel.isolation.as_it_is import attributes_of, code_of, is_a, name_of, owner_of, slots_of
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder


class Unbound(RuntimeError):
    """What flask's `request` raises outside of a request, and Django's `settings` too early."""


def answers_nothing(self: object, *_: object) -> Any:
    raise Unbound


class Proxy:
    """Whatever it is asked is a question to something that is not there yet."""

    __slots__ = ("__local",)

    def __init__(self, local: object) -> None:
        object.__setattr__(self, "_Proxy__local", local)

    __getattr__ = __setattr__ = __call__ = answers_nothing
    __bool__ = __len__ = __iter__ = __repr__ = __eq__ = __hash__ = answers_nothing  # type: ignore[assignment]
    __dict__ = property(answers_nothing)  # type: ignore[assignment]
    __class__ = property(answers_nothing)  # type: ignore[assignment]


class Listener:
    """As SQLAlchemy's, whose slots are made when they are first asked for, or cannot be."""

    __slots__ = ("parent", "ref")

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"cannot create weak reference for {name}")


class Guarded:
    """Nothing of it is told."""

    def __getattribute__(self, name: str) -> Any:
        raise Unbound


class Meta(type):
    def __getattr__(cls, name: str) -> Any:
        raise KeyError(name)


class OfMeta(metaclass=Meta):
    pass


class Holder:
    request = Proxy(0)

    def __init__(self) -> None:
        self.held = [Guarded(), Listener()]


class LockInSlots:
    """Python keeps the second under another name, and the first is one slot and no four."""

    __slots__ = "lock"

    def __init__(self) -> None:
        self.lock = threading.Lock()


class LockOfItsOwn:
    __slots__ = ("__lock",)

    def __init__(self) -> None:
        self.__lock = threading.Lock()

    def use(self) -> None:
        with self.__lock:
            time.sleep(1)


request, listener, guarded, of_meta, holder = Proxy(1), Listener(), Guarded(), OfMeta(), Holder()
# Whom it stands for is freed at once.
dead = weakref.proxy(Holder())
table = {"dead": dead, "request": request, "others": [listener, guarded, (of_meta, holder)]}
in_slots, of_its_own = LockInSlots(), LockOfItsOwn()


def takes(first: object = request, *, then: object = guarded) -> None:
    pass


async def nothing_of_them(world: World) -> None:
    await world.outside("something")


async def keeps_some(world: World) -> None:
    mine, others, kept = Proxy(2), [Guarded(), Listener(), OfMeta()], Holder()

    async def waits(name: str) -> None:
        here, there, gone = request, guarded, dead
        await world.outside(name)
        assert (here is request, there is guarded, gone is dead) == (True, True, True)

    await asyncio.gather(waits("a"), waits("b"))
    assert len(others) == 3
    assert kept.request is not mine


@pytest.mark.parametrize("program", [nothing_of_them, keeps_some])
@pytest.mark.parametrize("strategy", ["staged", "states", "depth-first"])
def test_proxies(program: Any, strategy: str) -> None:
    """A module or frame that holds proxies which nobody may ask is explored as any other."""
    report = explore(program, strategy=strategy, max_executions=2_000)
    assert report.verdict == "proved", report.text


async def frees_some(world: World) -> None:
    """A circle of objects that nobody may ask, for the collector."""
    circle: list[object] = [Guarded(), Proxy(3)]
    circle.append(circle)
    del circle
    await world.outside("something")


def test_proxies_that_are_freed() -> None:
    """What the collector frees within an execution is not asked what it is."""
    report = explore(frees_some, max_executions=100)
    assert report.verdict == "proved", report.text
    assert "garbage" in report.claim
    natural = NaturalOrder()
    natural.next_execution()
    outcome = run_execution(frees_some, natural, Bounds(collections=1), traced=True)
    assert outcome.violation is outcome.error is None


@pytest.mark.parametrize("make", [lambda: Proxy(4), Guarded], ids=["proxy", "guarded"])
def test_deadlock_beside_proxies(make: Callable[[], object]) -> None:
    """Where a task waits for ever, its variables are not asked whether they are asyncio's."""
    named = make()

    async def waits_for_ever(*_: World) -> None:
        self, fs = named, named
        await asyncio.get_running_loop().create_future()
        assert self is fs

    report = explore(waits_for_ever, max_executions=10)
    assert report.verdict == "refuted", report.text
    assert "waits_for_ever" in report.text


class Column:
    """As SQLAlchemy's, and numpy's arrays: what it is compared to makes a condition of no truth."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> Column:  # type: ignore[override]
        return Column()

    def __bool__(self) -> bool:
        raise TypeError("Boolean value of this clause is not defined")


async def generates(world: World) -> None:
    async def columns(column: Column) -> AsyncIterator[Column]:
        yield column
        yield column

    @functools.lru_cache
    def first(name: str) -> Column:
        return Column()

    found = columns(first("id"))
    await anext(found)
    await asyncio.gather(world.outside("a"), world.outside("b"))
    await found.aclose()


def test_what_is_equal_to_nothing_in_a_state() -> None:
    """A state is read without comparing what a generator or a cache holds: it was a traceback."""
    report = explore(generates, strategy="states")
    assert report.verdict == "proved", report.text


async def reads_the_clock_around_them(world: World) -> None:
    """What such a line names is looked at: it may be large, and then the line takes its time."""
    before = time.time()
    held = [request, guarded, listener, of_meta, holder.request, dead]
    after = time.time()
    await world.outside("something")
    assert len(held) == 6
    assert before <= after


def test_proxies_between_two_readings_of_the_clock() -> None:
    """Whether two readings may be equal asks none of them: an error of theirs was the program's."""
    report = explore(reads_the_clock_around_them, max_executions=200)
    assert report.verdict == "proved", report.text
    assert "equal_readings" in report.text, report.text


async def runs_threads_beside_them(world: World) -> None:
    def job() -> bool:
        return request is not guarded

    assert await asyncio.to_thread(job)


def test_proxies_beside_lines_of_threads() -> None:
    """Where a module's lines are looked for none of them is asked: from 3.12 on that refuted."""
    report = explore(runs_threads_beside_them, max_executions=200)
    assert report.verdict == "proved", report.text
    assert "20 random executions" in report.text, report.text


async def locks_in_slots(world: World) -> None:
    def uses() -> None:
        with in_slots.lock:
            of_its_own.use()

    await asyncio.gather(asyncio.to_thread(uses), asyncio.to_thread(of_its_own.use))


def test_locks_in_slots() -> None:
    """Locks in a slot with a private name, or in one that is named by a text, are simulated."""
    report = explore(locks_in_slots, strategy="random", max_executions=20)
    assert report.counterexample is None, report.text
    assert report.executions == 20, report.text


class Nameless:
    def __call__(self) -> None:
        raise ValueError

    __getattr__ = answers_nothing


async def callback_of_no_name(*_: World) -> None:
    asyncio.get_running_loop().call_soon(Nameless())
    await asyncio.sleep(1)


def test_callback_of_no_name() -> None:
    """Where asyncio cannot say which callback raised, that ends the loop, here as on stock."""
    with pytest.raises(Unbound):
        asyncio.run(callback_of_no_name())
    report = explore(callback_of_no_name, max_executions=10)
    assert report.verdict == "refuted", report.text
    assert "Unbound" in report.text


class ByValue:
    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and other.number == self.number

    __hash__ = object.__hash__


class Protocol(asyncio.Protocol):
    def __init__(self, number: int) -> None:
        self.number = number


class OfSlots(asyncio.Protocol):
    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number


async def in_sets(*_: World) -> None:
    for kind in (ByValue, Protocol):
        first, second = kind(1), kind(2)
        assert len({first, second, first}) == 2
        assert (vars(first), vars(second)) == ({"number": 1}, {"number": 2})
    assert len({OfSlots(1), OfSlots(2)}) == 2


def test_attributes_of_what_hashes() -> None:
    """What was in a set has the attributes that the program gave it, and no others."""
    asyncio.run(in_sets())
    for _ in range(2):
        report = explore(in_sets, max_executions=100)
        assert report.verdict == "proved", report.text


async def threads_and_jobs(*_: World) -> None:
    def job() -> set[str]:
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            future = pool.submit(int)
            concurrent.futures.wait([future])
        return set(vars(future))

    threads = {threading.Thread(target=int): each for each in range(2)}
    assert list(threads.values()) == [0, 1]
    found = {name for each in threads for name in vars(each)} | await asyncio.to_thread(job)
    assert found == NAMES_ON_STOCK, found ^ NAMES_ON_STOCK


NAMES_ON_STOCK = {*vars(threading.Thread(target=int)), *vars(concurrent.futures.Future())}


def test_attributes_of_threads_and_jobs() -> None:
    """A thread and the future of a pool's job, which hash in the order of an execution, hold what
    they hold on stock: a program that prints, compares or copies them finds nothing of ours."""
    asyncio.run(threads_and_jobs())
    report = explore(threads_and_jobs, max_executions=100)
    assert report.verdict == "proved", report.text


def test_hashes_afterwards() -> None:
    """After an exploration a protocol inherits its hash, as it did before."""
    explore(nothing_of_them, max_executions=1)
    assert "__hash__" not in vars(asyncio.BaseProtocol)
    assert "__hash__" not in vars(asyncio.BaseTransport)


def test_as_it_is() -> None:
    """A value is told from what the interpreter has of it: no code of its own runs."""
    assert not is_a(request, type)
    assert is_a(True, int)
    assert dict(attributes_of(request)) == dict(attributes_of(guarded)) == {}
    assert dict(slots_of(request)) == {"_Proxy__local": 1}
    assert dict(slots_of(listener)) == {}
    assert not is_a(dead, Holder)
    assert dict(attributes_of(dead)) == {}
    assert attributes_of(holder)["held"] is holder.held
    assert owner_of(holder.held.append) is holder.held
    assert owner_of(request) is owner_of(guarded) is None
    assert name_of(Holder.__init__) == name_of(holder.__init__) == "Holder.__init__"  # type: ignore[misc]
    assert name_of(request) == "Proxy"
    assert code_of(of_its_own.use) is LockOfItsOwn.use.__code__
    assert code_of(request) is code_of(print) is None
