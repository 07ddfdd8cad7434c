"""What keeps an execution cheap, and is easily lost. No test of speed: that is the machine's."""

from __future__ import annotations

import asyncio
import operator
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from sim import World
from sim.kernel.execution import Program, run_execution
from sim.kernel.guards import guarded
from sim.kernel.loop import SimLoop
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds
from sim.kernel.threads.workers import Threads
from sim.schedulers import NaturalOrder, RandomWalk, Scheduler

ATTRIBUTES_MAX = 30
"""With more, CPython 3.11 keeps a dict for the object, and each of them is slower to read."""

SEEDS = 40


BOUNDS = Bounds()


def executed(program: Program, *makes: Callable[[], Scheduler]) -> list[Outcome]:
    """An execution under each of the schedulers."""
    outcomes: list[Outcome] = []
    with guarded():
        for make in makes:
            scheduler = make()
            scheduler.next_execution()
            outcomes.append(run_execution(program, scheduler, BOUNDS))
    return outcomes


def test_a_loop_has_few_attributes_of_its_own() -> None:
    """In an execution without threads, sockets and hosts the loop has no more than are cheap."""
    found: list[int] = []

    async def program(world: World) -> None:
        await asyncio.sleep(1)
        found.append(len(vars(world.loop)))

    executed(program, NaturalOrder)
    assert 0 < found[0] <= ATTRIBUTES_MAX


async def one_waits(world: World) -> None:
    lock, queue = asyncio.Lock(), asyncio.Queue[int]()
    async with lock, asyncio.TaskGroup() as group:
        group.create_task(world.outside("somebody comes"))
        group.create_task(queue.get())
        await queue.put(1)


async def one_reads_clocks(world: World) -> None:
    for _ in range(3):
        before = time.time()
        await asyncio.sleep(1)
        assert time.time() > before


@pytest.mark.parametrize("program", [one_waits, one_reads_clocks])
def test_an_execution_leaves_nothing_to_the_collector(program: Program) -> None:
    """Its loop, and all that hangs on it, is freed as it ends: the next one has its memory."""
    loops: list[weakref.ref[SimLoop]] = []

    async def noted(world: World) -> None:
        loops.append(weakref.ref(world.loop))
        await program(world)

    with guarded():
        for _ in range(2):
            scheduler = RandomWalk(0)
            scheduler.next_execution()
            assert run_execution(noted, scheduler, BOUNDS).violation is None
        assert [each() for each in loops] == [None, None]


# ---- threads that need not stand --------------------------------------------------------------


def counts(to: int) -> int:
    counted = 0
    while counted < to:
        counted += 1
    return counted


async def one_counts(world: World) -> None:
    world.declare(__file__)
    await asyncio.to_thread(counts, 50)


async def two_count(world: World) -> None:
    world.declare(__file__)
    await asyncio.gather(asyncio.to_thread(counts, 5), asyncio.to_thread(counts, 5))


async def one_counts_beside_a_timer(world: World) -> None:
    world.declare(__file__)
    asyncio.get_running_loop().call_later(0.005, int)
    await asyncio.to_thread(counts, 5)


async def one_counts_beside_what_comes(world: World) -> None:
    world.declare(__file__)
    counting = asyncio.ensure_future(asyncio.to_thread(counts, 5))
    await world.outside("somebody comes")
    await counting


async def one_sleeps_and_one_counts(world: World) -> None:
    world.declare(__file__)
    await asyncio.gather(asyncio.to_thread(time.sleep, 0.004), asyncio.to_thread(counts, 5))


async def one_hands_over_to_another(world: World) -> None:
    world.declare(__file__)
    handed: queue.Queue[int] = queue.Queue()

    def gives() -> None:
        handed.put(1)
        counts(2)
        handed.put(2)

    giving = threading.Thread(target=gives)
    giving.start()
    assert await asyncio.to_thread(lambda: [handed.get(), handed.get()]) == [1, 2]
    giving.join()


async def one_calls_the_loop_and_counts_on(world: World) -> None:
    world.declare(__file__)
    loop, called = asyncio.get_running_loop(), asyncio.Event()

    def calls() -> None:
        loop.call_soon_threadsafe(called.set)
        counts(3)

    calling = asyncio.ensure_future(asyncio.to_thread(calls))
    await called.wait()
    await calling


async def one_touches_the_loop_untold(world: World) -> None:
    world.declare(__file__)
    loop, called = asyncio.get_running_loop(), asyncio.Event()

    def touches() -> None:
        loop.call_soon(called.set)
        counts(2)

    touching = asyncio.ensure_future(asyncio.to_thread(touches))
    await touching
    await called.wait()


PROGRAMS = [
    one_counts,
    two_count,
    one_counts_beside_a_timer,
    one_counts_beside_what_comes,
    one_sleeps_and_one_counts,
    one_hands_over_to_another,
    one_calls_the_loop_and_counts_on,
    one_touches_the_loop_untold,
]


def schedulers() -> Sequence[Callable[[], Scheduler]]:
    return [NaturalOrder, *(partial(RandomWalk, seed) for seed in range(SEEDS))]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_thread_that_goes_on_at_once_is_offered_the_same_choices(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a thread stands where nothing else could be chosen changes no execution."""
    at_once = executed(program, *schedulers())
    # False. No function of this file, whose lines are switch points.
    monkeypatch.setattr(SimLoop, "must_go_on", operator.not_)
    standing = executed(program, *schedulers())
    assert [each.error for each in at_once] == [None] * len(at_once)
    assert [(each.choices, each.violation) for each in at_once] == [
        (each.choices, each.violation) for each in standing
    ]
    if program is not one_counts:
        assert len({tuple(each.choices) for each in at_once}) > 1, "it has no choice at all"


def test_a_thread_stands_only_where_something_else_could_be_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that is alone with a loop in its poll runs its lines without standing at each."""
    steps: list[object] = []
    step = Threads.step

    def counted(threads: Threads, worker: object) -> None:
        steps.append(worker)
        step(threads, worker)  # type: ignore[arg-type]

    monkeypatch.setattr(Threads, "step", counted)
    executed(one_counts, NaturalOrder)
    assert 0 < len(steps) < 20, "50 rounds of two lines each"


def test_a_thread_that_never_ends_is_noticed_also_where_it_need_not_stand() -> None:
    """Its lines are turns, of which a poll has a bound."""

    async def program(world: World) -> None:
        world.declare(__file__)

        def spins() -> None:
            while True:
                pass

        await asyncio.to_thread(spins)

    (outcome,) = executed(program, NaturalOrder)
    assert "spin_max" in outcome.bounds_hit
    assert outcome.violation is not None or outcome.error is not None
