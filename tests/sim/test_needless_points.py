"""Switch points that show nothing: without them a search comes to all ends, and sooner."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from typing import Any
from unittest import mock

import anyio.from_thread
import anyio.to_thread
import pytest

from sim import World
from sim.exploration.runs import outcomes
from sim.kernel.execution import Program
from sim.kernel.threads import needless_points, workers
from sim.schedulers import DepthFirst, StateMatching
from sim.schedulers.states.frame_memory import UNREAD_FROM
from tests.sim.random_pools import random_pools
from tests.sim.random_primitives import random_primitives
from tests.sim.switch_points import all_switch_points

Ends = set[tuple[str | None, tuple[str, ...]]]

EXECUTIONS_MAX = 2_000
"""A program that has more with all its switch points is not compared."""


def ends_of(program: Program) -> tuple[Ends | None, int]:
    """What all schedules come to, or None if they are too many; and how many they are."""
    found: Ends = set()
    executions = 0
    for outcome in outcomes(program, DepthFirst()):
        executions += 1
        assert outcome.error is None, outcome.error
        violated = outcome.violation.kind.name if outcome.violation is not None else None
        found.add((violated, tuple(sorted(outcome.labels))))
        if executions == EXECUTIONS_MAX:
            return None, executions
    return found, executions


def program_of(seed: object, source: Callable[[object], str] = random_primitives) -> Program:
    names: dict[str, Any] = {}
    exec(source(seed), names)
    program: Program = names["program"]
    return program


def comes_to_the_same(program: Program) -> bool:
    with all_switch_points():
        expected, more = ends_of(program)
    if expected is None:
        pytest.skip(f"with all its switch points it has more than {EXECUTIONS_MAX} executions")
    found, executions = ends_of(program)
    assert executions <= more
    return found == expected


# Seeds of programs that have too many schedules: nothing would be compared.
TOO_MANY_OF_THREADS = {10, 11, 19, 35, 40, 57, 75, 85, 86, 98, 108, 109}
TOO_MANY_OF_POOLS = {*(1, 4, 8, 10, 11, 13, 15, 16, 17, *range(19, 26)), *(27, 29, 32, 35)}


def seeds(suite: Collection[int], thorough: int, soak: int, too_many: set[int]) -> list[Any]:
    """What is not in the suite is thorough up to a number, and soak up to another."""
    marks = (pytest.mark.thorough, pytest.mark.soak)
    return [
        pytest.param(seed, marks=() if seed in suite else marks[seed >= thorough])
        for seed in range(soak)
        if seed not in too_many
    ]


FAST_OF_THREADS = {*range(8), 9, *range(12, 16)}


@pytest.mark.parametrize("seed", seeds(FAST_OF_THREADS, 120, 300, TOO_MANY_OF_THREADS))
def test_random_threads_come_to_the_same_ends(seed: int) -> None:
    """Queues, events, conditions, semaphores, barriers, futures: no end is lost, none is new."""
    assert comes_to_the_same(program_of(seed))


@pytest.mark.parametrize("seed", seeds({0, 3, 5, 6}, 40, 100, TOO_MANY_OF_POOLS))
def test_random_pools_come_to_the_same_ends(seed: int) -> None:
    """Results, cancels, shutdowns, asked by a loop and by threads: no end is lost, none is new."""
    assert comes_to_the_same(program_of(seed, random_pools))


async def is_shut_down(world: World) -> None:
    """The pool's thread has not begun, or has taken the job, or does it."""
    told, pool = list[str](), ThreadPoolExecutor(1)
    job = pool.submit(told.append, "job")
    pool.shutdown(wait=False, cancel_futures=True)
    told.append("is shut down")
    try:
        job.result()
    except CancelledError:
        told.append("is cancelled")
    world.reached(", ".join(told))


async def is_shut_down_by_its_loop(world: World) -> None:
    """The same, where the loop alone knows the job."""
    told, pool = list[str](), ThreadPoolExecutor(1)
    job = asyncio.get_running_loop().run_in_executor(pool, told.append, "job")
    pool.shutdown(wait=False, cancel_futures=True)
    told.append("is shut down")
    try:
        await job
    except asyncio.CancelledError:
        told.append("is cancelled")
    world.reached(", ".join(told))


SHUT_DOWN = {"job, is shut down", "is shut down, job", "is shut down, is cancelled"}


@pytest.mark.parametrize("program", [is_shut_down, is_shut_down_by_its_loop])
def test_a_pool_is_shut_down_before_between_and_after(program: Program) -> None:
    """A job that its thread has taken is done after a shutdown that cancels what is queued."""
    found, _ = ends_of(program)
    assert found == {(None, (each,)) for each in SHUT_DOWN}


async def joins(world: World) -> None:
    """One thread while another one runs: that may go on between the end of it and the loop."""
    told = list[str]()
    threads = [threading.Thread(target=told.append, args=(name,)) for name in "ab"]
    for each in threads:
        each.start()
    threads[0].join()
    told.append("joined")
    threads[1].join()
    world.reached(" ".join(told))


