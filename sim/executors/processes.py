"""Workers that are processes of this machine: `--jobs`."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.synchronize import Event
from typing import Any

from sim.executors.base import Answer, MakeExecutor, Task
from sim.executors.pickled import answered, dumped, taken

if sys.platform == "linux":
    # A pool imports these with its first process. What a process has imported decides what guards
    # look for, so that each worker would look through all modules, which its parent has done.
    import multiprocessing.popen_fork
    import multiprocessing.resource_tracker

# Since 3.14 a server forks for a process that asks for more, and Ctrl-C reaches the server as well.
# No thread has been started when the pool is made, so that a plain fork is as safe as it was.
_CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else None)


def processes(jobs: int, context: BaseContext = _CONTEXT) -> MakeExecutor | None:
    """None for one job: this process does it itself. context: how processes are made."""
    return None if jobs == 1 else partial(Processes, jobs, context)


def cores() -> int:
    """How many this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Processes:
    """An `Executor`. Where one process ends, Python ends all: then there are new ones."""

    def __init__(self, workers: int, context: BaseContext = _CONTEXT) -> None:
        self.workers = workers
        self._context = context
        self._stop = context.Event()
        self._numbers: dict[Future[Any], int] = {}
        self._lost: list[Answer] = []
        self._pool = self._new_pool()

    def submit(self, number: int, task: Task) -> None:
        pickled = dumped(task)
        try:
            self._numbers[self._pool.submit(_do, pickled)] = number
        except BrokenProcessPool as exc:
            self._lost.append(Answer(number, loss=str(exc)))

    def answers(self, timeout_s: float) -> list[Answer]:
        if not self._lost:
            wait(self._numbers, timeout_s, FIRST_COMPLETED)
        done = [future for future in self._numbers if future.done()]
        answers = [_answer(self._numbers.pop(future), future) for future in done]
        if self._lost or any(answer.loss for answer in answers):
            answers += self._begin_anew()
        return answers

    def cancel(self) -> None:
        self._stop.set()

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def _begin_anew(self) -> list[Answer]:
        """All that the broken pool had."""
        # It has ended its processes, and answers all.
        self._pool.shutdown()
        answers = [*self._lost, *(_answer(n, future) for future, n in self._numbers.items())]
        self._lost, self._numbers = [], {}
        self._pool = self._new_pool()
        return answers

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.workers, mp_context=self._context, initializer=_begin, initargs=(self._stop,)
        )


def _answer(number: int, future: Future[Any]) -> Answer:
    error = future.exception()
    if isinstance(error, BrokenProcessPool):
        return Answer(number, loss=str(error))
    if isinstance(error, Exception):
        return Answer(number, error=error)
    return taken(number, future.result())


# ---- in a worker -----------------------------------------------------------------------------

_stop: Event | None = None


def _begin(stop: Event) -> None:
    global _stop
    _stop = stop
    # Ctrl-C reaches every process of the terminal; the first one handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _do(task: bytes) -> bytes:
    assert _stop is not None, "this is no worker"
    return answered(task, _stop.is_set)
