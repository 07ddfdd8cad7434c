"""What tells two states apart: each place in which a program can keep what it knows."""

from __future__ import annotations

import asyncio
import collections
import contextvars
import functools
import io
import itertools
import random
import signal
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import pytest
from starlette.routing import Route

from sim import explore
from sim.exploration.verdict import Verdict
from sim.kernel.world import World
from sim.schedulers import StateMatching

Hold = Callable[[], Awaitable[None]]
Keeps = Callable[[World, int, Hold], Awaitable[None]]
MARK, OTHER = object(), object()
ROUTES = [Route(path, endpoint=print) for path in ("/one", "/other")]
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")


class One:
    pass


class Two:
    pass


class Holder:
    def __init__(self, value: int) -> None:
        self.value = value


T = TypeVar("T")


class Typed(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class Slotted:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value

    def method(self) -> None:
        pass


async def nowhere(world: World, which: int, hold: Hold) -> None:
    """The control: it has forgotten which it was."""
    del which
    await hold()


async def in_the_name_of_a_local(world: World, which: int, hold: Hold) -> None:
    if which == 1:
        first = 0
    else:
        second = 0
    del which
    await hold()
    if "first" in locals():
        del first
    else:
        del second


async def in_the_place_in_the_code(world: World, which: int, hold: Hold) -> None:
    if which == 1:
        del which
        await hold()
    else:
        del which
        await hold()


async def in_a_loop_that_has_come_so_far(world: World, which: int, hold: Hold) -> None:
    for each in ("", "", ""):
        which -= 1
        if which == 0:
            await hold()
        assert each == ""


async def in_a_generator(world: World, which: int, hold: Hold) -> None:
    def generator() -> collections.abc.Iterator[None]:
        yield
        yield
        yield

    keeps = generator()
    after(which, keeps)
    del which
    await hold()
    keeps.close()


async def in_an_asynchronous_generator(world: World, which: int, hold: Hold) -> None:
    async def generator() -> collections.abc.AsyncIterator[None]:
        yield
        yield
        yield

    keeps = generator()
    await anext(keeps)
    if which == 2:
        await anext(keeps)
    del which
    await hold()
    await keeps.aclose()  # type: ignore[attr-defined]


async def in_a_closure(world: World, which: int, hold: Hold) -> None:
    keeps = lambda: which  # noqa: E731 - it has to be one that the state is read through
    await hold()
    assert keeps()


async def in_the_clock(world: World, which: int, hold: Hold) -> None:
    await asyncio.sleep(which)
    del which
    await hold()


async def in_a_timer(world: World, which: int, hold: Hold) -> None:
    timer = asyncio.get_running_loop().call_later(10 + which, int)
    del which
    await hold()
    timer.cancel()


async def in_a_timer_that_nobody_holds(world: World, which: int, hold: Hold) -> None:
    asyncio.get_running_loop().call_later(10 + which, int)
    del which
    await hold()


async def in_the_window_of_an_event(world: World, which: int, hold: Hold) -> None:
    world.environment.announce("comes later", 10.0 + which, 20.0)
    del which
    await hold()


async def in_a_task_that_nobody_holds(world: World, which: int, hold: Hold) -> None:
    async def waits(result: int) -> None:
        await asyncio.Event().wait()
        assert result

    asyncio.get_running_loop().create_task(waits(which), name="waits")
    del which
    await hold()


async def in_what_was_drawn(world: World, which: int, hold: Hold) -> None:
    random.getrandbits(64 * which)
    del which
    await hold()


async def in_a_predicate(world: World, which: int, hold: Hold) -> None:
    world.always("it is one of the two", lambda kept=which: kept > 0)  # type: ignore[misc]
    del which
    await hold()


async def in_a_context(world: World, which: int, hold: Hold) -> None:
    variable.set(which)
    del which
    await hold()


async def in_whom_cancels_are_offered_to(world: World, which: int, hold: Hold) -> None:
    world.offer_cancels(never_to(which))
    del which
    await hold()


async def in_the_context_of_a_timer(world: World, which: int, hold: Hold) -> None:
    context = contextvars.Context()
    context.run(variable.set, which)
    asyncio.get_running_loop().call_later(10, int, context=context)
    del which, context
    await hold()


async def in_the_name_of_a_task(world: World, which: int, hold: Hold) -> None:
    asyncio.get_running_loop().create_task(asyncio.sleep(10), name=f"task {which}")
    del which
    await hold()


async def in_how_many_futures_were_numbered(world: World, which: int, hold: Hold) -> None:
    """The next one in the set has a place by its number."""
    new = asyncio.get_running_loop().create_future
    kept = {new()}
    for number in range(which):
        hash((number, new()))
    del which, number
    await hold()
    assert kept


async def in_a_set_of_futures(world: World, which: int, hold: Hold) -> None:
    new = asyncio.get_running_loop().create_future
    kept = {new() for _ in range(1 + which)}
    del which
    await hold()
    assert kept


def never_to(which: int) -> Callable[[asyncio.Task[object]], bool]:
    return lambda task: which == 3


def keeps_object(make: Callable[[int], object]) -> Keeps:
    async def keeps(world: World, which: int, hold: Hold) -> None:
        kept = make(which)
        del which
        await hold()
        assert kept is not None

    return keeps


def after(which: int, iterator: collections.abc.Iterator[object]) -> object:
    """The iterator, some steps on."""
    for _ in range(which):
        next(iterator)
    return iterator


def future_of(which: int) -> asyncio.Future[int]:
    future = asyncio.get_running_loop().create_future()
    future.set_result(which)
    return future


def buffer_at(which: int) -> io.BytesIO:
    buffer = io.BytesIO(b"abc")
    buffer.seek(which)
    return buffer


def partial_with(which: int) -> functools.partial[int]:
    made = functools.partial(int)
    made.which = which  # type: ignore[attr-defined]
    return made


def set_that_was_larger(which: int) -> set[int]:
    """Where it has more slots, the next members come in another order."""
    made = {1}
    if which == 2:
        made.update(range(100))
        made -= set(range(100)) - {1}
    return made


def set_with_a_slot_left(which: int) -> set[int]:
    """Of two that hold 9 the one has it where 1 was, the other next to it: then come 3, 2."""
    made = {9}
    if which == 2:
        made = {1, 9}
        made.discard(1)
    return made


def set_that_popped(which: int) -> set[int]:
    """The next `pop` takes the member after the one that was put back."""
    made = {1, 2, 3}
    if which == 2:
        made.add(made.pop())
    return made


def cause_suppressed(which: int) -> ValueError:
    made = ValueError()
    made.__suppress_context__ = which == 2
    return made


def timer_cancelled(which: int) -> asyncio.TimerHandle:
    timer = asyncio.get_running_loop().call_later(which, print)
    timer.cancel()
    return timer


def cached(*calls: int, size: int | None = 4) -> object:
    """A cache that the execution makes, after these calls."""
    cache = functools.lru_cache(size)(Holder)
    for each in calls:
        cache(each)
    return cache


OBJECTS: dict[str, Callable[[int], object]] = {
    "what a cache has kept": lambda which: cached(which),
    "order of what a cache has kept": lambda which: cached(*(1, 2)[:: 3 - 2 * which]),
    "how often a cache was asked": lambda which: cached(*[1] * which),
    "how much a cache keeps": lambda which: cached(1, size=which),
    "what a cache without a bound has kept": lambda which: cached(which, size=None),
    "a description": lambda which: ROUTES[which - 1],
    "a description made meanwhile": lambda which: Route(f"/{which}", endpoint=print),
    "int": lambda which: which,
    "float": lambda which: which / 1000,
    "str": str,
    "bytearray": bytearray,
    "list": lambda which: [None] * which,
    "tuple": lambda which: (which,),
    "order of a dict": lambda which: dict.fromkeys(["a", "b"][:: 3 - 2 * which]),
    "set": lambda which: {which},
    "frozenset": lambda which: frozenset({which}),
    "deque": lambda which: collections.deque([None] * which),
    "bound of a deque": lambda which: collections.deque(maxlen=which),
    "OrderedDict": lambda which: collections.OrderedDict(a=which),
    "factory of a defaultdict": lambda which: collections.defaultdict((int, str)[which - 1]),
    "attribute": Holder,
    "attribute of a generic class": lambda which: Typed[int](which),
    "slot": Slotted,
    "self of a method": lambda which: Slotted(which).method,
    "partial": lambda which: functools.partial(int, which),
    "default": lambda which: eval("lambda kept=kept: kept", {"kept": which}),
    "exception": ValueError,
    "file name of an exception": lambda which: OSError(2, "text", str(which)),
    "name of an exception": lambda which: ImportError("text", name=str(which)),
    "whether an exception shows its context": cause_suppressed,
    "attribute of a partial": partial_with,
    "size of a set's table": set_that_was_larger,
    "slot of a discarded member": set_with_a_slot_left,
    "where a set pops": set_that_popped,
    "time of a timer that is over": timer_cancelled,
    "range": range,
    "list iterator": lambda which: after(which, iter([0, 0, 0])),
    "str iterator": lambda which: after(which, iter("aaa")),
    "enumerate": lambda which: after(which, enumerate("aaa")),
    "zip": lambda which: after(which, zip("aaa", "bbb", strict=False)),
    "map": lambda which: after(which, map(str, "aaa")),
    "count": itertools.count,
    "BytesIO": buffer_at,
    "Future": future_of,
    "class": lambda which: (One, Two)[which - 1],
    "object of a class": lambda which: (One, Two)[which - 1](),
    "mark of a module": lambda which: MARK if which == 1 else OTHER,
    "queue": lambda which: asyncio.Queue(which),
    "semaphore": asyncio.Semaphore,
    "weak reference": lambda which: weakref.ref((One, Two)[which - 1]),
    "generic alias": lambda which: list[(int, str)[which - 1]],  # type: ignore[misc,index]
}


async def in_a_signal_handler(world: World, which: int, hold: Hold) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, int)
    if which == 2:
        loop.remove_signal_handler(signal.SIGTERM)
    del which
    await hold()


