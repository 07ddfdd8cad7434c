"""What stands in a registry, and in a store of leases, in words: for pages, at each step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from registry.lease_records import LeaseSnapshot, SessionRecord
from registry.states import Snapshot, State, StreamView

if TYPE_CHECKING:
    from sim.bench.harness.cluster_worker import Served


def words_of_streams(
    snapshot: Snapshot, names: Mapping[str, str], registered: Iterable[str] = ()
) -> dict[str, str]:
    """Of each stream its state. names: of trace ids, as a reader knows them. registered: the ids of
    those that were there before, which may be over."""
    found = {each.trace_id: _words_of(each) for each in snapshot.streams}
    known = {**dict.fromkeys(registered, "gone: it has ended, to the registry"), **found}
    return {names.get(each, f"stream {each}"): text for each, text in known.items()}


def _words_of(view: StreamView) -> str:
    parts = [view.state.name]
    if view.session_id is not None:
        parts.append(f"session {view.session_id}")
    if view.fencing_token is not None:
        parts.append(f"token {view.fencing_token}")
    if view.queue_position is not None:
        parts.append(f"place {view.queue_position}")
    if view.state is State.STOPPING and view.grace_deadline is not None:
        parts.append(f"grace until {view.grace_deadline:.3f} s")
    if view.overdue:
        parts.append("OVERDUE")
    return ", ".join(parts)


def words_of_leases(
    snapshot: LeaseSnapshot,
    served: Iterable[Served],
    ahead_s: float,
    counted_s: Mapping[str, float],
) -> dict[str, str]:
    """What the store has of each session, and what each worker that was let in makes of it: all
    times by the world's clock. ahead_s: by how much the store's goes before it. counted_s: until
    when it counted leases that another has asked to follow."""
    found = {
        f"store, session {name}": _words_of_record(record, ahead_s)
        for name, record in snapshot.sessions
    }
    for each in snapshot.detached:
        found[f"store, stream {each.stream}"] = "DETACHED"
    holders = {each.holder.stream for _, each in snapshot.sessions if each.holder is not None}
    for stream in served:
        if not stream.is_gone and stream.lease is not None and stream.lease.grant is not None:
            until_s = None if stream.name in holders else counted_s.get(stream.name)
            found[stream.name] = _words_of_gate(stream, until_s)
    return found


def _words_of_record(record: SessionRecord, ahead_s: float) -> str:
    if record.is_free:
        return "free"
    parts = []
    holder = record.holder
    if holder is not None:
        until_s = holder.until_ms / 1000 - ahead_s
        parts.append(f"{holder.stream} holds it until {until_s:.3f} s")
        if holder.stop_ms is not None:
            parts.append("told to stop" + (", gate shut" if holder.closed else ""))
    if record.waiting:
        parts.append("waiting: " + ", ".join(each.stream for each in record.waiting))
    return "; ".join(parts)


def _words_of_gate(served: Served, counted_until_s: float | None) -> str:
    """counted_until_s: by the store, where that has no such lease any more."""
    assert served.lease is not None
    if served.lease.end is not None:
        return f"gate shut for ever, as {served.lease.end.value}"
    until_s = served.worker.host.clock.world(served.lease._deadline)
    counted = "" if counted_until_s is None else f", to the store until {counted_until_s:.3f} s"
    return f"gate {'open' if served.is_open else 'shut'}: lease until {until_s:.3f} s{counted}"
