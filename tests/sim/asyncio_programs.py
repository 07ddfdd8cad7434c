"""Programs that say what they saw of asyncio and of threads, whatever the order of events.

Each returns something to be compared: of stock asyncio, and of the simulator under many schedules.
Here stands what CPython's own tests, which run on the simulated loop as well, have not: threads
beside the loop, pools, locals and contexts over threads, and what is freed, and when.
"""

from __future__ import annotations

import asyncio
import concurrent.futures as pools
import contextvars
import os
import queue
import signal
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

Program = Callable[[], Awaitable[object]]
PROGRAMS: list[Program] = []


def listed(program: Program) -> Program:
    PROGRAMS.append(program)
    return program


def who() -> str:
    # Not `current_thread`, which makes an object for a thread that is about to end.
    is_main = threading.get_ident() == threading.main_thread().ident
    return "main" if is_main else "worker"


def raised_by(call: Callable[..., object], *args: Any) -> str:
    try:
        return repr(call(*args))
    except BaseException as exc:
        return f"{type(exc).__name__}: {exc}"


# -- the loop from threads


@listed
async def a_coroutine_for_a_thread_times_out() -> object:
    loop = asyncio.get_running_loop()

    def job() -> object:
        running = asyncio.run_coroutine_threadsafe(asyncio.sleep(60, "late"), loop)
        return raised_by(running.result, 0.001), running.done(), running.cancel()

    return await asyncio.to_thread(job)


@listed
async def a_thread_cancels_its_coroutine() -> object:
    loop, has_begun, log = asyncio.get_running_loop(), threading.Event(), []

    async def cleans_up() -> None:
        has_begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            log.append("clean")

    def job() -> str:
        running = asyncio.run_coroutine_threadsafe(cleans_up(), loop)
        has_begun.wait()
        running.cancel()
        return raised_by(running.result, 1)

    raised = await asyncio.to_thread(job)
    await asyncio.sleep(0.05)
    return raised, log


@listed
async def a_future_that_a_thread_sets() -> object:
    by_hand: pools.Future[int] = pools.Future()
    callers: list[str] = []
    by_hand.add_done_callback(lambda _: callers.append(who()))
    waits = asyncio.wrap_future(by_hand)
    thread = threading.Thread(target=by_hand.set_result, args=(3,))
    thread.start()
    got = await waits
    thread.join()
    unset: pools.Future[int] = pools.Future()
    asyncio.wrap_future(unset).cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return got, callers, raised_by(by_hand.set_result, 1)[:17], unset.cancelled()


@listed
async def loops_of_runners_in_a_thread() -> object:
    whose = contextvars.ContextVar("whose", default="nobody")

    async def sets() -> None:
        whose.set("the first")

    async def leaves() -> int:
        asyncio.ensure_future(asyncio.sleep(60))  # noqa: RUF006
        return len(asyncio.all_tasks())

    async def gets() -> str:
        return whose.get()

    def job() -> object:
        with asyncio.Runner() as runner:
            runner.run(sets())
            loop = runner.get_loop()
            return runner.run(gets()), runner.run(leaves()), runner.run(leaves()), loop.is_closed()

    return await asyncio.to_thread(job)


@listed
async def a_generator_that_a_loop_in_a_thread_closes() -> object:
    log: list[str] = []

    async def ticks() -> Any:
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    kept = ticks()

    async def begins() -> None:
        await anext(kept)

    await asyncio.to_thread(lambda: asyncio.run(begins()))
    return log


# -- pools


@listed
async def a_pool_is_shut_down_with_a_job_in_its_queue() -> object:
    pool, go_on = pools.ThreadPoolExecutor(1), threading.Event()
    runs, waits = pool.submit(go_on.wait), pool.submit(int)
    while not runs.running():  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    pool.shutdown(wait=False, cancel_futures=True)
    go_on.set()
    return await asyncio.wrap_future(runs), waits.cancelled(), raised_by(pool.submit, int)


@listed
async def a_pools_initializer_sets_a_local() -> object:
    here = threading.local()

    def begin(value: int) -> None:
        here.value = value

    with pools.ThreadPoolExecutor(1, initializer=begin, initargs=(5,)) as pool:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, lambda: here.value), hasattr(here, "value")


@listed
async def a_pool_waits_for_itself() -> object:
    with pools.ThreadPoolExecutor(1) as pool:

        def outer() -> str:
            return raised_by(pool.submit(int).result, 0.01)

        return await asyncio.wrap_future(pool.submit(outer))


