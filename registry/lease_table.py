"""The lease table: which stream of a session may work, where workers share a store.

As `protocol.py`, it is synchronous: time is an argument, and `LeaseTable.apply` is the single entry
point. It looks up the row for the situation that the operation meets, and either takes that row or
raises and changes nothing. A store runs it whole, in one transaction.

Three rules carry it: only a caller is let in, by its own request, so that it can date its lease
from before that; every operation may be asked again; a message only wakes. Where the store may
have lost writes (its generation is another one), nobody is let in until the last lease that it may
have forgotten is over, and who holds or waits says so again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from registry.attempts import answered
from registry.errors import IllegalOperation
from registry.lease_records import (
    LATE_KEEP_MS,
    LATE_MAX,
    Answer,
    Detached,
    Holder,
    LeaseOperation,
    Leave,
    Message,
    Poll,
    Register,
    Renew,
    Reply,
    Told,
    Waiting,
    Why,
    Word,
)
from registry.lease_rows import TABLE, Action, Situation
from registry.lease_state import LeaseState
from registry.states import Strategy

Said = tuple[Message | Reply, ...]


@dataclass(slots=True)
class Step:
    """One operation while it is applied."""

    operation: LeaseOperation
    now_ms: int


class LeaseTable(LeaseState):
    """Pure: the state of every session, and the rows."""

    # -- the entry point

    def apply(self, operation: LeaseOperation, now_ms: int, generation: str) -> Answer:
        """Raises IllegalOperation where the table has no row, and LimitsDiffer; nothing changes.

        generation: of the store, now. Another one means that writes may be lost.
        """
        self._check_limits(now_ms)
        found = self._found(operation, now_ms, generation)
        situation = found.situation_of(operation, now_ms)
        if (type(operation), situation) not in TABLE:
            raise IllegalOperation(
                f"{operation} is not possible: {situation.value}. A worker registers a stream "
                f"once, and again only while it has no reply."
            )
        self._become(found, operation)
        self._note(operation, now_ms)
        said = self._take_row(Step(operation, now_ms), situation)
        if self._record(operation).is_idle:
            self.sessions.pop(operation.session, None)
        replies = [each for each in said if isinstance(each, Reply)]
        return Answer(replies[-1], tuple(each for each in said if isinstance(each, Message)))

    def _note(self, operation: LeaseOperation, now_ms: int) -> None:
        """Before the row: it stops who is there."""
        session = operation.session
        match operation:
            case Register():
                asked = self._judged(operation, now_ms).asked
            case Leave():
                asked = answered(
                    self.asked.get(session, ()), operation.stream, now_ms, whole=operation.whole
                )
            case _:
                return
        if asked:
            self.asked[session] = asked
        else:
            self.asked.pop(session, None)

    def _say_repeated(self, step: Step) -> Said:
        assert isinstance(step.operation, Register)
        judged = self._judged(step.operation, step.now_ms)
        assert judged.first is not None
        assert judged.newer is not None
        return (Reply(Word.REPEATED, first=judged.first.stream, newer=judged.newer.stream),)

    # -- actions with the others of its session

    def _stop_holder(self, step: Step) -> Said:
        return self._stop(step, Why.SUPERSEDED)

    def _supersede_waiting(self, step: Step) -> Said:
        return self._empty_queue(step, Told.SUPERSEDED)

    def _refuse_waiting(self, step: Step) -> Said:
        return self._empty_queue(step, Told.REFUSED)

    def _drop_holder(self, step: Step) -> Said:
        late = (*self._record(step.operation).late, self._holder(step).stream)
        self._change(step, holder=None, late=late[-LATE_MAX:], late_ms=step.now_ms)
        return ()

    def _detach_holder(self, step: Step) -> Said:
        holder = self._holder(step)
        self._detach(step, holder.stream, holder.seen_ms)
        return self._drop_holder(step)

    def _mark_overdue(self, step: Step) -> Said:
        self._change_holder(step, overdue=True)
        return ()

    def _forget_dead(self, step: Step) -> Said:
        record = self._record(step.operation)
        holder = record.holder
        if holder is None or record.waiting or not self._is_dead(holder.seen_ms, step.now_ms):
            return ()
        if step.now_ms < holder.seen_ms + LATE_KEEP_MS:
            return self._drop_holder(step)
        self._change(step, holder=None)
        return ()

    def _tell_next(self, step: Step) -> Said:
        record = self._record(step.operation)
        if record.holder is not None or not record.waiting:
            return ()
        return (Message(record.waiting[0].stream, Told.FREE),)

    # -- actions with the stream itself

    def _let_wait(self, step: Step) -> Said:
        assert isinstance(step.operation, Register)
        self._queue_up(step, self._next(step.now_ms), step.operation.strategy)
        return ()

    def _ask(self, step: Step) -> Said:
        """The stream's turn may have come with the very register."""
        operation = step.operation
        assert isinstance(operation, Register | Poll)
        poll = Poll(operation.session, operation.stream, 0, operation.strategy)
        return self._take_row(Step(poll, step.now_ms), self.situation_of(poll, step.now_ms))

    def _keep_waiting(self, step: Step) -> Said:
        record, stream = self._record(step.operation), step.operation.stream
        mine = next(each for each in record.waiting if each.stream == stream)
        seen = replace(mine, seen_ms=step.now_ms)
        waiting = tuple(seen if each is mine else each for each in record.waiting)
        self._change(step, waiting=waiting)
        at_ms = self.quarantine_until_ms
        if record.waiting[0] is not mine:
            at_ms = max(at_ms, step.now_ms + self.limits.lease_ms)
        elif record.holder is not None:
            at_ms = max(at_ms, self._free_ms(record.holder))
        return (Reply(Word.WAITING, ticket=mine.ticket, wait_ms=at_ms - step.now_ms),)

    def _take(self, step: Step) -> Said:
        record = self._record(step.operation)
        mine, *others = record.waiting
        now_ms = step.now_ms
        holder = Holder(
            mine.stream,
            self._next(now_ms),
            mine.ticket,
            until_ms=self._new_until(step),
            seen_ms=now_ms,
        )
        self._change(step, holder=holder, waiting=tuple(others))
        return (self._reply(step, Word.GRANTED),)

    def _extend(self, step: Step) -> Said:
        self._change_holder(step, until_ms=self._new_until(step), seen_ms=step.now_ms)
        word = Word.OK if isinstance(step.operation, Renew) else Word.GRANTED
        return (self._reply(step, word),)

    def _keep_stopping(self, step: Step) -> Said:
        holder = self._holder(step)
        closed = holder.closed or (isinstance(step.operation, Renew) and step.operation.closed)
        self._change_holder(step, seen_ms=step.now_ms, closed=closed)
        return (self._reply(step, Word.STOP),)

    def _close_gate(self, step: Step) -> Said:
        now_ms = step.now_ms
        self._change_holder(step, seen_ms=now_ms, stop_ms=now_ms, why=Why.OWN, closed=True)
        return (self._reply(step, Word.STOP),)

    def _note_logged(self, step: Step) -> Said:
        if isinstance(step.operation, Renew) or (
            isinstance(step.operation, Leave) and step.operation.logged
        ):
            self._change(step, left="", late=(), late_ms=0)
        return ()

    def _stay_detached(self, step: Step) -> Said:
        self._detach(step, step.operation.stream, step.now_ms)
        return (Reply(Word.DETACHED),)

    def _free(self, step: Step) -> Said:
        record = self._record(step.operation)
        left = self._holder(step).stream if record.waiting else ""
        self._change(step, holder=None, left=left)
        return ()

    def _leave_queue(self, step: Step) -> Said:
        record, stream = self._record(step.operation), step.operation.stream
        self._change(step, waiting=tuple(w for w in record.waiting if w.stream != stream))
        return ()

    def _leave_detached(self, step: Step) -> Said:
        del self.detached[step.operation.session, step.operation.stream]
        return ()

    def _stop_named(self, step: Step) -> Said:
        return self._stop(step, Why.CANCELLED)

    def _throw_out(self, step: Step) -> Said:
        return (*self._leave_queue(step), Message(step.operation.stream, Told.CANCELLED))

    # -- actions after the store may have lost writes

    def _wait_again(self, step: Step) -> Said:
        operation = step.operation
        assert isinstance(operation, Poll)
        self.last = max(self.last, operation.ticket)
        said: Said = ()
        if operation.strategy is Strategy.INTERRUPT:
            holder = self._record(operation).holder
            if holder is not None and holder.stop_ms is None:
                said = self._stop(step, Why.SUPERSEDED)
            said += self._empty_queue(step, Told.SUPERSEDED, below=operation.ticket)
        self._queue_up(step, operation.ticket, operation.strategy)
        return said

    def _hold_again(self, step: Step) -> Said:
        operation, now_ms = step.operation, step.now_ms
        assert isinstance(operation, Renew)
        self.last = max(self.last, operation.ticket, operation.fencing_token)
        self._leave_queue(step)
        # Those who waited before it have been overtaken, or have had their turn.
        said = self._empty_queue(step, Told.SUPERSEDED, below=operation.ticket + 1)
        waiting = self._record(operation).waiting
        overtaken = bool(waiting) and waiting[0].strategy is Strategy.INTERRUPT
        why = Why.OWN if operation.closed else Why.SUPERSEDED if overtaken else None
        holder = Holder(
            operation.stream,
            operation.fencing_token,
            operation.ticket,
            until_ms=self._new_until(step),
            seen_ms=now_ms,
            stop_ms=now_ms if why else None,
            why=why,
            closed=operation.closed,
        )
        self._change(step, holder=holder)
        return (*said, self._reply(step, Word.OK if why is None else Word.STOP))

    def _detach_again(self, step: Step) -> Said:
        self._leave_queue(step)
        return self._stay_detached(step)

    # -- what actions have in common

    def _take_row(self, step: Step, situation: Situation) -> Said:
        said: Said = ()
        for action in TABLE[type(step.operation), situation]:
            said += PERFORM[action](self, step)
        return said

    def _reply(self, step: Step, word: Word) -> Reply:
        """To the holder."""
        record, holder = self._record(step.operation), self._holder(step)
        reply = Reply(
            word, ticket=holder.ticket, fencing_token=holder.fencing_token, why=holder.why
        )
        if word is not Word.GRANTED:
            return reply
        return replace(reply, left=record.left, late=record.late)

    def _stop(self, step: Step, why: Why) -> Said:
        self._change_holder(step, stop_ms=step.now_ms, why=why)
        told = Told.CANCELLED if why is Why.CANCELLED else Told.SUPERSEDED
        return (Message(self._holder(step).stream, told),)

    def _empty_queue(self, step: Step, told: Told, *, below: int | None = None) -> Said:
        """Each that waits leaves and is told, but who asks; below: those with older tickets."""
        waiting = self._record(step.operation).waiting
        leave = [w for w in waiting if below is None or w.ticket < below]
        self._change(step, waiting=tuple(each for each in waiting if each not in leave))
        stream = step.operation.stream
        return tuple(Message(w.stream, told) for w in leave if w.stream != stream)

    def _queue_up(self, step: Step, ticket: int, strategy: Strategy) -> None:
        new = Waiting(step.operation.stream, ticket, strategy, step.now_ms)
        waiting = (*self._record(step.operation).waiting, new)
        self._change(step, waiting=tuple(sorted(waiting, key=lambda each: each.ticket)))

    def _detach(self, step: Step, stream: str, seen_ms: int) -> None:
        session = step.operation.session
        self.detached[session, stream] = Detached(session, stream, seen_ms)

    def _new_until(self, step: Step) -> int:
        until_ms = step.now_ms + self.limits.lease_ms
        self.active_until_ms = max(self.active_until_ms, until_ms + self.limits.margin_ms)
        return until_ms

    def _next(self, now_ms: int) -> int:
        """A number greater than all before: also than those that a lost write has taken along."""
        self.last = max(self.last + 1, now_ms)
        return self.last

    def _holder(self, step: Step) -> Holder:
        holder = self._record(step.operation).holder
        assert holder is not None
        return holder

    def _change(self, step: Step, **changes: object) -> None:
        self._put(step.operation, replace(self._record(step.operation), **changes))  # type: ignore[arg-type]

    def _change_holder(self, step: Step, **changes: object) -> None:
        self._change(step, holder=replace(self._holder(step), **changes))  # type: ignore[arg-type]


