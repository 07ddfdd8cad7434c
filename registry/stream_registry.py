"""StreamRegistry: the asyncio shell around the protocol.

It decides nothing. It asks the protocol through its single entry point, then carries out the
effects in their order: wakes registers, cancels tasks, sets stop signals, keeps the grace timers,
logs.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from types import TracebackType
from typing import Any, ClassVar

from registry.patience import PatientTimer
from registry.protocol import (
    DETACHED_MAX,
    DETACHED_PER_SESSION_MAX,
    GRACE_S,
    QUEUE_MAX,
    QUEUE_S,
    Admitted,
    Cancel,
    Close,
    Effect,
    Ended,
    Forgotten,
    GraceExpired,
    Logged,
    Operation,
    Queued,
    Register,
    Rejected,
    Snapshot,
    State,
    StopRequested,
    Strategy,
    StreamProtocol,
    WaitExpired,
    Withdraw,
)
from registry.stop_signal import STOP_SIGNALS, StopSignals
from registry.stream import Stream

_logger = logging.getLogger("onestream.registry")
_WARNINGS = frozenset({"prev_stream_timeout_on_cancel"})


class StreamRegistry:
    """At most one active stream per session; the newest wins, unless it says otherwise.

    strategy: what a register does that finds its session busy and does not say what: `interrupt`,
    `enqueue` or `reject`.
    queue_max, queue_s: how many enqueued streams of a session may wait, and how long, in seconds.
    grace_s: how long a stopped stream may clean up before it is detached, in seconds.
    detached_per_session_max, detached_max: how many streams may be detached.
    executor: where `Stream.run_in_thread` runs; not shut down by the registry.
    protocol: a protocol of the caller's, which then brings the limits above.
    stop_signals: the table that `is_stream_cancelled` reads, unless the caller has another.

    Not safe for threads: every call comes from the thread of one event loop.
    """

    # What a register may ask for, as `strategy`.
    strategies: ClassVar[tuple[Strategy, ...]] = tuple(Strategy)

    def __init__(
        self,
        *,
        strategy: Strategy | str = Strategy.INTERRUPT,
        queue_max: int = QUEUE_MAX,
        queue_s: float = QUEUE_S,
        grace_s: float = GRACE_S,
        detached_per_session_max: int = DETACHED_PER_SESSION_MAX,
        detached_max: int = DETACHED_MAX,
        executor: Executor | None = None,
        protocol: StreamProtocol | None = None,
        stop_signals: StopSignals = STOP_SIGNALS,
    ) -> None:
        self._protocol = protocol or StreamProtocol(
            grace_s=grace_s,
            detached_per_session_max=detached_per_session_max,
            detached_max=detached_max,
            queue_max=queue_max,
            queue_s=queue_s,
        )
        # Called with each line of the log, in the step in which what it says happens.
        self.on_line: Callable[[Logged], None] = log_line
        self._strategy = Strategy(strategy)
        self._executor = executor
        self._stop_signals = stop_signals
        # All four by trace id, for exactly the streams that the protocol knows: the last for
        # those whose register is not answered, the third for the enqueued ones among them, the
        # second for those that are stopping in their grace.
        self._streams: dict[str, Stream] = {}
        self._grace_timers: dict[str, PatientTimer] = {}
        self._wait_timers: dict[str, PatientTimer] = {}
        self._admissions: dict[str, asyncio.Future[None]] = {}
        self._all_ended: asyncio.Future[None] | None = None
        self._scope_serials = itertools.count(1)
        # Called with the trace id when a stream waits, is let in, is stopped, is not over after
        # its grace, and when it is forgotten; for who shows others what becomes of the streams.
        # It must come back at once and call nothing here but questions.
        self.on_change: Callable[[str], None] = lambda trace_id: None

    # -- the interface of the note

    async def register(self, entry: Mapping[str, Any]) -> Stream:
        """Lets the stream of `entry` in, after the older stream of its session was stopped.

        entry: `trace_id` (str), `session_id` (str or None) and `task`, the asyncio.Task that
        does the work; the task should do none before this returns; maybe `strategy`, for a busy
        session: with `enqueue` the older streams are not stopped but waited for, with `reject`
        neither. Returns the stream's handle.

        Raises StreamSuperseded if a newer stream of the session came while this one waited,
        StreamCancelled if it was cancelled by name, StreamRefused if the registry is closed or
        the session is overdue, TraceIdKnown if the trace id is taken, SessionBusy (reject),
        QueueFull and QueueTimeout (enqueue), ValueError for an unknown strategy. Then the stream
        was never active, and its task is the caller's to end. If the caller is cancelled, so is
        the stream.
        """
        task = task_of(entry)
        strategy = entry.get("strategy")
        stream = self._enter(entry["trace_id"], entry.get("session_id"), task, strategy)
        task.add_done_callback(lambda _: stream.task_over())
        await self._admission(stream)
        return stream

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        """Stops the stream. False if it is unknown or was stopped before."""
        return bool(self._apply(Cancel(trace_id, reason or "requested")))

    async def pop(self, trace_id: str) -> None:
        """The last act of a stream's task. The stream has ended when its threads have, too.

        Called from elsewhere, it stops the stream if its task is not over yet. Does nothing
        for a stream that is not known.
        """
        stream = self._streams.get(trace_id)
        if stream is None:
            return
        if stream.task.done():
            stream.task_over()
        elif stream.task is not asyncio.current_task():
            self._apply(Cancel(trace_id, "popped"))

    # -- the interface for programs that embed the registry

    def stream(
        self,
        session_id: str | None = None,
        *,
        trace_id: str | None = None,
        strategy: Strategy | str | None = None,
    ) -> StreamScope:
        """`async with registry.stream(session_id) as stream:` – the block is the stream's task.

        Entering raises what `register` raises. A block that has to stop is cancelled, and leaves
        with the reason: StreamSuperseded, StreamCancelled or StreamRefused.
        """
        trace_id = trace_id or f"stream-{next(self._scope_serials)}"
        return StreamScope(self, session_id, trace_id, strategy)

    async def close(self) -> None:
        """Refuses what waits, stops what is active, and waits for both within the grace.

        Streams that have not ended by then are detached, or overdue, and are left behind: ask
        `snapshot()`. Registers are refused from now on. May be called again.
        """
        self._apply(Close())
        if not self._streams:
            return
        if self._all_ended is None:
            self._all_ended = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._all_ended}, timeout=self._protocol.grace_s)

    def state_of(self, trace_id: str) -> State | None:
        """None for a stream that has ended or was never let in."""
        return self._protocol.state_of(trace_id)

    def snapshot(self) -> Snapshot:
        """Every stream that has not ended, with its state."""
        return self._protocol.snapshot()

    # -- entering, waiting, leaving

    def _enter(
        self,
        trace_id: str,
        session_id: str | None,
        task: asyncio.Task[object],
        strategy: Strategy | str | None,
    ) -> Stream:
        loop = asyncio.get_running_loop()
        session_id = session_id or None
        chosen = self._strategy if strategy is None else Strategy(strategy)
        # First of all: a register that is turned away must leave nothing behind.
        effects = self._protocol.apply(Register(trace_id, session_id, chosen), loop.time())
        stream = Stream(
            trace_id,
            session_id,
            task,
            protocol=self._protocol,
            stop_signal=self._stop_signals.create(trace_id),
            executor=self._executor,
            on_over=self._task_or_worker_over,
        )
        self._streams[trace_id] = stream
        self._admissions[trace_id] = loop.create_future()
        self._carry_out(effects)
        # That it waits is no effect.
        self.on_change(trace_id)
        return stream

    async def _admission(self, stream: Stream) -> None:
        """Waits until the stream is ACTIVE; raises why it is not."""
        admission = self._admissions.get(stream.trace_id)
        if admission is not None:
            try:
                await admission
            except asyncio.CancelledError:
                # The trace id may be another stream's by now.
                if self._streams.get(stream.trace_id) is stream:
                    self._apply(Withdraw(stream.trace_id))
                raise
        # Rejected while it waited, or admitted and stopped before its caller had its turn.
        if stream.stop_error is not None:
            raise stream.stop_error

    def _task_or_worker_over(self, stream: Stream) -> None:
        """Ends the stream if its task and workers are over; else stops those that still run."""
        if self._streams.get(stream.trace_id) is not stream:
            return
        if self._protocol.state_of(stream.trace_id) is State.WAITING:
            self._apply(Cancel(stream.trace_id, "task_over"))
        elif stream.is_over:
            self._apply(Ended(stream.trace_id))
        else:
            self._apply(Cancel(stream.trace_id, "task_over"))

    # -- the entry point and its effects

    def _apply(self, operation: Operation) -> tuple[Effect, ...]:
        effects = self._protocol.apply(operation, asyncio.get_running_loop().time())
        self._carry_out(effects)
        return effects

    def _carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case Admitted(trace_id, fencing_token):
                    self._streams[trace_id].fencing_token = fencing_token
                    self._answer(trace_id)
                case Queued(trace_id, wait_deadline):
                    self._wait_timers[trace_id] = PatientTimer(
                        self._protocol.queue_s, self._wait_expired, trace_id, at=wait_deadline
                    )
                case Rejected(trace_id, error):
                    self._streams[trace_id].stop_error = error
                    self._answer(trace_id)
                case StopRequested(trace_id, error, grace_deadline):
                    self._grace_timers[trace_id] = PatientTimer(
                        self._protocol.grace_s, self._grace_expired, trace_id, at=grace_deadline
                    )
                    self._streams[trace_id].stop(error)
                case Forgotten(trace_id):
                    self._forget(trace_id)
                case Logged():
                    self.on_line(effect)
                    continue
            self.on_change(effect.trace_id)

    def _answer(self, trace_id: str) -> None:
        wait_timer = self._wait_timers.pop(trace_id, None)
        if wait_timer is not None:
            wait_timer.cancel()
        admission = self._admissions.pop(trace_id)
        # It is done if its register was cancelled and has not had its turn to withdraw.
        if not admission.done():
            admission.set_result(None)

    def _grace_expired(self, trace_id: str) -> None:
        del self._grace_timers[trace_id]
        self._apply(GraceExpired(trace_id))
        self.on_change(trace_id)

    def _wait_expired(self, trace_id: str) -> None:
        self._apply(WaitExpired(trace_id))

    def _forget(self, trace_id: str) -> None:
        stream = self._streams.pop(trace_id)
        self._stop_signals.clear(trace_id, stream.stop_signal)
        timer = self._grace_timers.pop(trace_id, None)
        if timer is not None:
            timer.cancel()
        if not self._streams and self._all_ended is not None and not self._all_ended.done():
            self._all_ended.set_result(None)


class StreamScope:
    """`registry.stream(…)`: enters as `register` does, and turns a stop into its reason.

    The cancel that carries the stop is taken back on leaving, as asyncio.timeout does, so that
    it ends the block and not the task around it (CPython, Lib/asyncio/timeouts.py).
    """

    def __init__(
        self,
        registry: StreamRegistry,
        session_id: str | None,
        trace_id: str,
        strategy: Strategy | str | None,
    ) -> None:
        self._registry = registry
        self._session_id = session_id
        self._trace_id = trace_id
        self._strategy = strategy
        self._stream: Stream | None = None
        self._cancelling = 0

    async def __aenter__(self) -> Stream:
        if self._stream is not None:
            raise RuntimeError(
                f"stream {self._trace_id} was entered before; call registry.stream() once per "
                f"async with"
            )
        task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        self._stream = self._registry._enter(self._trace_id, self._session_id, task, self._strategy)
        try:
            await self._registry._admission(self._stream)
        except BaseException as exc:
            self._leave(self._stream, exc)
            raise
        return self._stream

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._stream is not None
        self._leave(self._stream, exc)

    def _leave(self, stream: Stream, exc: BaseException | None) -> None:
        stream.task_over()
        if not stream.cancel_delivered:
            return
        others = stream.task.uncancel() > self._cancelling
        if isinstance(exc, asyncio.CancelledError) and not others:
            assert stream.stop_error is not None
            raise stream.stop_error from exc


def task_of(entry: Mapping[str, Any]) -> asyncio.Task[object]:
    """The task of a register's entry. Raises TypeError where it is something else."""
    task = entry["task"]
    if not isinstance(task, asyncio.Task):
        raise TypeError(
            f"entry['task'] of stream {entry['trace_id']!r} is {task!r}; it has to be the "
            f"asyncio.Task that does the stream's work, created before register is called"
        )
    return task


def log_line(line: Logged) -> None:
    """One line of the log, as the note has them; its fields are in `record.msg`."""
    _logger.log(logging.WARNING if line.event in _WARNINGS else logging.INFO, line)