async def ends_its_pool(world: World) -> None:
    """The same, where it is a pool that has ended."""
    told = list[str]()
    thread = threading.Thread(target=told.append, args=("b",))
    thread.start()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().run_in_executor(pool, told.append, "a")
    told.append("joined")
    thread.join()
    world.reached(" ".join(told))


@pytest.mark.parametrize("program", [joins, ends_its_pool])
def test_others_go_on_between_the_end_of_a_thread_and_who_waits(program: Program) -> None:
    """The loop's thread goes on as soon as it can, and may be overtaken there."""
    found, _ = ends_of(program)
    assert found == {(None, (each,)) for each in ("a joined b", "a b joined", "b a joined")}


async def thread_is_initialized(world: World) -> None:
    """And has not begun its job."""
    told = list[str]()
    with ThreadPoolExecutor(1, initializer=lambda: told.append("begins")) as pool:
        job = asyncio.get_running_loop().run_in_executor(pool, told.append, "job")
        with threading.Lock():
            world.reached(", ".join(told) or "nothing")
        await job


def test_what_an_initializer_does_is_seen_before_the_job() -> None:
    """A pool's thread may be overtaken between the two."""
    found, _ = ends_of(thread_is_initialized)
    assert found == {(None, (each,)) for each in ("nothing", "begins", "begins, job")}


async def two_jobs(world: World) -> None:
    """Each has a thread; it is seen which of them ends first."""
    told = list[str]()
    with ThreadPoolExecutor(2) as pool:
        jobs = {pool.submit(told.append, name): name for name in "ab"}
        over = [jobs[each] for each in as_completed(jobs)]
    world.reached(f"{told} {over}")


def test_a_later_job_comes_first_and_ends_first() -> None:
    """Two jobs of a pool begin in both orders, and end in both whichever began."""
    found, _ = ends_of(two_jobs)
    orders = [["a", "b"], ["b", "a"]]
    assert found == {(None, (f"{told} {over}",)) for told in orders for over in orders}


async def flag_is_cleared(world: World) -> None:
    """At once, and who has not begun to wait for it waits for ever."""
    event = threading.Event()

    def flashes() -> None:
        event.set()
        event.clear()

    threading.Thread(target=flashes).start()
    event.wait()
    world.reached("it was seen")


