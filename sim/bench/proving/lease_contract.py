"""What a step of the lease table may do to a session's lease, whatever else it does.

Read by Python of each step of production's `apply` (`breaks_contract`), and by z3, which shows that
no two gates are open where every step keeps it (`lease_unbounded.py`). A store that has lost writes
is not in it: that the quarantine is long enough is shown up to the cut-off, by `S1 settled`.
"""

from __future__ import annotations

from dataclasses import dataclass

from registry.lease_invariants import LeaseStep
from registry.lease_records import Leave, SessionRecord, Word
from sim.bench.proving.logic import Logic, PlainLogic, Term


@dataclass(frozen=True)
class Lease:
    """Of one session: whose it is, and how far it goes. Without a holder the rest says nothing."""

    is_held: Term
    holder: Term
    until_ms: Term
    closed: Term
    stop_ms: Term


@dataclass(frozen=True)
class LeaseChange:
    """by: whose operation it is. extends: whether the reply says that its lease goes on."""

    was: Lease
    now: Lease
    now_ms: Term
    by: Term
    extends: Term
    leaves: Term
    lease_ms: Term
    margin_ms: Term
    grace_ms: Term


def contract(logic: Logic, step: LeaseChange) -> Term:
    was, now = step.was, step.now
    same = logic.all_of(was.is_held, now.is_held, was.holder == now.holder)
    lasts = now.until_ms == step.now_ms + step.lease_ms
    is_over = step.now_ms >= was.until_ms + step.margin_ms
    had_its_grace = logic.all_of(was.closed, step.now_ms >= was.stop_ms + step.grace_ms)
    mine = logic.all_of(now.is_held, now.holder == step.by)

    def implies(premise: Term, conclusion: Term) -> Term:
        return logic.any_of(logic.no(premise), conclusion)

    may_follow = logic.any_of(logic.no(was.is_held), had_its_grace, is_over)
    return logic.all_of(
        implies(step.extends, logic.all_of(mine, lasts)),
        # Let in is who asks, in the place of nobody, of a closed one or of one whose time is over.
        implies(
            logic.all_of(now.is_held, logic.no(same)),
            logic.all_of(step.extends, may_follow, logic.no(now.closed)),
        ),
        # Else the holder's time is what it was, or extended by its own request; it alone closes.
        implies(
            same,
            logic.all_of(
                logic.any_of(now.until_ms == was.until_ms, step.extends),
                implies(was.closed, now.closed),
                implies(
                    logic.all_of(now.closed, logic.no(was.closed)),
                    logic.all_of(now.holder == step.by, logic.no(step.extends)),
                ),
            ),
        ),
        # A session is free where its holder leaves, or its time is over.
        implies(
            logic.all_of(was.is_held, logic.no(now.is_held)),
            logic.any_of(logic.all_of(step.leaves, step.by == was.holder), is_over),
        ),
    )


def breaks_contract(step: LeaseStep) -> bool:
    """Of a step by a clock that was not set back, on a store that has lost no writes."""
    limits, holder = step.limits, step.was.holder
    latest_ms = step.now_ms + limits.lease_ms
    if step.is_quarantined or step.generation != step.before.generation:
        return False
    if holder is not None and holder.until_ms > latest_ms:
        return False
    change = LeaseChange(
        was=_lease(step.was),
        now=_lease(step.now),
        now_ms=step.now_ms,
        by=step.operation.stream,
        extends=step.answer.reply.word in (Word.GRANTED, Word.OK),
        leaves=isinstance(step.operation, Leave),
        lease_ms=limits.lease_ms,
        margin_ms=limits.margin_ms,
        grace_ms=limits.grace_ms,
    )
    return not contract(PlainLogic((), ()), change)


def _lease(record: SessionRecord) -> Lease:
    holder = record.holder
    if holder is None:
        return Lease(False, "", 0, False, 0)
    return Lease(True, holder.stream, holder.until_ms, holder.closed, holder.stop_ms or 0)
