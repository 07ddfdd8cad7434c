"""What the lease table keeps, and which situation an operation meets there.

Nothing here is changed by being asked. Who is dead by now, whether a quarantine goes on, and what a
clock that was set back has left in the future, is found before the operation's row is looked up.
"""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import zip_longest

from registry.attempts import Asked, Judged, judge, recent
from registry.lease_records import (
    LATE_KEEP_MS,
    Cancel,
    Detached,
    Holder,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Poll,
    Register,
    Renew,
    SessionRecord,
)
from registry.lease_rows import Situation
from registry.states import Strategy


class LimitsDiffer(Exception):
    """Another worker of the store has other limits. Nothing was changed.

    differing: the name of each such limit, with the worker's own value and the others'.
    wait_ms: so long leases may run that were given under the others' limits.
    """

    def __init__(self, limits: LeaseLimits, others_text: str, wait_ms: int) -> None:
        names = [field.name for field in fields(LeaseLimits)]
        # Other releases may have more limits, or fewer.
        each = zip_longest(names, limits.text.split(), others_text.split(), fillvalue="none")
        self.differing = tuple((name, own, other) for name, own, other in each if own != other)
        self.wait_ms = wait_ms
        listed = ", ".join(f"{name} {own} (others {other})" for name, own, other in self.differing)
        super().__init__(
            f"this worker has other limits than those of the store: {listed}; give all of them the "
            f"same, or end the others and wait {wait_ms} ms"
        )


