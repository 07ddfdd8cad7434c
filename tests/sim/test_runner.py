"""A simulated loop that stands alone: asyncio.Runner, policies, other people's suites."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import os
import random
import signal
import sys
import threading
import time
import unittest
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import anyio
import anyio.from_thread
import pytest

from sim import (
    DepartureBounded,
    NotSimulated,
    Stuck,
    World,
    explore,
    new_event_loop,
)
from sim.kernel.hashing import SimTask
from sim.kernel.threads import tools
from sim.kernel.threads.pools import SimExecutor
from tests.limits import HANGS_S
from tests.sim.fresh_processes import printed_in_fresh_processes
from tests.sim.policies import policy_kept


def run(main: Callable[[], Awaitable[object]], **options: object) -> object:
    async def awaited() -> object:
        return await main()

    with asyncio.Runner(loop_factory=new_event_loop, **options) as runner:  # type: ignore
        return runner.run(awaited())


@pytest.fixture
def _policy() -> Iterator[None]:
    with policy_kept(is_simulated=True):
        yield


# ---- as loop factory and as policy -----------------------------------------------------------


def test_a_runner_runs_in_virtual_time() -> None:
    """An hour's sleep takes no time, and the loop says that an hour has passed."""
    begun = time.perf_counter()

    async def main() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(main) == pytest.approx(3600, abs=0.1)
    assert time.perf_counter() - begun < HANGS_S


@pytest.mark.usefixtures("_policy")
def test_asyncio_run_takes_the_policy() -> None:
    """With the policy set, asyncio.run is simulated."""

    async def main() -> str:
        return type(asyncio.get_running_loop()).__name__

    assert asyncio.run(main()) == "StandaloneLoop"


@pytest.mark.skipif(sys.version_info < (3, 12), reason="asyncio.run has loop_factory since 3.12")
def test_asyncio_run_takes_the_loop_factory() -> None:
    """asyncio.run(…, loop_factory=new_event_loop) is simulated."""

    async def main() -> str:
        return type(asyncio.get_running_loop()).__name__

    assert asyncio.run(main(), loop_factory=new_event_loop) == "StandaloneLoop"


@pytest.mark.usefixtures("_policy")
def test_a_unittest_case_takes_the_policy() -> None:
    """IsolatedAsyncioTestCase, with its set-up and tear-down, runs in virtual time."""
    seen: list[str] = []

    class Case(unittest.IsolatedAsyncioTestCase):
        loop_factory = staticmethod(new_event_loop)  # since 3.13; before that the policy

        async def asyncSetUp(self) -> None:
            await asyncio.sleep(60)
            seen.append("set up")

        async def asyncTearDown(self) -> None:
            seen.append(f"{asyncio.get_running_loop().time():.0f}")

        async def test(self) -> None:
            await asyncio.sleep(3600)

    result = unittest.TestResult()
    Case("test").run(result)
    assert result.wasSuccessful(), result.errors + result.failures
    assert seen == ["set up", "3660"]


def test_anyio_takes_the_loop_factory() -> None:
    """anyio.run with our factory is simulated, task groups and all."""

    async def main() -> list[float]:
        ended: list[float] = []

        async def child(seconds: float) -> None:
            await anyio.sleep(seconds)
            ended.append(seconds)

        async with anyio.create_task_group() as group:
            for seconds in (300.0, 100.0, 200.0):
                group.start_soon(child, seconds)
        return ended

    ended = anyio.run(main, backend_options={"loop_factory": new_event_loop})
    assert ended == [100.0, 200.0, 300.0]


# ---- its life --------------------------------------------------------------------------------


def test_guards_are_on_while_it_runs_and_off_afterwards() -> None:
    """Collector, threads and locks are the process's own again after every run, also a failed one.

    A loop can be run as often as one likes."""
    before = (gc.isenabled(), threading.Thread.start, threading.Lock, time.sleep, os.kill)

    def state() -> tuple[object, ...]:
        return (gc.isenabled(), threading.Thread.start, threading.Lock, time.sleep, os.kill)

    async def inside() -> tuple[object, ...]:
        return state()

    async def fails() -> None:
        raise OSError("on purpose")

    loop = new_event_loop()
    for _ in range(3):
        within = loop.run_until_complete(inside())
        assert not any(one == other for one, other in zip(within, before, strict=True))
        assert state() == before
        with pytest.raises(OSError, match="on purpose"):
            loop.run_until_complete(fails())
        assert state() == before
    loop.close()
    assert loop.is_closed()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_soon(print)


