"""What a program can see of an object's hash is as on stock: each of these runs on both."""

from __future__ import annotations

import abc
import asyncio
import collections
import copy
import dataclasses
import enum
import functools
import gc
import logging
import pickle
import threading
import types
import weakref
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Protocol, runtime_checkable

import pytest

from sim import World, explore, run


class Plain:
    pass


class Slotted:
    __slots__ = ("__weakref__", "a")


class Mixin:
    pass


class Compared(Plain):
    def __eq__(self, other: object) -> bool:
        return True


class Asking(Plain):
    def __hash__(self) -> int:
        return super().__hash__()


class Explicit:
    __hash__ = object.__hash__


class Unwilling(type):
    """Of a class that may not be asked."""

    def __eq__(cls, other: object) -> bool:
        raise RuntimeError

    def __hash__(cls) -> int:
        return 7

    def __getattribute__(cls, name: str) -> Any:
        if name == "__hash__":
            raise RuntimeError
        return super().__getattribute__(name)


class OfUnwilling(metaclass=Unwilling):
    pass


class Abstract(abc.ABC):  # noqa: B024
    pass


class Concrete(Abstract):
    pass


class Failure(Exception):
    pass


@dataclasses.dataclass(eq=False)
class ById:
    number: int = 0


@dataclasses.dataclass(eq=False, slots=True, weakref_slot=True)
class ByIdWithSlots:
    number: int = 0


@runtime_checkable
class Closes(Protocol):
    def close(self) -> None: ...


@dataclasses.dataclass
class Closer:
    def close(self) -> None:
        """It cannot be hashed."""


class MyList(list[int]):
    pass


class Filter(logging.Filter):
    pass


KINDS: list[Any] = [Plain, Slotted, Explicit, Concrete, Failure, ById, ByIdWithSlots]
HELD = [each() for each in [*KINDS, Asking, OfUnwilling, Mixin, asyncio.Event, logging.Filter]]
HASHES = [hash(each) for each in HELD]
IN_SET, IN_FROZEN, IN_TUPLES = {*HELD}, frozenset(HELD), {(each, 1) for each in HELD}
KEYS = dict.fromkeys(HELD, 1)
WEAKLY, WEAK_KEYS = weakref.WeakSet(HELD), weakref.WeakKeyDictionary(KEYS)


@functools.lru_cache
def cached(_: Any) -> object:
    return object()


FIRST = [*map(cached, HELD)]


async def what_modules_hold() -> None:
    for each, number, first in zip(HELD, HASHES, FIRST, strict=True):
        assert hash(each) == number
        assert each in IN_SET
        assert each in IN_FROZEN
        assert (each, 1) in IN_TUPLES
        assert KEYS[each] == 1
        assert each in WEAKLY
        assert WEAK_KEYS[each] == 1
        assert cached(each) is first
    for cls in KINDS:
        assert cls() not in IN_SET
    assert {*HELD} == IN_SET == IN_FROZEN


async def what_classes_say() -> None:
    for cls in (*KINDS, asyncio.Event, asyncio.Queue, asyncio.Lock):
        assert cls.__hash__ is object.__hash__
        one = cls()
        assert one.__hash__() == hash(one)
        assert isinstance(one, Hashable)
        assert one in {one}
        assert cls() not in {one}
    for cls in (Asking, OfUnwilling):
        one = cls()
        assert one in {one}
        assert cls() not in {one}


async def what_cannot_be_hashed() -> None:
    for each in (Compared(), Closer(), MyList()):
        assert type(each).__hash__ is None
        assert not isinstance(each, Hashable)
        with pytest.raises(TypeError, match="unhashable type"):
            hash(each)
    assert isinstance(Closer(), Closes)


