"""What stands for something of CPython's has all that this one's has, or refuses by name."""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import copy
import inspect
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

from sim import NotSimulated, World, explore
from sim.kernel.guards import guarded
from sim.kernel.hashing import SimFuture, SimTask
from sim.kernel.loop import SimLoop
from sim.kernel.threads.identity import EndLock, ThreadHandle
from sim.kernel.threads.local_values import SimLocal
from sim.kernel.threads.locks import SimLock, SimRLock
from sim.kernel.threads.pools import SimExecutor
from sim.schedulers import DepartureBounded
from sim.schedulers.reduction.happens_before import TrackedFuture, TrackedTask

NO_THREADS = "about threads of the system, of which the pool has none"
# A Thread object calls its lock by the newer ones alone.
OTHER_NAMES_OF_LOCKS = ("acquire_lock", "release_lock", "locked_lock", "__enter__", "__exit__")
NO_PIPE = "about the pipe to itself and child processes, of which a simulated loop has none"
SINCE_3_15 = "takes anything, as before 3.15, which names the three that `with` gives it"
HANDS_ON = "hands on whatever it is given to what it stands for"


@dataclass(frozen=True)
class Pair:
    """A stand-in next to what it stands for.

    left_out: why it refuses names that begin with an underscore, and these: also_left_out.
    other_signature: names whose parameters differ on purpose, each with the reason.
    """

    stand_in: type
    real: type
    left_out: str | None = None
    also_left_out: tuple[str, ...] = ()
    other_signature: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.stand_in.__name__} for {self.real.__name__}"


def _end_of_a_thread() -> Pair:
    """What a Thread object asks about the end of its thread: a handle since 3.13, a lock before."""
    thread: Any = threading.Thread()
    for name in ("_os_thread_handle", "_handle"):
        if hasattr(thread, name):
            return Pair(ThreadHandle, type(getattr(thread, name)))
    return Pair(EndLock, _thread.LockType, also_left_out=OTHER_NAMES_OF_LOCKS)


PAIRS = [
    Pair(SimLock, type(_thread.allocate_lock()), other_signature=(("__exit__", SINCE_3_15),)),
    Pair(SimRLock, type(threading.RLock()), other_signature=(("__exit__", SINCE_3_15),)),
    Pair(SimLocal, threading.local),
    _end_of_a_thread(),
    Pair(SimExecutor, ThreadPoolExecutor, NO_THREADS, ("BROKEN", "prepare_context")),
    Pair(SimFuture, asyncio.Future),
    Pair(SimTask, asyncio.Task),
    Pair(TrackedFuture, asyncio.Future),
    Pair(TrackedTask, asyncio.Task),
    Pair(
        SimLoop,
        asyncio.SelectorEventLoop,
        NO_PIPE,
        other_signature=(("create_task", HANDS_ON),),
    ),
]
# Functions that are replaced in their module for the time of an exploration.
MODULES = {
    time: [name for name in dir(time) if callable(getattr(time, name))],
    random: [*random.__all__, "_urandom"],
    os: ["urandom", "getrandom", "kill"],
    signal: ["raise_signal"],
    threading: ["get_ident", "get_native_id"],
    _thread: ["get_ident", "get_native_id", "start_new_thread", "start_joinable_thread"],
}


def names_of(cls: type) -> set[str]:
    """What can be asked of an instance, but for what every class has."""
    of_classes = {"__module__", "__dict__", "__weakref__", "__static_attributes__"}
    return (
        {name for name in dir(cls) if name not in dir(object) and hasattr(cls, name)}
        - of_classes
        - {
            "__firstlineno__",
            "__annotations__",
        }
    )


def parameters_of(function: object) -> list[tuple[str, Any, Any]] | None:
    """Name, kind and default of each but self; None where the interpreter does not tell.

    The name of one that is given by its position alone does not matter.
    """
    try:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return None
    return [
        ("" if each.kind is each.POSITIONAL_ONLY else each.name, each.kind, each.default)
        for each in parameters
        if each.name != "self"
    ]


def lacking(pair: Pair) -> set[str]:
    allowed = set(pair.also_left_out)
    lacks = names_of(pair.real) - names_of(pair.stand_in) - allowed
    return {name for name in lacks if pair.left_out is None or not name.startswith("_")}


def differing(pair: Pair) -> list[str]:
    allowed = dict(pair.other_signature)
    told = []
    for name in sorted(names_of(pair.real) & names_of(pair.stand_in) - set(allowed)):
        own = parameters_of(getattr(pair.stand_in, name))
        real = parameters_of(getattr(pair.real, name))
        if own is not None and real is not None and own != real:
            told.append(f"{name}: {own}, but {real}")
    return told


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_stand_in_has_what_it_stands_for_has(pair: Pair) -> None:
    """Every name, public or not, with the same parameters; what is left out has a reason."""
    assert lacking(pair) == set()
    assert differing(pair) == []


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_a_stand_in_has_no_method_that_this_version_lacks(pair: Pair) -> None:
    """A program that asks whether a lock has `locked` gets this version's answer."""
    later = {"locked", "_recursion_count", "get_context", "get_coro", "uncancel", "strptime"}
    assert (names_of(pair.stand_in) - names_of(pair.real)) & later == set()