@listed
async def waits_for_the_jobs_of_a_pool() -> object:
    go_on = threading.Event()
    with pools.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(go_on.wait), pool.submit(raised_by, int, "x")]
        done, pending = await asyncio.to_thread(pools.wait, jobs, return_when=pools.FIRST_COMPLETED)
        late = await asyncio.to_thread(raised_by, lambda: [*pools.as_completed(jobs, 0.01)])
        go_on.set()
    return len(done), len(pending), late, [job.done() for job in jobs]


@listed
async def a_job_that_waits_is_cancelled() -> object:
    loop, go_on, ran = asyncio.get_running_loop(), threading.Event(), []
    with pools.ThreadPoolExecutor(1) as pool:
        running = loop.run_in_executor(pool, go_on.wait)
        waiting = loop.run_in_executor(pool, ran.append, 1)
        waiting.cancel()
        # The pool hears of it an iteration later.
        await asyncio.sleep(0)
        go_on.set()
        results = await asyncio.gather(running, waiting, return_exceptions=True)
    return [type(each).__name__ for each in results], ran


@listed
async def what_a_job_raises_that_is_no_exception() -> object:
    class Ends(BaseException):
        pass

    def ends() -> None:
        raise Ends("of a job")

    try:
        await asyncio.to_thread(ends)
    except Ends as exc:
        return repr(exc)


# -- what is a thread's own


@listed
async def contexts_of_threads() -> object:
    whose = contextvars.ContextVar("whose", default="nobody")
    whose.set("the loop's")

    def job() -> str:
        before = whose.get()
        whose.set("the job's")
        return before

    loop = asyncio.get_running_loop()
    of_to_thread = await asyncio.to_thread(job)
    return of_to_thread, await loop.run_in_executor(None, whose.get), whose.get()


@listed
async def a_subclass_of_local_is_initialised_in_each_thread() -> object:
    class Whose(threading.local):
        def __init__(self) -> None:
            self.value = who()

    whose = Whose()
    return whose.value, await asyncio.to_thread(lambda: whose.value)


@listed
async def what_a_local_holds_is_freed_with_its_thread() -> object:
    here, log = threading.local(), []

    class Held:
        def __del__(self) -> None:
            log.append(who())

    def job() -> None:
        here.held = Held()

    thread = threading.Thread(target=job)
    thread.start()
    thread.join()
    return log


@listed
async def a_finalizer_runs_where_the_last_reference_goes() -> object:
    log: list[str] = []

    class Held:
        pass

    def job() -> None:
        weakref.finalize(Held(), lambda: log.append(who()))

    await asyncio.to_thread(job)
    return log


@listed
async def finished_tasks_leave_a_weak_set() -> object:
    tasks: weakref.WeakSet[asyncio.Task[None]] = weakref.WeakSet()
    for _ in range(3):
        tasks.add(asyncio.create_task(asyncio.sleep(0)))
    await asyncio.sleep(0.001)
    return len(tasks)


@listed
async def hooks_hear_of_what_ends_threads() -> object:
    heard: list[object] = []
    before = threading.excepthook
    threading.excepthook = lambda args: heard.append((args.exc_type, args.thread.name))  # type: ignore[union-attr]
    try:
        for ends in (lambda: int("x"), sys.exit):
            thread = threading.Thread(target=ends, name="T")  # type: ignore[arg-type]
            thread.start()
            thread.join()
    finally:
        threading.excepthook = before
    return heard


@listed
async def threads_that_are_alive() -> object:
    before, go_on = threading.active_count(), threading.Event()
    threads = [threading.Thread(target=go_on.wait, name=f"x{i}", daemon=bool(i)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    threads[0].join(0.001)
    seen = [threading.active_count() - before, [each.is_alive() for each in threads]]
    seen.append(sorted(each.name for each in threading.enumerate() if each.name[0] == "x"))
    go_on.set()
    for thread in threads:
        thread.join()
    return seen, threading.active_count() - before, raised_by(threads[0].start)


# -- what threads share


@listed
async def a_barrier_that_nobody_completes() -> object:
    barrier = threading.Barrier(3)
    both = (asyncio.to_thread(raised_by, barrier.wait, 0.01) for _ in range(2))
    return sorted(await asyncio.gather(*both)), barrier.broken


@listed
async def a_barrier_of_three() -> object:
    barrier = threading.Barrier(3)
    return sorted(await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(3))))


@listed
async def a_condition_with_a_predicate() -> object:
    condition, count = threading.Condition(), 0

    def job() -> bool:
        with condition:
            return condition.wait_for(lambda: count == 2, timeout=60)

    waits = asyncio.create_task(asyncio.to_thread(job))
    for _ in range(2):
        await asyncio.sleep(0.001)
        with condition:
            count += 1
            condition.notify()
    return await waits


