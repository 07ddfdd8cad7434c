"""The lease table: its rows, that its properties are inductive, and that each can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

import registry.lease_table as lease_table_module
from registry.errors import IllegalOperation
from registry.lease_invariants import PREDICATES, SENTENCES, LeaseStep, violated
from registry.lease_records import (
    LATE_KEEP_MS,
    Cancel,
    Holder,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Message,
    Poll,
    Register,
    Renew,
    SessionRecord,
    Told,
    Why,
    Word,
)
from registry.lease_rows import TABLE, Action, Situation
from registry.lease_state import LeaseState, LimitsDiffer
from registry.lease_table import PERFORM, LeaseTable, Step
from registry.states import Strategy
from sim.bench.proving.induction import induct
from sim.bench.proving.lease_states import LIMITS, SMALL, WHOLE, all_steps, lease_table
from sim.exploration.verdict import Verdict

pytestmark = pytest.mark.once

ENQUEUE, REJECT = Strategy.ENQUEUE, Strategy.REJECT


# ---- the properties are inductive ------------------------------------------------------------


@pytest.mark.thorough
def test_the_properties_are_inductive() -> None:
    """Every operation on every state of the small cut-off keeps them, and all rows are taken."""
    found = induct(lease_table(SMALL))
    assert found.verdict is Verdict.PROVED, found


@pytest.mark.thorough
def test_the_properties_are_inductive_up_to_the_whole_cut_off() -> None:
    """The same with all sides of all times, longer queues and more that are detached."""
    found = induct(lease_table(WHOLE))
    assert found.verdict is Verdict.PROVED, found


def test_every_predicate_has_its_sentence() -> None:
    """What is checked and what is promised have the same names."""
    assert set(PREDICATES) == set(SENTENCES)


# ---- each property can be broken: mutants ----------------------------------------------------

Patch = pytest.MonkeyPatch


def put(patch: Patch, operation: type[LeaseOperation], situation: Situation, *row: Action) -> None:
    assert (operation, situation) in TABLE
    patch.setitem(TABLE, (operation, situation), row)


def margin_is_not_waited_for(patch: Patch) -> None:
    free_ms = LeaseState._free_ms
    patch.setattr(
        LeaseState,
        "_free_ms",
        lambda self, holder: holder.until_ms if not holder.closed else free_ms(self, holder),
    )


def grace_is_not_waited_for(patch: Patch) -> None:
    free_ms = LeaseState._free_ms
    patch.setattr(
        LeaseState,
        "_free_ms",
        lambda self, holder: holder.stop_ms if holder.closed else free_ms(self, holder),
    )


def quarantine_keeps_nobody_out(patch: Patch) -> None:
    patch.setattr(LeaseState, "_is_quarantined", lambda self, now_ms: False)


def generation_is_not_asked(patch: Patch) -> None:
    apply = LeaseTable.apply
    patch.setattr(
        LeaseTable,
        "apply",
        lambda self, operation, now_ms, generation: apply(self, operation, now_ms, self.generation),
    )


def forgotten_numbers_are_given_again(patch: Patch) -> None:
    found = LeaseState._found

    def with_last(
        self: LeaseState, operation: LeaseOperation, now_ms: int, generation: str
    ) -> LeaseState:
        met = found(self, operation, now_ms, generation)
        met.last = self.last
        return met

    patch.setattr(LeaseState, "_found", with_last)


def quarantine_forgets_the_lag(patch: Patch) -> None:
    patch.setattr(LeaseLimits, "quarantine_ms", property(lambda self: self.lease_ms + 5))


def stop_is_extended(patch: Patch) -> None:
    patch.setitem(PERFORM, Action.KEEP_STOPPING, PERFORM[Action.EXTEND])


def newer_prompt_gives_the_stop_again(patch: Patch) -> None:
    row = TABLE[Register, Situation.HOLDER_STOPS]
    put(patch, Register, Situation.HOLDER_STOPS, Action.STOP_HOLDER, *row)


def newer_prompt_stops_nobody(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_RUNS, Action.LET_WAIT, Action.ASK)


def overtaken_goes_on_waiting(patch: Patch) -> None:
    put(patch, Register, Situation.HOLDER_STOPS, Action.LET_WAIT, Action.ASK)


def overtaken_is_not_told(patch: Patch) -> None:
    supersede = PERFORM[Action.SUPERSEDE_WAITING]
    patch.setitem(PERFORM, Action.SUPERSEDE_WAITING, lambda table, step: supersede(table, step)[:0])


def stopped_is_not_told(patch: Patch) -> None:
    stop = LeaseTable._stop
    patch.setattr(LeaseTable, "_stop", lambda self, step, why: stop(self, step, why)[:0])


def place_in_the_order_of_tickets_is_lost(patch: Patch) -> None:
    queue_up = LeaseTable._queue_up

    def behind_all(self: LeaseTable, step: Step, ticket: int, strategy: Strategy) -> None:
        before = self._record(step.operation).waiting
        queue_up(self, step, ticket, strategy)
        new = next(w for w in self._record(step.operation).waiting if w not in before)
        self._change(step, waiting=(*before, new))

    patch.setattr(LeaseTable, "_queue_up", behind_all)


def another_than_the_first_is_let_in(patch: Patch) -> None:
    take = PERFORM[Action.TAKE]

    def take_last(table: LeaseTable, step: Step) -> object:
        table._change(step, waiting=table._record(step.operation).waiting[::-1])
        return take(table, step)

    patch.setitem(PERFORM, Action.TAKE, take_last)


def fencing_token_does_not_follow_the_clock(patch: Patch) -> None:
    def next_number(self: LeaseTable, now_ms: int) -> int:
        self.last += 1
        return self.last

    patch.setattr(LeaseTable, "_next", next_number)


def the_living_are_dropped(patch: Patch) -> None:
    patch.setattr(
        LeaseState,
        "_is_dead",
        lambda self, seen_ms, now_ms: now_ms > seen_ms + LIMITS.lease_ms,
    )


def the_dead_are_counted(patch: Patch) -> None:
    patch.setattr(LeaseState, "_is_dead", lambda self, seen_ms, now_ms: False)


def late_holder_is_not_counted(patch: Patch) -> None:
    patch.setitem(PERFORM, Action.DETACH_HOLDER, PERFORM[Action.DROP_HOLDER])


def limit_of_detached_is_not_asked(patch: Patch) -> None:
    patch.setattr(LeaseState, "_has_room", lambda self, session: True)


def queue_has_no_limit(patch: Patch) -> None:
    put(patch, Register, Situation.QUEUE_FULL, Action.LET_WAIT, Action.ASK)


def older_lease_comes_back(patch: Patch) -> None:
    situation_of = LeaseState._situation_of_renewal

    def any_token(self: LeaseState, operation: Renew, named: Situation, now_ms: int) -> Situation:
        found = situation_of(self, operation, named, now_ms)
        return Situation.LEASE_FORGOTTEN if found is Situation.UNKNOWN else found

    patch.setattr(LeaseState, "_situation_of_renewal", any_token)


def anybody_frees_the_session(patch: Patch) -> None:
    def drop(table: LeaseTable, step: Step) -> object:
        table._change(step, holder=None)
        return PERFORM[Action.SAY_NOTHING](table, step)

    patch.setitem(PERFORM, Action.LEAVE_QUEUE, drop)


def anybody_is_cancelled(patch: Patch) -> None:
    def stop_holder(table: LeaseTable, step: Step) -> object:
        holder = table._record(step.operation).holder
        return table._stop(step, Why.CANCELLED) if holder and not holder.stop_ms else ()

    patch.setitem(PERFORM, Action.THROW_OUT, stop_holder)


def rejected_waits(patch: Patch) -> None:
    put(patch, Register, Situation.SESSION_BUSY, Action.LET_WAIT, Action.ASK)


def who_is_next_is_not_told(patch: Patch) -> None:
    put(patch, Leave, Situation.HOLDS, Action.FREE, Action.SAY_DONE)


def idle_session_is_kept(patch: Patch) -> None:
    patch.setattr(SessionRecord, "is_idle", property(lambda self: False))


def other_sessions_are_touched(patch: Patch) -> None:
    def put_everywhere(self: LeaseState, operation: LeaseOperation, record: SessionRecord) -> None:
        self.sessions[operation.session] = record
        self.sessions = {name: record for name in self.sessions}

    patch.setattr(LeaseState, "_put", put_everywhere)


def late_is_named_to_its_taker_alone(patch: Patch) -> None:
    take = PERFORM[Action.TAKE]

    def take_and_forget(table: LeaseTable, step: Step) -> object:
        said = take(table, step)
        table._change(step, left="", late=())
        return said

    patch.setitem(PERFORM, Action.TAKE, take_and_forget)


def dead_holder_that_nobody_waits_for_is_not_named(patch: Patch) -> None:
    def drop(table: LeaseTable, step: Step) -> object:
        table._change(step, holder=None)
        return ()

    patch.setitem(PERFORM, Action.FORGET_DEAD, drop)


def who_leaves_counts_as_having_logged(patch: Patch) -> None:
    def note(table: LeaseTable, step: Step) -> object:
        table._change(step, left="", late=())
        return ()

    patch.setitem(PERFORM, Action.NOTE_LOGGED, note)


def what_was_logged_is_named_again(patch: Patch) -> None:
    patch.setitem(PERFORM, Action.NOTE_LOGGED, lambda table, step: ())


def late_are_named_without_limit(patch: Patch) -> None:
    patch.setattr(lease_table_module, "LATE_MAX", 99)


MUTANTS: dict[Callable[[Patch], None], str] = {
    margin_is_not_waited_for: "S1 alone",
    grace_is_not_waited_for: "S1 alone",
    quarantine_keeps_nobody_out: "S1 alone",
    older_lease_comes_back: "S1 alone",
    another_than_the_first_is_let_in: "S1 dated",
    stop_is_extended: "S1 stop_is_final",
    generation_is_not_asked: "S1 settled",
    quarantine_forgets_the_lag: "S1 settled",
    late_is_named_to_its_taker_alone: "S3 named_on",
    dead_holder_that_nobody_waits_for_is_not_named: "S3 named_on",
    who_leaves_counts_as_having_logged: "S3 named_on",
    what_was_logged_is_named_again: "S3 named_on",
    late_are_named_without_limit: "S7 bounded",
    newer_prompt_stops_nobody: "S4 newest_wins",
    overtaken_goes_on_waiting: "S4 newest_wins",
    place_in_the_order_of_tickets_is_lost: "S4 in_order",
    rejected_waits: "S4 reject_never_waits",
    fencing_token_does_not_follow_the_clock: "S5 fencing",
    forgotten_numbers_are_given_again: "S5 fencing",
    other_sessions_are_touched: "S6 isolation",
    limit_of_detached_is_not_asked: "S7 bounded",
    queue_has_no_limit: "S7 bounded",
    the_living_are_dropped: "S7 counted",
    late_holder_is_not_counted: "S7 counted",
    the_dead_are_counted: "S6 isolation",
    anybody_frees_the_session: "S8 identity",
    anybody_is_cancelled: "S8 identity",
    newer_prompt_gives_the_stop_again: "L1 grace_goes_on",
    overtaken_is_not_told: "L2 told",
    stopped_is_not_told: "L2 told",
    who_is_next_is_not_told: "L2 told",
    idle_session_is_kept: "L3 nothing_kept",
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_each_mutant_breaks_its_property(
    mutant: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table with one safeguard less has a step after which the named property is false."""
    mutant(monkeypatch)
    holds = PREDICATES[MUTANTS[mutant]]
    assert any(not holds(step) for step in all_steps(SMALL))