async def in_the_exception_handler(world: World, which: int, hold: Hold) -> None:
    if which == 2:
        asyncio.get_running_loop().set_exception_handler(None)
    del which
    await hold()


def one_factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return loop.new_task(coro, name="made")  # type: ignore[no-any-return]


def other_factory(loop: Any, coro: Any, **options: Any) -> asyncio.Task[Any]:
    return loop.new_task(coro, name="made")  # type: ignore[no-any-return]


async def in_the_task_factory(world: World, which: int, hold: Hold) -> None:
    asyncio.get_running_loop().set_task_factory((one_factory, other_factory)[which - 1])
    del which
    await hold()


async def in_debug_mode(world: World, which: int, hold: Hold) -> None:
    asyncio.get_running_loop().set_debug(which == 1)
    del which
    await hold()


async def in_whether_the_executor_is_shut_down(world: World, which: int, hold: Hold) -> None:
    if which == 2:
        await asyncio.get_running_loop().shutdown_default_executor()
    del which
    await hold()


async def in_the_declared_files(world: World, which: int, hold: Hold) -> None:
    if which == 2:
        world.declare(__file__)
    del which
    await hold()


PLACES: dict[str, Keeps] = {
    keeps.__name__: keeps
    for keeps in (
        in_the_name_of_a_local,
        in_the_place_in_the_code,
        in_a_loop_that_has_come_so_far,
        in_a_generator,
        in_an_asynchronous_generator,
        in_a_closure,
        in_the_clock,
        in_a_timer,
        in_a_timer_that_nobody_holds,
        in_the_window_of_an_event,
        in_a_task_that_nobody_holds,
        in_what_was_drawn,
        in_a_predicate,
        in_a_context,
        in_whom_cancels_are_offered_to,
        in_the_context_of_a_timer,
        in_the_name_of_a_task,
        in_how_many_futures_were_numbered,
        in_a_set_of_futures,
        in_a_signal_handler,
        in_the_exception_handler,
        in_the_task_factory,
        in_debug_mode,
        in_whether_the_executor_is_shut_down,
        in_the_declared_files,
    )
} | {name: keeps_object(make) for name, make in OBJECTS.items()}


