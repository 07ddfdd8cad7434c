"""Pools of simulated threads, also behind `concurrent.futures.ThreadPoolExecutor`."""

from __future__ import annotations

import concurrent.futures._base
import functools
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.thread import BrokenThreadPool
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import greenlet

from sim.kernel.current import execution_of_this_thread
from sim.kernel.hashing import Numbers
from sim.kernel.isolation.audit_events import Refused
from sim.kernel.origin import forwards, modelled
from sim.kernel.threads.identity import ThreadIdentity
from sim.kernel.threads.locks import (
    SimRLock,
    StandIn,
    lock_without_switch_points,
    new_context,
    stands_for,
)
from sim.kernel.threads.workers import Threads, Worker

T = TypeVar("T")

THREADS_MAX = 8
QUEUE_MAX = 64
CPUS_MOST = 28
"""With as many, or with more, asyncio's default pool has the same number of threads."""


def default_pool_threads(cpus: int) -> int:
    """As ThreadPoolExecutor counts them, and so asyncio."""
    return min(32, cpus + 4)


# CPython's words, and its logger.
_BROKEN = "A thread initializer failed, the thread pool is not usable anymore"
_LOGGER = logging.getLogger("concurrent.futures")


def _next_pool_number() -> int:
    counter: Any = ThreadPoolExecutor
    return int(counter._counter())


