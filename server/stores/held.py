"""One stream of a worker that shares its sessions: what the worker knows of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from registry import State, Strategy, Stream, StreamError, StreamView
from registry.lease_records import LeaseLimits
from registry.patience import PatientTimer
from server.stores.lease import Lease

# Why a stream was stopped or turned away: what the log says, and the error of its client.
Why = tuple[str, StreamError]


@dataclass(eq=False)
class Held:
    """One stream of this worker, from its register until it has ended or was turned away."""

    stream: Stream
    lease: Lease
    session: str
    strategy: Strategy
    serial: int
    # Done when the register is answered; the stream's `stop_error` says how.
    admission: asyncio.Future[None]
    # Of an enqueued one, until it is answered.
    wait_timer: PatientTimer | None = None
    wait_deadline: float | None = None
    started_at: float | None = None
    stopped_at: float | None = None
    # Given by who stops it from within this worker; else the lease's end says why.
    why: Why | None = None

    @property
    def trace_id(self) -> str:
        return self.stream.trace_id

    @property
    def is_waiting(self) -> bool:
        return not self.admission.done()

    def state(self, limits: LeaseLimits) -> State:
        """By the running loop's time."""
        if self.started_at is None:
            return State.WAITING
        if self.stopped_at is None:
            return State.ACTIVE
        grace_deadline = self.stopped_at + limits.grace_ms / 1000
        is_late = asyncio.get_running_loop().time() >= grace_deadline
        return State.DETACHED if is_late or self.lease.is_detached else State.STOPPING

    def view(self, limits: LeaseLimits) -> StreamView:
        stopped_at, grace_s = self.stopped_at, limits.grace_ms / 1000
        waits = self.started_at is None
        return StreamView(
            self.trace_id,
            self.stream.session_id,
            self.state(limits),
            self.serial,
            self.stream.fencing_token,
            self.started_at,
            None if stopped_at is None else stopped_at + grace_s,
            overdue=False,
            strategy=self.strategy,
            wait_deadline=self.wait_deadline if waits else None,
        )
