"""What holds of the model: the project's invariants, and what makes them inductive, in one logic.

`conformance.py` compares those that are named as in `registry/invariants.py` with the predicates
there, on good states and bad ones.
"""

from __future__ import annotations

from collections.abc import Callable

from registry.states import Strategy
from registry.table import Situation
from sim.bench.proving.logic import Term
from sim.bench.proving.model import HOLDS, Reading

ACTIVE, WAITING, STOPPING = Situation.ACTIVE, Situation.WAITING, Situation.STOPPING
OVERDUE, DETACHED, UNKNOWN = Situation.OVERDUE, Situation.DETACHED, Situation.UNKNOWN

Sentence = Callable[[Reading], Term]


def implies(here: Reading, *premises: Term) -> Callable[[Term], Term]:
    logic = here.logic
    return lambda conclusion: logic.any_of(logic.no(logic.all_of(*premises)), conclusion)


# ---- what makes them inductive ---------------------------------------------------------------


def holders_hold(here: Reading) -> Term:
    m, logic = here.model, here.logic
    return logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, *HOLDS))(
            logic.all_of(m.is_held(m.session(t)), m.holder(m.session(t)) == t)
        ),
    )


def held_by_a_holder(here: Reading) -> Term:
    m, logic = here.model, here.logic
    return logic.each_session(
        lambda z: implies(here, m.is_held(z))(
            logic.all_of(here.is_in(m.holder(z), *HOLDS), m.session(m.holder(z)) == z)
        )
    )


def waits_for_a_holder_in_its_grace(here: Reading) -> Term:
    m, logic = here.model, here.logic

    def sentence(t: Term) -> Term:
        z = m.session(t)
        return implies(here, here.is_in(t, WAITING))(
            logic.all_of(m.is_held(z), here.is_in(m.holder(z), ACTIVE, STOPPING))
        )

    return logic.each_stream(1, sentence)


def interrupts_a_stopping_one(here: Reading) -> Term:
    m = here.model

    def sentence(t: Term) -> Term:
        interrupts = here.asks_to(Strategy.INTERRUPT, t)
        return implies(here, here.is_in(t, WAITING), interrupts)(
            here.is_in(m.holder(m.session(t)), STOPPING)
        )

    return here.logic.each_stream(1, sentence)


def interrupts_first(here: Reading) -> Term:
    """Of those that wait none is older than one that interrupts."""
    m = here.model
    return here.logic.each_stream(
        2,
        lambda t, u: implies(
            here,
            here.is_in(t, WAITING),
            here.is_in(u, WAITING),
            m.session(t) == m.session(u),
            here.asks_to(Strategy.INTERRUPT, t),
        )(m.serial(t) <= m.serial(u)),
    )


def who_waits_is_newest(here: Reading) -> Term:
    m, logic = here.model, here.logic
    return logic.each_stream(
        2,
        lambda t, u: implies(
            here,
            here.is_in(t, WAITING),
            here.is_known(u),
            logic.no(here.is_in(u, WAITING)),
            m.session(t) == m.session(u),
        )(m.serial(u) < m.serial(t)),
    )


def serials_are_given(here: Reading) -> Term:
    m, logic = here.model, here.logic
    return logic.each_stream(
        1,
        lambda t: implies(here, here.is_known(t))(
            logic.all_of(m.serial(t) > 0, m.serial(t) <= m.serial_last)
        ),
    )


def serials_differ(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        2,
        lambda t, u: implies(here, here.is_known(t), here.is_known(u), m.serial(t) == m.serial(u))(
            t == u
        ),
    )


def tokens_are_given(here: Reading) -> Term:
    m, logic = here.model, here.logic
    return logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, *HOLDS, DETACHED))(
            logic.all_of(m.fencing_token(t) > 0, m.fencing_token(t) <= m.fencing_token_last)
        ),
    )


def no_token_while_waiting(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        1, lambda t: implies(here, here.is_in(t, WAITING))(m.fencing_token(t) == 0)
    )


def enqueued_leave_in_time(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, WAITING), here.asks_to(Strategy.ENQUEUE, t))(
            m.wait_deadline(t) > 0
        ),
    )


def grace_is_set_by_a_stop(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, WAITING, ACTIVE))(m.grace_deadline(t) == 0),
    )


def stopped_have_a_grace(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, STOPPING, OVERDUE, DETACHED))(
            m.grace_deadline(t) > 0
        ),
    )


def closed_lets_nobody_in(here: Reading) -> Term:
    return implies(here, here.model.closed)(
        here.logic.each_stream(1, lambda t: here.logic.no(here.is_in(t, WAITING, ACTIVE)))
    )


def counted_within_limits(here: Reading) -> Term:
    """By the counters, which `counting` proves to count."""
    m, limits, logic = here.model, here.limits, here.logic
    return logic.all_of(
        m.detached_in_all <= limits.detached_max,
        logic.each_session(
            lambda z: logic.all_of(
                m.detached(z) <= limits.detached_per_session_max, m.enqueued(z) <= limits.queue_max
            )
        ),
    )


