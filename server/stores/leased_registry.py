"""LeasedRegistry: what `StreamRegistry` is to one process, for workers that share a store.

The asyncio shell around the leases: it decides nothing. Who may hold a session, the store says
(the lease table); whether a stream may send now, its lease does, by this worker's clock. Here are
the tasks that ask and renew, the worker's messages, the log, and the streams' ends.

It is a second shell and not the same over a store in memory: in one process a register is answered
in its own step and needs no clock, no renewals and no second message for a stop. What both promise
is the same, and the same properties are checked of both.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from typing import Any, ClassVar

from registry import (
    Snapshot,
    State,
    StopSignals,
    Strategy,
    Stream,
)
from registry.attempts import Attempt
from registry.errors import IllegalOperation
from registry.lease_records import Cancel, Message, Reply, Told, Word
from registry.lease_state import LimitsDiffer
from registry.operations import Logged
from registry.patience import PatientTimer
from registry.stop_signal import STOP_SIGNALS
from registry.stream_registry import log_line, task_of
from registry.wording import (
    CALLER_LEFT,
    FINISHED_CLEANLY,
    NEW_STREAM_REGISTERED,
    QUEUE_TIMEOUT,
    REGISTRY_CLOSED,
    TIMEOUT_ON_CANCEL,
    cancelled,
    ended,
    of_previous,
    refused_as_closed,
    refused_as_known,
    started,
    stopped_by_close,
)
from server.lines import line
from server.stores import wording
from server.stores.directory import Directory
from server.stores.ending import CLOSE_S, end_tasks, say_if_failed
from server.stores.held import Held, Why
from server.stores.lease import POLL_S, RENEW_S, End, Lease, NotLetIn
from server.stores.store import SessionStore, StoreRefused, StoreUnreachable, look
from server.stores.watched_store import WatchedStore

_logger = logging.getLogger("onestream.registry")


class LeasedRegistry:
    """At most one active stream per session, over all workers of the store.

    worker: this one's name, unlike every other's that ever was; without a slash.
    clock: seconds, monotonic, of this machine: it goes on while the machine sleeps, or the store's
    clock sleeps with it.
    The other parameters are StreamRegistry's. Not safe for threads.
    """

    # What a register may ask for, as `strategy`.
    strategies: ClassVar[tuple[Strategy, ...]] = tuple(Strategy)

    def __init__(
        self,
        store: SessionStore,
        worker: str,
        *,
        clock: Callable[[], float],
        strategy: Strategy | str = Strategy.INTERRUPT,
        queue_s: float,
        executor: Executor | None = None,
        stop_signals: StopSignals = STOP_SIGNALS,
        renew_s: float = RENEW_S,
        poll_s: float = POLL_S,
        lease_class: type[Lease] = Lease,
        directory: Directory | None = None,
    ) -> None:
        self.worker = worker
        # What the store knows of all workers' streams, where it keeps such a thing.
        self.directory = directory
        self.store = WatchedStore(store, worker)
        self.clock = clock
        self._strategy = Strategy(strategy)
        self._queue_s = queue_s
        self._executor = executor
        self._stop_signals = stop_signals
        self._renew_s, self._poll_s = renew_s, poll_s
        self._lease_class = lease_class
        # By trace id: the streams that have a state.
        self._held: dict[str, Held] = {}
        # Those that have none any more, and whose session is about to be given back.
        self._leaving: dict[Held, None] = {}
        # Nothing of asyncio's holds a task that nobody awaits.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._serial_last = 0
        self._fencing_token_last = 0
        self._is_closed = False
        self._all_left: asyncio.Future[None] | None = None
        # Called with the trace id when a stream waits, is let in or stopped, has ended, and when
        # another worker wants to hear of it; set by who tells others of the streams.
        self.on_change: Callable[[str], None] = lambda trace_id: None
        # As StreamRegistry's.
        self.on_line: Callable[[Logged], None] = log_line

    # -- from the start to the end of the worker

    async def start(self) -> None:
        """Raises StoreRefused, LimitsDiffer and StoreUnreachable, each with a sentence."""
        await self.store.start()
        self._run(self._listen(), f"messages-{self.worker}")

    async def close(self) -> None:
        """Refuses what waits, stops what is active, and hands the sessions over, within the grace.

        Streams that have not ended by then are left behind: the store lets others take their
        places. Registers are refused from now on. May be called again.
        """
        self._is_closed = True
        for held in list(self._held.values()):
            trace_id = held.trace_id
            if held.is_waiting:
                self._turn_away(held, (REGISTRY_CLOSED, refused_as_closed(trace_id)))
            else:
                self._stop(held, (REGISTRY_CLOSED, stopped_by_close(trace_id)))
        if not self._held and not self._leaving:
            return
        if self._all_left is None:
            self._all_left = asyncio.get_running_loop().create_future()
        await asyncio.wait({self._all_left}, timeout=self.store.limits.grace_ms / 1000)

    async def end(self) -> None:
        """After `close`: nothing of this worker asks the store any more."""
        try:
            await end_tasks(list(self._tasks))
        finally:
            # Also where the end itself is cancelled.
            closing = asyncio.ensure_future(self.store.close())
            await end_tasks([closing], patience_s=CLOSE_S)

    async def check(self) -> None:
        """Asks the store for nothing; raises what a prompt would, within one call's limit."""
        await self.store.ask(look(self.worker))

    # -- the interface of the note

    async def register(self, entry: Mapping[str, Any]) -> Stream:
        """As StreamRegistry's; the store is asked who holds the session.

        The entry may have an `attempt`: what the store knows a repetition of its prompt by.
        Raises SessionsUnavailable besides, where it cannot be asked or does not know yet, and
        Repetition.
        """
        task = task_of(entry)
        held = self._enter(
            entry["trace_id"],
            entry.get("session_id"),
            task,
            entry.get("strategy"),
            entry.get("attempt"),
        )
        task.add_done_callback(lambda _: held.stream.task_over())
        try:
            await held.admission
        except asyncio.CancelledError:
            if self._is_known(held):
                error = wording.cancelled_by(held.trace_id, "the caller of its register has left")
                self._cancel(held, (CALLER_LEFT, error))
            raise
        if held.stream.stop_error is not None:
            raise held.stream.stop_error
        return held.stream

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        """Stops a stream of this worker. False if it is unknown or was stopped before."""
        held = self._held.get(trace_id)
        reason = reason or "requested"
        return held is not None and self._cancel(
            held, (reason, wording.cancelled_by(trace_id, reason))
        )

    def answered(self, trace_id: str) -> None:
        """Its client has all of the answer: the same prompt again is no repetition."""
        held = self._held.get(trace_id)
        if held is not None:
            held.lease.is_whole = True

    async def cancel_elsewhere(self, session_id: str, worker: str, trace_id: str) -> bool:
        """The same, for one of another worker. Raises StoreUnreachable."""
        reply = await self.store.ask(Cancel(session_id, f"{worker}/{trace_id}"))
        return reply.word is Word.DONE

    async def pop(self, trace_id: str) -> None:
        """As StreamRegistry's: the last act of a stream's task."""
        held = self._held.get(trace_id)
        if held is None:
            return
        if held.stream.task.done():
            held.stream.task_over()
        elif held.stream.task is not asyncio.current_task():
            self._cancel(held, ("popped", wording.cancelled_by(trace_id, "popped")))

    def state_of(self, trace_id: str) -> State | None:
        """Of a stream of this worker; None if it has ended or was never let in."""
        held = self._held.get(trace_id)
        return None if held is None else held.state(self.store.limits)

    def snapshot(self) -> Snapshot:
        """This worker's streams."""
        limits = self.store.limits
        views = tuple(held.view(limits) for held in self._held.values())
        return Snapshot(
            streams=views,
            sessions_kept=len({view.session_id for view in views}),
            fencing_token_last=self._fencing_token_last,
            closed=self._is_closed,
            detached_per_session_max=limits.detached_per_session_max,
            detached_max=limits.detached_max,
            queue_max=limits.queue_max,
        )

    def may_emit(self, trace_id: str, fencing_token: int | None) -> bool:
        """The gate of its streams, asked in the step of the send."""
        held = self._held.get(trace_id)
        return (
            held is not None
            and held.stream.fencing_token == fencing_token
            and held.stream.stop_error is None
            and held.lease.check()
        )

    # -- entering

    def _enter(
        self,
        trace_id: str,
        session_id: str | None,
        task: asyncio.Task[object],
        strategy: Strategy | str | None,
        attempt: Attempt | None,
    ) -> Held:
        chosen = self._strategy if strategy is None else Strategy(strategy)
        if self._is_closed:
            raise refused_as_closed(trace_id)
        if trace_id in self._held:
            raise refused_as_known(trace_id, self._held[trace_id].state(self.store.limits))
        loop = asyncio.get_running_loop()
        session = session_id or f"~{self.worker}/{trace_id}"
        stream = Stream(
            trace_id,
            session_id or None,
            task,
            protocol=self,
            stop_signal=self._stop_signals.create(trace_id),
            executor=self._executor,
            on_over=self._task_or_worker_over,
        )
        lease = self._lease_class(
            self.store,
            session,
            f"{self.worker}/{trace_id}",
            strategy=chosen,
            attempt=attempt,
            clock=self.clock,
            on_closed=lambda end: self._lease_over(held, end),
            renew_s=self._renew_s,
            poll_s=self._poll_s,
        )
        self._serial_last += 1
        admission: asyncio.Future[None] = loop.create_future()
        held = Held(stream, lease, session, chosen, self._serial_last, admission)
        self._held[trace_id] = held
        if chosen is Strategy.ENQUEUE:
            held.wait_deadline = loop.time() + self._queue_s
            held.wait_timer = PatientTimer(
                self._queue_s, self._wait_expired, held, at=held.wait_deadline
            )
        self._run(self._acquire(held), f"acquire-{trace_id}")
        self.on_change(trace_id)
        return held

    async def _acquire(self, held: Held) -> None:
        """Of its own, and never cancelled: a request that is on its way must come to its end."""
        try:
            await self._acquire_and_keep(held)
        except Exception:
            # Unforeseen, and logged with the task's end: nobody waits for what does not come.
            if held.is_waiting:
                error = wording.not_asked(held.trace_id)
                self._turn_away(held, (wording.STORE_UNREACHABLE, error))
            else:
                self._stop(held, (wording.LEASE_LOST, wording.not_kept(held.trace_id)))
            raise

    async def _acquire_and_keep(self, held: Held) -> None:
        try:
            grant = await held.lease.acquire()
        except NotLetIn as exc:
            limits, reply = self.store.limits, exc.reply
            why = wording.not_let_in(held.trace_id, held.session, reply, exc.told, limits)
            self._turn_away(held, why, is_logged=reply.word in (Word.GONE, Word.STOP))
        except (StoreUnreachable, StoreRefused, LimitsDiffer, IllegalOperation) as exc:
            error = wording.unreachable(held.trace_id, exc)
            self._turn_away(held, (wording.STORE_UNREACHABLE, error), is_logged=False)
        else:
            if self._is_known(held):
                self._let_in(held, grant)
                await self._keep(held)

    def _let_in(self, held: Held, grant: Reply) -> None:
        held.stream.fencing_token = grant.fencing_token
        self._fencing_token_last = max(self._fencing_token_last, grant.fencing_token)
        held.started_at = asyncio.get_running_loop().time()
        lines = [(FINISHED_CLEANLY, grant.left)] if grant.left else []
        for event, stream in (*lines, *((TIMEOUT_ON_CANCEL, each) for each in grant.late)):
            self._log(of_previous(event, stream.partition("/")[2], held.session))
        held.lease.is_logged = True
        self._log(started(held.trace_id, held.session))
        self._answer(held)
        self.on_change(held.trace_id)

    async def _keep(self, held: Held) -> None:
        try:
            await held.lease.keep()
        except (StoreRefused, LimitsDiffer, IllegalOperation) as exc:
            _logger.error(self._line("lease_not_renewed", held, exc))
            held.lease.shut(End.LOST)

    def _answer(self, held: Held) -> None:
        if held.wait_timer is not None:
            held.wait_timer.cancel()
        # It is done if its register was cancelled and has not had its turn to withdraw.
        if not held.admission.done():
            held.admission.set_result(None)

    def _turn_away(self, held: Held, why: Why, *, is_logged: bool = True) -> None:
        """It was never active, and leaves."""
        if not self._is_known(held):
            return
        reason, error = why
        held.stream.stop_error = error
        held.stream.stop_signal.set()
        if is_logged:
            self._log(cancelled(held.trace_id, reason))
        self._forget(held)
        self._answer(held)

    def _wait_expired(self, held: Held) -> None:
        if held.is_waiting:
            error = wording.waited_too_long(held.trace_id, held.session, self._queue_s)
            self._turn_away(held, (QUEUE_TIMEOUT, error))

    # -- stopping, ending

    def _cancel(self, held: Held, why: Why) -> bool:
        if held.started_at is None:
            self._turn_away(held, why)
            return True
        return self._stop(held, why)

    def _stop(self, held: Held, why: Why) -> bool:
        """Whether it was not stopped before."""
        if held.lease.end is not None:
            return False
        held.why = why
        held.lease.shut(End.CANCELLED)
        return True

    def _lease_over(self, held: Held, end: End) -> None:
        """In the step in which the gate shuts."""
        if held.stream.stop_error is not None:
            return
        reason, error = held.why or self._why(held, end)
        self._log(cancelled(held.trace_id, reason))
        held.stopped_at = asyncio.get_running_loop().time()
        held.stream.stop(error)
        self.on_change(held.trace_id)

    def _why(self, held: Held, end: End) -> Why:
        trace_id = held.trace_id
        match end:
            case End.SUPERSEDED:
                return NEW_STREAM_REGISTERED, wording.stopped_by_newer(trace_id, held.session)
            case End.CANCELLED:
                # Cancelled through the store, which only a client's request by name does.
                reason = "requested_by_client"
                return reason, wording.cancelled_by(trace_id, reason)
            case _:
                error = wording.lease_lost(trace_id, held.session, self.store.limits)
                return wording.LEASE_LOST, error

    def _task_or_worker_over(self, stream: Stream) -> None:
        """Ends the stream if its task and workers are over; else stops those that still run."""
        held = self._held.get(stream.trace_id)
        if held is None or held.stream is not stream:
            return
        if held.started_at is not None and stream.is_over:
            lasted_s = asyncio.get_running_loop().time() - held.started_at
            self._log(ended(held.trace_id, held.session, lasted_s))
            self._forget(held)
        else:
            error = wording.cancelled_by(held.trace_id, "task_over")
            self._cancel(held, ("task_over", error))

    def _forget(self, held: Held) -> None:
        """It has no state from now on; the store is told."""
        del self._held[held.trace_id]
        self._stop_signals.clear(held.trace_id, held.stream.stop_signal)
        self._leaving[held] = None
        self._run(self._leave(held), f"leave-{held.trace_id}")
        # Last: whatever becomes of what others are told, it leaves.
        self.on_change(held.trace_id)

    async def _leave(self, held: Held) -> None:
        try:
            await held.lease.leave()
        except (StoreRefused, LimitsDiffer, IllegalOperation) as exc:
            # What was turned away has nothing to give back, and its client was told why.
            if held.started_at is not None:
                _logger.error(self._line("lease_not_left", held, exc))
        finally:
            del self._leaving[held]
            is_last = not self._held and not self._leaving
            if is_last and self._all_left is not None and not self._all_left.done():
                self._all_left.set_result(None)

    # -- messages

    async def _listen(self) -> None:
        said = ""
        while True:
            try:
                async for message in self.store.messages():
                    said = ""
                    self._hear(message)
            except StoreUnreachable as exc:
                # Once: while no message comes it may fail for the same reason again and again.
                if str(exc) != said:
                    said = str(exc)
                    sentence = f"streams ask by themselves meanwhile: {said}"
                    _logger.warning(line("messages_lost", sentence, worker=self.worker))
            # Messages only wake: who waits or holds asks by itself meanwhile.
            await asyncio.sleep(self._poll_s)

    def _hear(self, message: Message) -> None:
        held = self._held.get(message.stream.partition("/")[2])
        if held is None or held.lease.stream != message.stream:
            return
        if message.told is Told.SHOW:
            self.on_change(held.trace_id)
        else:
            held.lease.hear(message.told)

    # -- small things

    def _is_known(self, held: Held) -> bool:
        return self._held.get(held.trace_id) is held

    def _log(self, logged: Logged) -> None:
        self.on_line(Logged(logged.event, (*logged.fields, ("worker", self.worker))))

    def _line(self, event: str, held: Held, exc: Exception) -> Logged:
        return line(event, wording.sentence(exc), trace=held.trace_id, worker=self.worker)

    def _run(self, work: Any, name: str) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._task_over)

    def _task_over(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        say_if_failed(task, self.worker)
