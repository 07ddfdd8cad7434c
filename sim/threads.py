"""Worker threads as actors of the same schedule.

A worker runs its blocking function in a greenlet, so that it can stand still anywhere while the
loop goes on. Where a worker may be overtaken are its *switch points*: before it acquires a lock,
before it blocks, before each `call_soon_threadsafe`, and before each line of the files that are
declared, since with fewer a check and the act after it would be one step. In the loop's thread
workers may go on between any two callbacks, before a lock is acquired, and, where that is asked
for, before each declared line.

Natural is that a worker goes on, at a poll, until it blocks or ends. That it stands still instead,
or goes on between two callbacks of the loop, is a departure.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, NoReturn, Protocol, TypeVar, cast

import greenlet
import simpy

from sim.environment import Environment
from sim.errors import NotSimulated
from sim.lines import set_trace, trace_function, unwatch, watch
from sim.schedule import Bounds

T = TypeVar("T")

THREADS_MAX = 8
QUEUE_MAX = 64


class Worker:
    """One thread. As an option of a choice point, it stands for its next step."""

    def __init__(self, threads: Threads, number: int, run: Callable[[], None]) -> None:
        self.number = number
        self.where = "start"
        # What it waits for; None while it could go on.
        self.waits_for: Callable[[], bool] | None = None
        # Whether it stands still although it could go on.
        self.was_kept = False
        self.passes = 0
        self.greenlet = greenlet.greenlet(run, parent=threads.hub)

    @property
    def name(self) -> str:
        return f"worker {self.number} goes on at {self.where}"

    @property
    def is_runnable(self) -> bool:
        return self.waits_for is None or self.waits_for()


class LoopOfThreads(Protocol):
    """What threads ask of the loop in whose execution they run."""

    environment: Environment
    bounds: Bounds

    def interleave(self, threads: Threads) -> None: ...

    def between_steps(self) -> None: ...

    def choose_worker(self, runnable: Sequence[Worker]) -> int: ...

    def deadlock(self, seen: str) -> None: ...

    def refuse(self, what: str, instead: str) -> NoReturn: ...


class Threads:
    """All threads of one execution. The hub is the greenlet in which the loop runs."""

    def __init__(self, loop: LoopOfThreads) -> None:
        self.loop = loop
        self.hub = greenlet.getcurrent()
        # Begun and not ended: who went on last first, else in the order of their begin.
        self.workers: list[Worker] = []
        self.current: Worker | None = None
        # Files whose every line is a switch point.
        self.declared: frozenset[str] = frozenset()
        # Whether they are switch points also where the loop's own thread runs them.
        self.traces_loop = False
        self._trace: Any = None
        self._numbers = 0
        self._is_draining = False

    def declare(self, files: Iterable[str], *, in_loop: bool) -> None:
        self.declared = frozenset(files)
        self.traces_loop = in_loop
        self._trace = trace_function(self.declared, self._on_line)
        watch(self.declared, _on_watched_line)

    def start(self, run: Callable[[], None]) -> None:
        """A new thread; `run` must raise nothing."""
        self._numbers += 1
        self.workers.append(Worker(self, self._numbers, run))
        self.loop.interleave(self)

    # -- what the loop calls

    def runnable(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_runnable]

    def step(self, worker: Worker) -> None:
        """The worker goes on to its next switch point, or to its end."""
        if worker is not self.workers[0]:
            # Who goes on is the natural one until it blocks or ends: to stop it is a departure.
            self.workers.remove(worker)
            self.workers.insert(0, worker)
        worker.was_kept = False
        worker.waits_for = None
        self.current = worker
        before = sys.gettrace()
        # A thread sees no running loop.
        asyncio._set_running_loop(None)
        set_trace(self._trace)
        try:
            worker.greenlet.switch()
        finally:
            set_trace(before)
            asyncio._set_running_loop(cast("asyncio.AbstractEventLoop", self.loop))
            self.current = None
        if worker.greenlet.dead:
            self.workers.remove(worker)

    def drain(self) -> None:
        """Ends every worker where it stands."""
        self._is_draining = True
        for worker in tuple(self.workers):
            self.current = worker
            worker.greenlet.throw()
            self.current = None
        self.workers.clear()

    # -- what a worker calls

    def pause(self, where: str) -> None:
        """A switch point: the worker could go on, and others may go first."""
        worker = self.current
        if worker is None or self._is_draining:
            return
        worker.where = where
        self._switch_to_hub()

    def block(self, where: str, waits_for: Callable[[], bool]) -> None:
        """Returns once `waits_for()` is true; in the loop's thread the workers go on meanwhile."""
        worker = self.current
        if worker is None:
            self._loop_blocks(where, waits_for)
            return
        while not waits_for():
            if self._is_draining:
                raise greenlet.GreenletExit
            worker.where = where
            worker.waits_for = waits_for
            self._switch_to_hub()

    def let_others_go_on(self) -> None:
        """A switch point of the loop's own thread."""
        if not self._is_draining:
            self.loop.between_steps()

    def _switch_to_hub(self) -> None:
        # From inside a trace function: the others are to be traced, too.
        sys.call_tracing(self.hub.switch, ())

    def _loop_blocks(self, where: str, waits_for: Callable[[], bool]) -> None:
        while not waits_for():
            runnable = self.runnable()
            if not runnable:
                # Nobody acts at this instant, but somebody may sleep until a later one.
                environment = self.loop.environment
                if environment.peek() > self.loop.bounds.horizon_s:
                    self.loop.deadlock(f"the loop's thread blocks for ever: {where}")
                    return
                environment.advance(environment.peek())
                continue
            self.step(runnable[self.loop.choose_worker(runnable)])

    # -- lines of declared files

    def set_loop_trace(self) -> None:
        """On 3.11: the loop's own thread is asked about its lines from now on."""
        if self.traces_loop:
            set_trace(self._trace)

    def _on_line(self, file: str, line: int) -> None:
        if file not in self.declared or self._is_draining:
            return
        if self.current is not None:
            self.pause(f"{file.rpartition('/')[2]}:{line}")
        elif self.traces_loop and self.workers:
            # From inside a trace function: the others are to be traced, too.
            sys.call_tracing(self.let_others_go_on, ())