def counters_are_not_negative(here: Reading) -> Term:
    m = here.model
    return here.logic.all_of(m.serial_last >= 0, m.fencing_token_last >= 0)


# ---- the project's invariants ----------------------------------------------------------------


def one_active(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        2,
        lambda t, u: implies(
            here, here.is_in(t, ACTIVE), here.is_in(u, ACTIVE), m.session(t) == m.session(u)
        )(t == u),
    )


def newest_wins(here: Reading) -> Term:
    m, logic = here.model, here.logic
    none_active = logic.each_stream(
        2,
        lambda t, u: implies(
            here,
            here.is_in(t, WAITING),
            here.asks_to(Strategy.INTERRUPT, t),
            m.session(t) == m.session(u),
        )(logic.no(here.is_in(u, ACTIVE))),
    )
    return logic.all_of(none_active, _one_that_interrupts_is_first(here))


def _one_that_interrupts_is_first(here: Reading) -> Term:
    """Where one of a session interrupts, the oldest that waits there does."""
    m, logic = here.model, here.logic

    def sentence(t: Term) -> Term:
        z = m.session(t)
        first = logic.some_stream(
            lambda u: logic.all_of(
                here.is_next(z, u),
                here.asks_to(Strategy.INTERRUPT, u),
            )
        )
        return implies(here, here.is_in(t, WAITING), here.asks_to(Strategy.INTERRUPT, t))(first)

    return logic.each_stream(1, sentence)


def reject_never_waits(here: Reading) -> Term:
    return here.logic.each_stream(
        1,
        lambda t: implies(here, here.is_in(t, WAITING))(
            here.logic.no(here.asks_to(Strategy.REJECT, t))
        ),
    )


def fencing(here: Reading) -> Term:
    m = here.model
    return here.logic.each_stream(
        2,
        lambda t, u: implies(
            here,
            here.is_in(t, *HOLDS, DETACHED),
            here.is_in(u, *HOLDS, DETACHED),
            m.session(t) == m.session(u),
            m.serial(t) < m.serial(u),
        )(m.fencing_token(t) < m.fencing_token(u)),
    )


def one_interrupts(here: Reading) -> Term:
    """The part of S7 that is no number: at most one that interrupts waits in a session."""
    m = here.model
    return here.logic.each_stream(
        2,
        lambda t, u: implies(
            here,
            here.is_in(t, WAITING),
            here.is_in(u, WAITING),
            m.session(t) == m.session(u),
            here.asks_to(Strategy.INTERRUPT, t),
            here.asks_to(Strategy.INTERRUPT, u),
        )(t == u),
    )


def waiting_is_bounded(here: Reading) -> Term:
    m, logic = here.model, here.logic

    def sentence(t: Term) -> Term:
        waited_for = logic.some_stream(
            lambda u: logic.all_of(here.is_in(u, ACTIVE, STOPPING), m.session(u) == m.session(t))
        )
        return implies(here, here.is_in(t, WAITING))(waited_for)

    return logic.all_of(logic.each_stream(1, sentence), enqueued_leave_in_time(here))


STRENGTHENING: dict[str, Sentence] = {
    "who is ACTIVE or STOPPING holds its session": holders_hold,
    "a session is held by one that is ACTIVE or STOPPING": held_by_a_holder,
    "who waits, waits for a holder in its grace, or ACTIVE": waits_for_a_holder_in_its_grace,
    "who interrupts, waits for a STOPPING one": interrupts_a_stopping_one,
    "of those that wait, none is older than one that interrupts": interrupts_first,
    "who waits is newer than all that do not": who_waits_is_newest,
    "serials are given": serials_are_given,
    "serials differ": serials_differ,
    "fencing tokens are given": tokens_are_given,
    "no fencing token while waiting": no_token_while_waiting,
    "who is enqueued has a time at which it leaves": enqueued_leave_in_time,
    "who was not stopped has no grace": grace_is_set_by_a_stop,
    "who was stopped has a grace": stopped_have_a_grace,
    "once it is closed, nobody waits and nobody is ACTIVE": closed_lets_nobody_in,
    "the counters are within the limits": counted_within_limits,
    "counters are not negative": counters_are_not_negative,
    "S4 reject_never_waits": reject_never_waits,
    "S5 fencing": fencing,
}

# As the predicates of `registry/invariants.py`, which they are compared with.
INVARIANTS: dict[str, Sentence] = {
    "S1 one_active": one_active,
    "S4 newest_wins": newest_wins,
    "S4 reject_never_waits": reject_never_waits,
    "S5 fencing": fencing,
    "S7 bounded": lambda here: here.logic.all_of(one_interrupts(here), counted_within_limits(here)),
    "L1 admission": waiting_is_bounded,
}
