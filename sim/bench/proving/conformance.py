"""Whether the model is the code: on every state up to the cut-off, and every operation.

The model meets the same situation as production's `apply`, and no other; what its row leads to is
what `apply` leads to; and what its sentences say of good and bad states, the predicates of
`registry/invariants.py` say too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Any

from registry.errors import IllegalOperation, StreamError
from registry.invariants import STATE_INVARIANTS, STEP_INVARIANTS
from registry.operations import Close, Operation, Register
from registry.states import Snapshot, State, Strategy, StreamView
from registry.table import TABLE, Action, Situation
from sim.bench.proving.induction import Row, Table, Taken
from sim.bench.proving.logic import PlainLogic, Term
from sim.bench.proving.model import Asked, Limits, Model, Reading, met, outcomes
from sim.bench.proving.protocol_states import NOW, SMALL, Place, Size, operations, places
from sim.bench.proving.sentences import INVARIANTS
from sim.bench.proving.step_sentences import STEPS, Change

NOT_NAMED = ("new", "unknown")
SAME_ROW = "the model meets the situation that the code meets"
SAME_STATE = "the model's row leads where the code's leads"
SAME_SENTENCE = "a sentence of the model says what the predicate of its name says"


def reading_of(snapshot: Snapshot, serial_last: int, limits: Limits, *also: str) -> Reading:
    """A state of the code, as the model sees it; `also` are streams that it does not know."""
    streams = {stream.trace_id: stream for stream in snapshot.streams}
    sessions = {name: _session_of(stream) for name, stream in streams.items()}
    holders = {sessions[s.trace_id]: s.trace_id for s in snapshot.streams if s.state in _HOLD}
    detached, enqueued = dict.fromkeys(sessions.values(), 0), dict.fromkeys(sessions.values(), 0)
    for name, stream in streams.items():
        detached[sessions[name]] += stream.state is State.DETACHED
        waits = stream.state is State.WAITING and stream.strategy is Strategy.ENQUEUE
        enqueued[sessions[name]] += waits

    def field(name: str, missing: Term) -> Any:
        values = {trace_id: getattr(each, name) or 0 for trace_id, each in streams.items()}
        return lambda trace_id: values.get(trace_id, missing)

    model = Model(
        state=lambda t: _situation_of(streams.get(t)),
        session=lambda t: sessions.get(t, ("nobody's", t)),
        strategy=field("strategy", Strategy.INTERRUPT),
        serial=field("serial", 0),
        fencing_token=field("fencing_token", 0),
        grace_deadline=field("grace_deadline", 0),
        wait_deadline=field("wait_deadline", 0),
        is_held=lambda z: z in holders,
        holder=lambda z: holders.get(z, ""),
        detached=lambda z: detached.get(z, 0),
        enqueued=lambda z: enqueued.get(z, 0),
        detached_in_all=sum(detached.values()),
        serial_last=serial_last,
        fencing_token_last=snapshot.fencing_token_last,
        closed=snapshot.closed,
    )
    named = [*streams, *also]
    return Reading(PlainLogic(named, list(dict.fromkeys(sessions.values()))), model, limits)


_HOLD = (State.ACTIVE, State.STOPPING)


def _situation_of(stream: StreamView | None) -> Situation:
    if stream is None:
        return Situation.UNKNOWN
    return Situation.OVERDUE if stream.overdue else Situation[stream.state.name]


def _session_of(stream: StreamView) -> object:
    return stream.session_id or ("alone", stream.trace_id)


def _asked(operation: Operation, here: Reading) -> Asked:
    if isinstance(operation, Close):
        return Asked(Close, "", "", None, NOW)
    trace_id = operation.trace_id
    if isinstance(operation, Register):
        session = operation.session_id or ("alone", trace_id)
        return Asked(Register, trace_id, session, operation.strategy, NOW)
    return Asked(type(operation), trace_id, here.model.session(trace_id), None, NOW)


# ---- situations and rows ---------------------------------------------------------------------


def _steps(place: Place) -> Iterator[Taken]:
    start = place.protocol()
    limits = Limits(
        start.grace_s,
        start.queue_s,
        start.detached_per_session_max,
        start.detached_max,
        start.queue_max,
    )
    before = start.snapshot()
    here = reading_of(before, start._serial_last, limits, *NOT_NAMED)
    for operation in operations(before):
        protocol = place.protocol()
        situation = protocol.situation_of(operation)
        with suppress(StreamError, IllegalOperation):
            protocol.apply(operation, NOW)
        after = reading_of(protocol.snapshot(), protocol._serial_last, limits, *NOT_NAMED)
        wrong = _differs(here, operation, situation, after)
        has_row = (type(operation), situation) in TABLE
        rows: tuple[Row, ...] = ((type(operation), situation),) if has_row else ()
        yield Taken(rows, wrong, lambda op=operation, w=wrong: f"{op} in {place}: {w}")  # type: ignore[misc]


def _differs(
    here: Reading, operation: Operation, situation: Situation, after: Reading
) -> str | None:
    asked = _asked(operation, here)
    kinds = [each for kind, each in TABLE if kind is asked.kind]
    found = [each for each in kinds if met(here, asked, each)]
    if found != [each for each in (situation,) if each in kinds]:
        return SAME_ROW
    if not found:
        return None if _same(here.model, after) else SAME_STATE
    row = TABLE[asked.kind, situation]
    if not all(isinstance(action, Action) for action in row):
        return "a row consists of the table's actions"
    session = here.model.session(asked.stream)
    waiting = [t for t in here.logic.streams if here.waits_in(session, t)]  # type: ignore[attr-defined]
    next_stream = min(waiting, key=here.model.serial, default="")
    ends = [each for each in outcomes(here, asked, row, next_stream) if each.condition]
    if len(ends) != 1:
        return SAME_ROW
    return None if _same(ends[0].after, after) else SAME_STATE


_FIELDS = (
    *("session", "strategy", "serial", "fencing_token"),
    *("grace_deadline", "wait_deadline"),
)


def _same(model: Model, after: Reading) -> bool:
    logic, code = after.logic, after.model
    assert isinstance(logic, PlainLogic)
    numbers = ("detached_in_all", "serial_last", "fencing_token_last", "closed")
    if any(getattr(model, name) != getattr(code, name) for name in numbers):
        return False
    for stream in logic.streams:
        if model.state(stream) != code.state(stream):
            return False
        if code.state(stream) is Situation.UNKNOWN:
            continue
        if any(getattr(model, name)(stream) != getattr(code, name)(stream) for name in _FIELDS):
            return False
    for session in logic.sessions:
        if bool(model.is_held(session)) != code.is_held(session):
            return False
        if code.is_held(session) and model.holder(session) != code.holder(session):
            return False
        counts = (model.detached(session), model.enqueued(session))
        if counts != (code.detached(session), code.enqueued(session)):
            return False
    return True


# ---- sentences -------------------------------------------------------------------------------


def _bad_states(snapshot: Snapshot) -> Iterator[Snapshot]:
    """The state, and each that differs from it in one stream of a session with a name."""
    yield snapshot
    for number, stream in enumerate(snapshot.streams):
        if stream.session_id is None:
            continue
        for other in _otherwise(stream):
            streams = (*snapshot.streams[:number], other, *snapshot.streams[number + 1 :])
            yield replace(snapshot, streams=streams)


def _otherwise(stream: StreamView) -> Iterator[StreamView]:
    for state in State:
        token = None if state is State.WAITING else stream.fencing_token or stream.serial
        yield replace(stream, state=state, fencing_token=token, overdue=False)
    yield replace(stream, overdue=stream.state is State.STOPPING)
    if stream.fencing_token is not None:
        yield replace(stream, fencing_token=1)
    for strategy in Strategy:
        yield replace(stream, strategy=strategy, wait_deadline=None)


def sentences_that_differ(every: int = 1) -> list[str]:
    """Sentences that say of some state or step what the predicate of their name does not say.

    every: one of this number of the small cut-off's states is played.
    """
    differ: set[str] = set()
    for place in islice(places(SMALL), 0, None, every):
        start = place.protocol()
        limits = Limits(0, 0, start.detached_per_session_max, start.detached_max, start.queue_max)
        for snapshot in _bad_states(start.snapshot()):
            here = reading_of(snapshot, start._serial_last, limits)
            for invariant in STATE_INVARIANTS:
                sentence = INVARIANTS.get(invariant.name)
                if sentence is not None and sentence(here) != invariant.holds(snapshot):
                    differ.add(invariant.name)
        differ |= _steps_that_differ(place, limits)
    return sorted(differ)


def _steps_that_differ(place: Place, limits: Limits) -> set[str]:
    """Of an operation with what it leads to, and with what others lead to."""
    start = place.protocol()
    before = start.snapshot()
    here = reading_of(before, start._serial_last, limits, *NOT_NAMED)
    ends: list[tuple[Operation, Snapshot]] = []
    for operation in operations(before):
        protocol = place.protocol()
        try:
            protocol.apply(operation, NOW)
        except (StreamError, IllegalOperation):
            continue
        ends.append((operation, protocol.snapshot()))
    differ: set[str] = set()
    for number, (operation, _) in enumerate(ends):
        for _, after in (ends[number], *_others(ends, number)):
            there = reading_of(after, start._serial_last, limits, *NOT_NAMED)
            step = Change(here, _asked(operation, here), there, ())
            for (name, sentence), invariant in zip(STEPS.items(), STEP_INVARIANTS, strict=True):
                if bool(sentence(step)) != invariant.holds(before, operation, after):
                    differ.add(name)
    return differ


def _others(ends: Sequence[Any], number: int) -> Sequence[Any]:
    return [ends[(number + away) % len(ends)] for away in (1, 7, 11)]


def conformance_table(size: Size = SMALL) -> Table:
    return Table(
        "the model and the code", TABLE, lambda: (list(_steps(place)) for place in places(size))
    )