class _LoopsFuture(Future[T]):
    """Of a job that a loop has submitted, which alone knows it, and asks it nothing but to cancel.

    It says no from the job's begin on. So there is nothing to see between two of its steps that
    could not be seen before the job begins, or before the thread tells the loop that it is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition = threading.Condition(lock_without_switch_points())  # type: ignore[arg-type]


@stands_for(ThreadPoolExecutor(1))
class SimExecutor(StandIn, Executor):
    """A bounded pool: a job is queued, started, finished, and reported by its future.

    A job that is queued can be cancelled and then never runs; one that has started goes on.
    """

    def __init__(
        self,
        threads: Threads,
        *,
        threads_max: int = THREADS_MAX,
        queue_max: int = QUEUE_MAX,
        name: str | None = None,
        initializer: Callable[[], object] | None = None,
    ) -> None:
        # As ThreadPoolExecutor's, whose pools count in one process.
        self._name = name or f"ThreadPoolExecutor-{_next_pool_number()}"
        self._threads_made = 0
        self._threads = threads
        self._threads_max = threads_max
        self._queue_max = queue_max
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0
        # The threads that have no job: each keeps what its jobs have set.
        self._idle: deque[ThreadIdentity] = deque()
        self._is_shut_down = False
        # What each thread does first; whether it has failed, after which the pool does nothing.
        self._sim_initializer = initializer
        self._sim_is_broken = False
        self._sim_not_begun: list[Worker] = []
        # Whether one that takes a job lets others go first: else it could as well not have begun.
        self._sim_takes_and_stands = False
        # How many it has on every machine, where that is another number on each.
        self._sim_threads_everywhere = threads_max

    @classmethod
    def of_asyncio(cls, threads: Threads) -> SimExecutor:
        """asyncio's default pool, whose queue has no bound."""
        threads_max = default_pool_threads(threads.loop.bounds.cpus)
        made = cls(threads, threads_max=threads_max, queue_max=sys.maxsize, name="asyncio")
        made._sim_threads_everywhere = default_pool_threads(1)
        return made

    @property
    def sim_jobs_waiting(self) -> str:
        """Of asyncio's default pool, in words: which jobs have no thread; empty if each has one."""
        if self._busy < self._threads_max or not self._queue:
            return ""
        jobs = "1 job waits" if len(self._queue) == 1 else f"{len(self._queue)} jobs wait"
        cpus = self._threads.loop.bounds.cpus
        return (
            f"{jobs} for one of the {self._threads_max} threads of asyncio's default pool, which "
            f"are all taken: it has min(32, CPUs + 4), here of cpus={cpus}"
        )

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        return self._sim_submit(Future(), fn, args, kwargs)

    def _sim_submit(
        self,
        future: Future[T],
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Future[T]:
        if self._is_shut_down:
            raise modelled(RuntimeError("cannot schedule new futures after shutdown"))
        if self._sim_is_broken:
            raise modelled(BrokenThreadPool(_BROKEN))
        work = partial(fn, *args, **kwargs)
        job = self._threads.begins(work)
        if len(self._queue) >= self._queue_max:
            raise modelled(RuntimeError(f"{self._queue_max} jobs are queued already"))
        self._queue.append((future, work))
        if self._busy >= self._sim_threads_everywhere:
            self._threads.loop.bounds_hit.add("cpus")
        if self._busy < self._threads_max:
            self._busy += 1
            is_new = not self._idle
            identity = self._sim_new_thread() if is_new else self._idle.popleft()
            identity.job = job
            self._sim_begin(identity, is_new)
        return future

    def _sim_begin(
        self, identity: ThreadIdentity, is_new: bool, before: Worker | None = None
    ) -> None:
        """before: what this thread had to do until now."""
        worker = self._threads.start(lambda: self._sim_work(is_new), identity)
        if before is not None:
            worker.started_at = before.started_at
        self._sim_not_begun.append(worker)

    def _sim_new_thread(self) -> ThreadIdentity:
        thread = threading.Thread(name=f"{self._name}_{self._threads_made}")
        self._threads_made += 1
        return self._threads.new_identity(thread, new_context())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
        if cancel_futures:
            self._sim_cancel_queued()
        while self._idle:
            self._idle.popleft().end()
        if wait:
            self._threads.block("executor.shutdown", lambda: self._busy == 0)

    def _sim_cancel_queued(self) -> None:
        """What a thread has taken before is no longer queued, and will be done."""
        if self._queue and self._sim_not_begun:
            self._sim_takes_and_stands = True
            self._threads.let_others_go_first("executor.shutdown")
            self._sim_takes_and_stands = False
        while self._queue:
            self._queue.popleft()[0].cancel()
        self._sim_others_rest()

    def _sim_work(self, is_new: bool) -> None:
        """One thread and one job, or none; with the next one it begins anew."""
        # Not held by what it runs: one that is taken back before it begins would be a circle.
        worker = self._threads.current
        assert worker is not None
        self._sim_not_begun.remove(worker)
        goes_on = False
        try:
            if is_new and not self._sim_initialize():
                return
            if self._queue:
                future, work = self._queue.popleft()
                self._sim_others_rest()
                if self._queue or self._sim_takes_and_stands:
                    # Another may take a later job, and do it first.
                    self._threads.pause("its job")
                if future.set_running_or_notify_cancel():
                    self._sim_run(future, work)
            # Others may see that a job is done before the next one begins, or take that.
            goes_on = bool(self._queue)
        finally:
            if goes_on:
                self._sim_begin(worker.identity, False, worker)
            else:
                self._sim_rest(worker.identity)

    def _sim_rest(self, identity: ThreadIdentity) -> None:
        """It has no job now."""
        self._busy -= 1
        if self._is_shut_down:
            identity.end()
        else:
            self._idle.append(identity)

    def _sim_others_rest(self) -> None:
        """Those that have not begun: the step in which they would find no job shows nothing."""
        if self._queue or self._sim_initializer is not None:
            return
        for worker in self._sim_not_begun:
            self._threads.take_back(worker)
            self._sim_rest(worker.identity)
        self._sim_not_begun.clear()

    @forwards
    def _sim_initialize(self) -> bool:
        """As in CPython, one that fails is logged and breaks the pool."""
        if self._sim_initializer is None:
            return True
        try:
            self._sim_initializer()
        except greenlet.GreenletExit:
            raise
        except BaseException:
            _LOGGER.critical("Exception in initializer:", exc_info=True)
            self._sim_is_broken = True
            while self._queue:
                self._queue.popleft()[0].set_exception(modelled(BrokenThreadPool(_BROKEN)))
            return False
        # Others may see what it has done before the first job begins.
        self._threads.pause("its job")
        return True

    @forwards
    def _sim_run(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            result = work()
        except greenlet.GreenletExit:
            raise
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)


# ---- pools of the program's own -------------------------------------------------------------

_TWIN = "_onestream_twin"
# Since 3.14; InterpreterPoolExecutor has one of its own.
_prepare_context = getattr(ThreadPoolExecutor, "prepare_context", None)


def _twin_of(pool: ThreadPoolExecutor) -> SimExecutor | None:
    """The simulated pool that does the jobs of this one; None outside of executions."""
    execution = execution_of_this_thread()
    if execution is None:
        return None
    threads: Threads = execution.loop.threads
    known: tuple[object, SimExecutor] | None = getattr(pool, _TWIN, None)
    if known is not None and known[0] is threads:
        return known[1]
    if getattr(type(pool), "prepare_context", _prepare_context) != _prepare_context:
        threads.loop.refuse(f"{type(pool).__name__}.submit", Refused.INTERPRETER.value)
    # As many threads, and, as in the real pool, a queue without a bound.
    twin = SimExecutor(
        threads,
        threads_max=pool._max_workers,
        queue_max=sys.maxsize,
        name=pool._thread_name_prefix or repr(pool),
        initializer=_initializer_of(pool),
    )
    setattr(pool, _TWIN, (threads, twin))
    return twin


def _initializer_of(pool: Any) -> Callable[[], object] | None:
    if sys.version_info >= (3, 14):
        context = pool._create_worker_context()
        return None if context.initializer is None else context.initialize
    return None if pool._initializer is None else partial(pool._initializer, *pool._initargs)


def submit_of_loop(executor: Executor, fn: Callable[..., T], args: tuple[Any, ...]) -> Future[T]:
    """As `submit`, where nobody but the loop gets the future."""
    if isinstance(executor, SimExecutor):
        return executor._sim_submit(_LoopsFuture(), fn, args, {})
    if isinstance(executor, ThreadPoolExecutor) and (
        type(executor).submit is ThreadPoolExecutor.submit
    ):
        twin = _twin_of(executor)
        if twin is not None and not executor._shutdown:
            return twin._sim_submit(_LoopsFuture(), fn, args, {})
    return executor.submit(fn, *args)


@contextmanager
def _processes_refused() -> Iterator[None]:
    """A pool of processes that began before: what it does raises no event. New ones do."""
    processes = sys.modules.get("concurrent.futures.process")
    if processes is None:
        yield
        return
    kind: Any = processes.ProcessPoolExecutor
    submit = kind.submit

    @functools.wraps(submit)
    @forwards
    def refused_submit(pool: Any, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        execution = execution_of_this_thread()
        if execution is not None:
            execution.loop.refuse(f"{type(pool).__name__}.submit", Refused.PROCESS.value)
        return submit(pool, fn, *args, **kwargs)

    kind.submit = refused_submit
    try:
        yield
    finally:
        kind.submit = submit


def _hash_of_future(future: Any) -> int:
    """By the order in which an execution first asks; of a future from before, by its address."""
    known = NUMBERS_OF_FUTURES.of(future)
    if known is not None:
        return known
    execution = execution_of_this_thread()
    if execution is None or not isinstance(future._condition._lock, SimRLock):
        return object.__hash__(future)
    return NUMBERS_OF_FUTURES.give(future, execution.loop.threads.next_future())


NUMBERS_OF_FUTURES = Numbers()


@contextmanager
def futures_in_order() -> Iterator[None]:
    """Within the block, sets of concurrent.futures.Future have the same order in every run.

    `wait` and `as_completed` keep them in sets, and take their locks in the order of addresses.
    """

    def __init__(self: Any, futures: Iterable[Future[Any]]) -> None:
        self.futures = sorted(futures, key=hash)

    acquired: Any = concurrent.futures._base._AcquireFutures
    before = acquired.__init__
    acquired.__init__ = __init__
    Future.__hash__ = _hash_of_future  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        acquired.__init__ = before
        del Future.__hash__


@contextmanager
def pools_simulated() -> Iterator[None]:
    """Within the block, pools of an execution start no thread of the system."""
    submit, shutdown = ThreadPoolExecutor.submit, ThreadPoolExecutor.shutdown

    @forwards
    def simulated_submit(
        pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        twin = _twin_of(pool)
        if twin is None:
            return submit(pool, fn, *args, **kwargs)
        if pool._shutdown:
            raise modelled(RuntimeError("cannot schedule new futures after shutdown"))
        return twin.submit(fn, *args, **kwargs)

    @forwards
    def simulated_shutdown(
        pool: ThreadPoolExecutor, wait: bool = True, *, cancel_futures: bool = False
    ) -> None:
        twin = _twin_of(pool)
        shutdown(pool, wait and twin is None, cancel_futures=cancel_futures)
        if twin is not None:
            twin.shutdown(wait, cancel_futures=cancel_futures)

    ThreadPoolExecutor.submit = simulated_submit  # type: ignore[method-assign,assignment]
    ThreadPoolExecutor.shutdown = simulated_shutdown  # type: ignore[method-assign,assignment]
    try:
        with _processes_refused(), futures_in_order():
            yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        ThreadPoolExecutor.shutdown = shutdown  # type: ignore[method-assign]
