"""The protocol as a model for any number of streams and sessions, read from `TABLE` itself.

The rows, their order and whose state each action changes come from the table, which is data. What
each situation is (`met`) and what a change of state brings with it (`_move`) is written here, in a
logic that Python and z3 read; `conformance.py` compares them with production's `apply`.

Of a queue the model knows its set, its order by serial and the number of those that are enqueued;
of those that are detached it knows their number: `COUNTING` proves that these are right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from registry.operations import Close, GraceExpired, Operation, Queued, Register
from registry.states import Strategy
from registry.table import Action, Row, Situation, Who
from sim.bench.proving.logic import Logic, Term

OfStream = Callable[[Term], Term]
HOLDS = (Situation.ACTIVE, Situation.STOPPING, Situation.OVERDUE)
NONE = 0


@dataclass(frozen=True)
class Model:
    """One state. Times and tokens that are not set are 0."""

    # by stream
    state: OfStream
    session: OfStream
    strategy: OfStream
    serial: OfStream
    fencing_token: OfStream
    grace_deadline: OfStream
    wait_deadline: OfStream
    # by session
    is_held: OfStream
    holder: OfStream
    detached: OfStream
    enqueued: OfStream
    # of the process
    detached_in_all: Term
    serial_last: Term
    fencing_token_last: Term
    closed: Term


@dataclass(frozen=True)
class Limits:
    grace_s: Term
    queue_s: Term
    detached_per_session_max: Term
    detached_max: Term
    queue_max: Term


@dataclass(frozen=True)
class Asked:
    """An operation: its kind, its stream and session (a register brings them) and its time."""

    kind: type[Operation]
    stream: Term
    session: Term
    strategy: Term
    now: Term


@dataclass(frozen=True)
class Reading:
    """A state in a logic, with what sentences need."""

    logic: Logic
    model: Model
    limits: Limits

    def is_in(self, stream: Term, *states: Situation) -> Term:
        now = self.model.state(stream)
        return self.logic.any_of(*(now == self.logic.value(state) for state in states))

    def is_known(self, stream: Term) -> Term:
        return self.logic.no(self.is_in(stream, Situation.UNKNOWN))

    def asks_to(self, strategy: Strategy, stream: Term) -> Term:
        return self.model.strategy(stream) == self.logic.value(strategy)

    def waits_in(self, session: Term, stream: Term) -> Term:
        return self.logic.all_of(
            self.is_in(stream, Situation.WAITING), self.model.session(stream) == session
        )

    def somebody_waits(self, session: Term) -> Term:
        return self.logic.some_stream(lambda stream: self.waits_in(session, stream))

    def is_next(self, session: Term, stream: Term) -> Term:
        """The oldest of those that wait."""
        serial, logic = self.model.serial, self.logic
        return logic.all_of(
            self.waits_in(session, stream),
            logic.each_stream(
                1,
                lambda other: logic.any_of(
                    logic.no(self.waits_in(session, other)), serial(stream) <= serial(other)
                ),
            ),
        )


# ---- situations ------------------------------------------------------------------------------


def met(here: Reading, asked: Asked, situation: Situation) -> Term:
    """Whether the operation meets the situation."""
    if asked.kind is Register:
        return _met_by_register(here, asked, situation)
    closed, logic = here.model.closed, here.logic
    if asked.kind is Close:
        return closed if situation is Situation.REGISTRY_CLOSED else logic.no(closed)
    if asked.kind is not GraceExpired or situation is Situation.STOPPING_AT_LIMIT:
        is_stopping = situation is Situation.STOPPING_AT_LIMIT
        found = here.is_in(asked.stream, Situation.STOPPING if is_stopping else situation)
        return logic.all_of(found, _at_limit(here, asked)) if is_stopping else found
    found = here.is_in(asked.stream, situation)
    if situation is Situation.STOPPING:
        return logic.all_of(found, logic.no(_at_limit(here, asked)))
    return found


def _at_limit(here: Reading, asked: Asked) -> Term:
    model, limits = here.model, here.limits
    return here.logic.any_of(
        model.detached(model.session(asked.stream)) >= limits.detached_per_session_max,
        model.detached_in_all >= limits.detached_max,
    )


def _met_by_register(here: Reading, asked: Asked, situation: Situation) -> Term:
    logic, model, session = here.logic, here.model, asked.session
    known, closed, held = here.is_known(asked.stream), model.closed, model.is_held(session)
    holder = model.holder(session)
    waited_for = here.somebody_waits(session)
    full = model.enqueued(session) >= here.limits.queue_max
    overdue = here.is_in(holder, Situation.OVERDUE)
    active = here.is_in(holder, Situation.ACTIVE)
    stopping = here.is_in(holder, Situation.STOPPING)

    def if_busy(strategy: Strategy, *also: Term) -> Term:
        asks = asked.strategy == logic.value(strategy)
        return logic.all_of(held, logic.no(overdue), asks, *also)

    interrupt, enqueue = Strategy.INTERRUPT, Strategy.ENQUEUE
    met_by_open = {
        Situation.SESSION_FREE: lambda: logic.no(held),
        Situation.HOLDER_OVERDUE: lambda: logic.all_of(held, overdue),
        Situation.HOLDER_ACTIVE: lambda: if_busy(interrupt, active, logic.no(waited_for)),
        Situation.HOLDER_ACTIVE_CONTENDED: lambda: if_busy(interrupt, active, waited_for),
        Situation.HOLDER_STOPPING: lambda: if_busy(interrupt, stopping, logic.no(waited_for)),
        Situation.HOLDER_STOPPING_CONTENDED: lambda: if_busy(interrupt, stopping, waited_for),
        Situation.QUEUE_OPEN: lambda: if_busy(enqueue, logic.no(full)),
        Situation.QUEUE_FULL: lambda: if_busy(enqueue, full),
        Situation.SESSION_BUSY: lambda: if_busy(Strategy.REJECT),
    }
    if situation is Situation.TRACE_ID_KNOWN:
        return known
    if situation is Situation.REGISTRY_CLOSED:
        return logic.all_of(logic.no(known), closed)
    return logic.all_of(logic.no(known), logic.no(closed), met_by_open[situation]())


# ---- rows ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What a row leads to, if this holds besides its situation."""

    condition: Term
    after: Model
    refused: bool


