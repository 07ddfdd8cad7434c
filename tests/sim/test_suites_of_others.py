"""What other people's suites do under the policy, beside what asyncio's own loop makes of it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import importlib
import multiprocessing
import multiprocessing.resource_tracker
import os
import queue
import selectors
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from sim import NotSimulated, Stuck, World, explore, new_event_loop
from tests.limits import HANGS_S
from tests.sim.fresh_processes import printed_in_fresh_processes
from tests.sim.policies import policy_kept

pytestmark = pytest.mark.socket  # Real threads.

Factory = Callable[[], asyncio.AbstractEventLoop]


@pytest.fixture(params=["stock", "simulated"])
def is_simulated(request: pytest.FixtureRequest) -> Iterator[bool]:
    """With asyncio's own policy, and with ours."""
    with policy_kept(is_simulated=request.param == "simulated"):
        yield request.param == "simulated"


@pytest.fixture
def _policy() -> Iterator[None]:
    with policy_kept(is_simulated=True):
        yield


def in_thread(loop: asyncio.AbstractEventLoop) -> threading.Thread:
    # A test that fails leaves it, and the process is to end all the same.
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    return thread


def end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    loop.call_soon_threadsafe(loop.stop)
    thread.join(HANGS_S)
    assert not thread.is_alive()
    loop.close()


# ---- a loop in a thread of its own -------------------------------------------------------------


@pytest.mark.usefixtures("is_simulated")
def test_another_thread_calls_the_loop() -> None:
    """The main thread gets its answers from a loop that runs in a thread of the system."""

    async def answer(number: int) -> int:
        await asyncio.sleep(0)
        return number

    loop = asyncio.new_event_loop()
    thread = in_thread(loop)
    for number in range(20):
        future = asyncio.run_coroutine_threadsafe(answer(number), loop)
        assert future.result() == number
    end(loop, thread)


@pytest.mark.usefixtures("is_simulated")
def test_a_blocking_portal_runs_what_it_is_given() -> None:
    """anyio's blocking portal, with coroutines, functions, and functions in threads of the loop."""

    def in_worker() -> str:
        return anyio.from_thread.run_sync(lambda: threading.current_thread().name)

    with anyio.from_thread.start_blocking_portal() as portal:
        assert portal.call(anyio.to_thread.run_sync, in_worker) == portal.call(
            lambda: threading.current_thread().name
        )
        future = portal.start_task_soon(anyio.sleep, 0)
        future.result(HANGS_S)


@pytest.mark.usefixtures("_policy")
def test_time_is_virtual_while_all_others_wait() -> None:
    """While the main thread waits for the loop, an hour in the loop takes no time."""
    begun = time.perf_counter()
    with anyio.from_thread.start_blocking_portal() as portal:
        portal.call(anyio.sleep, 3600)
    assert time.perf_counter() - begun < HANGS_S


@pytest.mark.usefixtures("is_simulated")
def test_time_is_real_while_another_thread_works() -> None:
    """A time limit does not strike before a thread that is at work, and does call the loop."""
    gone_on = threading.Event()

    async def waits() -> str:
        called = asyncio.Event()
        asyncio.get_running_loop().call_soon(event.append, called)
        async with asyncio.timeout(HANGS_S):
            await called.wait()
        return "called"

    event: list[asyncio.Event] = []
    loop = asyncio.new_event_loop()
    thread = in_thread(loop)
    future = asyncio.run_coroutine_threadsafe(waits(), loop)
    # Not a wait that could be seen through: the thread counts.
    while not event:
        time.sleep(0.001)
    for _ in range(20):
        sum(range(10_000))
        time.sleep(0.001)
    loop.call_soon_threadsafe(event[0].set)
    assert future.result(HANGS_S) == "called"
    assert not gone_on.is_set()
    end(loop, thread)