def test_it_runs_inside_an_exploration() -> None:
    """A worker thread that calls asyncio.run in a loop of its own leaves the exploration whole."""

    def blocking() -> str:
        async def inner() -> str:
            await asyncio.sleep(5)
            return "inner"

        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(inner())

    async def program(world: World) -> None:
        world.check(await asyncio.to_thread(blocking) == "inner", "the inner loop ran")
        await asyncio.sleep(1)

    start = threading.Thread.start
    report = explore(program)
    assert report.verdict == "proved", report.text
    assert threading.Thread.start is start


def test_a_closed_loop_takes_no_task() -> None:
    """As asyncio's: RuntimeError, and not a task that never runs."""
    loop = new_event_loop()
    loop.close()
    coroutine = asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="closed"):
        loop.create_task(coroutine)
    coroutine.close()


def test_the_tasks_of_a_long_life_are_not_kept() -> None:
    """A task that ended and that nobody holds is gone, as on asyncio's own loop."""
    loop = new_event_loop()

    async def main() -> None:
        for _ in range(5):
            await asyncio.create_task(asyncio.sleep(0))
            # Since 3.14 the step that it wakes still holds it.
            assert len(loop.tasks) <= 2

    loop.run_until_complete(main())
    assert loop.tasks == []
    loop.close()


def test_a_random_order_comes_back_with_its_seed() -> None:
    """The same seed gives the same order, and some seeds give another."""

    def order(seed: int) -> list[str]:
        seen: list[str] = []

        async def main() -> None:
            async def works(name: str) -> None:
                for step in range(3):
                    await asyncio.to_thread(seen.append, f"{name}{step}")

            await asyncio.gather(works("a"), works("b"))

        loop = new_event_loop(seed=seed)
        loop.run_until_complete(main())
        loop.close()
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(10)}) > 1


def test_what_would_hang_is_stuck() -> None:
    """A loop that could only wait for ever raises, and names the await."""

    async def waits() -> None:
        await asyncio.Event().wait()

    loop = new_event_loop()
    with pytest.raises(Stuck, match=r"no deadlock.*Task-1 waits in waits \(.*test_runner\.py"):
        loop.run_until_complete(waits())
    # And it goes on to work: this is how a suite reports the failure of one of its tests.
    assert loop.run_until_complete(asyncio.sleep(1, "later")) == "later"
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def test_what_spins_is_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loop that does nothing but yield raises in the end, and ten thousand steps are allowed."""

    async def spins() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def works() -> None:
        for _ in range(10_000):
            await asyncio.sleep(0)

    run(works)
    monkeypatch.setattr("sim.runner.LIVELOCK_ROUNDS", 10)
    with pytest.raises(Stuck, match="nothing spins"):
        run(spins)


def test_what_never_ends_is_stuck() -> None:
    """A loop whose timers go on for ever raises at its horizon."""

    async def ticks() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10)

    loop = new_event_loop(horizon_s=1000)
    with pytest.raises(Stuck, match="horizon_s=1000"):
        loop.run_until_complete(ticks())
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


_A_SUITES_OWN_THREAD = """
import asyncio, threading, time, sim

answer, may_go = [], threading.Event()

def work():
    may_go.wait()
    time.sleep(0.05)
    loop, waiter = answer
    loop.call_soon_threadsafe(waiter.set_result, "it was waited for")

# Where main fails nobody lets it go, and the process has to end all the same.
threading.Thread(target=work, daemon=True).start()
asyncio.set_event_loop_policy(sim.EventLoopPolicy())

async def main():
    loop = asyncio.get_running_loop()
    answer[:] = loop, loop.create_future()
    may_go.set()
    print(await asyncio.wait_for(answer[1], 600))