def _on_watched_line(file: str, line: int) -> None:
    threads = _threads()
    if threads is not None:
        threads._on_line(file, line)


class ReadyQueue(deque[asyncio.Handle]):
    """The loop's ready queue, which lets others act before each callback that is taken from it."""

    def __init__(
        self,
        handles: Iterable[asyncio.Handle],
        between: Callable[[], None],
        about_to_run: Callable[[asyncio.Handle], None],
    ) -> None:
        super().__init__(handles)
        self._between = between
        self._about_to_run = about_to_run

    def popleft(self) -> asyncio.Handle:
        self._between()
        handle = super().popleft()
        self._about_to_run(handle)
        return handle


# ---- what blocking code finds in place of the operating system's ----------------------------


def _threads() -> Threads | None:
    return under_way[-1] if under_way else None


# The threads of the execution under way; a stack, since an execution may hold another.
under_way: list[Threads] = []


@contextmanager
def active(threads: Threads) -> Iterator[None]:
    under_way.append(threads)
    try:
        yield
    finally:
        under_way.pop()


class SimLock:
    """threading.Lock, for one actor at a time of one execution."""

    def __init__(self) -> None:
        self._is_locked = False

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        threads = _threads()
        if threads is not None:
            threads.pause("lock.acquire")
            if threads.current is None and threads.workers:
                threads.let_others_go_on()
        if self._is_locked:
            if not blocking or timeout == 0:
                return False
            self._wait(threads, timeout)
            if self._is_locked:
                return False
        self._is_locked = True
        return True

    def _wait(self, threads: Threads | None, timeout: float) -> None:
        if threads is None:
            raise NotSimulated("a lock is awaited for ever: it is held, and there is no thread")
        over = deadline(threads, timeout)
        threads.block("lock.acquire", lambda: not self._is_locked or over())

    def release(self) -> None:
        if not self._is_locked:
            raise RuntimeError("release unlocked lock")
        # No switch point: what comes after a release could as well come before it (a left mover,
        # Lipton 1975), so the switch before the next acquire shows as much.
        self._is_locked = False

    def locked(self) -> bool:
        return self._is_locked

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class SimRLock:
    """threading.RLock; its owner is an actor: a worker, or the loop's thread (None)."""

    def __init__(self) -> None:
        self._lock = SimLock()
        self._owner: object = _NOBODY
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        actor = _actor()
        if self._owner is actor:
            self._depth += 1
            return True
        if not self._lock.acquire(blocking, timeout):
            return False
        self._owner, self._depth = actor, 1
        return True

    def release(self) -> None:
        if self._owner is not _actor():
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if self._depth == 0:
            self._owner = _NOBODY
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _at_fork_reinit(self) -> None:
        """What logging calls in a forked process, of the locks of every handler there was."""
        self.__init__()  # type: ignore[misc]

    # What threading.Condition asks of its lock.

    def _is_owned(self) -> bool:
        return self._owner is _actor()

    def _release_save(self) -> int:
        depth, self._depth = self._depth, 1
        self.release()
        return depth

    def _acquire_restore(self, depth: int) -> None:
        self.acquire()
        self._depth = depth


_NOBODY = object()


