"""Worker threads in the simulator: what of them is found, what is proved, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import queue
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from itertools import islice
from pathlib import Path

import pytest

from sim import Report, Stuck, World, explore, new_event_loop, outcomes, run
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import departures_of
from sim.kernel.violation import Kind
from sim.schedulers import DepartureBounded, DepthFirst, RandomWalk, Replay
from tests.executed import executed
from tests.sim.fresh_processes import printed_in_fresh_processes

ROOT = Path(__file__).parents[2]
# More than any program here needs, so that nothing depends on how fast the machine is.
EXECUTIONS_MAX = 10_000


def explored(
    program: Callable[[World], Awaitable[object]], *labels: str, departures: int = 1
) -> Report:
    """What is seen of it with up to this number of departures: most races need one."""
    return explore(
        program,
        strategy=DepartureBounded(departures),
        max_executions=EXECUTIONS_MAX,
        labels=labels,
        thread_lines=False,
    )


async def until_it_has_begun() -> None:
    """One poll for the task that begins a thread, and one at which the thread may run."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def executed_once(program: Callable[[World], Awaitable[object]]) -> Outcome:
    return run(program)


# ---- lost updates ---------------------------------------------------------------------------


class Counter:
    """A counter that several threads add to."""

    def __init__(self) -> None:
        self.value = 0
        self.lock = threading.Lock()

    def add(self) -> None:
        value = self.value
        self.value = value + 1

    def add_locked(self) -> None:
        with self.lock:
            value = self.value
            self.value = value + 1


def two_threads_add(how: Callable[[Counter], None]) -> Callable[[World], Awaitable[None]]:
    async def program(world: World) -> None:
        world.declare(__file__)
        counter = Counter()
        await asyncio.gather(*(asyncio.to_thread(how, counter) for _ in range(2)))
        world.check(counter.value == 2, "no update is lost", f"{counter.value}")

    return program