# ---- rows, by histories ----------------------------------------------------------------------


@dataclass
class Workers:
    """A table with the limits of production, asked at times."""

    table: LeaseTable
    generation: str = "g"

    @classmethod
    def new(cls) -> Workers:
        return cls(LeaseTable(LeaseLimits(), generation="g"))

    def ask(self, now_ms: int, operation: LeaseOperation) -> tuple[str, list[str]]:
        before = self.table.snapshot()
        answer = self.table.apply(operation, now_ms, self.generation)
        after, limits = self.table.snapshot(), self.table.limits
        step = LeaseStep(before, operation, now_ms, self.generation, answer, after, limits)
        assert violated(step) is None
        self.reply = answer.reply
        return answer.reply.word.value, [f"{m.stream} {m.told.value}" for m in answer.messages]

    @property
    def holder(self) -> Holder:
        holder = self.table.sessions["s"].holder
        assert holder is not None
        return holder


def test_the_newest_is_let_in_when_the_older_has_left() -> None:
    """A prompt on another worker stops the holder, waits, and takes its place when that leaves."""
    workers = Workers.new()
    assert workers.ask(0, Register("s", "v/1")) == ("granted", [])
    assert workers.ask(10, Register("s", "w/2")) == ("waiting", ["v/1 superseded"])
    assert workers.ask(11, Renew("s", "v/1", 2, 1, closed=True)) == ("stop", [])
    assert workers.reply.why is Why.SUPERSEDED
    assert workers.ask(12, Leave("s", "v/1")) == ("done", ["w/2 free"])
    assert workers.ask(13, Poll("s", "w/2", 10)) == ("granted", [])
    assert (workers.reply.left, workers.reply.late) == ("v/1", ())
    assert workers.reply.fencing_token == 13