def _actor() -> object:
    threads = _threads()
    return threads.current if threads is not None else None


class SimThread:
    """threading.Thread, as far as asyncio's loop uses it: to wait for the end of its executor."""

    def __init__(self, *, target: Callable[..., object], args: tuple[Any, ...] = ()) -> None:
        self._target = target
        self._args = args
        self._is_over = False

    def start(self) -> None:
        threads = _threads()
        if threads is None:
            raise NotSimulated("a thread of the loop's starts, and no execution is under way")
        threads.start(self._work)

    def join(self, timeout: float | None = None) -> None:
        threads = _threads()
        if threads is not None:
            over = deadline(threads, timeout)
            threads.block("thread.join", lambda: self._is_over or over())

    def is_alive(self) -> bool:
        return not self._is_over

    def _work(self) -> None:
        try:
            self._target(*self._args)
        finally:
            self._is_over = True


class _ThreadingOfTheLoop:
    """The module `threading` as `asyncio.base_events` sees it."""

    Thread = SimThread

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


def deadline(threads: Threads, timeout: float | None) -> Callable[[], bool]:
    """Whether so many virtual seconds have passed; never for None or a negative number."""
    if timeout is None or timeout < 0:
        return lambda: False
    timer = simpy.Timeout(threads.loop.environment, timeout)
    return lambda: bool(timer.processed)


def sleep(seconds: float) -> None:
    """time.sleep. In the loop's thread it stops the loop, and the clock moves on."""
    threads = _threads()
    if threads is None or threads.current is None:
        running = asyncio._get_running_loop()
        environment = getattr(running, "environment", None)
        if environment is not None:
            environment.advance(environment.now + seconds)
        return
    over = deadline(threads, seconds)
    threads.block("time.sleep", over)


def monotonic() -> float:
    """time.monotonic, for what counts down its own time limit: virtual within an execution."""
    threads = _threads()
    if threads is None:
        return time.monotonic()  # noqa: TID251 - nothing is simulated here
    return threads.loop.environment.now


@contextmanager
def patched() -> Iterator[None]:
    """`threading`, `time.sleep` and the clock of time limits are the simulated ones in the block.

    Condition, Event, Semaphore, Barrier, queue.Queue and Future are made of these locks.
    """
    replaced: list[tuple[Any, str, Any]] = [
        (threading, "Lock", SimLock),
        (threading, "RLock", SimRLock),
        (threading, "_allocate_lock", SimLock),
        (threading, "_time", monotonic),
        (queue, "time", monotonic),
        # The one written in C waits for no lock of ours.
        (queue, "SimpleQueue", queue._PySimpleQueue),  # type: ignore[attr-defined]
        (time, "sleep", sleep),
        # Where BaseEventLoop.shutdown_default_executor starts a thread.
        (asyncio.base_events, "threading", _ThreadingOfTheLoop()),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in replaced]
    for module, name, value in replaced:
        setattr(module, name, value)
    try:
        yield
    finally:
        unwatch()
        for module, name, value in before:
            setattr(module, name, value)


# ---- the executor ---------------------------------------------------------------------------


class SimExecutor(Executor):
    """A bounded pool: a job is queued, started, finished, and reported by its future.

    A job that is queued can be cancelled and then never runs; one that has started goes on.
    """

    def __init__(
        self, threads: Threads, *, threads_max: int = THREADS_MAX, queue_max: int = QUEUE_MAX
    ) -> None:
        self._threads = threads
        self._threads_max = threads_max
        self._queue_max = queue_max
        self._queue: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._busy = 0
        self._is_shut_down = False

    @property
    def busy(self) -> int:
        """How many threads have a job."""
        return self._busy

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        if self._is_shut_down:
            raise RuntimeError("cannot schedule new futures after shutdown")
        future: Future[T] = Future()
        if len(self._queue) >= self._queue_max:
            raise RuntimeError(f"{self._queue_max} jobs are queued already")
        self._queue.append((future, lambda: fn(*args, **kwargs)))
        if self._busy < self._threads_max:
            self._busy += 1
            self._threads.start(self._work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._is_shut_down = True
        if cancel_futures:
            for future, _ in self._queue:
                future.cancel()
        if wait:
            self._threads.block("executor.shutdown", lambda: self._busy == 0)

    def _work(self) -> None:
        """One thread: job after job, as long as there is one."""
        try:
            while self._queue:
                future, work = self._queue.popleft()
                if future.set_running_or_notify_cancel():
                    self._run(future, work)
        finally:
            self._busy -= 1

    def _run(self, future: Future[Any], work: Callable[[], Any]) -> None:
        try:
            result = work()
        except greenlet.GreenletExit:
            raise
        except BaseException as exc:
            future.set_exception(exc)
        else:
            future.set_result(result)