async def limited_wait(world: World) -> None:
    """Its time ends in the instant at which it is notified."""
    condition, told = threading.Condition(), list[str]()

    def waits() -> None:
        with condition:
            told.append(f"notified: {condition.wait(0.1)}")
            world.reached(" ".join(told))

    def notifies() -> None:
        time.sleep(0.1)
        with condition:
            told.append("notifies")
            condition.notify()

    threads = [threading.Thread(target=each) for each in (waits, notifies)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()


async def flag_is_read(world: World) -> None:
    """Before the next line of who has set it, and without a lock."""
    event, told = threading.Event(), list[str]()

    def sets() -> None:
        event.set()
        told.append("has set")

    thread = threading.Thread(target=sets)
    thread.start()
    # Taken so that the thread may go first.
    with threading.Lock():
        world.reached(f"{event.is_set()} {told}")
    thread.join()


class Compared:
    def __init__(self, told: list[str]) -> None:
        self.told = told

    def __lt__(self, other: object) -> bool:
        self.told.append("compared")
        return True


async def items_are_compared(world: World) -> None:
    """By the program's own code, while the queue's lock is held."""
    told = list[str]()
    items: queue.PriorityQueue[Compared] = queue.PriorityQueue()
    items.put(Compared(told))

    def puts() -> None:
        items.put(Compared(told))
        told.append("has put")

    thread = threading.Thread(target=puts)
    thread.start()
    with threading.Lock():
        world.reached(f"{told}")
    thread.join()


async def lock_is_asked(world: World) -> None:
    """Whether it is held, which shows what lies between two of a condition's steps."""
    condition = threading.Condition()

    def waits() -> None:
        with condition:
            condition.wait()

    thread = threading.Thread(target=waits)
    thread.start()
    is_free = condition.acquire(blocking=False)
    world.reached(f"{is_free}")
    if is_free:
        condition.release()
    with condition:
        condition.notify()


async def attributes_are_read(world: World) -> None:
    """Of a queue and a semaphore, without their locks."""
    items, semaphore = queue.Queue[int](), threading.Semaphore(0)
    told = list[str]()

    def tells() -> None:
        items.put(1)
        told.append("has put")
        semaphore.release()
        told.append("has released")

    thread = threading.Thread(target=tells)
    thread.start()
    with threading.Lock():
        world.reached(f"{items.unfinished_tasks} {len(items.queue)} {semaphore._value} {told}")
    thread.join()


async def job_is_held(world: World) -> None:
    """By anyio's thread, after the loop has its result."""

    class Argument:
        pass

    argument = Argument()
    reference = weakref.ref(argument)
    call = anyio.to_thread.run_sync(id, argument)
    del argument
    await call
    del call
    world.reached(f"{reference() is None}")


async def result_ends(world: World) -> None:
    """In the loop or in anyio's thread, whichever lets go of it last."""
    told = list[str]()

    class Result:
        def __del__(self) -> None:
            told.append("has ended")

    result: Result | None = await anyio.to_thread.run_sync(lambda: Result())
    result = None
    # The step in which a future is done still has that, and so its result.
    await asyncio.sleep(0)
    world.reached(f"{result} {told}")


NARROW = (
    flag_is_cleared,
    limited_wait,
    flag_is_read,
    items_are_compared,
    lock_is_asked,
    attributes_are_read,
)


@pytest.mark.parametrize("program", NARROW, ids=lambda each: each.__name__)
def test_narrow_programs_come_to_the_same_ends(program: Program) -> None:
    """Each shows what lies between two steps of the standard library."""
    assert comes_to_the_same(program)


class Everything:
    def __contains__(self, _: object) -> bool:
        return True


class AlwaysWoken(workers.Worker):
    has_woken = property(lambda _: True, lambda _, __: None)  # type: ignore[assignment]


OF_ALL_QUEUES = (needless_points, "_is_queue_of_anyio", lambda _: True)
WRONG = {
    flag_is_cleared: ((needless_points, "_WAIT_FOR_FUTURES", Everything()),),
    limited_wait: ((workers, "Worker", AlwaysWoken),),
    flag_is_read: (
        OF_ALL_QUEUES,
        (needless_points, "_NOTIFY_OF_QUEUE", needless_points._SET),
        (needless_points, "_SET", frozenset()),
    ),
    items_are_compared: (OF_ALL_QUEUES,),
    attributes_are_read: (OF_ALL_QUEUES,),
    lock_is_asked: ((needless_points, "_WAIT", Everything()),),
}
"""Of each program, a rule that leaves out one switch point more."""


@pytest.mark.parametrize("program", WRONG, ids=lambda each: each.__name__)
def test_a_wrong_rule_loses_an_end(program: Program) -> None:
    """So the comparison would find one."""
    with ExitStack() as patches:
        for place, name, value in WRONG[program]:
            patches.enter_context(mock.patch.object(place, name, value))
        assert not comes_to_the_same(program)


async def two_jobs_of_anyio(world: World) -> None:
    """One after the other, in one thread, of which the loop is told by another thread."""
    told = list[str]()

    def job(name: str) -> None:
        told.append(name)
        world.reached(" ".join(told))

    await anyio.to_thread.run_sync(job, "a")
    told.append("between")
    await anyio.to_thread.run_sync(job, "b")


async def calls_the_loop(world: World) -> None:
    """From a thread of anyio."""
    told = list[str]()

    def job() -> None:
        told.append("begins")
        anyio.from_thread.run_sync(told.append, "in the loop")
        told.append("ends")

    await anyio.to_thread.run_sync(job)
    world.reached(" ".join(told))


async def is_abandoned(world: World) -> None:
    """The job is cancelled before it begins, while it runs, or after."""
    told = list[str]()

    def tell(what: str) -> None:
        told.append(what)
        world.reached(" ".join(told))

    async def job() -> None:
        await anyio.to_thread.run_sync(tell, "job", abandon_on_cancel=True)
        tell("done")

    task = asyncio.create_task(job())
    await world.outside("the client leaves", latest=0.0)
    task.cancel()
    await asyncio.wait([task])
    tell("end")


OF_ANYIO = (
    two_jobs_of_anyio,
    calls_the_loop,
    pytest.param(is_abandoned, marks=pytest.mark.thorough),
)


@pytest.mark.skipif(sys.version_info >= UNREAD_FROM, reason="states of threads are not read")
@pytest.mark.parametrize("program", OF_ANYIO, ids=lambda each: each.__name__)
def test_anyios_threads_come_to_the_same_ends(program: Program) -> None:
    """A version of anyio whose thread calls what is not known keeps all its switch points."""
    with all_switch_points():
        expected, more = ends_by_states(program)
    found, executions = ends_by_states(program)
    assert found == expected
    assert executions * 5 < more


def is_silent(_: object) -> bool:
    """A rule too many, and no mock: that would hold what it is asked about."""
    return True


@pytest.mark.parametrize("program", [job_is_held, result_ends], ids=lambda each: each.__name__)
def test_what_anyios_thread_holds_is_seen_to_end(program: Program) -> None:
    """Before the loop goes on, or after: without the switch point between, only before."""
    found, _ = ends_of(program)
    with mock.patch.object(needless_points, "_ends_in_silence", is_silent):
        fewer, _ = ends_of(program)
    assert found is not None and fewer is not None
    assert (len(found), len(fewer)) == (2, 1)
    assert fewer < found


def ends_by_states(program: Program) -> tuple[Ends, int]:
    """What all schedules come to, each state once: these are too many for every schedule."""
    found: Ends = set()
    executions = 0
    scheduler = StateMatching(with_labels=True)
    for outcome in outcomes(program, scheduler):
        executions += 1
        assert outcome.error is None, outcome.error
        if not scheduler.is_cut:
            assert outcome.violation is None
            found.add((None, tuple(sorted(outcome.labels))))
    return found, executions
