"""DaemonExecutor: runs blocking work in daemon threads, which never keep the process alive.

The threads of concurrent.futures' own pool are joined when the interpreter exits, so that one
blocked read is enough to make a process need `kill -9`. Daemon threads are left where they are.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

THREADS_MAX = 128
QUEUE_MAX = 1024

_Job = tuple["Future[Any]", Callable[[], Any]]


class ExecutorFull(RuntimeError):
    """All threads are busy and the queue is full, or the system gives no more threads."""


class DaemonExecutor(Executor):
    """At most `threads_max` jobs run at once, and at most `queue_max` wait, first come first run.

    A thread is started when a job finds none to take it, and ends when it finds no further job:
    a quiet executor has no threads.
    """

    def __init__(
        self,
        threads_max: int = THREADS_MAX,
        *,
        queue_max: int = QUEUE_MAX,
        thread_name: str = "onestream-worker",
    ) -> None:
        if threads_max < 1 or queue_max < 0:
            raise ValueError(
                f"threads_max={threads_max}, queue_max={queue_max}: at least one thread is "
                f"needed, and the queue may not be shorter than empty"
            )
        self._threads_max = threads_max
        self._queue_max = queue_max
        self._thread_name = thread_name
        self._serials = itertools.count(1)
        self._lock = threading.Lock()
        # All three only under the lock. A job waits only while threads_max threads run, each of
        # which looks here before it ends: so no job is forgotten, and no thread is one too many.
        self._queue: deque[_Job] = deque()
        self._threads: set[threading.Thread] = set()
        self._is_shut_down = False

    @property
    def threads(self) -> int:
        """How many threads run now."""
        return len(self._threads)

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Starts or queues a job; until it starts, its future can be cancelled.

        Raises ExecutorFull when the queue is full, RuntimeError after shutdown.
        """
        future: Future[T] = Future()
        job: _Job = (future, lambda: fn(*args, **kwargs))
        with self._lock:
            if self._is_shut_down:
                raise RuntimeError("the executor was shut down and takes no more jobs")
            if len(self._threads) < self._threads_max:
                self._start(job)
            else:
                self._enqueue(job)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Takes no more jobs. What is queued still runs, unless `cancel_futures`.

        With `wait` it returns when all jobs are over, however long a blocked one takes. Without,
        it returns at once.
        """
        with self._lock:
            self._is_shut_down = True
            queued = list(self._queue) if cancel_futures else []
            threads = list(self._threads)
        for future, _ in queued:
            future.cancel()
        if wait:
            for thread in threads:
                thread.join()

    # -- under the lock

    def _start(self, job: _Job) -> None:
        name = f"{self._thread_name}-{next(self._serials)}"
        thread = threading.Thread(target=self._work, args=(job,), name=name, daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:
            # Nothing is kept of the job: its caller gets an error.
            self._threads.discard(thread)
            raise ExecutorFull(
                f"the system gives no more threads ({len(self._threads)} run): {exc}"
            ) from exc

    def _enqueue(self, job: _Job) -> None:
        if len(self._queue) >= self._queue_max:
            # A cancelled job keeps its place until somebody looks.
            self._queue = deque(kept for kept in self._queue if not kept[0].cancelled())
        if len(self._queue) >= self._queue_max:
            raise ExecutorFull(
                f"all {self._threads_max} threads are busy and {self._queue_max} jobs are queued; "
                f"see what blocks the threads, or allow more of them"
            )
        self._queue.append(job)

    # -- in a thread

    def _work(self, job: _Job) -> None:
        jobs = [job]
        del job
        while jobs:
            # Popped, so that nothing here keeps alive what a finished job refers to.
            _run(*jobs.pop())
            jobs += self._next_jobs()

    def _next_jobs(self) -> list[_Job]:
        with self._lock:
            if self._queue:
                return [self._queue.popleft()]
            self._threads.discard(threading.current_thread())
            return []


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as exc:
        future.set_exception(exc)
        # The traceback refers to this frame: let it not refer back.
        del future, work
    else:
        future.set_result(result)
