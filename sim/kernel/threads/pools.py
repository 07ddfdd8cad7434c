"""Pools of simulated threads, also behind `concurrent.futures.ThreadPoolExecutor`."""

from __future__ import annotations

import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import greenlet

from sim.kernel.current import executions
from sim.kernel.origin import forwards, modelled
from sim.kernel.threads.identity import ThreadIdentity
from sim.kernel.threads.locks import StandIn, new_context, stands_for
from sim.kernel.threads.workers import Threads

T = TypeVar("T")

THREADS_MAX = 8
QUEUE_MAX = 64


def _next_pool_number() -> int:
    counter: Any = ThreadPoolExecutor
    return int(counter._counter())


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

    @property
    def busy(self) -> int:
        """How many threads have a job."""
        return self._busy

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if self._is_shut_down:
            raise modelled(RuntimeError("cannot schedule new futures after shutdown"))
        future: Future[T] = Future()
        if len(self._queue) >= self._queue_max:
            raise modelled(RuntimeError(f"{self._queue_max} jobs are queued already"))
        self._queue.append((future, partial(fn, *args, **kwargs)))
        if self._busy < self._threads_max:
            self._busy += 1
            identity = self._idle.popleft() if self._idle else self._sim_new_thread()
            self._threads.start(partial(self._sim_work, identity), identity)
        return future

    def _sim_new_thread(self) -> ThreadIdentity:
        thread = threading.Thread(name=f"{self._name}_{self._threads_made}")
        self._threads_made += 1
        return self._threads.new_identity(thread, new_context())

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
        if cancel_futures:
            for future, _ in self._queue:
                future.cancel()
        while self._idle:
            self._idle.popleft().end()
        if wait:
            self._threads.block("executor.shutdown", lambda: self._busy == 0)

    def _sim_work(self, identity: ThreadIdentity) -> None:
        """One thread: job after job, as long as there is one."""
        try:
            while self._queue:
                future, work = self._queue.popleft()
                if future.set_running_or_notify_cancel():
                    self._sim_run(future, work)
        finally:
            self._busy -= 1
            if self._is_shut_down:
                identity.end()
            else:
                self._idle.append(identity)

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
    if not executions:
        return None
    threads: Threads = executions[-1].loop.threads
    known: tuple[object, SimExecutor] | None = getattr(pool, _TWIN, None)
    if known is not None and known[0] is threads:
        return known[1]
    if getattr(type(pool), "prepare_context", _prepare_context) != _prepare_context:
        threads.loop.refuse(f"{type(pool).__name__}.submit", "its jobs run in no ordinary thread")
    if _initializer_of(pool) is not None:
        threads.loop.refuse(
            f"{type(pool).__name__}(initializer=…)", "do in the job what the initializer does"
        )
    # As many threads, and, as in the real pool, a queue without a bound.
    twin = SimExecutor(
        threads,
        threads_max=pool._max_workers,
        queue_max=sys.maxsize,
        name=pool._thread_name_prefix or repr(pool),
    )
    setattr(pool, _TWIN, (threads, twin))
    return twin


def _initializer_of(pool: Any) -> object:
    if sys.version_info >= (3, 14):
        return pool._create_worker_context().initializer
    return pool._initializer


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
        yield
    finally:
        ThreadPoolExecutor.submit = submit  # type: ignore[method-assign]
        ThreadPoolExecutor.shutdown = shutdown  # type: ignore[method-assign]