asyncio.run(main())
"""


def test_a_thread_from_before_the_first_use_is_no_tool() -> None:
    """What is used of the package is imported late, and the suite's threads may be there."""
    assert printed_in_fresh_processes(_A_SUITES_OWN_THREAD) == {"it was waited for"}


def test_a_number_that_a_tool_had_makes_no_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system gives it to the next thread."""
    this = threading.get_ident()
    monkeypatch.setattr(tools, "_TOOLS", {this: threading.current_thread()})
    assert tools.is_a_tool(this)
    monkeypatch.setattr(tools, "_TOOLS", {this: threading.Thread()})
    assert not tools.is_a_tool(this)


@pytest.mark.usefixtures("_policy")
def test_a_loop_in_a_thread_of_one_of_ours_shares_its_time() -> None:
    """anyio's blocking portal under the policy: a wait in the thread's loop takes virtual time."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(anyio.sleep, 100)
        return loop.time() - begun

    assert 100 <= asyncio.run(main()) < 101


def test_what_is_not_simulated_refuses_with_a_sentence() -> None:
    """A socket and a wait for another process are refused with what to use instead."""

    async def connects() -> None:
        await asyncio.open_connection("example.org", 1)

    async def reads() -> None:
        receives, sends = os.pipe()
        try:
            os.read(receives, 1)
        finally:
            os.close(receives)
            os.close(sends)

    for refused in (connects, reads):
        with pytest.raises(NotSimulated, match="is not simulated: "):
            run(refused)


# ---- what asyncio programs use in memory -----------------------------------------------------


async def generators_are_shut_down() -> None:
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    generator = numbers()
    await anext(generator)
    await asyncio.get_running_loop().shutdown_asyncgens()
    assert closed == ["closed"]


async def exception_handlers_are_called() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.set_exception_handler(lambda _, context: seen.append(str(context["exception"])))
    loop.call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
    assert seen == ["division by zero"]


async def context_variables_are_copied() -> None:
    variable = contextvars.ContextVar("variable", default="outer")

    async def sets() -> None:
        variable.set("inner")

    await asyncio.create_task(sets())
    assert variable.get() == "outer"
    assert await asyncio.to_thread(variable.get) == "outer"


async def barriers_and_conditions_meet() -> None:
    barrier = asyncio.Barrier(3)
    condition = asyncio.Condition()
    passed: list[int] = []

    async def party() -> None:
        passed.append(await barrier.wait())
        async with condition:
            condition.notify_all()

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(party())
        async with condition:
            await condition.wait_for(lambda: len(passed) == 3)


async def queues_keep_their_order() -> None:
    queues: list[asyncio.Queue[int]] = [
        asyncio.Queue(),
        asyncio.PriorityQueue(),
        asyncio.LifoQueue(),
    ]
    got = []
    for queue in queues:
        for item in (2, 3, 1):
            queue.put_nowait(item)
        got.append([await queue.get() for _ in range(3)])
    assert got == [[2, 3, 1], [1, 2, 3], [1, 3, 2]]
    if sys.version_info >= (3, 13):
        queues[0].shutdown()
        with pytest.raises(asyncio.QueueShutDown):
            await queues[0].get()


async def the_executor_is_joined() -> None:
    loop = asyncio.get_running_loop()
    done: list[str] = []

    def works() -> None:
        time.sleep(5)
        done.append("done")

    job = loop.run_in_executor(None, works)
    await asyncio.sleep(1)
    await loop.shutdown_default_executor()
    assert done == ["done"]
    assert job.done()
    with pytest.raises(RuntimeError, match="shutdown"):
        loop.run_in_executor(None, works)


async def thread_pools_are_as_large_as_they_are() -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with ThreadPoolExecutor(max_workers=2) as pool:
        for _ in range(9):
            pool.submit(time.sleep, 1)
        await loop.run_in_executor(pool, time.sleep, 1)
        last = pool.submit(time.sleep, 5)
    # Leaving the block waits for the last job, and the loop stands meanwhile.
    assert last.done()
    assert 10 <= loop.time() - begun < 11
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(print)


async def a_default_pool_is_taken() -> None:
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(max_workers=1))
    begun = loop.time()
    await asyncio.gather(*(asyncio.to_thread(time.sleep, 1) for _ in range(3)))
    assert 3 <= loop.time() - begun < 4
    await loop.shutdown_default_executor()
    with pytest.raises(TypeError):
        loop.set_default_executor(None)  # type: ignore[arg-type]


