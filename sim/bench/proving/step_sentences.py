"""What holds of each step of the model, and that its counters count; in one logic as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from registry.operations import Close, Ended, GraceExpired, Register
from registry.states import Strategy
from sim.bench.proving.logic import Term
from sim.bench.proving.model import Asked, Reading
from sim.bench.proving.sentences import ACTIVE, DETACHED, OVERDUE, STOPPING, WAITING, implies


@dataclass(frozen=True)
class Change:
    """before and after, in the same logic, and what was asked.

    moved: those that may have come or left alone: who is named, and who is next.
    """

    before: Reading
    asked: Asked
    after: Reading
    moved: tuple[Term, ...]

    @property
    def session(self) -> Term:
        asked = self.asked
        return asked.session if asked.kind is Register else self.before.model.session(asked.stream)

    def became_active(self, stream: Term) -> Term:
        logic = self.before.logic
        return logic.all_of(
            self.after.is_in(stream, ACTIVE), logic.no(self.before.is_in(stream, ACTIVE))
        )


StepSentence = Callable[[Change], Term]


def fencing_grows(step: Change) -> Term:
    before, after = step.before, step.after
    return before.logic.each_stream(
        1,
        lambda t: implies(before, step.became_active(t))(
            after.model.fencing_token(t) > before.model.fencing_token_last
        ),
    )


def oldest_next(step: Change) -> Term:
    before, after = step.before, step.after
    m = after.model
    return before.logic.each_stream(
        2,
        lambda t, u: implies(
            before,
            step.became_active(t),
            before.is_in(u, WAITING),
            m.session(t) == m.session(u),
            before.logic.no(t == u),
        )(m.serial(u) >= m.serial(t)),
    )


def overtaken_never_starts(step: Change) -> Term:
    before, after = step.before, step.after
    m = after.model
    return before.logic.each_stream(
        2,
        lambda t, u: implies(
            before,
            step.became_active(t),
            before.is_in(u, WAITING),
            before.asks_to(Strategy.INTERRUPT, u),
            m.session(t) == m.session(u),
            before.logic.no(t == u),
        )(m.serial(u) <= m.serial(t)),
    )


def isolation(step: Change) -> Term:
    if step.asked.kind is Close:
        return step.before.logic.all_of()
    before, after, logic = step.before.model, step.after.model, step.before.logic
    fields = ("state", "strategy", "serial", "fencing_token", "grace_deadline", "wait_deadline")

    def same(t: Term) -> Term:
        return logic.all_of(*(getattr(before, f)(t) == getattr(after, f)(t) for f in fields))

    def is_there(here: Reading, t: Term) -> Term:
        return logic.all_of(here.is_known(t), here.model.session(t) == step.session)

    return logic.each_stream(
        1,
        lambda t: logic.any_of(
            is_there(step.before, t), is_there(step.after, t), t == step.asked.stream, same(t)
        ),
    )


def identity(step: Change) -> Term:
    before, after, logic, asked = step.before, step.after, step.before.logic, step.asked
    if asked.kind is Close:
        return logic.all_of()
    may_end = asked.kind in (Ended, GraceExpired)

    def kept(t: Term) -> Term:
        stops = logic.all_of(*(here.is_in(t, STOPPING, OVERDUE) for here in (before, after)))
        same = logic.any_of(stops, before.model.state(t) == after.model.state(t))
        if may_end:
            return logic.any_of(same, before.is_in(t, WAITING))
        if asked.kind is Register:
            interrupts = asked.strategy == logic.value(Strategy.INTERRUPT)
            return logic.any_of(same, interrupts)
        return same

    return logic.each_stream(
        1, lambda t: logic.any_of(t == asked.stream, logic.no(before.is_known(t)), kept(t))
    )


def grace_goes_on(step: Change) -> Term:
    before, after, logic = step.before, step.after, step.before.logic
    was, now = before.model.grace_deadline, after.model.grace_deadline
    return logic.each_stream(
        1,
        lambda t: logic.any_of(
            *(logic.no(here.is_known(t)) for here in (before, after)),
            was(t) == 0,
            now(t) == was(t),
        ),
    )


STEPS: dict[str, StepSentence] = {
    "S4 newest_wins (step)": overtaken_never_starts,
    "S4 oldest_next": oldest_next,
    "S5 fencing (step)": fencing_grows,
    "S6 isolation": isolation,
    "S8 identity": identity,
    "L1 admission (step)": grace_goes_on,
}


# ---- the counters count ----------------------------------------------------------------------
#
# A counter changes as its set does: by one with one stream, or to 0 as nobody is left. So each is
# the number of its set in every state: |S ∪ {x}| = |S| + 1 where x was not in S.


def _is_enqueued(here: Reading, t: Term) -> Term:
    return here.logic.all_of(here.is_in(t, WAITING), here.asks_to(Strategy.ENQUEUE, t))


def _is_detached(here: Reading, t: Term) -> Term:
    return here.is_in(t, DETACHED)


def counts_enqueued(step: Change) -> Term:
    was, now = step.before.model.enqueued, step.after.model.enqueued
    return step.before.logic.each_session(lambda z: _counts(step, z, _is_enqueued, was(z), now(z)))


def counts_detached(step: Change) -> Term:
    was, now = step.before.model.detached, step.after.model.detached
    return step.before.logic.each_session(lambda z: _counts(step, z, _is_detached, was(z), now(z)))


def counts_detached_in_all(step: Change) -> Term:
    was, now = step.before.model.detached_in_all, step.after.model.detached_in_all
    return _counts(step, None, _is_detached, was, now)


def _counts(
    step: Change,
    session: Term | None,
    is_counted: Callable[[Reading, Term], Term],
    was: Term,
    now: Term,
) -> Term:
    logic = step.before.logic

    def within(here: Reading, t: Term) -> Term:
        found = is_counted(here, t)
        return found if session is None else logic.all_of(found, here.model.session(t) == session)

    def same_but(*changed: Term) -> Term:
        return logic.each_stream(
            1,
            lambda t: logic.any_of(
                *(t == x for x in changed), within(step.before, t) == within(step.after, t)
            ),
        )

    def by_one(x: Term) -> Term:
        came = logic.all_of(logic.no(within(step.before, x)), within(step.after, x), now == was + 1)
        left = logic.all_of(within(step.before, x), logic.no(within(step.after, x)), now == was - 1)
        return logic.all_of(logic.any_of(came, left), same_but(x))

    nobody = logic.each_stream(1, lambda t: logic.no(within(step.after, t)))
    return logic.any_of(
        logic.all_of(now == was, same_but()),
        *(by_one(x) for x in step.moved),
        logic.all_of(nobody, now == 0),
    )


COUNTING: dict[str, StepSentence] = {
    "the number of those that are enqueued is right": counts_enqueued,
    "the number of those that are detached in a session is right": counts_detached,
    "the number of those that are detached in all is right": counts_detached_in_all,
}