def test_a_stopped_holder_with_a_closed_gate_is_waited_for_a_grace() -> None:
    """Then it is detached, its taker hears of it, and it is counted as long as it renews."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(10, Register("s", "w/2"))
    token, ticket = workers.holder.fencing_token, workers.holder.ticket
    workers.ask(20, Renew("s", "v/1", token, ticket, closed=True))
    assert workers.ask(2009, Poll("s", "w/2", 10)) == ("waiting", [])
    assert workers.reply.wait_ms == 1
    assert workers.ask(2010, Poll("s", "w/2", 10)) == ("granted", [])
    assert (workers.reply.left, workers.reply.late) == ("", ("v/1",))
    assert workers.ask(3000, Renew("s", "v/1", token, ticket, closed=True)) == ("detached", [])
    assert len(workers.table.detached) == 1
    assert workers.ask(3001, Leave("s", "v/1")) == ("done", [])
    assert workers.table.detached == {}


def test_a_dead_holder_is_replaced_once_its_lease_and_the_margin_are_over() -> None:
    """Not a millisecond earlier; and it is lost, should it come back."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    token, ticket = workers.holder.fencing_token, workers.holder.ticket
    assert workers.ask(6499, Register("s", "w/2"))[0] == "waiting"
    assert workers.ask(6500, Poll("s", "w/2", 6499)) == ("granted", [])
    assert (workers.reply.left, workers.reply.late) == ("", ("v/1",))
    assert workers.ask(6600, Renew("s", "v/1", token, ticket)) == ("lost", [])
    assert workers.table.detached == {}