class LeaseState:
    """Of every session; a store keeps what `snapshot` says."""

    def __init__(self, limits: LeaseLimits, *, generation: str = "") -> None:
        self.limits = limits
        # Idle sessions are not kept.
        self.sessions: dict[str, SessionRecord] = {}
        self.detached: dict[tuple[str, str], Detached] = {}
        self.asked: dict[str, tuple[Asked, ...]] = {}
        self.last = 0
        self.generation = generation
        self.quarantine_until_ms = 0
        self.active_until_ms = 0
        self.limits_text = limits.text

    def snapshot(self) -> LeaseSnapshot:
        return LeaseSnapshot(
            tuple(sorted(self.sessions.items())),
            tuple(self.detached[key] for key in sorted(self.detached)),
            self.last,
            self.generation,
            self.quarantine_until_ms,
            self.active_until_ms,
            self.limits_text,
            tuple(sorted(self.asked.items())),
        )

    def queue(self, session: str, now_ms: int) -> tuple[str, ...]:
        """The streams that wait in it, in their order, without the dead; changes nothing."""
        asked = Cancel(session, "")
        found = self._found(asked, now_ms, self.generation)
        return tuple(each.stream for each in found._record(asked).waiting)

    def restore(self, snapshot: LeaseSnapshot) -> None:
        """The state becomes that of the snapshot."""
        self.sessions = dict(snapshot.sessions)
        self.detached = {(each.session, each.stream): each for each in snapshot.detached}
        self.last = snapshot.last
        self.generation = snapshot.generation
        self.quarantine_until_ms = snapshot.quarantine_until_ms
        self.active_until_ms = snapshot.active_until_ms
        self.limits_text = snapshot.limits_text
        self.asked = dict(snapshot.asked)

    # -- before the row: what time and the store have done

    def _check_limits(self, now_ms: int) -> None:
        active_until_ms = min(self.active_until_ms, now_ms + self._over_ms)
        if self.limits_text != self.limits.text and now_ms < active_until_ms:
            raise LimitsDiffer(self.limits, self.limits_text, active_until_ms - now_ms)

    def _found(self, operation: LeaseOperation, now_ms: int, generation: str) -> LeaseState:
        """What the operation meets: its session without the dead, and the quarantine."""
        found = LeaseState(self.limits, generation=generation)
        found.last = self.last
        found.quarantine_until_ms = self.quarantine_until_ms
        if generation != self.generation:
            found.quarantine_until_ms = now_ms + self.limits.quarantine_ms
            # Above what was given and forgotten, also by a server whose clock was ahead.
            found.last = max(self.last, now_ms + self.limits.margin_ms)
        # A time too far ahead is of a clock that was set back: nobody waits that long.
        latest_ms = now_ms + self.limits.quarantine_ms
        found.quarantine_until_ms = min(found.quarantine_until_ms, latest_ms)
        found.active_until_ms = min(self.active_until_ms, now_ms + self._over_ms)
        record = self._record(operation)
        waiting = tuple(
            each if each.seen_ms <= now_ms else replace(each, seen_ms=now_ms)
            for each in record.waiting
            if not found._is_dead(each.seen_ms, now_ms)
        )
        holder = record.holder and _not_ahead(record.holder, now_ms, self.limits.lease_ms)
        is_free = holder is None and not waiting
        late_ms = min(record.late_ms, now_ms)
        late = record.late if now_ms < late_ms + LATE_KEEP_MS else ()
        found._put(
            operation,
            SessionRecord(
                holder, waiting, "" if is_free else record.left, late, late_ms if late else 0
            ),
        )
        if operation.session in self.asked:
            found.asked = {operation.session: self.asked[operation.session]}
        found.detached = {
            key: each if each.seen_ms <= now_ms else replace(each, seen_ms=now_ms)
            for key, each in self.detached.items()
            if not found._is_dead(each.seen_ms, now_ms)
        }
        return found

    def _become(self, found: LeaseState, operation: LeaseOperation) -> None:
        self._put(operation, found._record(operation))
        self.detached = found.detached
        self.last = found.last
        self.generation = found.generation
        self.quarantine_until_ms = found.quarantine_until_ms
        self.active_until_ms = found.active_until_ms
        self.limits_text = found.limits_text

    # -- situations

    def situation_of(self, operation: LeaseOperation, now_ms: int) -> Situation:
        """What the operation meets; changes nothing."""
        named = self._situation_of_named(operation)
        match operation:
            case Register() if named is Situation.UNKNOWN:
                return self._situation_of_register(operation, now_ms)
            case Poll() if named is Situation.WAITS:
                return self._situation_of_turn(operation, now_ms)
            case Poll() if named is Situation.UNKNOWN:
                forgotten = self._may_wait_again(operation, now_ms)
                return Situation.REGISTER_FORGOTTEN if forgotten else named
            case Renew():
                return self._situation_of_renewal(operation, named, now_ms)
            case _:
                return named

    def _situation_of_named(self, operation: LeaseOperation) -> Situation:
        record, stream = self._record(operation), operation.stream
        if record.holder is not None and record.holder.stream == stream:
            stopped = record.holder.stop_ms is not None
            return Situation.HOLDS_STOPPED if stopped else Situation.HOLDS
        if any(each.stream == stream for each in record.waiting):
            return Situation.WAITS
        known = (operation.session, stream) in self.detached
        return Situation.DETACHED if known else Situation.UNKNOWN

    def _situation_of_register(self, operation: Register, now_ms: int) -> Situation:
        record = self._record(operation)
        holder = record.holder
        if self._judged(operation, now_ms).first is not None:
            return Situation.REPEATS
        if holder is not None and holder.overdue and not self._is_dead(holder.seen_ms, now_ms):
            return Situation.HOLDER_OVERDUE
        if operation.strategy is Strategy.REJECT:
            return self._situation_of_reject(record, now_ms)
        if record.is_free:
            return Situation.SESSION_FREE
        if operation.strategy is Strategy.ENQUEUE:
            is_full = self._enqueued(record) >= self.limits.queue_max
            return Situation.QUEUE_FULL if is_full else Situation.QUEUE_OPEN
        if holder is None:
            return Situation.OTHERS_WAIT
        return Situation.HOLDER_RUNS if holder.stop_ms is None else Situation.HOLDER_STOPS

    def _situation_of_reject(self, record: SessionRecord, now_ms: int) -> Situation:
        if self._is_quarantined(now_ms):
            return Situation.UNSETTLED
        if record.waiting:
            return Situation.SESSION_BUSY
        if record.holder is None:
            return Situation.SESSION_FREE
        is_over = now_ms >= self._free_ms(record.holder)
        return Situation.HOLDER_OVER if is_over else Situation.SESSION_BUSY

    def _situation_of_turn(self, operation: Poll, now_ms: int) -> Situation:
        record = self._record(operation)
        if self._is_quarantined(now_ms) or record.waiting[0].stream != operation.stream:
            return Situation.WAITS
        holder = record.holder
        if holder is None:
            return Situation.TURN
        if now_ms < self._free_ms(holder):
            return Situation.WAITS
        if self._is_dead(holder.seen_ms, now_ms):
            return Situation.TURN_HOLDER_DEAD
        has_room = self._has_room(operation.session)
        return Situation.TURN_HOLDER_LATE if has_room else Situation.TURN_AT_LIMIT

    def _situation_of_renewal(self, operation: Renew, named: Situation, now_ms: int) -> Situation:
        holder = self._record(operation).holder
        if named in (Situation.HOLDS, Situation.HOLDS_STOPPED):
            assert holder is not None
            if holder.fencing_token != operation.fencing_token:
                return Situation.UNKNOWN
            closes = operation.closed and named is Situation.HOLDS
            return Situation.GATE_CLOSED if closes else named
        if named is Situation.DETACHED or not self._is_quarantined(now_ms):
            return named
        # A greater fencing token is the later truth: who has it was let in after the other.
        if holder is None or holder.fencing_token < operation.fencing_token:
            return Situation.LEASE_FORGOTTEN
        if operation.closed and self._has_room(operation.session):
            return Situation.DETACHED_FORGOTTEN
        return named

    def _may_wait_again(self, operation: Poll, now_ms: int) -> bool:
        """Whether the store forgot its register, and nobody has overtaken it since."""
        if not self._is_quarantined(now_ms) or operation.strategy is Strategy.REJECT:
            return False
        record, ticket = self._record(operation), operation.ticket
        holder = record.holder
        if holder is not None and (holder.ticket >= ticket or holder.overdue):
            return False
        if any(
            each.ticket == ticket or (each.ticket > ticket and each.strategy is Strategy.INTERRUPT)
            for each in record.waiting
        ):
            return False
        is_full = self._enqueued(record) >= self.limits.queue_max
        return operation.strategy is Strategy.INTERRUPT or not is_full

    # -- prompts that were asked before

    def _judged(self, operation: Register, now_ms: int) -> Judged:
        asked = self.asked.get(operation.session, ())
        if operation.attempt is None or self.limits.repeat_ms == 0:
            return Judged(asked)
        # A worker that is gone says nothing of the end of its streams.
        asked = tuple(
            each
            if each.over_at is not None or self._is_there(operation, each.stream, now_ms)
            else replace(each, over_at=now_ms)
            for each in recent(asked, now_ms, self.limits.repeat_ms)
        )
        return judge(
            asked,
            operation.attempt,
            operation.stream,
            now_ms,
            interrupts=operation.strategy is Strategy.INTERRUPT,
            is_there=lambda stream: self._is_there(operation, stream, now_ms),
        )

    def _is_there(self, operation: Register, stream: str, now_ms: int) -> bool:
        """Whether the stream is to go on, or waits."""
        record = self._record(operation)
        holder = record.holder
        if holder is not None and holder.stream == stream:
            return holder.stop_ms is None and not self._is_dead(holder.seen_ms, now_ms)
        return any(each.stream == stream for each in record.waiting)

    # -- small questions

    def _free_ms(self, holder: Holder) -> int:
        """When the holder's place may be taken."""
        if holder.closed:
            assert holder.stop_ms is not None
            return holder.stop_ms + self.limits.grace_ms
        return holder.until_ms + self.limits.margin_ms

    @property
    def _over_ms(self) -> int:
        """How long after its last renewal a lease is over."""
        return self.limits.lease_ms + self.limits.margin_ms

    def _is_dead(self, seen_ms: int, now_ms: int) -> bool:
        """Its worker has not asked for as long as a lease lasts; in the quarantine nobody is."""
        return now_ms >= seen_ms + self._over_ms and not self._is_quarantined(now_ms)

    def _is_quarantined(self, now_ms: int) -> bool:
        return now_ms < self.quarantine_until_ms

    def _has_room(self, session: str) -> bool:
        in_session = sum(each.session == session for each in self.detached.values())
        return (
            in_session < self.limits.detached_per_session_max
            and len(self.detached) < self.limits.detached_max
        )

    def _enqueued(self, record: SessionRecord) -> int:
        return sum(each.strategy is Strategy.ENQUEUE for each in record.waiting)

    def _record(self, operation: LeaseOperation) -> SessionRecord:
        return self.sessions.get(operation.session, SessionRecord())

    def _put(self, operation: LeaseOperation, record: SessionRecord) -> None:
        self.sessions[operation.session] = record


def _not_ahead(holder: Holder, now_ms: int, lease_ms: int) -> Holder:
    """As if the clock had never been set back: no lease lasts longer than one."""
    stop_ms = now_ms if holder.stop_ms is None else holder.stop_ms
    if max(holder.seen_ms, stop_ms, holder.until_ms - lease_ms) <= now_ms:
        return holder
    return replace(
        holder,
        until_ms=min(holder.until_ms, now_ms + lease_ms),
        seen_ms=min(holder.seen_ms, now_ms),
        stop_ms=None if holder.stop_ms is None else min(holder.stop_ms, now_ms),
    )
