"""The lease with one safeguard removed: in its table, and on the worker's side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from registry.attempts import Judged
from registry.lease_records import (
    Holder,
    LeaseOperation,
    Leave,
    Register,
    Renew,
    Reply,
    Told,
    Word,
)
from registry.lease_rows import TABLE, Action, Situation
from registry.lease_state import LeaseState
from registry.lease_table import PERFORM, LeaseTable, Said, Step
from registry.states import Strategy
from server.stores import leased_registry
from server.stores.lease import Lease, NotLetIn
from server.stores.leased_registry import LeasedRegistry
from server.stores.store import StoreUnreachable, worker_of
from sim.bench.subjects.mutants.base import Break, Mutant, Patch


def put(patch: Patch, operation: type[LeaseOperation], situation: Situation, *row: Action) -> None:
    assert (operation, situation) in TABLE
    patch.setitem(TABLE, (operation, situation), row)


# ---- the table -------------------------------------------------------------------------------


def margin_is_not_waited_for(patch: Patch) -> None:
    """A lease is over for the store as soon as it is for a clock that goes like its own."""

    def free_ms(self: LeaseState, holder: Holder) -> int:
        return holder.until_ms

    patch.setattr(LeaseState, "_free_ms", free_ms)


def quarantine_keeps_nobody_out(patch: Patch) -> None:
    """A store that has lost writes lets another in beside the holder that it forgot."""
    patch.setattr(LeaseState, "_is_quarantined", lambda self, now_ms: False)


def generation_is_not_asked(patch: Patch) -> None:
    found = LeaseState._found

    def same(
        self: LeaseState, operation: LeaseOperation, now_ms: int, generation: str
    ) -> LeaseState:
        return found(self, operation, now_ms, self.generation)

    patch.setattr(LeaseState, "_found", same)


def stop_is_not_carried_by_renewals(patch: Patch) -> None:
    """Who misses the message of its stop is extended for ever."""
    put(patch, Renew, Situation.HOLDS_STOPPED, Action.EXTEND)


def newer_prompt_stops_no_holder(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_RUNS, Action.LET_WAIT, Action.ASK)


def ticket_order_is_lost(patch: Patch) -> None:
    """Who came last is the first in the queue."""
    queue_up = LeaseTable._queue_up

    def in_front(self: LeaseTable, step: Step, ticket: int, strategy: Strategy) -> None:
        queue_up(self, step, ticket, strategy)
        self._change(step, waiting=self._record(step.operation).waiting[::-1])

    patch.setattr(LeaseTable, "_queue_up", in_front)


def overtaken_goes_on_waiting(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_STOPS, Action.LET_WAIT, Action.ASK)


def the_living_are_pruned(patch: Patch) -> None:
    """Who has not asked for half a second is taken for dead."""

    def is_dead(self: LeaseState, seen_ms: int, now_ms: int) -> bool:
        return now_ms >= seen_ms + 500 and not self._is_quarantined(now_ms)

    patch.setattr(LeaseState, "_is_dead", is_dead)


def anybody_frees_the_session(patch: Patch) -> None:
    """A leave by one that no longer waits is taken for the holder's: the name is not compared."""

    def situation_of_named(self: LeaseState, operation: LeaseOperation) -> Situation:
        found = named(self, operation)
        is_leave = isinstance(operation, Leave)
        holder = self._record(operation).holder
        if is_leave and found is Situation.UNKNOWN and holder is not None:
            return Situation.HOLDS
        return found

    named = LeaseState._situation_of_named
    patch.setattr(LeaseState, "_situation_of_named", situation_of_named)


def fencing_token_does_not_follow_the_clock(patch: Patch) -> None:
    """What a fail-over has forgotten is given again."""
    found = LeaseState._found

    def with_last(
        self: LeaseState, operation: LeaseOperation, now_ms: int, generation: str
    ) -> LeaseState:
        table = found(self, operation, now_ms, generation)
        table.last = self.last
        return table

    def next_number(self: LeaseTable, now_ms: int) -> int:
        self.last += 1
        return self.last

    patch.setattr(LeaseState, "_found", with_last)
    patch.setattr(LeaseTable, "_next", next_number)


def late_holder_is_not_named(patch: Patch) -> None:
    """Whose place was taken is not said, so that nobody logs it."""
    take = LeaseTable._take

    def unnamed(self: LeaseTable, step: Step) -> Said:
        said = take(self, step)
        return tuple(replace(each, late=()) if isinstance(each, Reply) else each for each in said)

    patch.setitem(PERFORM, Action.TAKE, unnamed)