def test_who_is_late_is_named_until_somebody_has_logged_it() -> None:
    """A taker that stands still before it logs hands on whom it took over, and is named itself.

    Found by chaos: two processes stood still, one after the other, and nobody logged the first.
    """
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    assert workers.ask(6500, Register("s", "w/2"))[0] == "granted"
    assert workers.reply.late == ("v/1",)
    assert workers.ask(13_000, Register("s", "x/3"))[0] == "granted"
    assert workers.reply.late == ("v/1", "w/2")
    token, ticket = workers.reply.fencing_token, workers.holder.ticket
    workers.ask(13_001, Renew("s", "x/3", token, ticket))
    workers.ask(13_002, Register("s", "y/4"))
    workers.ask(13_003, Leave("s", "x/3", logged=True))
    workers.ask(13_004, Poll("s", "y/4", 13_002))
    assert (workers.reply.left, workers.reply.late) == ("x/3", ())


def test_an_idle_session_is_kept_while_somebody_is_to_be_logged() -> None:
    """Its taker left and did not know of its grant: the next one is told, if it comes in a day."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(6500, Register("s", "w/2"))
    workers.ask(6501, Leave("s", "w/2"))
    before = workers.table.snapshot()
    assert workers.ask(7000, Register("s", "x/3")) == ("granted", [])
    assert workers.reply.late == ("v/1",)
    workers.ask(7001, Leave("s", "x/3", logged=True))
    assert workers.table.snapshot().sessions == ()
    workers.table.restore(before)
    assert workers.ask(6500 + LATE_KEEP_MS, Register("s", "x/3")) == ("granted", [])
    assert workers.reply.late == ()


def test_a_dead_holder_that_is_forgotten_is_named_to_the_next() -> None:
    """Its worker may only stand still, with its call to Ollama."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    assert workers.ask(6500, Poll("s", "w/9", 1)) == ("gone", [])
    assert workers.ask(6501, Register("s", "w/2")) == ("granted", [])
    assert workers.reply.late == ("v/1",)