@pytest.mark.usefixtures("_policy")
def test_a_loop_that_nobody_can_call_is_stuck() -> None:
    """Where every other thread waits for ever, too, that is said and does not hang."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        await for_ever()

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        future = pool.submit(asyncio.run, run())
        with pytest.raises(Stuck, match="Task-1 waits in for_ever"):
            future.result()


@pytest.mark.usefixtures("is_simulated")
def test_a_thread_that_was_there_before_wakes_the_loop() -> None:
    """A thread that began before the loop ran stops it, though no timer is armed."""
    loop = asyncio.new_event_loop()
    timer = threading.Timer(0.01, loop.call_soon_threadsafe, (loop.stop,))
    timer.start()
    loop.run_forever()
    timer.join()
    loop.close()


@pytest.mark.usefixtures("is_simulated")
def test_two_loops_in_two_threads_call_each_other() -> None:
    """Each is to the other a thread of the system."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def pings(other: asyncio.AbstractEventLoop, left: int) -> int:
        if left == 0:
            return 0
        other_end = pings(first if other is second else second, left - 1)
        return 1 + await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(other_end, other))

    threads = in_thread(first), in_thread(second)
    assert asyncio.run_coroutine_threadsafe(pings(second, 9), first).result() == 9
    end(first, threads[0])
    end(second, threads[1])


@pytest.mark.usefixtures("is_simulated")
def test_threads_go_on_while_their_loop_stands_still() -> None:
    """Those that can go on at once do when the loop stops; the others while they are joined."""
    went_on = threading.Event()
    threads: list[threading.Thread] = []

    def lasts() -> None:
        time.sleep(0.01)
        held.release()

    async def main() -> None:
        nonlocal held
        held = threading.Lock()
        held.acquire()
        for work in (went_on.set, lasts):
            threads.append(threading.Thread(target=work))
            threads[-1].start()

    held = threading.Lock()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    # A lock from before the loop ran.
    assert went_on.wait(HANGS_S)
    # One from within it.
    assert held.acquire(timeout=HANGS_S)
    for thread in threads:
        thread.join()
        assert not thread.is_alive()
    loop.close()


@pytest.mark.usefixtures("_policy")
def test_a_thread_that_never_ends_is_not_joined_for_ever() -> None:
    """Joined while its loop stands still, it says who waits for what."""
    threads: list[threading.Thread] = []

    async def main() -> None:
        threads.append(threading.Thread(target=threading.Event().wait))
        threads[0].start()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    threads[0].join(timeout=1)
    assert threads[0].is_alive()
    with pytest.raises(Stuck, match="worker 1 waits at"):
        threads[0].join()
    assert loop.run_until_complete(asyncio.sleep(0, "later")) == "later"
    loop.close()
    assert not threads[0].is_alive()


def a_loop_in_a_worker(new_loop: Factory) -> Callable[[World], Any]:
    async def program(world: World) -> None:
        loop = new_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()

        async def answer() -> int:
            await asyncio.sleep(100)
            return 42

        future = asyncio.run_coroutine_threadsafe(answer(), loop)
        world.check(await asyncio.wrap_future(future) == 42, "the other loop answers")
        loop.call_soon_threadsafe(loop.stop)
        await asyncio.to_thread(thread.join)
        loop.close()

    return program


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, new_event_loop])
def test_a_loop_runs_in_a_worker_of_an_exploration(new_loop: Factory) -> None:
    """Asyncio's own and ours, made in the thread of another; its time is the program's."""
    report = explore(a_loop_in_a_worker(new_loop))
    assert report.verdict == "proved", report.text


A_THREAD_ENDS_UNSEEN = """
import asyncio, gc, threading, time, sim

loops = []

def in_thread():
    loop = sim.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))
    loops.append(loop)
    gc.freeze()  # Now nobody finds who refers to the thread's greenlet.

thread = threading.Thread(target=in_thread)
thread.start()
thread.join()
while not loops[0].threads.hub.dead:
    time.sleep(0.001)  # Its end comes after the join.
gc.unfreeze()
gc.collect()
print(type(loops[0].threads.hub).__name__)
loops[0].close()
"""


def test_a_loop_outlives_the_thread_that_it_ran_in() -> None:
    """What greenlet drops at a thread's end, if it sees nobody who has it, is there all the same.

    It crashed suites in which one thread ended while another collected garbage.
    """
    assert printed_in_fresh_processes(A_THREAD_ENDS_UNSEEN) == {"greenlet"}