def late_holder_is_named_once(patch: Patch) -> None:
    """A grant that is asked for again, since its reply was lost, does not say so any more."""
    extend = LeaseTable._extend

    def unnamed(self: LeaseTable, step: Step) -> Said:
        said = extend(self, step)
        return tuple(replace(each, late=()) if isinstance(each, Reply) else each for each in said)

    patch.setitem(PERFORM, Action.EXTEND, unnamed)


def late_holder_is_named_to_its_taker_alone(patch: Patch) -> None:
    """Whether that one has logged it is not waited for."""
    take = LeaseTable._take

    def take_and_forget(self: LeaseTable, step: Step) -> Said:
        said = take(self, step)
        self._change(step, late=())
        return said

    patch.setitem(PERFORM, Action.TAKE, take_and_forget)


def each_that_leaves_says_that_it_has_logged(patch: Patch) -> None:
    """Also who never heard of its grant, or was turned away as it came."""
    make = Lease.__init__

    def logged(self: Lease, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        self.is_logged = True

    patch.setattr(Lease, "__init__", logged)


def next_one_is_let_in_by_a_message(patch: Patch) -> None:
    """The leave of a holder gives the session to who waits, which knows of it when it hears."""

    def hear(self: Lease, told: Told) -> None:
        heard(self, told)
        if told is Told.FREE and self.grant is None and self.end is None:
            self.grant = Reply(Word.GRANTED)
            self._deadline = self._clock() + self._lease_s

    heard = Lease.hear
    patch.setattr(Lease, "hear", hear)


def holder_that_left_keeps_its_session(patch: Patch) -> None:
    put(patch, Leave, Situation.HOLDS_STOPPED, Action.SAY_DONE)


# ---- the worker's side -----------------------------------------------------------------------


def gate_does_not_ask_the_clock(patch: Patch) -> None:
    """A worker that stood still goes on sending until somebody tells it."""
    is_open = property(lambda self: self.grant is not None and self.end is None)
    patch.setattr(Lease, "is_open", is_open)
    patch.setattr(Lease, "check", lambda self: self.is_open)


def lease_is_dated_from_the_reply(patch: Patch) -> None:
    """A reply that was on its way for long extends the lease beyond what the store gave."""

    def set_(self: Lease, name: str, value: object) -> None:
        if name == "_deadline" and value:
            value = self._clock() + self._lease_s
        object.__setattr__(self, name, value)

    patch.setattr(Lease, "__setattr__", set_)
    patch.setattr(Lease, "_comes_too_late", lambda self, reply, asked: False)


def worker_uses_the_margin(patch: Patch) -> None:
    """The rate of clocks is ignored: a lease lasts as long as the store waits."""

    def lease_s(self: Lease) -> float:
        limits = self._store.limits
        return (limits.lease_ms + limits.margin_ms) / 1000

    patch.setattr(Lease, "_lease_s", property(lease_s))


def unanswered_renewal_counts_as_granted(patch: Patch) -> None:
    ask = Lease._ask

    async def trusting(self: Lease, operation: LeaseOperation) -> Reply:
        try:
            return await ask(self, operation)
        except StoreUnreachable:
            if isinstance(operation, Renew) and not operation.closed:
                return Reply(Word.OK)
            raise

    patch.setattr(Lease, "_ask", trusting)


def stop_in_a_reply_is_not_heard(patch: Patch) -> None:
    """Only a message stops a stream: where it is lost, the stream goes on until its lease ends."""
    ask = Lease._ask

    async def deaf(self: Lease, operation: LeaseOperation) -> Reply:
        reply = await ask(self, operation)
        if isinstance(operation, Renew) and reply.word is Word.STOP and not operation.closed:
            raise StoreUnreachable("not heard")
        return reply

    patch.setattr(Lease, "_ask", deaf)


def gate_is_open_though_said_to_be_shut(patch: Patch) -> None:
    """The store is told that the gate is shut, and waits for the grace alone."""
    is_open = property(lambda self: self.grant is not None and self._clock() < self._deadline)
    patch.setattr(Lease, "is_open", is_open)


def local_table_comes_first(patch: Patch) -> None:
    """Streams of one worker wait for one another before they ask the store."""
    acquire = LeasedRegistry._acquire

    async def after_own(self: LeasedRegistry, held: Any) -> None:
        def older() -> list[Any]:
            return [
                each
                for each in self._held.values()
                if each.session == held.session and each.serial < held.serial
            ]

        while older():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await acquire(self, held)

    patch.setattr(LeasedRegistry, "_acquire", after_own)


def who_waits_gives_up_at_the_first_silence(patch: Patch) -> None:
    patch.setattr(Lease, "_is_dead", property(lambda self: True))


def renewals_are_too_rare(patch: Patch) -> None:
    """A lease ends though nothing has befallen its worker."""
    patch.setattr(Lease, "keep", _keep_rarely)


async def _keep_rarely(self: Lease) -> None:
    self._renew_s = self._lease_s * 2
    await _KEEP(self)


_KEEP = Lease.keep


def overtaken_registers_again(patch: Patch) -> None:
    """Who is told that a newer one came asks anew, and so stops the newer one."""
    acquire = Lease.acquire

    async def stubborn(self: Lease) -> Reply:
        try:
            return await acquire(self)
        except NotLetIn as exc:
            if exc.reply.word is not Word.GONE or exc.told is Told.CANCELLED or self._has_left:
                raise
            self._told = None
            return await acquire(self)

    patch.setattr(Lease, "acquire", stubborn)


def taker_logs_nothing(patch: Patch) -> None:
    """Upstream calls overlap, and no line says so."""
    patch.setattr(leased_registry, "TIMEOUT_ON_CANCEL", "prev_stream_passed_over")


def repetitions_are_known_per_worker(patch: Patch) -> None:
    """The store judges as if no other worker had told it of a prompt."""
    judged = LeaseState._judged

    def own_only(self: LeaseState, operation: Register, now_ms: int) -> Judged:
        before = self.asked
        mine = worker_of(operation.stream)
        own = (e for e in before.get(operation.session, ()) if worker_of(e.stream) == mine)
        self.asked = {operation.session: tuple(own)}
        try:
            return judged(self, operation, now_ms)
        finally:
            self.asked = before

    patch.setattr(LeaseState, "_judged", own_only)


# Who is killed in which scenario, by which property.
KILLED: tuple[tuple[Break, str, str], ...] = (
    (margin_is_not_waited_for, "slow_clock_partition", "S1 alone"),
    (quarantine_keeps_nobody_out, "fail_over", "S8 identity"),
    (generation_is_not_asked, "fail_over", "S1 settled"),
    (stop_is_not_carried_by_renewals, "messages_lost", "S1 stop_is_final"),
    (newer_prompt_stops_no_holder, "two_prompts", "S4 newest_wins"),
    (ticket_order_is_lost, "enqueued", "S4 in_order"),
    (overtaken_goes_on_waiting, "slow_cleanup", "S4 newest_wins"),
    (the_living_are_pruned, "slow_cleanup", "S8 identity"),
    (anybody_frees_the_session, "three_prompts", "S8 identity"),
    (fencing_token_does_not_follow_the_clock, "fail_over", "S5 fencing"),
    (late_holder_is_not_named, "too_slow_cleanup", "S3 named_on"),
    (late_holder_is_named_once, "grant_lost", "S3 named_on"),
    (late_holder_is_named_to_its_taker_alone, "taker_is_paused", "S3 named_on"),
    (each_that_leaves_says_that_it_has_logged, "taker_leaves", "S3 no_silent_overlap"),
    (next_one_is_let_in_by_a_message, "waiting_one_is_paused", "S1 one_gate"),
    (holder_that_left_keeps_its_session, "two_prompts", "L2 told"),
    (gate_does_not_ask_the_clock, "pause", "S1 one_gate"),
    (lease_is_dated_from_the_reply, "pause", "S1 one_gate"),
    (worker_uses_the_margin, "slow_clock_partition", "S1 one_gate"),
    (unanswered_renewal_counts_as_granted, "partition", "S1 one_gate"),
    (stop_in_a_reply_is_not_heard, "messages_lost", "L2 prompt_stop"),
    (gate_is_open_though_said_to_be_shut, "too_slow_cleanup", "L2 prompt_stop"),
    (local_table_comes_first, "alternating", "S8 identity"),
    (who_waits_gives_up_at_the_first_silence, "messages_lost", "a store that was away"),
    (renewals_are_too_rare, "messages_lost", "L2 prompt_stop"),
    (overtaken_registers_again, "three_prompts", "S8 identity"),
    (taker_logs_nothing, "too_slow_cleanup", "S3 no_silent_overlap"),
    (repetitions_are_known_per_worker, "repetition", "S8 identity"),
)

# What production does where a mutant breaks it from outside of any function of production's.
INSTEAD: dict[Break, tuple[tuple[Callable[..., object], str], ...]] = {
    lease_is_dated_from_the_reply: ((Lease._renew, "self._deadline = asked + self._lease_s"),),
}

CLUSTER_MUTANTS = tuple(
    Mutant("cluster", breaks, (scenario,), INSTEAD.get(breaks, ()))
    for breaks, scenario, _ in KILLED
)
