"""What must hold of every state of the lease table, and over every operation: named predicates.

They speak of one step: of what the table was, what was asked when, and what it is now. That no two
workers have an open gate (S1) follows: a worker's gate is open only until a lease after its own
request, and nobody is let in before that time is over on the store's clock, with the margin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from registry.attempts import recent
from registry.lease_records import (
    LATE_KEEP_MS,
    LATE_MAX,
    Answer,
    Cancel,
    Holder,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Poll,
    Register,
    Renew,
    SessionRecord,
    Told,
    Waiting,
    Why,
    Word,
)
from registry.states import Strategy

SENTENCES = {
    "S1 alone": "who is let in takes the place of nobody, of one that left, of one that closed its "
    "gate a grace ago, or of one whose lease and margin are over; and never in the quarantine",
    "S1 dated": "a lease lasts from its holder's own request on, and a reply that extends none "
    "says so",
    "S1 stop_is_final": "a stream that was told to stop has its lease extended no more",
    "S1 consistent": "a stream is in one place of its session, and no lease is longer than "
    "one from its holder's last request",
    "S1 settled": "where the store may have lost writes, the quarantine is as long as the last "
    "lease that it may have forgotten",
    "S3 named_on": "whose place is taken though it has not left is named to each that is let in "
    "from then on, until one of them has logged it; for a day, and the last of many",
    "S4 newest_wins": "who interrupts waits alone and first, for a holder that was told to stop",
    "S4 in_order": "the tickets of those that wait increase and are greater than the holder's, and "
    "the first of them is let in",
    "S4 reject_never_waits": "who is to be rejected where the session is busy never waits",
    "S4 repetition": "a prompt that a library sends again takes nothing from a newer one",
    "S5 fencing": "each fencing token that is given is greater than all before, also than those "
    "that a lost write has taken along: no less than the store's time",
    "S6 isolation": "an operation on one session changes no other, the dead apart",
    "S7 bounded": "those that are detached and those that wait stay within their limits",
    "S7 counted": "a detached stream is counted until it leaves or is dead",
    "S8 identity": "only who interrupts, or names it, stops a stream or takes its place in the "
    "queue, but at the limit of detached streams and in the quarantine",
    "L1 grace_goes_on": "a stop that was given is moved by no later one",
    "L1 wait_is_bounded": "a stopped holder is waited for no longer than the grace or the lease",
    "L2 told": "who is stopped or thrown out by another's operation is sent a message with it",
    "L3 nothing_kept": "an idle session is not kept, unless there is something to be logged",
}


@dataclass(frozen=True)
class LeaseStep:
    before: LeaseSnapshot
    operation: LeaseOperation
    now_ms: int
    generation: str
    answer: Answer
    after: LeaseSnapshot
    limits: LeaseLimits

    @cached_property
    def was(self) -> SessionRecord:
        return self.before.session(self.operation.session)

    @cached_property
    def now(self) -> SessionRecord:
        return self.after.session(self.operation.session)

    @cached_property
    def let_in(self) -> Holder | None:
        """Who holds now and did not before."""
        now, was = self.now.holder, self.was.holder
        return now if now is not None and (was is None or now.stream != was.stream) else None

    @property
    def is_quarantined(self) -> bool:
        return self.now_ms < self.after.quarantine_until_ms

    @property
    def says_so_again(self) -> bool:
        """Whether a worker reminds the store of what it may have forgotten."""
        return self.is_quarantined and isinstance(self.operation, Poll | Renew)

    def is_dead(self, seen_ms: int) -> bool:
        over_ms = self.limits.lease_ms + self.limits.margin_ms
        return self.now_ms >= seen_ms + over_ms and not self.is_quarantined


Predicate = Callable[[LeaseStep], bool]


def alone(step: LeaseStep) -> bool:
    new, before = step.let_in, step.was.holder
    if new is None:
        return True
    if step.is_quarantined:
        operation = step.operation
        return (
            isinstance(operation, Renew)
            and operation.fencing_token == new.fencing_token
            and (before is None or before.fencing_token < new.fencing_token)
        )
    if before is None:
        return True
    if before.closed and before.stop_ms is not None:
        return step.now_ms >= before.stop_ms + step.limits.grace_ms
    return step.now_ms >= before.until_ms + step.limits.margin_ms


def dated(step: LeaseStep) -> bool:
    holder, word = step.now.holder, step.answer.reply.word
    extends = word in (Word.GRANTED, Word.OK)
    until_ms = step.now_ms + step.limits.lease_ms
    if extends and not isinstance(step.operation, Register | Poll | Renew):
        return False
    if extends:
        return (
            holder is not None
            and holder.stream == step.operation.stream
            and holder.until_ms == until_ms
        )
    was = step.was.holder
    if holder is None or was is None or step.let_in is not None:
        return True
    return holder.until_ms == min(was.until_ms, until_ms)


def stop_is_final(step: LeaseStep) -> bool:
    was, now = step.was.holder, step.now.holder
    if was is None or now is None or now.stream != was.stream or was.stop_ms is None:
        return True
    return (
        now.stop_ms is not None
        and now.until_ms <= was.until_ms
        and now.closed >= was.closed
        and step.answer.reply.word not in (Word.GRANTED, Word.OK)
    )


def consistent(step: LeaseStep) -> bool:
    for name, record in step.after.sessions:
        holder = record.holder
        places = [each.stream for each in step.after.detached if each.session == name]
        places += [each.stream for each in record.waiting]
        if holder is not None:
            places.append(holder.stream)
            if holder.until_ms > holder.seen_ms + step.limits.lease_ms:
                return False
            if (holder.closed and holder.stop_ms is None) or (
                (holder.stop_ms is None) != (holder.why is None)
            ):
                return False
            if name == step.operation.session and holder.seen_ms > step.now_ms:
                return False
        if len(places) != len(set(places)):
            return False
    return True


def settled(step: LeaseStep) -> bool:
    if step.generation == step.before.generation:
        return step.after.quarantine_until_ms <= step.now_ms + step.limits.quarantine_ms
    ends_ms = step.now_ms + step.limits.lease_ms + step.limits.margin_ms + step.limits.lag_ms
    return step.after.quarantine_until_ms == ends_ms and step.after.generation == step.generation


def named_on(step: LeaseStep) -> bool:
    was, now, operation, reply = step.was, step.now, step.operation, step.answer.reply
    if reply.word is Word.GRANTED and (reply.left, reply.late) != (now.left, now.late):
        return False
    holder = was.holder
    is_own = holder is not None and holder.stream == operation.stream
    if isinstance(operation, Renew) and reply.word in (Word.OK, Word.STOP):
        return now.late == ()
    if isinstance(operation, Leave) and is_own and operation.logged:
        return now.late == ()
    is_kept = step.now_ms < min(was.late_ms, step.now_ms) + LATE_KEEP_MS
    late = was.late if is_kept else ()
    if holder is not None and (now.holder is None or now.holder.stream != holder.stream):
        is_taken = step.let_in is not None or step.now_ms < holder.seen_ms + LATE_KEEP_MS
        if is_taken and not (is_own and isinstance(operation, Leave)):
            late = (*late, holder.stream)
    return now.late == late[-LATE_MAX:] and now.late_ms <= step.now_ms


def newest_wins(step: LeaseStep) -> bool:
    for _, record in step.after.sessions:
        first = [each.strategy is Strategy.INTERRUPT for each in record.waiting]
        if sum(first) > 1 or (any(first) and not first[0]):
            return False
        if any(first) and record.holder is not None and record.holder.stop_ms is None:
            return False
    return True


def in_order(step: LeaseStep) -> bool:
    for _, record in step.after.sessions:
        before = [record.holder.ticket] if record.holder is not None else []
        tickets = [*before, *(each.ticket for each in record.waiting)]
        if any(later <= earlier for earlier, later in pairwise(tickets)):
            return False
    new = step.let_in
    if new is None or step.is_quarantined:
        return True
    older = [w for w in _living(step) if w.ticket < new.ticket]
    gone = {each.stream for each in step.answer.messages if each.told is Told.SUPERSEDED}
    return all(each.stream in gone for each in older)


def repetition(step: LeaseStep) -> bool:
    """None is refused that takes nothing, and none let in that does."""
    operation, refused = step.operation, step.answer.reply.word is Word.REPEATED
    repeat_ms = step.limits.repeat_ms
    if not isinstance(operation, Register) or operation.attempt is None or repeat_ms == 0:
        return not refused
    attempt, was, now = operation.attempt, step.was, step.now
    there = {each.stream for each in _living(step)}
    if was.holder and was.holder.stop_ms is None and not step.is_dead(was.holder.seen_ms):
        there.add(was.holder.stream)
    asked = recent(dict(step.before.asked).get(operation.session, ()), step.now_ms, repeat_ms)
    newest = max((each.rank for each in asked if each.stream in there), default=0)
    older = [e for e in asked if e.digest == attempt.digest and e.stream not in there]
    first = max((each.rank for each in older), default=newest)
    typed = any(e.rank == newest and e.digest == attempt.digest for e in asked)
    takes = operation.strategy is Strategy.INTERRUPT and (attempt.repeats or not typed)
    is_known = any(each.stream == operation.stream for each in asked)
    if refused != (first < newest and takes and not is_known):
        return False
    waiting = tuple(each.stream for each in _living(step))
    kept = waiting == tuple(each.stream for each in now.waiting) and _runs_on(was, now)
    return kept or not refused


def _runs_on(was: SessionRecord, now: SessionRecord) -> bool:
    before, after = was.holder, now.holder
    if before is None or after is None:
        return before is after
    return (before.stream, before.stop_ms is None) == (after.stream, after.stop_ms is None)


def reject_never_waits(step: LeaseStep) -> bool:
    waiting = [each for _, record in step.after.sessions for each in record.waiting]
    return all(each.strategy is not Strategy.REJECT for each in waiting)


def fencing(step: LeaseStep) -> bool:
    after, new = step.after, step.let_in
    known = [n for _, record in after.sessions for n in _numbers(record)]
    if any(number > after.last for number in known) or after.last < step.before.last:
        return False
    if step.generation != step.before.generation:
        # Of those that wait, one that was not forgotten may have an older ticket.
        given = [w.ticket for w in step.now.waiting if w.stream == step.operation.stream]
        registers = isinstance(step.operation, Register) and step.answer.reply.word is Word.WAITING
        was_there = any(w.stream == step.operation.stream for w in step.was.waiting)
        if registers and not was_there and given[0] <= step.now_ms + step.limits.margin_ms:
            return False
    if new is None or step.is_quarantined:
        return True
    number = new.fencing_token
    return number > step.before.last and number > new.ticket and number >= step.now_ms


def isolation(step: LeaseStep) -> bool:
    session = step.operation.session
    before = [each for each in step.before.sessions if each[0] != session]
    after = [each for each in step.after.sessions if each[0] != session]
    kept = [
        each.stream
        for each in step.before.detached
        if each.session != session and not step.is_dead(each.seen_ms)
    ]
    others = [each.stream for each in step.after.detached if each.session != session]
    return before == after and kept == others


def bounded(step: LeaseStep) -> bool:
    limits, detached = step.limits, [each.session for each in step.after.detached]
    if len(detached) > limits.detached_max:
        return False
    if any(detached.count(name) > limits.detached_per_session_max for name in detached):
        return False
    return all(
        sum(w.strategy is Strategy.ENQUEUE for w in record.waiting) <= limits.queue_max
        and len(record.late) <= LATE_MAX
        for _, record in step.after.sessions
    )


def counted(step: LeaseStep) -> bool:
    """Also the holder whose place is taken, unless it is dead."""
    after = {(each.session, each.stream) for each in step.after.detached}
    session = step.operation.session
    living = {(d.session, d.stream) for d in step.before.detached if not step.is_dead(d.seen_ms)}
    was = step.was.holder
    if was and step.let_in and not step.is_quarantined and not step.is_dead(was.seen_ms):
        living.add((session, was.stream))
    if isinstance(step.operation, Leave):
        living.discard((session, step.operation.stream))
    return living <= after


def identity(step: LeaseStep) -> bool:
    operation, stream = step.operation, step.operation.stream
    was, now = step.was.holder, step.now.holder
    interrupts = isinstance(operation, Register) and operation.strategy is Strategy.INTERRUPT
    if step.says_so_again or interrupts:
        return True
    if was is not None and was.stream != stream:
        kept = now is not None and now.stream == was.stream
        if kept and now is not None and (was.stop_ms is None) != (now.stop_ms is None):
            return False
        if not kept and step.let_in is None and not _is_forgotten(step, was):
            return False
    if step.answer.reply.word is Word.OVERDUE and isinstance(operation, Register | Poll):
        return True
    still = {each.stream for each in step.now.waiting} | {now.stream if now else ""}
    return all(each.stream in still for each in _living(step) if each.stream != stream)


def grace_goes_on(step: LeaseStep) -> bool:
    was, now = step.was.holder, step.now.holder
    if was is None or now is None or now.stream != was.stream or was.stop_ms is None:
        return True
    # A clock that was set back may make it earlier, never later.
    return now.stop_ms == min(was.stop_ms, step.now_ms)


def wait_is_bounded(step: LeaseStep) -> bool:
    reply, limits = step.answer.reply, step.limits
    if reply.word is not Word.WAITING:
        return True
    longest_ms = max(limits.wait_max_ms, limits.lease_ms)
    if step.is_quarantined:
        longest_ms = max(longest_ms, limits.quarantine_ms)
    return 0 < reply.wait_ms <= longest_ms


def told(step: LeaseStep) -> bool:
    messages = {(each.stream, each.told) for each in step.answer.messages}
    stream = step.operation.stream
    was, now = step.was.holder, step.now.holder
    if was is not None and now is not None and now.stream == was.stream:
        stopped = was.stop_ms is None and now.stop_ms is not None and now.why is not Why.OWN
        said = {each.told for each in step.answer.messages if each.stream == was.stream}
        if stopped and not said & {Told.SUPERSEDED, Told.CANCELLED}:
            return False
    still = {each.stream for each in step.now.waiting} | {now.stream if now else ""}
    thrown_out = {each.stream for each in _living(step)} - still
    if not isinstance(step.operation, Cancel):
        thrown_out.discard(stream)
    leave = {name for name, said in messages if said is not Told.FREE}
    if not thrown_out <= leave:
        return False
    # Who is next where the holder has left need not wait until it asks.
    left = isinstance(step.operation, Leave) and was is not None and was.stream == stream
    first = step.now.waiting[0].stream if left and step.now.waiting else None
    return first is None or (first, Told.FREE) in messages


def nothing_kept(step: LeaseStep) -> bool:
    return all(r.holder or r.waiting or r.late for _, r in step.after.sessions)


PREDICATES: dict[str, Predicate] = {
    "S1 alone": alone,
    "S1 dated": dated,
    "S1 stop_is_final": stop_is_final,
    "S1 consistent": consistent,
    "S1 settled": settled,
    "S4 newest_wins": newest_wins,
    "S4 in_order": in_order,
    "S4 repetition": repetition,
    "S4 reject_never_waits": reject_never_waits,
    "S5 fencing": fencing,
    "S6 isolation": isolation,
    "S7 bounded": bounded,
    "S7 counted": counted,
    "S8 identity": identity,
    "L1 grace_goes_on": grace_goes_on,
    "L1 wait_is_bounded": wait_is_bounded,
    "L2 told": told,
    "L3 nothing_kept": nothing_kept,
    # Last: what breaks another as well is named by that.
    "S3 named_on": named_on,
}


def violated(step: LeaseStep) -> str | None:
    """The name of the first that does not hold, or None."""
    return next((name for name, holds in PREDICATES.items() if not holds(step)), None)


def _living(step: LeaseStep) -> list[Waiting]:
    """Those that waited, and whose workers have asked within a lease."""
    return [each for each in step.was.waiting if not step.is_dead(each.seen_ms)]


def _is_forgotten(step: LeaseStep, was: Holder) -> bool:
    """Nobody waits for it, and its worker is dead."""
    return not step.now.waiting and step.is_dead(was.seen_ms)


def _numbers(record: SessionRecord) -> Iterable[int]:
    if record.holder is not None:
        yield record.holder.fencing_token
        yield record.holder.ticket
    for each in record.waiting:
        yield each.ticket