async def classes_of_its_own() -> None:
    name: Any = type("Name", (Mixin, str), {})
    assert {"a": 1}[name("a")] == 1
    of_list: Any = type("OfList", (Mixin, list), {})
    with pytest.raises(TypeError, match="unhashable type: 'OfList'"):
        hash(of_list())
    point: Any = collections.namedtuple("point", "x y")
    assert type("Point", (Mixin, point), {})(1, 2) in {(1, 2)}

    class List(Mixin, list[int]):
        pass

    assert not isinstance(List(), Hashable)

    class Five:
        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 5

    fives: Any = type("Fives", (Plain, Five), {})
    assert fives.__hash__ is Five.__hash__
    assert len({fives(), fives()}) == 1

    class Two(Mixin, Asking):
        pass

    assert len({Two(), Two()}) == 2

    class Local:
        pass

    assert Local.__hash__ is object.__hash__

    @dataclasses.dataclass
    class Data(Local):
        number: int

    assert Data.__hash__ is None
    frozen: Any = dataclasses.make_dataclass("F", [("a", int)], bases=(Local,), frozen=True)
    assert frozen(1) in {frozen(1)}

    @runtime_checkable
    class AlsoCloses(Protocol):
        def close(self) -> None: ...

    assert isinstance(Closer(), AlsoCloses)

    class Colour(enum.Enum):
        RED = 1

    assert Colour.RED in {Colour.RED}


FOUND: list[bool] = []


class Leaving:
    """In a circle, so that the collector clears its weak references before it asks it."""

    def __init__(self, home: set[Any]) -> None:
        self.home, self.me = home, self
        home.add(self)

    def __del__(self) -> None:
        FOUND.append(self in self.home)


async def what_is_freed() -> None:
    FOUND.clear()
    Leaving(set())
    gc.collect()
    assert FOUND == [True]
    kept = [Plain() for _ in range(50)]
    weakly, keys = weakref.WeakSet(kept), weakref.WeakKeyDictionary(dict.fromkeys(kept, 1))
    del kept[10:]
    assert len(weakly) == len(keys) == 10
    assert not any(each in weakly for each in [Plain() for _ in range(50)])


async def copies() -> None:
    one: Any = Plain()
    one.number = 1
    group = {one}
    assert vars(one) == {"number": 1}
    assert copy.copy(one) not in group
    assert not group & copy.deepcopy(group)
    assert not group & pickle.loads(pickle.dumps(group))
    both = copy.deepcopy([one, group])
    assert both[0] in both[1]


async def another_class() -> None:
    # A class of the standard library, in the place of which comes one of the program's.
    for each, cls in (
        (logging.Filter(), Filter),
        (asyncio.Event(), type("E", (asyncio.Event,), {})),
    ):
        group = {each}
        each.__class__ = cls
        assert each in group


async def what_is_assigned() -> None:
    class Kind:
        pass

    each: Any = Kind()
    Kind.__hash__ = lambda self: 5  # type: ignore[method-assign]
    assert hash(each) == 5


async def objects_of_libraries() -> None:
    loop = asyncio.get_running_loop()
    made = [asyncio.Queue(), asyncio.Semaphore(), asyncio.Condition(), asyncio.StreamReader()]
    made += [asyncio.TaskGroup(), asyncio.timeout(1), loop, loop.call_soon(int)]
    made += [threading.Event(), threading.Condition(), loop.call_later(1, int)]
    group = {*made}
    assert len(group) == len(made)
    assert all(each in group for each in made)
    # No weak reference, and so by address.
    assert types.SimpleNamespace.__hash__ is None


PROGRAMS = [
    *(what_modules_hold, what_classes_say, what_cannot_be_hashed, classes_of_its_own),
    *(what_is_freed, copies, another_class, what_is_assigned, objects_of_libraries),
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda each: each.__name__)
def test_it_is_as_on_stock(program: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """What holds there holds in an execution, and nothing of it is left in the classes."""

    async def simulated(world: World) -> None:
        await program()

    asyncio.run(program())
    outcome = run(simulated)
    assert outcome.violation is None, outcome.violation
    assert not any("__hash__" in vars(each) for each in (Plain, Mixin, ById, asyncio.Event))
    assert all(each in IN_SET for each in HELD)


def test_a_class_that_would_change_its_hash_is_refused() -> None:
    """One of the standard library's has none of an execution."""

    async def program(world: World) -> None:
        each: Any = Filter()
        assert each in {each}
        each.__class__ = logging.Filter

    report = explore(program, max_executions=1)
    assert report.verdict == "error"
    assert "Filter.__class__ = Filter" in report.reason