@listed
async def a_bounded_semaphore() -> object:
    semaphore, lock, inside, most = threading.BoundedSemaphore(2), threading.Lock(), 0, 0

    def job() -> None:
        nonlocal inside, most
        with semaphore:
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1

    await asyncio.gather(*(asyncio.to_thread(job) for _ in range(3)))
    return most <= 2, inside, raised_by(semaphore.release)


@listed
async def a_queue_between_a_thread_and_the_loop() -> object:
    inbox: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    got: list[object] = []

    def job() -> None:
        while (each := inbox.get()) is not None:
            got.append(each)
        got.append(raised_by(inbox.get, True, 0.001))

    thread = threading.Thread(target=job)
    thread.start()
    for each in (1, 2, None):
        inbox.put(each)
        await asyncio.sleep(0)
    await asyncio.to_thread(thread.join)
    return got, inbox.empty()


@listed
async def a_full_queue() -> object:
    full: queue.Queue[int] = queue.Queue(1)
    full.put(1)
    return await asyncio.to_thread(raised_by, full.put, 2, True, 0.001), raised_by(
        full.get, True, -1
    )


@listed
async def locks_that_are_misused() -> object:
    lock, again = threading.Lock(), threading.RLock()
    seen = [raised_by(lock.release), lock.acquire(), lock.acquire(timeout=0.001)]
    seen += [raised_by(lock.acquire, False, 1), raised_by(threading.Condition().notify)]
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    return seen, lock.locked(), raised_by(again.release)


@listed
async def a_timer_is_cancelled() -> object:
    got: list[int] = []
    # The second is far off: a slow machine starts it late, and cancels it later still.
    timers = [
        threading.Timer(after_s, got.append, [number])
        for number, after_s in ((1, 0.001), (2, 3600.0))
    ]
    for timer in timers:
        timer.start()
    timers[1].cancel()
    for timer in timers:
        await asyncio.to_thread(timer.join)
    return got


# -- the loop


@listed
async def a_timeout_that_a_blocking_call_outlasts() -> object:
    seen = []
    for steps in range(2):
        try:
            async with asyncio.timeout(0.001):
                time.sleep(0.005)  # noqa: ASYNC251
                for _ in range(steps):
                    await asyncio.sleep(0)
            seen.append("over")
        except TimeoutError:
            seen.append("too late")
    return seen


@listed
async def a_child_cancels_its_parent() -> object:
    parent, log = asyncio.current_task(), []
    assert parent is not None

    async def child() -> None:
        parent.cancel("by its child")
        await asyncio.sleep(0)
        log.append("the child goes on")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(60)
    except asyncio.CancelledError as exc:
        log.append(str(exc))
    return log, parent.uncancel()


@listed
async def a_waiter_that_is_notified_and_cancelled() -> object:
    condition, log = asyncio.Condition(), []

    async def waits(number: int) -> None:
        async with condition:
            await condition.wait()
            log.append(number)

    tasks = [asyncio.create_task(waits(number)) for number in range(2)]
    await asyncio.sleep(0)
    async with condition:
        condition.notify()
    tasks[0].cancel()
    await asyncio.sleep(0.001)
    async with condition:
        condition.notify_all()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return log, [type(each).__name__ for each in results]


@listed
async def signals_that_a_handler_sends() -> object:
    loop, log = asyncio.get_running_loop(), []

    def handler() -> None:
        log.append("heard")
        if len(log) < 3:
            os.kill(os.getpid(), signal.SIGUSR1)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    os.kill(os.getpid(), signal.SIGUSR1)
    await asyncio.sleep(0.2)
    return log, loop.remove_signal_handler(signal.SIGUSR1)


@listed
async def eager_tasks() -> object:
    if sys.version_info < (3, 12):
        return "since 3.12"
    loop, log, outer = asyncio.get_running_loop(), [], asyncio.current_task()

    async def child() -> None:
        log.append(asyncio.current_task() is not outer)
        await asyncio.sleep(0)

    factory = loop.get_task_factory()
    loop.set_task_factory(asyncio.eager_task_factory)
    try:
        task = asyncio.create_task(child())
        log.append(asyncio.current_task() is outer)
        task.cancel()
        await asyncio.wait([task])
    finally:
        loop.set_task_factory(factory)
    return log, task.cancelled()


@listed
async def queues_that_are_shut_down() -> object:
    if sys.version_info < (3, 13):
        return "since 3.13"
    inbox: queue.Queue[int] = queue.Queue()
    own: asyncio.Queue[int] = asyncio.Queue(1)
    in_thread = asyncio.create_task(asyncio.to_thread(raised_by, inbox.get))
    waits = asyncio.create_task(own.get())
    await asyncio.sleep(0)
    inbox.shutdown()
    own.shutdown(immediate=True)
    (result,) = await asyncio.gather(waits, return_exceptions=True)
    return await in_thread, type(result).__name__
