"""Production with one safeguard lost: what the tests of the tests run against.

Each mutant is a function that breaks the protocol's table or the shell through pytest's
monkeypatch, named for its bug. Two rooms use them: the state machine here, and `check` in
tests/sim/test_check.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from registry import Stream, StreamRegistry
from registry.protocol import (
    TABLE,
    Cancel,
    Close,
    Effect,
    Ended,
    Forgotten,
    GraceExpired,
    Operation,
    Protocol,
    Register,
    Situation,
    State,
    Withdraw,
)

Row = Callable[[Protocol, Any, float], Iterator[Effect]]
Mutant = Callable[[pytest.MonkeyPatch], None]


def put(patch: pytest.MonkeyPatch, operation: type[Operation], situation: Situation, row: Row):
    assert (operation, situation) in TABLE
    patch.setitem(TABLE, (operation, situation), row)


# ---- the table -------------------------------------------------------------------------------


def second_is_let_in_beside_the_first(patch: pytest.MonkeyPatch) -> None:
    put(patch, Register, Situation.HOLDER_ACTIVE, Protocol._register_free)


def overtaken_is_not_rejected(patch: pytest.MonkeyPatch) -> None:
    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, Protocol._register_waits)


def older_keeps_the_place_it_waits_in(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Register, now: float) -> Iterator[Effect]:
        session = protocol._sessions[operation.session_id or ""]
        older = session.waiting
        yield from Protocol._register_waits(protocol, operation, now)
        session.waiting = older

    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, row)


def grace_starts_anew(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Register, now: float) -> Iterator[Effect]:
        holder = protocol._sessions[operation.session_id or ""].holder
        assert holder is not None
        holder.grace_deadline = now + protocol.grace_s
        yield from Protocol._register_overtakes(protocol, operation, now)

    expired = StreamRegistry._grace_expired

    def later(self: StreamRegistry, trace_id: str) -> None:
        loop = asyncio.get_running_loop()
        deadline = self._protocol._streams[trace_id].grace_deadline
        assert deadline is not None
        if loop.time() < deadline:
            self._grace_timers[trace_id] = loop.call_at(deadline, self._grace_expired, trace_id)
        else:
            expired(self, trace_id)

    put(patch, Register, Situation.HOLDER_STOPPING_CONTENDED, row)
    patch.setattr(StreamRegistry, "_grace_expired", later)


def withdraw_keeps_the_entry(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Withdraw, now: float) -> Iterator[Effect]:
        for effect in Protocol._withdraw_waiting(protocol, operation, now):
            if not isinstance(effect, Forgotten):
                yield effect

    put(patch, Withdraw, Situation.WAITING, row)


def withdraw_takes_the_place_and_not_the_stream(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Withdraw, now: float) -> Iterator[Effect]:
        protocol._streams[operation.trace_id].session.waiting = None
        yield from ()

    put(patch, Withdraw, Situation.WAITING, row)


def detached_is_never_uncounted(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Ended, now: float) -> Iterator[Effect]:
        yield from protocol._forget(protocol._streams[operation.trace_id], now)

    put(patch, Ended, Situation.DETACHED, row)


def end_of_a_detached_stream_ends_its_successor(patch: pytest.MonkeyPatch) -> None:
    put(patch, Ended, Situation.DETACHED, Protocol._ended_holder)


def limit_of_detached_streams_is_not_kept(patch: pytest.MonkeyPatch) -> None:
    put(patch, GraceExpired, Situation.STOPPING_AT_LIMIT, Protocol._grace_expired)


def overdue_leaves_a_register_waiting(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: GraceExpired, now: float) -> Iterator[Effect]:
        protocol._streams[operation.trace_id].overdue = True
        yield from ()

    put(patch, GraceExpired, Situation.STOPPING_AT_LIMIT, row)


def expired_grace_lets_nobody_in(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: GraceExpired, now: float) -> Iterator[Effect]:
        stream = protocol._streams[operation.trace_id]
        stream.state = State.DETACHED
        stream.session.holder = None
        stream.session.detached += 1
        protocol._detached += 1
        yield from ()

    put(patch, GraceExpired, Situation.STOPPING, row)


def cancel_of_a_detached_stream_stops_its_successor(patch: pytest.MonkeyPatch) -> None:
    def row(protocol: Protocol, operation: Cancel, now: float) -> Iterator[Effect]:
        holder = protocol._streams[operation.trace_id].session.holder
        if holder is not None and holder.state is State.ACTIVE:
            yield from protocol.apply(Cancel(holder.trace_id, operation.reason), now)

    put(patch, Cancel, Situation.DETACHED, row)


def fencing_token_is_reused(patch: pytest.MonkeyPatch) -> None:
    activate = Protocol._activate

    def from_one(protocol: Protocol, stream: Any, now: float) -> Iterator[Effect]:
        protocol._fencing_token_last = 0
        yield from activate(protocol, stream, now)

    patch.setattr(Protocol, "_activate", from_one)


# ---- the shell -------------------------------------------------------------------------------


def ended_when_popped(patch: pytest.MonkeyPatch) -> None:
    async def pop(self: StreamRegistry, trace_id: str) -> None:
        stream = self._streams.get(trace_id)
        if stream is not None:
            stream.task_over()

    patch.setattr(StreamRegistry, "pop", pop)


def gate_is_never_shut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Stream, "raise_if_stopped", lambda self: None)


def gate_checks_only_the_stop_signal_of_its_task(patch: pytest.MonkeyPatch) -> None:
    def raise_if_stopped(self: Stream) -> None:
        if self.task.cancelling():
            raise self.stop_error or RuntimeError

    patch.setattr(Stream, "raise_if_stopped", raise_if_stopped)


def task_is_not_cancelled(patch: pytest.MonkeyPatch) -> None:
    def stop(self: Stream, error: Exception) -> None:
        self.stop_error = error
        self.stop_signal.set()

    patch.setattr(Stream, "stop", stop)


def grace_timer_outlives_its_stream(patch: pytest.MonkeyPatch) -> None:
    forget = StreamRegistry._forget

    def keep_timer(self: StreamRegistry, trace_id: str) -> None:
        self._grace_timers.pop(trace_id, None)
        forget(self, trace_id)

    patch.setattr(StreamRegistry, "_forget", keep_timer)


def stop_signal_is_never_cleared(patch: pytest.MonkeyPatch) -> None:
    forget = StreamRegistry._forget

    def keep_signal(self: StreamRegistry, trace_id: str) -> None:
        signals, self._stop_signals = self._stop_signals, type(self._stop_signals)()
        forget(self, trace_id)
        self._stop_signals = signals

    patch.setattr(StreamRegistry, "_forget", keep_signal)


def register_that_is_left_is_not_withdrawn(patch: pytest.MonkeyPatch) -> None:
    async def admission(self: StreamRegistry, stream: Stream) -> None:
        waits = self._admissions.get(stream.trace_id)
        if waits is not None:
            await waits
        if stream.stop_error is not None:
            raise stream.stop_error

    patch.setattr(StreamRegistry, "_admission", admission)


def withdrawn_by_name_and_not_by_identity(patch: pytest.MonkeyPatch) -> None:
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


def stopped_before_its_turn_is_let_in(patch: pytest.MonkeyPatch) -> None:
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


def close_waits_for_ever(patch: pytest.MonkeyPatch) -> None:
    async def close(self: StreamRegistry) -> None:
        self._apply(Close())
        if self._streams:
            await asyncio.wait([stream.task for stream in self._streams.values()])

    patch.setattr(StreamRegistry, "close", close)