@pytest.mark.usefixtures("is_simulated")
def test_what_traces_the_suite_traces_the_threads_of_its_loops() -> None:
    """What measures coverage by `threading.settrace` and `sys.settrace` sees workers, too."""
    seen: list[str] = []

    def tracer(frame: FrameType, event: str, arg: object) -> None:
        seen.append(frame.f_code.co_name)

    def in_worker() -> None:
        """Seen."""

    before = sys.gettrace(), threading.gettrace()
    sys.settrace(tracer)
    threading.settrace(tracer)
    try:
        asyncio.run(asyncio.to_thread(in_worker))
    finally:
        sys.settrace(before[0])
        threading.settrace(before[1])  # type: ignore[arg-type]
    assert "in_worker" in seen


# ---- guards are of the thread that simulates ---------------------------------------------------


@pytest.mark.usefixtures("is_simulated")
def test_guards_are_of_the_thread_that_simulates() -> None:
    """While a loop runs in one thread, locks, threads, sleep and clocks of another are real."""
    loop = asyncio.new_event_loop()
    thread = in_thread(loop)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result()
    assert type(threading.Lock()) is type(A_LOCK)
    assert type(threading.RLock()) is type(AN_RLOCK)
    begun = time.monotonic()
    time.sleep(0.001)
    assert time.monotonic() - begun >= 0.001
    assert threading.get_ident() == threading.main_thread().ident
    got: queue.Queue[int] = queue.Queue()
    other = threading.Thread(target=lambda: got.put(threading.get_ident()))
    other.start()
    assert got.get() == other.ident
    other.join()
    end(loop, thread)


A_LOCK, AN_RLOCK = threading.Lock(), threading.RLock()


@pytest.mark.usefixtures("is_simulated")
def test_a_lock_of_the_loop_is_waited_for_by_another_thread() -> None:
    """Locks and queues that were made within a run work between it and a thread of the system."""
    there, back = [queue.Queue[int]()], [queue.Queue[int]()]

    async def makes() -> None:
        there[0], back[0] = queue.Queue(), queue.Queue()

    async def serves() -> None:
        for _ in range(5):
            back[0].put(there[0].get() + 1)

    loop = asyncio.new_event_loop()
    thread = in_thread(loop)
    asyncio.run_coroutine_threadsafe(makes(), loop).result()
    served = asyncio.run_coroutine_threadsafe(serves(), loop)
    for number in range(5):
        there[0].put(number)
        assert back[0].get() == number + 1
    served.result()
    end(loop, thread)


# ---- processes, and what belongs to them --------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
@pytest.mark.usefixtures("is_simulated")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_fork_of_a_thread_is_a_process_of_its_own() -> None:
    """What a worker forks runs a loop of its own, and never goes on in that of the suite."""

    def forks() -> int:
        child = os.fork()
        if child == 0:
            # Whatever goes wrong here must not run the suite a second time.
            try:
                os._exit(asyncio.run(asyncio.sleep(0.001, 42)))
            finally:
                os._exit(1)
        return child

    child = asyncio.run(asyncio.to_thread(forks))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42


@pytest.mark.usefixtures("is_simulated")
def test_an_event_of_multiprocessing_is_waited_for_among_threads() -> None:
    """One that waits in a thread for another thread does not hold up the loop."""

    async def main() -> tuple[bool, bool]:
        event = multiprocessing.Event()
        waits = asyncio.create_task(asyncio.to_thread(event.wait))
        too_short = await asyncio.to_thread(event.wait, 0.001)
        await asyncio.to_thread(event.set)
        return too_short, await waits

    assert asyncio.run(main()) == (False, True)


@pytest.mark.usefixtures("_policy")
@pytest.mark.parametrize("kind", [selectors.DefaultSelector, selectors.PollSelector])
def test_a_selector_that_waits_for_a_pipe_is_refused(kind: type[selectors.BaseSelector]) -> None:
    """Whatever its kind, it would hold up the loop in real time; the sentence knows of no world."""
    reads, writes = os.pipe()

    def waits() -> None:
        with kind() as selector:
            selector.register(reads, selectors.EVENT_READ)
            selector.select(HANGS_S)

    with pytest.raises(NotSimulated, match=r"Selector\.select in waits") as refused:
        asyncio.run(asyncio.to_thread(waits))
    assert "world." not in str(refused.value)
    os.close(reads)
    os.close(writes)