def test_a_lost_reply_is_asked_for_again() -> None:
    """A register, a poll and a leave have no second effect, and the reply is the same."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(10, Register("s", "w/2"))
    first = workers.reply
    assert workers.ask(10, Register("s", "w/2")) == ("waiting", [])
    assert workers.reply == first
    workers.ask(20, Leave("s", "v/1"))
    assert workers.ask(21, Leave("s", "v/1")) == ("nothing", [])
    workers.ask(22, Poll("s", "w/2", 10))
    first = workers.reply
    assert workers.ask(22, Register("s", "w/2")) == ("granted", [])
    assert workers.reply == first


def test_a_store_that_lost_its_writes_lets_nobody_in_until_all_have_said_so_again() -> None:
    """After a fail-over holder and waiting stream are as they were, whoever asks first."""
    for order in ((0, 1), (1, 0)):
        workers = Workers.new()
        workers.ask(0, Register("s", "v/1"))
        token, ticket = workers.holder.fencing_token, workers.holder.ticket
        workers.ask(10, Register("s", "w/2"))
        workers.table, workers.generation = LeaseTable(LeaseLimits(), generation="g"), "another"
        again = (Renew("s", "v/1", token, ticket), Poll("s", "w/2", 10))
        for number in order:
            workers.ask(20, again[number])
        assert workers.holder.stop_ms == 20
        assert workers.ask(21, Register("t", "w/3"))[0] == "waiting"
        assert workers.ask(22, Register("u", "w/4", REJECT))[0] == "unsettled"
        workers.ask(30, Leave("s", "v/1"))
        assert workers.ask(6519, Poll("s", "w/2", 10))[0] == "waiting"
        assert workers.ask(6520, Poll("s", "w/2", 10))[0] == "granted"
        assert workers.reply.fencing_token > token


def test_a_later_grant_that_was_forgotten_comes_back_before_an_older_one() -> None:
    """The store remembers the older holder: who has the greater fencing token takes its place."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    old = workers.table.snapshot()
    workers.ask(10, Register("s", "w/2"))
    workers.ask(20, Leave("s", "v/1"))
    workers.ask(30, Poll("s", "w/2", 10))
    workers.table.restore(old)
    workers.generation = "another"
    assert workers.ask(40, Renew("s", "w/2", 30, 10)) == ("ok", [])
    assert workers.ask(41, Renew("s", "v/1", 1, 0)) == ("lost", [])


def test_the_queue_goes_on_in_order_and_a_dead_stream_in_it_holds_up_nobody() -> None:
    """Enqueued streams stop nobody; the second is let in where the first one's worker is gone."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    token, ticket = workers.holder.fencing_token, workers.holder.ticket
    assert workers.ask(1, Register("s", "w/2", ENQUEUE)) == ("waiting", [])
    assert workers.ask(2, Register("s", "x/3", ENQUEUE)) == ("waiting", [])
    for now_ms in (1500, 3000, 4500, 6000):
        assert workers.ask(now_ms, Renew("s", "v/1", token, ticket))[0] == "ok"
        workers.ask(now_ms, Poll("s", "x/3", 2, ENQUEUE))
    assert workers.ask(6600, Leave("s", "v/1")) == ("done", ["x/3 free"])
    assert workers.ask(6601, Poll("s", "x/3", 2, ENQUEUE)) == ("granted", [])
    assert workers.ask(6602, Register("s", "y/4", REJECT)) == ("busy", [])


def test_at_the_limit_a_late_holder_keeps_its_session_until_it_leaves() -> None:
    """Who waits is refused, as are later ones; a dead one is no longer late."""
    workers = Workers(LeaseTable(LeaseLimits(detached_per_session_max=0), generation="g"))
    workers.ask(0, Register("s", "v/1"))
    token, ticket = workers.holder.fencing_token, workers.holder.ticket
    workers.ask(10, Register("s", "w/2"))
    workers.ask(11, Register("s", "x/3", ENQUEUE))
    workers.ask(20, Renew("s", "v/1", token, ticket, closed=True))
    assert workers.ask(2010, Poll("s", "w/2", 10)) == ("overdue", ["x/3 refused"])
    assert workers.ask(2011, Register("s", "w/4")) == ("overdue", [])
    assert workers.ask(6520, Register("s", "w/5")) == ("granted", [])


def test_a_clock_that_was_set_back_keeps_nobody_out_for_longer_than_a_lease() -> None:
    """A lease that ends an hour from now is one of a clock that was an hour ahead."""
    workers = Workers.new()
    workers.ask(3_600_000, Register("s", "v/1"))
    assert workers.ask(0, Register("s", "w/2")) == ("waiting", ["v/1 superseded"])
    assert workers.reply.wait_ms == 6500
    ticket = workers.reply.ticket
    assert workers.ask(6499, Poll("s", "w/2", ticket))[0] == "waiting"
    assert workers.ask(6500, Poll("s", "w/2", ticket))[0] == "granted"
    assert workers.reply.fencing_token > 3_600_000


def test_who_is_cancelled_is_told_and_a_waiting_one_is_gone() -> None:
    """A cancel by name reaches holder and queue, and says whether it did anything."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(1, Register("s", "w/2", ENQUEUE))
    assert workers.ask(2, Cancel("s", "w/2")) == ("done", ["w/2 cancelled"])
    assert workers.ask(3, Poll("s", "w/2", 1, ENQUEUE)) == ("gone", [])
    assert workers.ask(4, Cancel("s", "v/1")) == ("done", ["v/1 cancelled"])
    assert workers.ask(5, Cancel("s", "v/1")) == ("nothing", [])
    assert workers.ask(6, Cancel("s", "v/9")) == ("nothing", [])