async def eager_tasks_begin_at_once() -> None:
    if sys.version_info < (3, 12):
        return
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    begun: list[str] = []

    async def begins() -> None:
        begun.append("begun")
        await asyncio.sleep(1)

    task = asyncio.create_task(begins())
    assert begun == ["begun"]
    # Eager tasks hash as others do, or the order in which a group cancels them would vary.
    assert isinstance(task, SimTask)
    await task
    loop.set_task_factory(None)


async def signals_find_their_handlers() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.add_signal_handler(signal.SIGTERM, seen.append, "term")
    os.kill(os.getpid(), signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    await asyncio.sleep(0.1)
    assert seen == ["term", "term"]
    assert loop.remove_signal_handler(signal.SIGTERM)
    assert not loop.remove_signal_handler(signal.SIGTERM)


async def signals_find_the_loops_handler_behind_pythons() -> None:
    loop = asyncio.get_running_loop()
    seen: list[str] = []
    loop.add_signal_handler(signal.SIGTERM, seen.append, "loop")
    # asyncio hears of a signal by its number in a pipe, not by the handler that Python has.
    signal.signal(signal.SIGTERM, lambda *_: seen.append("python"))
    os.kill(os.getpid(), signal.SIGTERM)
    assert seen == ["python"]
    await asyncio.sleep(0.1)
    assert seen == ["python", "loop"]
    loop.remove_signal_handler(signal.SIGTERM)


@pytest.mark.socket  # A real thread.
def test_a_pool_that_a_thread_of_the_system_asks_for_is_made() -> None:
    """Where nothing is simulated its lock is a real one."""
    loop = new_event_loop()
    with ThreadPoolExecutor(1) as threads:
        pool = threads.submit(SimExecutor.of_asyncio, loop.threads).result()
    assert isinstance(pool, SimExecutor)
    loop.close()


IN_MEMORY = [
    generators_are_shut_down,
    exception_handlers_are_called,
    context_variables_are_copied,
    barriers_and_conditions_meet,
    queues_keep_their_order,
    the_executor_is_joined,
    thread_pools_are_as_large_as_they_are,
    a_default_pool_is_taken,
    eager_tasks_begin_at_once,
    signals_find_their_handlers,
    signals_find_the_loops_handler_behind_pythons,
]


@pytest.mark.parametrize("debug", [False, True], ids=["usual", "debug"])
@pytest.mark.parametrize("main", IN_MEMORY, ids=lambda main: main.__name__)
def test_it_works_in_a_loop_that_stands_alone(
    main: Callable[[], Awaitable[None]], debug: bool
) -> None:
    """What asyncio offers in memory works on our loop, also in debug mode."""
    run(main, debug=debug)


@pytest.mark.parametrize("main", IN_MEMORY, ids=lambda main: main.__name__)
def test_it_works_in_an_exploration(main: Callable[[], Awaitable[None]]) -> None:
    """The same under every schedule with one departure from the natural order."""

    async def program(world: World) -> None:
        world.loop.set_exception_handler(None)
        await main()

    # With threads there are more schedules than one wants to see: all with one departure here.
    report = explore(program, strategy=DepartureBounded(1), max_executions=5000)
    assert report.verdict == "proved", report.text


@pytest.mark.skipif(sys.version_info < (3, 13), reason="waits without bound before 3.13.0")
def test_an_executor_that_does_not_end_is_left_with_a_warning() -> None:
    """shutdown_default_executor(timeout) warns, as asyncio's does, and does not hang."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(None, time.sleep, 100)
        await asyncio.sleep(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            await loop.shutdown_default_executor(10)  # type: ignore[call-arg]
        assert len(caught) == 1
        assert loop.time() < 20
        await job

    run(main)


def test_the_callers_random_state_is_left_alone() -> None:
    """A suite that seeds `random` before the run finds its numbers within it."""

    async def main() -> float:
        return random.random()

    random.seed(5)
    expected = random.random()
    random.seed(5)
    assert run(main) == expected