# ---- what is as on asyncio's own loop ----------------------------------------------------------


@pytest.mark.usefixtures("is_simulated")
def test_a_clock_that_a_test_stopped_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a suite has put in the place of a clock, or of sleep, is what the loop's code finds."""
    slept: list[float] = []
    monkeypatch.setattr(time, "time", lambda: 5.0)
    monkeypatch.setattr(time, "sleep", slept.append)

    async def main() -> float:
        time.sleep(3)  # noqa: ASYNC251 - it is the patched one
        await asyncio.sleep(0.001)
        return time.time()

    assert asyncio.run(main()) == 5.0
    assert slept == [3]


def watching(sleep: Callable[[float], None], seen: list[float]) -> Callable[[float], None]:
    """As what looks for blocking calls wraps them."""

    def watched(seconds: float) -> None:
        seen.append(seconds)
        sleep(seconds)

    return watched


@pytest.mark.usefixtures("is_simulated")
def test_what_wraps_sleep_sleeps_as_the_loop_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Called through a suite's wrapper, it lets time pass and the other threads go on."""
    seen: list[float] = []
    monkeypatch.setattr(time, "sleep", watching(time.sleep, seen))
    order: list[str] = []

    def sleeps() -> None:
        time.sleep(0.05)
        order.append("thread")

    async def main() -> float:
        begun = asyncio.get_running_loop().time()
        thread = asyncio.create_task(asyncio.to_thread(sleeps))
        await asyncio.sleep(0.001)
        order.append("loop")
        await thread
        time.sleep(0.05)  # noqa: ASYNC251 - it is the wrapped one
        return asyncio.get_running_loop().time() - begun

    assert asyncio.run(main()) >= 0.1
    assert (order, seen) == (["loop", "thread"], [0.05, 0.05])


@pytest.mark.usefixtures("is_simulated")
def test_a_clock_of_a_wrapped_selector_is_the_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    """As aiotools' VirtualClock and looptime do it: the wrapper polls, and moves its own clock."""
    clock = [1_700_000_000.0]

    async def main() -> float:
        loop: Any = asyncio.get_running_loop()
        poll = loop._selector.select

        def select(timeout: float | None) -> Any:
            clock[0] += timeout or 0
            return poll(0)

        monkeypatch.setattr(loop._selector, "select", select)
        monkeypatch.setattr(loop, "time", lambda: clock[0])
        monkeypatch.setattr(loop, "_clock_resolution", 0.001)
        begun = clock[0]
        await asyncio.sleep(100)
        slept = clock[0] - begun
        monkeypatch.undo()
        return slept

    assert asyncio.run(main()) == pytest.approx(100, abs=0.1)


@pytest.mark.usefixtures("is_simulated")
def test_the_processor_does_not_work_while_the_loop_sleeps() -> None:
    """process_time and thread_time stand still in a sleep, and pass in a loop that reads them."""

    async def main() -> list[float]:
        clocks = (time.process_time, time.thread_time)
        before = [clock() for clock in clocks]
        await asyncio.sleep(0.3)
        after = [clock() for clock in clocks]
        end_of_work = time.process_time() + 0.01
        while time.process_time() < end_of_work:
            pass
        return [late - early for early, late in zip(before, after, strict=True)]

    assert max(asyncio.run(main())) < 0.2


@pytest.mark.usefixtures("is_simulated")
def test_a_finished_task_is_freed_and_its_exception_reported_while_the_loop_runs() -> None:
    """A task that failed and that nobody holds is reported at once, by the name of asyncio's."""
    seen: list[str] = []

    async def fails() -> None:
        raise OSError("on purpose")

    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context["message"]))
        task = asyncio.create_task(fails())
        await asyncio.wait([task])
        del task
        await asyncio.sleep(0)
        return list(seen)

    assert asyncio.run(main()) == ["Task exception was never retrieved"]