def test_an_illegal_operation_raises_and_changes_nothing() -> None:
    """Who was let in once, and is detached, cannot register under the same name."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(10, Register("s", "w/2"))
    workers.ask(20, Renew("s", "v/1", 1, 0, closed=True))
    token, ticket = workers.holder.fencing_token, workers.holder.ticket
    workers.ask(21, Renew("s", "v/1", token, ticket, closed=True))
    workers.ask(2010, Poll("s", "w/2", 10))
    before = workers.table.snapshot()
    with pytest.raises(IllegalOperation, match=r"v/1.* is not possible: it is detached"):
        workers.ask(2011, Register("s", "v/1"))
    assert workers.table.snapshot() == before


def test_other_limits_are_refused_while_a_lease_that_was_given_under_them_may_run() -> None:
    """And taken over afterwards, so that settings can be changed by starting all workers anew."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    before = workers.table.snapshot()
    other = LeaseTable(LeaseLimits(grace_ms=3000), generation="g")
    other.restore(before)
    with pytest.raises(LimitsDiffer, match=r": grace_ms 3000 \(others 2000\); .*wait 6499 ms"):
        other.apply(Register("t", "w/2"), 1, "g")
    assert other.snapshot() == before
    other.apply(Register("t", "w/2"), 6500, "g")
    assert other.snapshot().limits_text == LeaseLimits(grace_ms=3000).text


@pytest.mark.parametrize("wrong", [{"lease_ms": 0}, {"grace_ms": -1}, {"queue_max": -1}])
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    """No limit is negative, and a lease lasts some time."""
    with pytest.raises(ValueError, match="negative"):
        LeaseLimits(**wrong)


def test_the_state_that_is_kept_is_the_whole_state() -> None:
    """A table that was restored from a snapshot answers as the one that it was taken of."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    workers.ask(10, Register("s", "w/2"))
    other = LeaseTable(LeaseLimits())
    other.restore(workers.table.snapshot())
    for table in (workers.table, other):
        table.apply(Leave("s", "v/1"), 20, "g")
    assert other.snapshot() == workers.table.snapshot()
    assert isinstance(other.snapshot(), LeaseSnapshot)
    assert replace(other.snapshot(), last=0) != workers.table.snapshot()


def test_a_message_names_who_is_to_be_woken() -> None:
    """By the stream's name, which begins with its worker's."""
    workers = Workers.new()
    workers.ask(0, Register("s", "v/1"))
    answer = workers.table.apply(Register("s", "w/2"), 10, "g")
    assert answer.messages == (Message("v/1", Told.SUPERSEDED),)
    assert answer.reply.word is Word.WAITING
