"""The registry with one safeguard removed, each a function that is named for its bug."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from registry import Stream, StreamRegistry
from registry.errors import StreamError
from registry.patience import PatientTimer
from registry.protocol import (
    PERFORM,
    TABLE,
    Action,
    Cancel,
    Close,
    Effects,
    Ended,
    Forgotten,
    GraceExpired,
    Operation,
    Perform,
    Register,
    Situation,
    State,
    Step,
    Strategy,
    StreamProtocol,
    WaitExpired,
    Withdraw,
)
from sim.bench.harness.refinement import REFINES
from sim.bench.subjects.mutants.base import Break, Mutant, Patch


def put(
    patch: Patch, operation: type[Operation], situation: Situation, *row: Action | Perform
) -> None:
    """Replaces a row; a function in it is an action that production does not have."""
    assert (operation, situation) in TABLE
    for action in row:
        if not isinstance(action, Action):
            patch.setitem(PERFORM, action, action)
    patch.setitem(TABLE, (operation, situation), row)


# ---- the table -------------------------------------------------------------------------------


def second_is_let_in_beside_the_first(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_ACTIVE, Action.ADMIT_NEW)


def newer_prompt_stops_nobody(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_ACTIVE, Action.LET_WAIT)


def overtaken_is_not_rejected(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, Action.LET_WAIT)


def older_keeps_the_place_it_waits_in(patch: Patch) -> None:
    def let_wait(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.session is not None
        older = list(step.session.waiting)
        effects = PERFORM[Action.LET_WAIT](protocol, step)
        step.session.waiting = older
        return effects

    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, let_wait)


def grace_starts_anew(patch: Patch) -> None:
    def begin_anew(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.session is not None
        assert step.session.holder is not None
        step.session.holder.grace_deadline = step.now + protocol.grace_s
        return ()

    expired = StreamRegistry._grace_expired

    def later(self: StreamRegistry, trace_id: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._protocol._streams[trace_id].grace_deadline
        assert deadline is not None
        if loop.time() < deadline:
            grace_s = self._protocol.grace_s
            timer = PatientTimer(grace_s, self._grace_expired, trace_id, at=deadline)
            self._grace_timers[trace_id] = timer
        else:
            expired(self, trace_id)

    row = TABLE[Register, Situation.HOLDER_STOPPING_CONTENDED]
    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, begin_anew, *row)
    patch.setattr(StreamRegistry, "_grace_expired", later)


def withdraw_keeps_the_entry(patch: Patch) -> None:
    def reject(protocol: StreamProtocol, step: Step) -> Effects:
        effects = PERFORM[Action.REJECT](protocol, step)
        return tuple(effect for effect in effects if not isinstance(effect, Forgotten))

    put(patch, Withdraw, Situation.WAITING, reject)


def withdraw_takes_the_place_and_not_the_stream(patch: Patch) -> None:
    def leave_place(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.stream is not None
        step.stream.session.waiting.remove(step.stream)
        return ()

    put(patch, Withdraw, Situation.WAITING, leave_place)


def detached_is_never_uncounted(patch: Patch) -> None:
    def end(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.stream is not None
        return protocol._forget(step.stream, step.now)

    put(patch, Ended, Situation.DETACHED, end)


def end_of_a_detached_stream_ends_its_successor(patch: Patch) -> None:
    put(patch, Ended, Situation.DETACHED, Action.END_HOLDER, Action.ADMIT_NEXT)


def limit_of_detached_streams_is_not_kept(patch: Patch) -> None:
    row = TABLE[GraceExpired, Situation.STOPPING]
    put(patch, GraceExpired, Situation.STOPPING_AT_LIMIT, *row)


def overdue_leaves_a_register_waiting(patch: Patch) -> None:
    put(patch, GraceExpired, Situation.STOPPING_AT_LIMIT, Action.MARK_OVERDUE)


def expired_grace_lets_nobody_in(patch: Patch) -> None:
    put(patch, GraceExpired, Situation.STOPPING, Action.DETACH)


def cancel_of_a_detached_stream_stops_its_successor(patch: Patch) -> None:
    def stop_holder(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.session is not None
        holder = step.session.holder
        if holder is None or holder.state is not State.ACTIVE:
            return ()
        return protocol.apply(Cancel(holder.trace_id, step.operation.reason), step.now)

    put(patch, Cancel, Situation.DETACHED, stop_holder)


def fencing_token_is_reused(patch: Patch) -> None:
    activate = StreamProtocol._activate

    def from_one(protocol: StreamProtocol, stream: Any, now: float) -> Effects:
        protocol._fencing_token_last = 0
        return activate(protocol, stream, now)

    patch.setattr(StreamProtocol, "_activate", from_one)


# ---- the table's rows of a busy session that is not interrupted --------------------------------


def enqueued_stops_the_holder(patch: Patch) -> None:
    put(patch, Register, Situation.QUEUE_OPEN, Action.SUPERSEDE_HOLDER, Action.ENQUEUE)


def enqueued_is_let_in_beside_the_holder(patch: Patch) -> None:
    put(patch, Register, Situation.QUEUE_OPEN, Action.ADMIT_NEW)


def enqueued_waits_for_ever(patch: Patch) -> None:
    put(patch, Register, Situation.QUEUE_OPEN, Action.LET_WAIT)


def youngest_of_the_queue_is_next(patch: Patch) -> None:
    admit_next = PERFORM[Action.ADMIT_NEXT]

    def admit_youngest(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.session is not None
        waiting = step.session.waiting
        if waiting and waiting[0].strategy is Strategy.ENQUEUE:
            waiting.insert(0, waiting.pop())
        return admit_next(protocol, step)

    patch.setitem(PERFORM, Action.ADMIT_NEXT, admit_youngest)


def queue_has_no_bound(patch: Patch) -> None:
    put(patch, Register, Situation.QUEUE_FULL, Action.ENQUEUE)


def interrupt_leaves_the_queue_before_it(patch: Patch) -> None:
    row = (Action.SUPERSEDE_HOLDER, Action.LET_WAIT)
    put(patch, Register, Situation.HOLDER_ACTIVE_CONTENDED, *row)


def rejected_waits(patch: Patch) -> None:
    put(patch, Register, Situation.SESSION_BUSY, Action.LET_WAIT)


def cancel_in_the_queue_hits_the_youngest(patch: Patch) -> None:
    def reject_youngest(protocol: StreamProtocol, step: Step) -> Effects:
        assert step.session is not None
        youngest = step.session.waiting[-1]
        return PERFORM[Action.REJECT](protocol, replace(step, stream=youngest))

    put(patch, Cancel, Situation.WAITING, reject_youngest)


def expired_wait_goes_on(patch: Patch) -> None:
    put(patch, WaitExpired, Situation.WAITING)


def close_leaves_the_queue_waiting(patch: Patch) -> None:
    def close(protocol: StreamProtocol, step: Step) -> Effects:
        waiting = [each for each in protocol._streams.values() if each.state is State.WAITING]
        for each in waiting:
            del protocol._streams[each.trace_id]
        effects = StreamProtocol._close(protocol, step)
        protocol._streams.update((each.trace_id, each) for each in waiting)
        return effects

    put(patch, Close, Situation.REGISTRY_OPEN, close)


# ---- the shell -------------------------------------------------------------------------------


def ended_when_popped(patch: Patch) -> None:
    async def pop(self: StreamRegistry, trace_id: str) -> None:
        stream = self._streams.get(trace_id)
        if stream is not None:
            stream.task_over()

    patch.setattr(StreamRegistry, "pop", pop)


def gate_is_never_shut(patch: Patch) -> None:
    patch.setattr(Stream, "raise_if_stopped", lambda self: None)


def gate_checks_only_the_stop_signal_of_its_task(patch: Patch) -> None:
    def raise_if_stopped(self: Stream) -> None:
        if self.task.cancelling():
            raise self.stop_error or RuntimeError

    patch.setattr(Stream, "raise_if_stopped", raise_if_stopped)


def task_is_not_cancelled(patch: Patch) -> None:
    def stop(self: Stream, error: StreamError) -> None:
        self.stop_error = error
        self.stop_signal.set()

    patch.setattr(Stream, "stop", stop)


def grace_timer_outlives_its_stream(patch: Patch) -> None:
    forget = StreamRegistry._forget

    def keep_timer(self: StreamRegistry, trace_id: str) -> None:
        self._grace_timers.pop(trace_id, None)
        forget(self, trace_id)

    patch.setattr(StreamRegistry, "_forget", keep_timer)


def wait_timer_outlives_its_wait(patch: Patch) -> None:
    answer = StreamRegistry._answer

    def keep_timer(self: StreamRegistry, trace_id: str) -> None:
        self._wait_timers.pop(trace_id, None)
        answer(self, trace_id)

    patch.setattr(StreamRegistry, "_answer", keep_timer)


def strategy_is_not_handed_on(patch: Patch) -> None:
    enter = StreamRegistry._enter

    def interrupt(self: StreamRegistry, trace_id: str, session_id: Any, task: Any, _: Any) -> Any:
        return enter(self, trace_id, session_id, task, None)

    patch.setattr(StreamRegistry, "_enter", interrupt)


def stop_signal_is_never_cleared(patch: Patch) -> None:
    forget = StreamRegistry._forget

    def keep_signal(self: StreamRegistry, trace_id: str) -> None:
        signals, self._stop_signals = self._stop_signals, type(self._stop_signals)()
        forget(self, trace_id)
        self._stop_signals = signals

    patch.setattr(StreamRegistry, "_forget", keep_signal)


def register_that_is_left_is_not_withdrawn(patch: Patch) -> None:
    async def admission(self: StreamRegistry, stream: Stream) -> None:
        waits = self._admissions.get(stream.trace_id)
        if waits is not None:
            await waits
        if stream.stop_error is not None:
            raise stream.stop_error

    patch.setattr(StreamRegistry, "_admission", admission)


def withdrawn_by_name_and_not_by_identity(patch: Patch) -> None:
    async def admission(self: StreamRegistry, stream: Stream) -> None:
        waits = self._admissions.get(stream.trace_id)
        if waits is not None:
            try:
                await waits
            except asyncio.CancelledError:
                self._apply(Withdraw(stream.trace_id))
                raise
        if stream.stop_error is not None:
            raise stream.stop_error

    patch.setattr(StreamRegistry, "_admission", admission)


def stopped_before_its_turn_is_let_in(patch: Patch) -> None:
    async def admission(self: StreamRegistry, stream: Stream) -> None:
        waits = self._admissions.get(stream.trace_id)
        if waits is not None:
            try:
                await waits
            except asyncio.CancelledError:
                if self._streams.get(stream.trace_id) is stream:
                    self._apply(Withdraw(stream.trace_id))
                raise

    patch.setattr(StreamRegistry, "_admission", admission)


def close_waits_for_ever(patch: Patch) -> None:
    async def close(self: StreamRegistry) -> None:
        self._apply(Close())
        if self._streams:
            await asyncio.wait([stream.task for stream in self._streams.values()])

    patch.setattr(StreamRegistry, "close", close)


NO_ROW = "every operation of the shell has a row in the table"

# The scenario and the property that kill each.
KILLED: tuple[tuple[Break, str, str], ...] = (
    (second_is_let_in_beside_the_first, "second_prompt", "S1 one_active"),
    (newer_prompt_stops_nobody, "second_prompt", "S4 newest_wins"),
    (overtaken_is_not_rejected, "swallowed_cancel", "S7 bounded"),
    (older_keeps_the_place_it_waits_in, "swallowed_cancel", "S7 bounded"),
    (grace_starts_anew, "swallowed_cancel", "L1 admission"),
    (withdraw_keeps_the_entry, "caller_leaves_while_waiting", REFINES),
    (
        withdraw_takes_the_place_and_not_the_stream,
        "caller_leaves_while_waiting",
        "L3 no_leak",
    ),
    (detached_is_never_uncounted, "detached_limit", "L3 no_leak"),
    (end_of_a_detached_stream_ends_its_successor, "detached_limit", "L3 no_leak"),
    (limit_of_detached_streams_is_not_kept, "detached_limit", "S7 bounded"),
    (overdue_leaves_a_register_waiting, "detached_limit", "L1 admission"),
    (expired_grace_lets_nobody_in, "swallowed_cancel", "L1 admission"),
    (cancel_of_a_detached_stream_stops_its_successor, "detached_limit", "S8 identity"),
    (fencing_token_is_reused, "second_prompt", "S5 fencing"),
    (gate_is_never_shut, "emits_after_stop", "S2 only_active_emits"),
    (task_is_not_cancelled, "explicit_cancel", REFINES),
    (grace_timer_outlives_its_stream, "second_prompt", "L3 no_leak"),
    (stop_signal_is_never_cleared, "second_prompt", "L3 no_leak"),
    (withdrawn_by_name_and_not_by_identity, "caller_leaves_overtaken", NO_ROW),
    (stopped_before_its_turn_is_let_in, "cancel_while_waiting", "S3 no_silent_overlap"),
    (close_waits_for_ever, "close_while_streaming", "L5 shutdown"),
    (ended_when_popped, "goes_on_after_pop", "S3 no_silent_overlap"),
    (gate_checks_only_the_stop_signal_of_its_task, "emits_after_its_end", "S2 only_active_emits"),
    (enqueued_stops_the_holder, "enqueue_in_order", "S8 identity"),
    (enqueued_is_let_in_beside_the_holder, "enqueue_in_order", "S1 one_active"),
    (enqueued_waits_for_ever, "enqueue_in_order", "L1 admission"),
    (youngest_of_the_queue_is_next, "enqueue_in_order", "S4 oldest_next"),
    (queue_has_no_bound, "queue_is_full", "S7 bounded"),
    (interrupt_leaves_the_queue_before_it, "interrupt_overtakes_queue", "S4 newest_wins"),
    (rejected_waits, "reject_when_busy", "S4 reject_never_waits"),
    (cancel_in_the_queue_hits_the_youngest, "leaves_while_queued", "S8 identity"),
    (expired_wait_goes_on, "waits_too_long", "L1 admission"),
    (close_leaves_the_queue_waiting, "close_with_a_queue", "after a close none has its turn"),
    (wait_timer_outlives_its_wait, "enqueue_in_order", "L3 no_leak"),
    (strategy_is_not_handed_on, "enqueue_in_order", "S8 identity"),
    (register_that_is_left_is_not_withdrawn, "caller_leaves_while_waiting", "L3 no_leak"),
)

REGISTRY_MUTANTS = tuple(Mutant("registry", breaks, (scenario,)) for breaks, scenario, _ in KILLED)