@pytest.mark.usefixtures("is_simulated")
def test_a_lock_is_what_multiprocessing_asks_it_for() -> None:
    """The resource tracker of multiprocessing works while a loop runs."""

    async def main() -> bool:
        return multiprocessing.resource_tracker.getfd() > 0

    assert asyncio.run(main())


@pytest.mark.usefixtures("is_simulated")
def test_a_loop_whose_is_closed_is_another_one_takes_tasks() -> None:
    """Only `close` closes a loop: what a suite puts in the place of `is_closed` is not asked."""
    loop = asyncio.new_event_loop()
    loop.is_closed = lambda: True  # type: ignore[method-assign]
    task = loop.create_task(asyncio.sleep(0, "done"))
    loop.call_soon_threadsafe(lambda: None)
    del loop.is_closed  # type: ignore[method-assign]
    assert loop.run_until_complete(task) == "done"
    loop.close()


# ---- refusals ----------------------------------------------------------------------------------


async def swallows() -> str:
    try:
        await asyncio.open_connection("example.org", 1)
    except Exception:
        return "all is well"
    return "connected"


async def turns_it_into_another() -> None:
    try:
        await asyncio.open_connection("example.org", 1)
    except Exception as exc:
        raise KeyError("no server") from exc


async def loses_it_in_a_task() -> None:
    await asyncio.wait([asyncio.create_task(asyncio.open_connection("example.org", 1))])


@pytest.mark.parametrize("main", [swallows, turns_it_into_another, loses_it_in_a_task])
def test_a_refusal_that_was_swallowed_comes_back_at_the_end(main: Callable[[], Any]) -> None:
    """Under the loop factory the run raises it; explored, the verdict is error. Later runs pass."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        with pytest.raises(NotSimulated, match=r"the name 'example.org' in .*is not simulated"):
            runner.run(main())
        assert runner.run(asyncio.sleep(1, "later")) == "later"

    async def program(world: World) -> None:
        await main()

    report = explore(program)
    assert report.verdict == "error"
    assert "the name 'example.org' in" in report.reason


def test_a_refusal_is_no_error_that_programs_expect() -> None:
    """Neither is a RuntimeError, which programs catch and tests wait for."""
    assert not issubclass(NotSimulated, RuntimeError)
    assert not issubclass(Stuck, RuntimeError)


def test_a_sentence_fits_who_reads_it() -> None:
    """A refusal speaks of `world` only where there is one."""
    with pytest.raises(NotSimulated) as refused, asyncio.Runner(loop_factory=new_event_loop) as run:
        run.run(swallows())
    assert "world" not in str(refused.value)

    async def program(world: World) -> None:
        await swallows()

    assert "world.outside(…)" in explore(program).reason


# ---- the clocks of installed packages -----------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A module of an installed package, which has bound the clocks, and a type that it looks up."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "clocks_of_package.py").write_text(
        "from time import monotonic, time\n"
        "from datetime import datetime, timezone\n\n"
        "def stamp():\n    return datetime.now(timezone.utc)\n\n"
        "def both():\n    return time(), monotonic()\n"
    )
    (folder / "types_of_package.py").write_text(
        "import datetime\n\ndef is_date(kind):\n    return kind is datetime.datetime\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("clocks_of_package")
    for name in ("clocks_of_package", "types_of_package"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("is_simulated")
def test_a_package_reads_the_clocks_that_the_test_reads(package: ModuleType) -> None:
    """What an installed package had bound shows what the program's own clocks show."""

    async def main() -> None:
        await asyncio.sleep(0.3)
        before = datetime.now(UTC)
        assert before <= package.stamp() <= datetime.now(UTC)
        at, monotonic = time.time(), time.monotonic()
        wall_then, monotonic_then = package.both()
        assert at <= wall_then <= time.time()
        assert monotonic <= monotonic_then <= time.monotonic()

    asyncio.run(main())


@pytest.mark.usefixtures("is_simulated", "package")
def test_a_package_that_reads_no_clock_finds_the_type_itself() -> None:
    """One that compares types, as pydantic does, has datetime as it is."""
    types_of_package = importlib.import_module("types_of_package")

    async def main() -> bool:
        return bool(types_of_package.is_date(type(A_DATE)))

    assert asyncio.run(main())


A_DATE = datetime(2020, 1, 1)