def test_a_lost_update_between_two_threads_is_found() -> None:
    """Read by both before either writes, the counter misses one; the schedule replays."""
    program = two_threads_add(Counter.add)
    report = explored(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "no update is lost"
    replayed = report.counterexample.replay(program)
    assert replayed.violation is not None
    assert replayed.violation.detail == "1"


def test_under_a_lock_no_update_is_lost() -> None:
    """The same two lines under a threading.Lock are proved."""
    report = explored(two_threads_add(Counter.add_locked))
    assert report.verdict == "proved"
    assert report.executions > 20


def test_two_jobs_are_proved_with_few_executions() -> None:
    """Only what others may see is a switch point: that of a lock, the begin and the end of a job.

    With those of the locks in their futures it took hundreds of thousands.
    """

    async def program(world: World) -> None:
        lock, done = threading.Lock(), list[str]()

        def work(name: str) -> None:
            with lock:
                done.append(name)

        jobs = [asyncio.create_task(asyncio.to_thread(work, name)) for name in "ab"]
        await jobs[0]
        done.append("told")
        await jobs[1]
        world.reached(" ".join(done))

    report = explore(program, strategy=DepartureBounded(3), max_executions=4_000)
    assert report.verdict == "proved", report.text
    assert report.labels == {"a told b", "a b told", "b a told"}


def test_what_jobs_come_to_is_the_same_with_fewer_switch_points() -> None:
    """Either thread does either job, or both; a job may be over before the caller goes on."""

    async def reuses(world: World) -> None:
        mine = threading.local()

        def work(name: str) -> str:
            before, mine.last = getattr(mine, "last", "nothing"), name
            return f"{name} after {before}"

        world.reached(" ".join(await asyncio.gather(*(asyncio.to_thread(work, n) for n in "ab"))))

    async def next_line(world: World) -> None:
        loop, seen = asyncio.get_running_loop(), list[str]()
        job = loop.run_in_executor(None, seen.append, "job")
        seen.append("line")
        await job
        world.reached(" ".join(seen))

    async def cancelled(world: World) -> None:
        ran: list[int] = []
        task = asyncio.create_task(asyncio.to_thread(ran.append, 1))
        await world.outside("the client leaves", latest=0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
            world.reached("done")
        world.reached("ran" if ran else "never began")

    expected = {
        reuses: {"a after nothing b after nothing", "a after nothing b after a"},
        next_line: {"job line", "line job"},
        cancelled: {"done", "ran", "never began"},
    }
    for program, labels in expected.items():
        report = explore(program, strategy=DepartureBounded(2), max_executions=4_000)
        assert report.verdict == "proved", report.text
        assert report.labels == labels


def test_without_a_declared_file_threads_overlap_only_where_they_block() -> None:
    """Undeclared lines are one step; that they are is what declaring a file is there to change."""

    async def program(world: World) -> None:
        counter = Counter()
        await asyncio.gather(*(asyncio.to_thread(counter.add) for _ in range(2)))
        world.check(counter.value == 2, "no update is lost")

    report = explored(program)
    assert report.verdict == "proved"
    assert "not between the lines of test_threads.py (nothing is known of" in report.reason
    assert report.claim in report.reason
    declared = explored(two_threads_add(Counter.add_locked))
    assert declared.claim.startswith("every schedule with up to 1 departure")
    assert "the lines of" not in declared.claim
    assert "within a step of the loop" in declared.claim


def test_the_claim_says_whose_lines_are_one_step() -> None:
    """In whichever way a thread gets its job; what is written in C has no lines."""

    class OfOurs(threading.Thread):
        def run(self) -> None:
            pass

    async def by_a_class(world: World) -> None:
        OfOurs().start()

    async def by_a_partial(world: World) -> None:
        with ThreadPoolExecutor() as pool:
            pool.submit(functools.partial(OfOurs().run))

    async def in_c(world: World) -> None:
        await asyncio.to_thread(sum, [1, 2])
        threading.Timer(1, int).start()

    for program in (by_a_class, by_a_partial):
        assert "the lines of test_threads.py" in explored(program).claim
    assert explored(in_c).claim == "every schedule with up to 1 departure"


# ---- the half-done state --------------------------------------------------------------------


class Pair:
    """Two numbers that are to be equal; each method takes two lines to keep them so."""

    def __init__(self) -> None:
        self.left = self.right = 0

    def raise_both(self) -> None:
        self.left += 1
        self.right += 1

    def is_half_done(self) -> bool:
        return self.left != self.right


@pytest.mark.parametrize(("declared", "verdict"), [(True, "refuted"), (False, "proved")])
def test_a_half_done_state_is_seen_where_the_file_is_declared(declared: bool, verdict: str) -> None:
    """Between two lines of a thread the loop sees one of two numbers changed."""

    async def program(world: World) -> None:
        if declared:
            world.declare(__file__)
        pair = Pair()
        job = asyncio.create_task(asyncio.to_thread(pair.raise_both))
        await until_it_has_begun()
        world.check(not pair.is_half_done(), "the numbers are equal")
        await job

    assert explored(program).verdict == verdict


@pytest.mark.parametrize(("in_loop", "verdict"), [(True, "refuted"), (False, "proved")])
def test_a_half_done_state_of_the_loop_is_seen_with_in_loop(in_loop: bool, verdict: str) -> None:
    """Between two lines of the loop's own thread a worker looks, if it is asked for."""

    async def program(world: World) -> None:
        world.declare(__file__, in_loop=in_loop)
        pair = Pair()
        job = asyncio.create_task(asyncio.to_thread(pair.is_half_done))
        await until_it_has_begun()
        pair.raise_both()
        world.check(not await job, "the thread sees equal numbers")

    # The thread is overtaken by the loop, and goes on in its midst.
    assert explored(program, departures=2).verdict == verdict


# ---- what threads and loop tell each other with ---------------------------------------------


def over_event(world: World) -> tuple[Callable[[], None], Callable[[], None]]:
    event = threading.Event()

    def take() -> None:
        world.reached("was there" if event.is_set() else "was awaited")
        event.wait()

    return event.set, take


def over_queue(world: World) -> tuple[Callable[[], None], Callable[[], None]]:
    items: queue.Queue[str] = queue.Queue(maxsize=1)

    def take() -> None:
        world.reached("was there" if items.qsize() else "was awaited")
        world.check(items.get() == "item", "what was put comes out")

    return lambda: items.put("item"), take


def over_simple_queue(world: World) -> tuple[Callable[[], None], Callable[[], None]]:
    items: queue.SimpleQueue[str] = queue.SimpleQueue()

    def take() -> None:
        world.reached("was there" if items.qsize() else "was awaited")
        world.check(items.get() == "item", "what was put comes out")

    return lambda: items.put("item"), take


def over_condition(world: World) -> tuple[Callable[[], None], Callable[[], None]]:
    condition = threading.Condition()
    happened: list[str] = []

    def give() -> None:
        with condition:
            happened.append("it")
            condition.notify()

    def take() -> None:
        with condition:
            world.reached("was there" if happened else "was awaited")
            condition.wait_for(lambda: happened)

    return give, take


def over_semaphore(world: World) -> tuple[Callable[[], None], Callable[[], None]]:
    semaphore = threading.Semaphore(0)

    def take() -> None:
        got = semaphore.acquire(blocking=False)
        world.reached("was there" if got else "was awaited")
        if not got:
            semaphore.acquire()

    return semaphore.release, take


PRIMITIVES = [over_event, over_queue, over_simple_queue, over_condition, over_semaphore]


@pytest.mark.parametrize("over", PRIMITIVES)
def test_a_thread_waits_for_the_loop(over: Callable[[World], tuple[Callable, Callable]]) -> None:
    """Whether the thread asks before the loop gives, or after, it gets what it waits for."""

    async def program(world: World) -> None:
        give, take = over(world)
        job = asyncio.create_task(asyncio.to_thread(take))
        await asyncio.sleep(1)
        give()
        await job

    async def race(world: World) -> None:
        give, take = over(world)
        job = asyncio.create_task(asyncio.to_thread(take))
        await until_it_has_begun()
        give()
        await job

    assert explored(program, "was awaited").verdict == "proved"
    assert explored(race, "was awaited", "was there").verdict == "proved"


@pytest.mark.parametrize("over", PRIMITIVES)
def test_the_loop_waits_for_a_thread(over: Callable[[World], tuple[Callable, Callable]]) -> None:
    """The loop's own thread blocks, the worker goes on, and what it gives wakes the loop."""

    async def program(world: World) -> None:
        give, take = over(world)
        job = asyncio.create_task(asyncio.to_thread(give))
        await asyncio.sleep(0)
        take()
        await job

    assert explored(program, "was awaited").verdict == "proved"


def test_a_wait_of_a_thread_ends_with_its_time_limit() -> None:
    """Event, Queue, Lock and Semaphore give up after their timeout, in virtual time."""

    async def program(world: World) -> None:
        held = threading.Lock()
        held.acquire()

        def wait() -> list[object]:
            lasted: list[object] = [world.now]
            assert not threading.Event().wait(1.0)
            lasted.append(world.now)
            with contextlib.suppress(queue.Empty):
                queue.Queue().get(timeout=2.0)
            lasted.append(world.now)
            assert not held.acquire(timeout=3.0)
            lasted.append(world.now)
            assert not threading.Semaphore(0).acquire(timeout=4.0)
            return [*lasted, world.now]

        instants = await asyncio.to_thread(wait)
        world.check(
            instants == pytest.approx([0, 1, 3, 6, 10], abs=0.001), "limits hold", f"{instants}"
        )

    assert executed_once(program).violation is None


def test_sleep_in_a_thread_takes_virtual_time() -> None:
    """An hour's time.sleep is over at once, an hour later; the loop works on meanwhile."""

    async def program(world: World) -> None:
        job = asyncio.create_task(asyncio.to_thread(time.sleep, 500))
        await asyncio.sleep(100)
        world.check(not job.done(), "the loop is not stopped by it")
        await job
        world.check(499.99 < world.now < 500.1, "it took its time", f"{world.now}")

    assert explored(program).verdict == "proved"


def test_a_lock_is_reentrant_for_its_owner_alone() -> None:
    """An RLock held by a thread is taken again by it, and kept from the loop."""

    async def program(world: World) -> None:
        lock = threading.RLock()
        inside = threading.Event()
        leave = threading.Event()

        def hold() -> None:
            with lock, lock:
                inside.set()
                leave.wait()

        job = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.sleep(1)
        world.check(inside.is_set(), "its owner takes it twice")
        world.check(not lock.acquire(blocking=False), "nobody else takes it")
        leave.set()
        await job
        world.check(lock.acquire(blocking=False), "it is free afterwards")

    assert explored(program).verdict == "proved"


# ---- jobs of an executor --------------------------------------------------------------------


def test_a_queued_job_that_is_cancelled_never_runs() -> None:
    """With one thread, the second job waits in the queue; cancelled there, it is gone."""

    async def program(world: World) -> None:
        loop, pool, ran = asyncio.get_running_loop(), world.executor(threads_max=1), []
        first = loop.run_in_executor(pool, time.sleep, 1)
        second = loop.run_in_executor(pool, ran.append, "second")
        await asyncio.sleep(0.5)
        second.cancel()
        await first
        await asyncio.sleep(1)
        world.check(not ran, "a cancelled job that was queued never runs")

    assert explored(program).verdict == "proved"


def test_a_started_job_goes_on_after_its_cancel() -> None:
    """The cancel ends the await at once; the thread writes all the same."""

    async def program(world: World) -> None:
        written = []

        def write() -> None:
            time.sleep(1)
            written.append(world.now)

        job = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.sleep(0.5)
        job.cancel()
        await asyncio.wait({job})
        world.check(job.cancelled() and not written, "the await ends at once")
        await asyncio.sleep(1)
        world.check(written, "the thread has gone on")

    assert explored(program).verdict == "proved"


def test_a_finished_job_reports_what_it_did() -> None:
    """A result or an exception of a thread is that of its await."""

    async def program(world: World) -> None:
        def fail() -> None:
            time.sleep(1)
            raise LookupError("of the thread")

        results = await asyncio.gather(
            asyncio.to_thread(lambda: 42), asyncio.to_thread(fail), return_exceptions=True
        )
        world.check(results[0] == 42, "the result")
        world.check(isinstance(results[1], LookupError), "the exception")

    assert executed_once(program).violation is None


def test_a_pool_is_bounded() -> None:
    """No more jobs run at once than there are threads, and no more wait than may."""

    async def program(world: World) -> None:
        pool = world.executor(threads_max=2, queue_max=3)
        running: list[int] = []

        def work(number: int) -> None:
            running.append(number)
            world.check(len(running) <= 2, "two threads run two jobs")
            time.sleep(1)
            running.remove(number)

        jobs: list[Future[None]] = [pool.submit(work, number) for number in range(3)]
        try:
            for number in range(3, 9):
                jobs.append(pool.submit(work, number))
        except RuntimeError:
            world.reached("the queue was full")
        await asyncio.gather(*map(asyncio.wrap_future, jobs))

    assert explored_once_in_random_order(program) == {"the queue was full"}


def explored_once_in_random_order(program: Callable[[World], Awaitable[object]]) -> frozenset[str]:
    """The labels of a hundred random executions, none of which violates anything."""
    report = explore(program, strategy="random", max_executions=100)
    assert report.counterexample is None
    return report.labels


def test_the_default_executor_is_shut_down_by_the_loops_own_code() -> None:
    """shutdown_default_executor waits for the threads, in virtual time; then no job is taken."""

    async def program(world: World) -> None:
        loop = asyncio.get_running_loop()
        job = loop.run_in_executor(None, time.sleep, 3)
        await loop.shutdown_default_executor()
        world.check(world.now >= 3, "it has waited for the thread", f"{world.now:.3f} s")
        await job
        try:
            loop.run_in_executor(None, time.sleep, 1)
        except RuntimeError:
            world.reached("refused")

    assert explored(program, "refused").verdict == "proved"


# ---- what a thread sees, and what is refused ------------------------------------------------


def test_a_thread_sees_no_loop() -> None:
    """In a worker no loop is running and no task is current; in the loop both are, as before."""

    async def program(world: World) -> None:
        def look() -> None:
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            with pytest.raises(RuntimeError):
                asyncio.current_task()
            time.sleep(1)
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()

        await asyncio.to_thread(look)
        world.check(asyncio.get_running_loop() is world.loop, "the loop runs")
        world.check(asyncio.current_task() is world.loop.tasks[0], "the task is current")

    assert executed_once(program).violation is None


def test_call_soon_threadsafe_lands_between_two_callbacks() -> None:
    """What a thread calls in the loop comes before or after what the loop has queued itself."""

    async def program(world: World) -> None:
        loop, order = asyncio.get_running_loop(), []
        job = asyncio.create_task(
            asyncio.to_thread(loop.call_soon_threadsafe, order.append, "thread")
        )
        await until_it_has_begun()
        loop.call_soon(order.append, "loop")
        await job
        world.reached(" ".join(order))

    assert explored(program, "thread loop", "loop thread").verdict == "proved"


def test_a_thread_may_be_overtaken_before_it_calls_the_loop() -> None:
    """What a thread did before `call_soon_threadsafe` may be seen before what it calls."""

    async def program(world: World) -> None:
        loop, done, landed = asyncio.get_running_loop(), [], []

        def work() -> None:
            done.append("it")
            loop.call_soon_threadsafe(landed.append, "it")

        job = asyncio.create_task(asyncio.to_thread(work))
        await until_it_has_begun()
        if done and not landed:
            # Not yet in the ready queue either, or it would be there at the next step.
            await asyncio.sleep(0)
            world.reached("in the queue" if landed else "not called")
        await job

    assert explored(program, "in the queue", "not called").verdict == "proved"


def test_a_pool_of_the_programs_own_is_simulated() -> None:
    """A ThreadPoolExecutor's jobs are overtaken as others are; without one it is as it was."""

    async def program(world: World) -> None:
        loop, order = asyncio.get_running_loop(), []
        with ThreadPoolExecutor(max_workers=2) as pool:
            await asyncio.gather(*(loop.run_in_executor(pool, order.append, each) for each in "ab"))
        world.reached("".join(order))

    submit = ThreadPoolExecutor.submit
    assert explored(program, "ab", "ba").verdict == "proved"
    assert ThreadPoolExecutor.submit is submit


def test_a_loop_that_blocks_waits_for_a_thread_that_sleeps() -> None:
    """Time goes on while the loop's own thread is blocked; only what nobody ends is a deadlock."""

    async def program(world: World) -> None:
        lock = threading.Lock()

        def holds() -> None:
            with lock:
                time.sleep(5.0)

        job = asyncio.create_task(asyncio.to_thread(holds))
        await asyncio.sleep(1.0)
        with lock:
            world.check(5.0 <= world.now < 5.1, "the lock was held for 5 s", f"{world.now}")
        await job

    report = explored(program)
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize("waits", [wait, lambda futures: [*as_completed(futures)]])
def test_where_a_future_lies_in_memory_decides_nothing(waits: Callable[..., object]) -> None:
    """`concurrent.futures` keeps futures in sets, and sorts them by address to take their locks."""
    executions = itertools.count()

    async def program(world: World) -> None:
        made: list[Future[int]] = [Future(), Future()]
        futures = sorted(made, key=id, reverse=bool(next(executions) % 2))
        for number, future in enumerate(futures):
            threading.Thread(target=future.set_result, args=(number,)).start()
        await asyncio.to_thread(waits, futures)

    report = explore(program, strategy=DepthFirst(), max_executions=200)
    assert "nondeterminism" not in report.reason


# ---- for ever -------------------------------------------------------------------------------


def test_a_thread_that_waits_for_ever_is_a_deadlock() -> None:
    """A deadlock names the worker, and where it stands."""

    async def program(world: World) -> None:
        await asyncio.to_thread(threading.Event().wait)

    report = explored(program)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property.startswith("no deadlock")
    assert "worker 1 waits at lock.acquire" in " ".join(report.counterexample.text.split())


def _waits_for_a_predicate() -> None:
    condition = threading.Condition()
    with condition:
        condition.wait_for(lambda: False)


def _joins_a_queue() -> None:
    items: queue.Queue[int] = queue.Queue()
    items.put(1)
    items.join()


@pytest.mark.parametrize(
    ("blocks", "words"),
    [
        (lambda: threading.Event().wait(), "Event.wait"),
        (lambda: queue.Queue().get(), "Queue.get"),
        (lambda: queue.SimpleQueue().get(), "_PySimpleQueue.get"),
        (lambda: threading.Semaphore(0).acquire(), "Semaphore.acquire"),
        (lambda: threading.Barrier(2).wait(), "Barrier.wait"),
        (lambda: Future().result(), "Future.result"),
        (_waits_for_a_predicate, "Condition.wait_for"),
        (_joins_a_queue, "Queue.join"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_loop_that_blocks_for_ever_is_a_deadlock(blocks: Callable[[], None], words: str) -> None:
    """A wait in the loop's own thread that no worker can end is a deadlock, and says which wait.

    Most waits of `threading` and `queue` are in a `while`, and a program may catch what ends them.
    """

    async def program(world: World) -> None:
        with contextlib.suppress(BaseException):
            blocks()

    report = explored(program)
    assert report.counterexample is not None
    assert report.counterexample.property.startswith("no deadlock")
    text = " ".join(report.counterexample.text.split())
    assert f"task program blocks the loop for ever: {words} in " in text
    assert "StepBrokenOff" not in text
    asked: list[float] = []

    async def main() -> None:
        asked.append(asyncio.get_running_loop().time())
        blocks()

    with pytest.raises(Stuck, match=words), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(main())
    assert asked


def test_two_threads_that_lock_crosswise_are_a_deadlock() -> None:
    """Two locks taken in opposite orders stick in some schedule, and it is found."""

    async def program(world: World) -> None:
        one, other = threading.Lock(), threading.Lock()

        def both(first: threading.Lock, second: threading.Lock) -> None:
            with first, second:
                pass

        await asyncio.gather(
            asyncio.to_thread(both, one, other), asyncio.to_thread(both, other, one)
        )

    report = explored(program)
    assert report.counterexample is not None
    text = " ".join(report.counterexample.text.split())
    assert "worker 1 waits at lock.acquire (thread asyncio_0, lock.acquire in both (" in text
    assert "worker 2 waits at lock.acquire (thread asyncio_1" in text


def test_a_counterexample_has_rows_for_threads() -> None:
    """Where each begins, waits, goes on and ends; what ends one is part of a report's text."""

    def takes(first: queue.Queue[int], then: queue.Queue[int]) -> None:
        first.get()
        time.sleep(1)
        then.get()

    def fails() -> None:
        raise LookupError("of the thread")

    async def program(world: World) -> None:
        full: queue.Queue[int] = queue.Queue()
        threading.Thread(target=fails).start()
        threading.Thread(target=takes, args=(full, queue.Queue()), daemon=True).start()
        await asyncio.sleep(1)
        full.put(1)
        await asyncio.sleep(5)
        world.check(threading.active_count() == 1, "every thread has ended")

    report = explored(program)
    assert report.counterexample is not None, report.text
    rows = [" ".join(line.split()) for line in report.counterexample.text.splitlines()]
    for words in (
        "begins in takes (test_threads.py:",
        "waits in Queue.get in takes (test_threads.py:",
        "waits in time.sleep in takes (test_threads.py:",
        "goes on in takes (test_threads.py:",
        "ends with LookupError('of the thread')",
    ):
        assert any(words in row for row in rows), report.text

    async def goes_on(world: World) -> None:
        thread = threading.Thread(target=fails)
        thread.start()
        thread.join()

    said = "thread Thread-1 (fails) ends with LookupError('of the thread') in fails (test_threads"
    assert said in explored(goes_on).text
    assert explore(goes_on, unretrieved="fail").verdict == "refuted"


@pytest.mark.parametrize("is_ended", [True, False])
def test_a_thread_that_polls_lets_others_go_on(is_ended: bool) -> None:
    """One that looks again and again, at declared lines or between sleeps of no time, as on stock.

    Where nothing ends it that is a livelock, with its line.
    """

    def polls(flag: list[int]) -> None:
        while not flag:
            time.sleep(0)

    async def program(world: World) -> None:
        flag: list[int] = []
        thread = threading.Thread(target=polls, args=(flag,))
        thread.start()
        await asyncio.sleep(1)
        if is_ended:
            flag.append(1)
        await asyncio.to_thread(thread.join)

    violation = run(program).violation
    if is_ended:
        assert violation is None
    else:
        assert violation is not None
        assert violation.kind is Kind.LIVELOCK
        assert "thread Thread-1 (polls) spins, at time.sleep in polls (" in violation.detail


def test_what_is_left_blocked_is_ended_with_its_execution() -> None:
    """A worker that waits when the program returns runs its `finally`, and is gone."""
    ended: list[str] = []

    def wait(lock: threading.Lock) -> None:
        try:
            with lock:
                threading.Event().wait()
        finally:
            ended.append(f"held {lock.locked()}")

    async def program(world: World) -> None:
        world.check(not world.loop.threads.workers, "no worker is there yet")
        left = asyncio.create_task(asyncio.to_thread(wait, threading.Lock()))
        await asyncio.sleep(1)
        world.check(not left.done(), "it waits")

    first, second = run(program, traced=True), run(program, traced=True)
    assert ended == ["held False", "held False"]
    assert first.error is first.violation is second.error is second.violation is None
    assert first.trace_hash == second.trace_hash
    assert explored(program).verdict == "proved"


def test_outside_of_an_exploration_threads_are_real() -> None:
    """What is replaced while a program is explored is put back."""
    before = (threading.Lock, threading.RLock, threading.Thread.start, time.sleep)

    async def program(world: World) -> None:
        world.check(threading.Lock is not before[0], "it is replaced meanwhile")

    assert explored(program).verdict == "proved"
    assert before == (threading.Lock, threading.RLock, threading.Thread.start, time.sleep)
    assert sys.gettrace() is None


# ---- determinism ----------------------------------------------------------------------------


async def busy_with_threads(world: World) -> None:
    """Threads, locks, timers and outside events, all at once."""
    world.declare(__file__)
    counter, items = Counter(), queue.Queue(maxsize=1)
    loop = asyncio.get_running_loop()

    def produce() -> None:
        for number in range(3):
            items.put(number)
            counter.add_locked()
            loop.call_soon_threadsafe(counter.add)

    def consume() -> None:
        for _ in range(3):
            items.get(timeout=5)
            time.sleep(0.1)

    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.to_thread(produce))
        group.create_task(asyncio.to_thread(consume))
        group.create_task(world.outside("something", latest=1))


def some_hashes() -> str:
    """The trace hashes of twenty random schedules, in one."""
    hashes = []
    for outcome in islice(outcomes(busy_with_threads, RandomWalk(seed=1), traced=True), 20):
        assert outcome.violation is None
        hashes.append(outcome.trace_hash)
    return " ".join(hashes)


@pytest.mark.parametrize("replays", [8, pytest.param(50, marks=pytest.mark.thorough)])
def test_the_same_schedule_gives_the_same_trace(replays: int) -> None:
    """All replays of a random schedule with threads ran the same callbacks."""
    first = executed(busy_with_threads, RandomWalk(seed=3), traced=True)
    departures = departures_of(first.choices)
    again = {
        executed(busy_with_threads, Replay(departures), traced=True).trace_hash
        for _ in range(replays)
    }
    assert len(departures) > 10
    assert again == {first.trace_hash}


def test_different_schedules_give_different_traces() -> None:
    """The trace shows what was chosen."""
    assert len(set(some_hashes().split())) > 5


@pytest.mark.socket
@pytest.mark.thorough
def test_the_same_schedule_gives_the_same_trace_in_another_process() -> None:
    """Fresh processes with other hash seeds run the same callbacks."""
    script = "from tests.sim.test_threads import some_hashes; print(some_hashes())"
    assert printed_in_fresh_processes(script) == {some_hashes()}


def test_a_sleep_of_no_time_is_over_before_the_next_poll() -> None:
    """A thread that sleeps for 0 s lets others go first, or none; no poll has to come first."""

    async def program(world: World) -> None:
        said: list[str] = []

        def job() -> None:
            said.append("a")
            time.sleep(0)
            said.append("b")

        thread = threading.Thread(target=job)
        thread.start()
        with threading.Lock():
            said.append("loop")
        world.reached("".join(said))
        thread.join()

    report = explore(program, labels=["loop", "aloop", "abloop"])
    assert report.verdict == "proved", report.text
