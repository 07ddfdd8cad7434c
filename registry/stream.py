"""The handle that a stream's producer works with: emit gate, worker threads, stop signal."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from typing import Any, ParamSpec, Protocol, TypeVar

from registry.errors import StreamError
from registry.stop_signal import StopSignal

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C")


class Gate(Protocol):
    """What knows whether a stream may emit: the protocol, or the lease of a store."""

    def may_emit(self, trace_id: str, fencing_token: int | None) -> bool: ...


class _Begin:
    """When a job has got its thread, by the loop's clock. The thread writes it, once."""

    at: float | None = None


class Stream:
    """One stream, from its register until its task and its worker threads are over.

    All methods belong to the event loop's thread. `stop_signal` may go to any thread.
    """

    def __init__(
        self,
        trace_id: str,
        session_id: str | None,
        task: asyncio.Task[object],
        *,
        protocol: Gate,
        stop_signal: StopSignal,
        executor: Executor | None,
        on_over: Callable[[Stream], None],
    ) -> None:
        self.trace_id = trace_id
        self.session_id = session_id
        self.stop_signal = stop_signal
        # Given with the admission; None while the stream is WAITING.
        self.fencing_token: int | None = None
        # Why the stream was stopped; None as long as it was not.
        self.stop_error: StreamError | None = None
        self.task = task
        self._protocol = protocol
        self._executor = executor
        self._on_over = on_over
        # Its blocking work that is not over.
        self._workers: dict[Future[Any], _Begin] = {}
        self._task_over = False
        # A cancel that the task has asked for itself, before it is delivered.
        self._cancel_handle: asyncio.Handle | None = None
        self.cancel_delivered = False

    # -- the emit gate

    @property
    def is_active(self) -> bool:
        """Whether the stream holds its session now and may emit."""
        return self._protocol.may_emit(self.trace_id, self.fencing_token)

    def raise_if_stopped(self) -> None:
        """Raises the reason for which the stream may no longer emit."""
        if self.is_active:
            return
        raise self.stop_error or StreamError(
            self.trace_id,
            f"stream {self.trace_id} is not active: it has ended or was not admitted yet; emit "
            f"between the answer of register and the end of the stream's task",
        )

    async def emit(self, send: Callable[[C], Awaitable[None]], content: C) -> None:
        """Hands content to `send` if the stream is ACTIVE, else raises why it is not.

        Nothing is awaited between the question and the call, so what comes out of the gate was
        handed over while the stream held its session.
        """
        self.raise_if_stopped()
        await send(content)

    # -- worker threads

    @property
    def workers(self) -> int:
        """How many worker threads, queued or running, the stream still has."""
        return len(self._workers)

    @property
    def is_queued(self) -> bool:
        """Whether some of its blocking work still waits for a thread."""
        return any(begin.at is None and not job.done() for job, begin in self._workers.items())

    @property
    def thread_began_at(self) -> float | None:
        """When the last of its blocking work that has a thread got it, by the loop's clock."""
        begun = (begin.at for begin in self._workers.values())
        return max((at for at in begun if at is not None), default=None)

    @property
    def is_over(self) -> bool:
        """Whether the task and all worker threads are over: only then has the stream ended."""
        return self._task_over and not self._workers

    async def run_in_thread(self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Runs blocking work in the registry's executor and waits for its result.

        If the stream is stopped, this await ends at once and a job still queued never runs; a
        job that has started goes on, and the stream has not ended before it has. Blocking work
        must therefore listen to `stop_signal`. Raises RuntimeError without an executor.
        """
        if self._executor is None:
            raise RuntimeError(
                f"stream {self.trace_id} has no executor for blocking work; give one: "
                f"StreamRegistry(executor=DaemonExecutor(threads_max=…))"
            )
        self.raise_if_stopped()
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        begin = _Begin()

        def work() -> T:
            begin.at = loop.time()
            return context.run(func, *args, **kwargs)

        job = self._executor.submit(work)
        self._workers[job] = begin

        def report(done: Future[T]) -> None:
            # The loop may be closed when a thread that nobody waits for comes to its end.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._worker_over, done)

        job.add_done_callback(report)
        return await asyncio.wrap_future(job)

    def _worker_over(self, job: Future[Any]) -> None:
        self._workers.pop(job, None)
        if self.is_over:
            self._on_over(self)

    # -- what the registry calls

    def task_over(self) -> None:
        """The task, or the block that stood for it, has come to its end."""
        self._task_over = True
        if self._cancel_handle is not None:
            self._cancel_handle.cancel()
            self._cancel_handle = None
        self._on_over(self)

    def stop(self, error: StreamError) -> None:
        """Stops the task and the threads. Called once; returns at once."""
        self.stop_error = error
        self.stop_signal.set()
        for job in tuple(self._workers):
            job.cancel()
        if self._task_over:
            return
        loop = asyncio.get_running_loop()
        if self.task is not asyncio.current_task(loop):
            self._cancel_task()
        elif not self.task.cancelling():
            # A task that stops its own stream is cancelled at its next await, and not at all if it
            # leaves the stream before: the cancel would hit what it does afterwards. One that is
            # being cancelled, as a register that is withdrawn, needs no second cancel.
            self._cancel_handle = loop.call_soon(self._cancel_task)

    def _cancel_task(self) -> None:
        self.cancel_delivered = self.task.cancel()