def meetings(keeps: Keeps) -> StateMatching:
    """The search of a program that keeps one of two things, and then comes to a choice."""

    async def program(world: World) -> None:
        async def hold() -> None:
            await asyncio.gather(*(world.outside(name, latest=0.0) for name in ("a", "b")))

        # No name of this frame remembers what was chosen.
        await keeps(world, world.choose("which", (1, 2)), hold)

    search = StateMatching()
    report = explore(program, strategy=search, max_executions=1000)
    assert report.verdict == Verdict.PROVED, report.text
    return search


async def of_futures_of_one_number(world: World, which: int, hold: Hold) -> None:
    del which
    new = asyncio.get_running_loop().create_future
    kept = {new(), new()}
    await hold()
    assert kept


@pytest.mark.parametrize(
    "forgets", [nowhere, keeps_object(lambda which: ["the same"]), of_futures_of_one_number]
)
def test_what_is_forgotten_makes_no_state(forgets: Keeps) -> None:
    """The control: where nothing is left of a choice, its states are met again."""
    search = meetings(forgets)
    assert search.met_again > 0
    assert search.opaque == set()


@pytest.mark.parametrize("place", PLACES)
def test_what_is_kept_tells_states_apart(place: str) -> None:
    """Wherever a program keeps it, and each place can be read."""
    search = meetings(PLACES[place])
    assert search.met_again == 0
    assert search.opaque == set()


