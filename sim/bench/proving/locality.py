"""Why the cut-off is enough: what an operation reads, and that numbers count by their order alone.

1. An operation on one session reads its own stream, that session's holder, queue and number of
   detached streams, and the counters of the process. No other stream or session is looked at: here
   they are put in as objects that raise when anything of them is read. So what holds beside one
   other session holds beside any number of them, and one detached stream stands for as many as
   there may be. `close` alone goes through all of them, one by one.
2. Serials and fencing tokens are only compared, and given as one more than the last: with all of
   them moved by a number, each operation leads to the same state, moved by that number.
3. Of a queue an operation asks who is first, whether there is one and how many are enqueued, and
   takes out one or each: longer ones than those of the cut-off are what z3 proves, on a model that
   is compared with the code up to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

from registry.errors import IllegalOperation, StreamError
from registry.protocol import (
    TABLE,
    Close,
    Operation,
    Register,
    Snapshot,
    StreamProtocol,
)
from sim.bench.proving.induction import Row, Table, Taken
from sim.bench.proving.protocol_states import NAMED, NOW, SMALL, Place, Size, operations, places

READS = "an operation reads nothing of other streams and sessions"
ORDER = "numbers count by their order alone"
SHIFT = 1000


class ReadElsewhere(Exception):
    """An operation has read what is not its own."""


class _Elsewhere:
    """Stands for a stream or a session that an operation has nothing to do with."""

    def __getattribute__(self, name: str) -> Any:
        raise ReadElsewhere(name)


class _ByName(dict[str, Any]):
    """May be asked by name alone."""

    def _refuse(self, *_: Any) -> Any:
        raise ReadElsewhere("all streams, or all sessions")

    __iter__ = keys = values = items = __len__ = _refuse


def _with_others_out_of_reach(protocol: StreamProtocol, named: str) -> None:
    """named: the stream of the operation. The session that is whole is within reach."""
    own = protocol._sessions.get(NAMED)
    near = {named} if own is None else {named, *_names_in(own)}
    streams = protocol._streams
    protocol._streams = _ByName(
        {name: each if name in near else _Elsewhere() for name, each in streams.items()}
    )
    sessions = protocol._sessions
    protocol._sessions = _ByName(
        {name: each if each is own else _Elsewhere() for name, each in sessions.items()}
    )


def _names_in(session: Any) -> Iterator[str]:
    if session.holder is not None:
        yield session.holder.trace_id
    for waiting in session.waiting:
        yield waiting.trace_id


def _steps(place: Place) -> Iterator[Taken]:
    start = place.protocol()
    before = start.snapshot()
    for operation in operations(before):
        if not _is_of_the_whole_session(operation, start):
            continue
        row = type(operation), start.situation_of(operation)
        moved = _end(replace(place, shift=SHIFT), operation)
        wrong = None if moved == _moved(_end(place, operation)) else ORDER
        if not isinstance(operation, Close) and _reads_elsewhere(place, operation):
            wrong = READS
        rows: tuple[Row, ...] = (row,) if row in TABLE else ()
        yield Taken(rows, wrong, lambda op=operation, w=wrong: f"{op} in {place}: {w}")  # type: ignore[misc]


def _is_of_the_whole_session(operation: Operation, protocol: StreamProtocol) -> bool:
    if isinstance(operation, Close):
        return True
    if isinstance(operation, Register):
        return operation.session_id == NAMED
    stream = protocol._streams.get(operation.trace_id)
    return stream is None or stream.session.session_id == NAMED


def _reads_elsewhere(place: Place, operation: Any) -> bool:
    protocol = place.protocol()
    _with_others_out_of_reach(protocol, operation.trace_id)
    try:
        protocol.apply(operation, NOW)
    except ReadElsewhere:
        return True
    except (StreamError, IllegalOperation):
        return False
    return False


def _end(place: Place, operation: Operation) -> tuple[Snapshot, int]:
    protocol = place.protocol()
    with suppress(StreamError, IllegalOperation):
        protocol.apply(operation, NOW)
    return protocol.snapshot(), protocol._serial_last


def _moved(end: tuple[Snapshot, int]) -> tuple[Snapshot, int]:
    snapshot, serial_last = end
    streams = tuple(
        replace(
            each,
            serial=each.serial + SHIFT,
            fencing_token=None if each.fencing_token is None else each.fencing_token + SHIFT,
        )
        for each in snapshot.streams
    )
    token = snapshot.fencing_token_last + SHIFT
    return replace(snapshot, streams=streams, fencing_token_last=token), serial_last + SHIFT


def locality_table(size: Size = SMALL) -> Table:
    return Table(
        "what an operation reads", TABLE, lambda: (list(_steps(place)) for place in places(size))
    )
