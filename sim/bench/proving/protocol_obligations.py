"""What every operation owes: that it does what it is for, and that its effects say all of it.

The invariants forbid; a table that does nothing would keep them all. And the shell knows only the
effects: where they are exactly what has changed, a shell that carries them out is in the state of
the table.
"""

from __future__ import annotations

from registry.protocol import (
    Admitted,
    Cancel,
    Close,
    Effects,
    Ended,
    Forgotten,
    GraceExpired,
    Operation,
    Queued,
    Register,
    Rejected,
    Snapshot,
    State,
    StopRequested,
    StreamView,
    WaitExpired,
    Withdraw,
)

DOES = "an operation does what it is for"
SAYS = "the effects are what has changed, no more and no less"


def broken_obligation(
    before: Snapshot, operation: Operation, effects: Effects, after: Snapshot
) -> str | None:
    """Of an operation that was not refused: the name of what it owes, or None."""
    if not _does(before, operation, after):
        return DOES
    return None if _changes(before, after) == _said(effects) else SAYS


def _does(before: Snapshot, operation: Operation, after: Snapshot) -> bool:
    if isinstance(operation, Close):
        return after.closed and not after.in_state(State.WAITING, State.ACTIVE)
    was, now = _named(operation.trace_id, before), _named(operation.trace_id, after)
    match operation:
        case Register():
            return now is not None and now.session_id == operation.session_id
        case Cancel() | Withdraw():
            return now is None or now.state not in (State.WAITING, State.ACTIVE)
        case Ended() | WaitExpired():
            return now is None
        case GraceExpired():
            return was is not None and now is not None and (now.state, now.overdue) != _in_grace
    return True


_in_grace = (State.STOPPING, False)


def _named(trace_id: str, snapshot: Snapshot) -> StreamView | None:
    return next((each for each in snapshot.streams if each.trace_id == trace_id), None)


Change = tuple[str, str, object]


def _changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """Of what the shell keeps for a stream: its fencing token, its answer, its times, itself."""
    changes: list[Change] = []
    were = {stream.trace_id: stream for stream in before.streams}
    for now in after.streams:
        was = were.pop(now.trace_id, None)
        if now.fencing_token is not None and (was is None or was.fencing_token is None):
            changes.append(("admitted", now.trace_id, now.fencing_token))
        if now.grace_deadline is not None and (was is None or was.grace_deadline is None):
            changes.append(("stopped", now.trace_id, now.grace_deadline))
        if now.wait_deadline is not None and was is None:
            changes.append(("queued", now.trace_id, now.wait_deadline))
    for gone in were.values():
        changes.append(("forgotten", gone.trace_id, None))
        if gone.state is State.WAITING:
            changes.append(("rejected", gone.trace_id, None))
    return sorted(changes, key=lambda change: change[:2])


def _said(effects: Effects) -> list[Change]:
    said: list[Change] = []
    for effect in effects:
        match effect:
            case Admitted(trace_id, fencing_token):
                said.append(("admitted", trace_id, fencing_token))
            case StopRequested(trace_id, _, grace_deadline):
                said.append(("stopped", trace_id, grace_deadline))
            case Queued(trace_id, wait_deadline):
                said.append(("queued", trace_id, wait_deadline))
            case Forgotten(trace_id):
                said.append(("forgotten", trace_id, None))
            case Rejected(trace_id):
                said.append(("rejected", trace_id, None))
    return sorted(said, key=lambda change: change[:2])