def outcomes(here: Reading, asked: Asked, row: Row, next_stream: Term) -> Iterator[Outcome]:
    """One, or two where it matters whether somebody waits; `next_stream` is then who is next."""
    session = _session_of(here, asked)
    refused = any(action.value.refuses for action in row)
    admits = any(move.who is Who.NEXT for action in row for move in action.value.moves)
    if not admits:
        yield Outcome(here.logic.all_of(), _after(here, asked, row, None), refused)
        return
    none_waits = here.logic.no(here.somebody_waits(session))
    yield Outcome(none_waits, _after(here, asked, row, None), refused)
    is_next = here.is_next(session, next_stream)
    yield Outcome(is_next, _after(here, asked, row, next_stream), refused)


def _session_of(here: Reading, asked: Asked) -> Term:
    return asked.session if asked.kind is Register else here.model.session(asked.stream)


def _after(here: Reading, asked: Asked, row: Row, next_stream: Term | None) -> Model:
    session = _session_of(here, asked)
    for action in row:
        for move in action.value.moves:
            match move.who:
                case Who.NEW:
                    model = _entered(here, asked)
                    here = replace(here, model=model)
                    here = _move(here, asked, asked.stream, move.to, action)
                case Who.NAMED:
                    here = _move(here, asked, asked.stream, move.to, action)
                case Who.HOLDER:
                    here = _move(here, asked, here.model.holder(session), move.to, action)
                case Who.NEXT if next_stream is not None:
                    here = _move(here, asked, next_stream, move.to, action)
                case Who.EACH_WAITING:
                    here = _empty_queues(here, None if asked.kind is Close else session)
                case Who.EACH_ACTIVE:
                    here = _stop_each(here, asked)
    if Action.CLOSE in row:
        here = replace(here, model=replace(here.model, closed=here.logic.all_of()))
    return here.model