# ---- the code of each action ----------------------------------------------------------------

Perform = Callable[[LeaseTable, Step], Said]


def _says(word: Word) -> Perform:
    return lambda table, step: (Reply(word),)


PERFORM: dict[Action, Perform] = {
    Action.STOP_HOLDER: LeaseTable._stop_holder,
    Action.SUPERSEDE_WAITING: LeaseTable._supersede_waiting,
    Action.REFUSE_WAITING: LeaseTable._refuse_waiting,
    Action.DROP_HOLDER: LeaseTable._drop_holder,
    Action.DETACH_HOLDER: LeaseTable._detach_holder,
    Action.MARK_OVERDUE: LeaseTable._mark_overdue,
    Action.FORGET_DEAD: LeaseTable._forget_dead,
    Action.TELL_NEXT: LeaseTable._tell_next,
    Action.LET_WAIT: LeaseTable._let_wait,
    Action.ASK: LeaseTable._ask,
    Action.KEEP_WAITING: LeaseTable._keep_waiting,
    Action.TAKE: LeaseTable._take,
    Action.EXTEND: LeaseTable._extend,
    Action.KEEP_STOPPING: LeaseTable._keep_stopping,
    Action.CLOSE_GATE: LeaseTable._close_gate,
    Action.NOTE_LOGGED: LeaseTable._note_logged,
    Action.STAY_DETACHED: LeaseTable._stay_detached,
    Action.FREE: LeaseTable._free,
    Action.LEAVE_QUEUE: LeaseTable._leave_queue,
    Action.LEAVE_DETACHED: LeaseTable._leave_detached,
    Action.STOP: LeaseTable._stop_named,
    Action.THROW_OUT: LeaseTable._throw_out,
    Action.WAIT_AGAIN: LeaseTable._wait_again,
    Action.HOLD_AGAIN: LeaseTable._hold_again,
    Action.DETACH_AGAIN: LeaseTable._detach_again,
    Action.SAY_GONE: _says(Word.GONE),
    Action.SAY_LOST: _says(Word.LOST),
    Action.SAY_REPEATED: LeaseTable._say_repeated,
    Action.SAY_OVERDUE: _says(Word.OVERDUE),
    Action.SAY_FULL: _says(Word.FULL),
    Action.SAY_BUSY: _says(Word.BUSY),
    Action.SAY_UNSETTLED: _says(Word.UNSETTLED),
    Action.SAY_DONE: _says(Word.DONE),
    Action.SAY_NOTHING: _says(Word.NOTHING),
}
