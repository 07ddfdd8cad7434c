"""Every state of the protocol up to a cut-off, and every operation on it, by production's `apply`.

One session is whole: each kind of holder, up to three that wait, up to two that are detached. Next
to it are another session and a stream without a session, at and away from the limit of the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from registry.errors import IllegalOperation, StreamError
from registry.invariants import violated
from registry.protocol import (
    TABLE,
    Cancel,
    Close,
    Ended,
    GraceExpired,
    KnownStream,
    Operation,
    Register,
    Snapshot,
    State,
    Strategy,
    StreamProtocol,
    WaitExpired,
    Withdraw,
    _Session,
)
from sim.bench.proving.induction import Row, Table, Taken
from sim.bench.proving.protocol_obligations import broken_obligation

DETACHED_PER_SESSION_MAX = 2
QUEUE_MAX = 2
NOW = 10.0
INTERRUPT, ENQUEUE = Strategy.INTERRUPT, Strategy.ENQUEUE
NAMED, OTHER, FREE = "s", "t", "u"


@dataclass(frozen=True, slots=True)
class Shape:
    """One session: who holds it, who waits, oldest first, and how many are detached."""

    holder: State | None
    waiting: tuple[Strategy, ...] = ()
    detached: int = 0
    overdue: bool = False

    @property
    def may_be_closed(self) -> bool:
        return not self.waiting and self.holder is not State.ACTIVE


QUEUES = ((), (ENQUEUE,), (ENQUEUE, ENQUEUE))
BEHIND_ONE_THAT_INTERRUPTS = tuple((INTERRUPT, *queue) for queue in QUEUES)
EMPTY = Shape(None)
OTHERS = (
    Shape(State.STOPPING, (INTERRUPT,), 1),
    Shape(State.ACTIVE, (ENQUEUE,)),
    Shape(State.STOPPING, (), DETACHED_PER_SESSION_MAX, overdue=True),
    Shape(None, (), 1),
)
ALONE = (Shape(State.ACTIVE), Shape(State.STOPPING), Shape(None, (), 1))


def shapes() -> Iterator[Shape]:
    for detached in range(DETACHED_PER_SESSION_MAX + 1):
        yield Shape(None, (), detached)
        for queue in QUEUES:
            yield Shape(State.ACTIVE, queue, detached)
        for queue in (*QUEUES, *BEHIND_ONE_THAT_INTERRUPTS):
            yield Shape(State.STOPPING, queue, detached)
        yield Shape(State.STOPPING, (), detached, overdue=True)


@dataclass(frozen=True, slots=True)
class Size:
    """What stands next to the session that is whole. room: below the limit of the process."""

    others: tuple[Shape, ...]
    alone: tuple[Shape, ...]
    room: tuple[int, ...]
    # Whether the session that is whole registered before the others, or after them.
    first: tuple[bool, ...]


SMALL = Size(OTHERS[:1], ALONE[:1], room=(0, 5), first=(True,))
WHOLE = Size((EMPTY, *OTHERS[:3]), ALONE[1:], room=(0, 1, 5), first=(True, False))


@dataclass(frozen=True, slots=True)
class Place:
    """A state as plain data, from which a protocol is made as often as it is asked."""

    # Each with its session's id; None is a session of the stream's own.
    sessions: tuple[tuple[str | None, Shape], ...]
    room: int = 5
    closed: bool = False
    # Added to all numbers, which count by their order alone.
    shift: int = 0

    def protocol(self) -> StreamProtocol:
        protocol = StreamProtocol(
            detached_per_session_max=DETACHED_PER_SESSION_MAX, queue_max=QUEUE_MAX
        )
        protocol._serial_last = protocol._fencing_token_last = self.shift
        for session_id, shape in self.sessions:
            _put(protocol, session_id, shape)
        protocol.detached_max = protocol._detached + self.room
        protocol._closed = self.closed
        return protocol


def places(size: Size) -> Iterator[Place]:
    for own, other, alone, room, closed, first in product(
        shapes(), size.others, size.alone, size.room, (False, True), size.first
    ):
        if closed and not all(shape.may_be_closed for shape in (own, other, alone)):
            continue
        sessions = ((NAMED, own), (OTHER, other), (None, alone))
        yield Place(sessions if first else sessions[::-1], room, closed)
    if size is SMALL:
        # Beside streams that are neither waiting nor ACTIVE.
        for own in shapes():
            if own.may_be_closed:
                yield Place(((NAMED, own), (OTHER, OTHERS[-1])), closed=True)


def _put(protocol: StreamProtocol, session_id: str | None, shape: Shape) -> None:
    session = _Session(session_id)
    tag = session_id or "alone"
    for number in range(shape.detached):
        _admitted(_added(protocol, session, f"{tag}-d{number}"), protocol, State.DETACHED)
    session.detached = shape.detached
    protocol._detached += shape.detached
    if shape.holder is not None:
        holder = _added(protocol, session, f"{tag}-h")
        _admitted(holder, protocol, shape.holder)
        holder.overdue = shape.overdue
        session.holder = holder
    for number, strategy in enumerate(shape.waiting):
        waiting = _added(protocol, session, f"{tag}-w{number}", strategy)
        waiting.wait_deadline = NOW + 5 + number if strategy is ENQUEUE else None
        session.waiting.append(waiting)
    if session_id is not None and not session.is_idle():
        protocol._sessions[session_id] = session


def _added(
    protocol: StreamProtocol, session: _Session, name: str, strategy: Strategy = INTERRUPT
) -> KnownStream:
    protocol._serial_last += 1
    register = Register(name, session.session_id, strategy)
    stream = KnownStream(register, session, protocol._serial_last)
    protocol._streams[name] = stream
    return stream


def _admitted(stream: KnownStream, protocol: StreamProtocol, state: State) -> None:
    protocol._fencing_token_last += 1
    stream.fencing_token = protocol._fencing_token_last
    stream.state = state
    stream.started_at = 0.0
    if state is not State.ACTIVE:
        stream.grace_deadline = 2.0


def operations(snapshot: Snapshot) -> Iterator[Operation]:
    """All that can be asked, of every stream there is, and of one that is not there."""
    for strategy in Strategy:
        for session_id in (NAMED, OTHER, FREE, None):
            yield Register("new", session_id, strategy)
    yield Close()
    known = [stream.trace_id for stream in snapshot.streams]
    for trace_id in known:
        yield Register(trace_id, NAMED)
    for trace_id in (*known, "unknown"):
        yield Cancel(trace_id, "requested")
        for kind in (Withdraw, Ended, GraceExpired, WaitExpired):
            yield kind(trace_id)


def strengthening(protocol: StreamProtocol) -> str | None:
    """What the invariants need, to be inductive: what does not hold of the state, or None."""
    streams = tuple(protocol._streams.values())
    serials = [stream.serial for stream in streams]
    if serials != sorted(set(serials)) or any(s > protocol._serial_last for s in serials):
        return "streams are kept in the order of their registers, which differ"
    if protocol._detached != sum(each.state is State.DETACHED for each in streams):
        return "those that are detached are counted"
    if protocol._closed and any(s.state in (State.WAITING, State.ACTIVE) for s in streams):
        return "once it is closed nobody waits and nobody is ACTIVE"
    for stream in streams:
        if (wrong := _wrong_of_stream(stream, protocol)) is not None:
            return wrong
    for session in {id(each.session): each.session for each in streams}.values():
        own = [stream for stream in streams if stream.session is session]
        if (wrong := _wrong_of_session(session, own)) is not None:
            return wrong
    if any(session.session_id != name for name, session in protocol._sessions.items()):
        return "a session is kept under its name"
    return None


def _wrong_of_stream(stream: KnownStream, protocol: StreamProtocol) -> str | None:
    if stream.overdue and stream.state is not State.STOPPING:
        return "only who is STOPPING is overdue"
    waits = stream.state is State.WAITING
    if (stream.fencing_token is None) != waits or (stream.started_at is None) != waits:
        return "who does not wait has a fencing token and has started"
    if (stream.fencing_token or 0) > protocol._fencing_token_last:
        return "fencing tokens were given"
    stops = stream.state in (State.STOPPING, State.DETACHED)
    if (stream.grace_deadline is not None) != stops:
        return "who was stopped has a grace, and nobody else"
    if (stream.wait_deadline is not None) != (waits and stream.strategy is ENQUEUE):
        return "who is enqueued has a time at which it leaves, and nobody else"
    session_id = stream.session.session_id
    if session_id is not None and protocol._sessions.get(session_id) is not stream.session:
        return "the session of a stream is kept"
    return None


def _wrong_of_session(session: _Session, own: list[KnownStream]) -> str | None:
    """own: its streams, in the order of their registers."""
    holders = [each for each in own if each.state in (State.ACTIVE, State.STOPPING)]
    if holders != ([] if session.holder is None else [session.holder]):
        return "who is ACTIVE or STOPPING holds its session, alone"
    if [each for each in own if each.state is State.WAITING] != session.waiting:
        return "who waits stands in the queue, in the order of registers"
    if session.detached != sum(each.state is State.DETACHED for each in own):
        return "those that are detached are counted in their session"
    if session.waiting and own[-len(session.waiting) :] != session.waiting:
        return "who waits is newer than all others of its session"
    return None


def steps(place: Place) -> Iterator[Taken]:
    """What each operation leads to, from this state."""
    start = place.protocol()
    wrong = strengthening(start)
    assert wrong is None, f"{place}: {wrong}"
    before = start.snapshot()
    for operation in operations(before):
        yield taken(place, before, operation)


def taken(place: Place, before: Snapshot, operation: Operation) -> Taken:
    protocol = place.protocol()
    row = type(operation), protocol.situation_of(operation)
    wrong: str | None
    try:
        effects = protocol.apply(operation, NOW)
    except (StreamError, IllegalOperation) as exc:
        changed = protocol.snapshot() != before
        wrong = "an operation that raises changes nothing" if changed else None
        rows: tuple[Row, ...] = () if isinstance(exc, IllegalOperation) else (row,)
    except Exception as exc:
        wrong, rows = f"a row raises nothing of its own: {exc!r}", (row,)
    else:
        after, rows = protocol.snapshot(), (row,)
        wrong = (
            violated(before, operation, after)
            or broken_obligation(before, operation, effects, after)
            or strengthening(protocol)
        )
    return Taken(rows, wrong, lambda: f"{operation} in {place}: {wrong}")


def protocol_table(size: Size = WHOLE) -> Table:
    return Table(
        "registry/protocol.py", TABLE, lambda: (list(steps(place)) for place in places(size))
    )