@pytest.mark.parametrize("made", [{1: 1, 2: 2}, {1, 2}])
def test_an_iterator_that_can_go_on_no_more_makes_a_state_unique(made: Any) -> None:
    """Its container has changed since; that is the program's affair, until it goes on."""

    async def keeps(world: World, which: int, hold: Hold) -> None:
        container = made.copy()
        kept = iter(container)
        next(kept)
        container.clear()
        await hold()
        assert kept is not None

    search = meetings(keeps)
    (opaque,) = search.opaque
    assert "changed size during iteration" in opaque


def test_how_many_tasks_there_were_is_a_part_of_the_state() -> None:
    """The next one is called after that number, and hashes by its name."""

    async def program(world: World) -> None:
        if world.choose("which", (1, 2)) == 1:
            await asyncio.create_task(asyncio.sleep(0))
        await asyncio.sleep(0.1)
        other = asyncio.get_running_loop().create_task(world.outside("b"), name="b")
        await world.outside("a")
        await other
        world.reached(asyncio.create_task(asyncio.sleep(0)).get_name())

    states = explore(program, strategy="states", max_executions=1000)
    assert states.verdict == Verdict.PROVED
    assert states.labels == explore(program, max_executions=1000).labels
    assert len(states.labels) == 2


def test_the_time_at_which_the_loop_may_be_late_is_a_part_of_the_state() -> None:
    """A clock that reads another time, before the same timer, leads elsewhere."""

    async def program(world: World) -> None:
        await asyncio.sleep(world.choose("which", (1, 2)) / 1000)
        asyncio.get_running_loop().call_at(0.01, int)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.reached(f"{world.now:.3f}")

    states = explore(program, strategy="states", max_executions=1000)
    assert states.verdict == Verdict.PROVED
    assert states.labels == explore(program, max_executions=1000).labels
    assert states.labels >= {"0.001", "0.002"}