def test_the_comparison_finds_a_method_that_is_taken_away() -> None:
    """Without `locked`, which brought 3.14 down, the first test fails; so with other parameters."""

    class OtherParameters(SimFuture):
        def set_result(self, value: object) -> None:  # type: ignore[override]
            super().set_result(value)

    taken = {name: value for name, value in vars(SimLock).items() if name != "locked"}
    pair = Pair(type("WithoutLocked", (), taken), type(threading.Lock()))
    assert lacking(pair) == {"locked"}
    assert differing(Pair(OtherParameters, asyncio.Future))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_replaced_function_is_called_as_the_real_one(module: Any) -> None:
    """What stands in a module during an exploration takes the parameters of what stood there."""
    names = [name for name in MODULES[module] if hasattr(module, name)]
    real = {name: parameters_of(getattr(module, name)) for name in names}
    with guarded():
        own = {name: parameters_of(getattr(module, name)) for name in names}
    told = [name for name in names if own[name] is not None and real[name] is not None]
    assert [name for name in told if own[name] != real[name]] == []


def outcome_of(act: Callable[[], object]) -> object:
    try:
        return act()
    except Exception as exc:
        return type(exc), str(exc)


def acts_on_a_lock(lock: Any) -> list[Callable[[], object]]:
    return [
        lock.release,
        lambda: lock.acquire(False, 1),
        lambda: lock.acquire(timeout=-2),
        lambda: lock.acquire(timeout=threading.TIMEOUT_MAX * 2),
        lambda: lock.acquire(),
        lambda: lock.release(),
        lambda: lock.__enter__(),
        lambda: lock.__exit__(None, None, None),
        lambda: hasattr(lock, "locked") and lock.locked(),
        lambda: hasattr(lock, "_recursion_count") and lock._recursion_count(),
        lambda: hasattr(lock, "_release_save") and lock._release_save(),
        lambda: copy.copy(lock),
        lambda: lock.no_such_name,
        lambda: lock._at_fork_reinit(),
    ]


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_a_lock_raises_what_the_real_one_raises(kind: str) -> None:
    """Misused in each way, it answers with the type and the words of CPython's."""
    real = [outcome_of(act) for act in acts_on_a_lock(getattr(threading, kind)())]
    with guarded():
        own = [outcome_of(act) for act in acts_on_a_lock(getattr(threading, kind)())]
    assert own == real


@pytest.mark.parametrize("seconds", [-1, "soon", None])
def test_sleep_raises_what_the_real_one_raises(seconds: Any) -> None:
    """As with the locks."""
    real = outcome_of(lambda: time.sleep(seconds))
    with guarded():
        own = outcome_of(lambda: time.sleep(seconds))
    assert isinstance(real, tuple)
    assert isinstance(own, tuple)
    assert own[0] == real[0]


async def every_primitive(world: World) -> None:
    """What threading makes of the locks, each used once through all its methods."""
    for condition in (threading.Condition(), threading.Condition(threading.Lock())):
        with condition:
            condition.notify_all()
            assert not condition.wait(timeout=0.1)
        getattr(condition, "locked", lambda: False)()
    event = threading.Event()
    event.set()
    assert event.wait(1)
    semaphore = threading.BoundedSemaphore(1)
    with semaphore:
        assert not semaphore.acquire(timeout=0.1)
    barrier = threading.Barrier(1)
    assert barrier.wait() == 0
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(abs, [1, -2])) == [1, 2]
    await asyncio.to_thread(event.wait)


def test_every_primitive_of_threading_works() -> None:
    """Conditions, events, semaphores, barriers and pools, each with what they ask of a lock."""
    report = explore(every_primitive, max_executions=50, strategy="natural")
    assert report.verdict == "inconclusive", report.text
    assert "natural does not see all" in report.reason


def test_what_a_stand_in_lacks_is_refused_by_name_and_version() -> None:
    """It raises NotSimulated, and no verdict is given also where the program swallows it."""

    async def program(world: World) -> None:
        with pytest.raises(NotSimulated):
            _ = world.executor()._work_queue  # type: ignore[attr-defined]

    report = explore(program)
    assert report.verdict == "error"
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"ThreadPoolExecutor._work_queue of CPython {version}" in report.reason


def test_a_loop_refuses_what_only_the_stock_loop_has() -> None:
    """A private name of the selector loop's is refused; an unknown one is an AttributeError."""

    async def program(world: World) -> None:
        assert not hasattr(world.loop, "no_such_name")
        world.loop._child_watcher_callback(0)  # type: ignore[attr-defined]

    report = explore(program)
    assert report.verdict == "error"
    assert "loop._child_watcher_callback" in report.reason


def test_threads_inherit_context_as_this_interpreters_do() -> None:
    """A job sees the caller's context variables if sys.flags says so; else those of its thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    inherits = bool(getattr(sys.flags, "thread_inherit_context", False))

    async def program(world: World) -> None:
        variable.set("of the caller")
        loop = asyncio.get_running_loop()
        seen = await loop.run_in_executor(None, variable.get)
        world.check(seen == ("of the caller" if inherits else "unset"), "inherited or not", seen)
        # A pool's thread keeps what a job sets; asyncio.to_thread copies the caller's.
        with ThreadPoolExecutor(1) as pool:
            await loop.run_in_executor(pool, variable.set, "of a job")
            later = await loop.run_in_executor(pool, variable.get)
        world.check(later == "of a job", "a thread keeps its context", later)
        world.check(await asyncio.to_thread(variable.get) == "of the caller", "to_thread copies it")

    assert explore(program, strategy=DepartureBounded(1), max_executions=5000).verdict == "proved"