def _entered(here: Reading, asked: Asked) -> Model:
    """The stream gets a serial; it is not in a state yet."""
    model, x, logic = here.model, asked.stream, here.logic
    serial = model.serial_last + 1
    return replace(
        model,
        session=_set(logic, model.session, x, asked.session),
        strategy=_set(logic, model.strategy, x, asked.strategy),
        serial=_set(logic, model.serial, x, serial),
        fencing_token=_set(logic, model.fencing_token, x, NONE),
        grace_deadline=_set(logic, model.grace_deadline, x, NONE),
        wait_deadline=_set(logic, model.wait_deadline, x, NONE),
        serial_last=serial,
    )


def _move(here: Reading, asked: Asked, x: Term, to: Situation, action: object) -> Reading:
    """One stream gets into a state, with all that this brings along."""
    logic, model = here.logic, here.model
    session = model.session(x)
    held, holds = here.is_in(x, *HOLDS), to in HOLDS
    counted = logic.when(here.is_in(x, Situation.DETACHED), 1, 0)
    detached = (1 if to is Situation.DETACHED else 0) - counted
    is_enqueued = here.asks_to(Strategy.ENQUEUE, x)
    waited = logic.when(logic.all_of(is_enqueued, here.is_in(x, Situation.WAITING)), 1, 0)
    waits = logic.when(is_enqueued, 1, 0) if to is Situation.WAITING else 0
    model = replace(
        model,
        state=_set(logic, model.state, x, logic.value(to)),
        detached=_set(logic, model.detached, session, model.detached(session) + detached),
        detached_in_all=model.detached_in_all + detached,
        enqueued=_set(logic, model.enqueued, session, model.enqueued(session) + waits - waited),
    )
    if holds:
        yes = logic.all_of()
        model = replace(
            model,
            is_held=_set(logic, model.is_held, session, yes),
            holder=_set(logic, model.holder, session, x),
        )
    else:
        still = logic.all_of(model.is_held(session), logic.no(held))
        model = replace(model, is_held=_set(logic, model.is_held, session, still))
    if to is Situation.ACTIVE:
        token = model.fencing_token_last + 1
        model = replace(
            model,
            fencing_token=_set(logic, model.fencing_token, x, token),
            fencing_token_last=token,
            wait_deadline=_set(logic, model.wait_deadline, x, NONE),
        )
    if to is Situation.STOPPING:
        grace = _set(logic, model.grace_deadline, x, asked.now + here.limits.grace_s)
        model = replace(model, grace_deadline=grace)
    if isinstance(action, Action) and Queued in action.value.effects:
        leaves = _set(logic, model.wait_deadline, x, asked.now + here.limits.queue_s)
        model = replace(model, wait_deadline=leaves)
    return replace(here, model=model)


def _empty_queues(here: Reading, session: Term | None) -> Reading:
    """Each that waits in the session, or in any, leaves."""
    logic, before = here.logic, here.model

    def leaves(stream: Term) -> Term:
        if session is None:
            return here.is_in(stream, Situation.WAITING)
        return here.waits_in(session, stream)

    unknown = logic.value(Situation.UNKNOWN)
    emptied = _set(logic, before.enqueued, session, 0) if session is not None else lambda _: 0
    model = replace(
        before,
        state=lambda stream: logic.when(leaves(stream), unknown, before.state(stream)),
        enqueued=emptied,
    )
    return replace(here, model=model)


def _stop_each(here: Reading, asked: Asked) -> Reading:
    logic, before = here.logic, here.model
    stopping, deadline = logic.value(Situation.STOPPING), asked.now + here.limits.grace_s

    def was_active(stream: Term) -> Term:
        return here.is_in(stream, Situation.ACTIVE)

    def grace(stream: Term) -> Term:
        return logic.when(was_active(stream), deadline, before.grace_deadline(stream))

    def state(stream: Term) -> Term:
        return logic.when(was_active(stream), stopping, before.state(stream))

    return replace(here, model=replace(before, state=state, grace_deadline=grace))


def _set(logic: Logic, field: OfStream, of: Term, value: Term) -> OfStream:
    return lambda each: logic.when(each == of, value, field(each))
