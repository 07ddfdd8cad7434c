"""How the script is asked, and what it keeps of a session: as words of Valkey or Redis."""

from __future__ import annotations

from typing import Any

from registry import attempts
from registry.lease_records import (
    Detached,
    Holder,
    LeaseOperation,
    Leave,
    Poll,
    Register,
    Renew,
    SessionRecord,
    Waiting,
    Why,
)
from registry.states import Strategy


def arguments(operation: LeaseOperation) -> list[str | int]:
    strategy, ticket, token, closed = Strategy.INTERRUPT, 0, 0, 0
    match operation:
        case Register():
            strategy = operation.strategy
        case Poll():
            strategy, ticket = operation.strategy, operation.ticket
        case Renew():
            ticket, token, closed = operation.ticket, operation.fencing_token, operation.closed
    name = type(operation).__name__.lower()
    session, stream = operation.session, operation.stream
    return [name, session, stream, strategy.value, ticket, token, int(closed)]


def attempt_of(operation: LeaseOperation) -> list[str | int]:
    """Digest, whether it says that it repeats, whether its answer was whole; how long to keep."""
    attempt = operation.attempt if isinstance(operation, Register) else None
    whole = isinstance(operation, Leave) and operation.whole
    digest, repeats = ("", False) if attempt is None else (attempt.digest, attempt.repeats)
    return [digest, int(repeats), int(whole), attempts.KEEP_MS, attempts.PER_SESSION_MAX]


def texts_of(raw: Any) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in raw.items()}


def streams_in(lines: str) -> tuple[str, ...]:
    """As the script joins them: `splitlines` would also split at what a name may contain."""
    return tuple(lines.split("\n")) if lines else ()


def record_of(fields: dict[str, str]) -> SessionRecord:
    waiting = []
    for name, value in fields.items():
        if name.startswith("w:"):
            ticket, seen_ms, strategy = value.split(" ")
            waiting.append(Waiting(name[2:], int(ticket), Strategy(strategy), int(seen_ms)))
    holder = None
    if "holder" in fields:
        holder = Holder(
            fields["holder"],
            int(fields["token"]),
            int(fields["ticket"]),
            int(fields["until"]),
            int(fields["seen"]),
            int(fields["stop"]) if "stop" in fields else None,
            Why(fields["why"]) if "why" in fields else None,
            closed=fields["closed"] == "1",
            overdue=fields["overdue"] == "1",
        )
    in_order = tuple(sorted(waiting, key=lambda each: each.ticket))
    late = streams_in(fields.get("late", ""))
    left = fields.get("left", "")
    return SessionRecord(holder, in_order, left, late, int(fields.get("late_ms", 0)))


def detached_of(member: str, seen_ms: int) -> Detached:
    """A member is the length of the session in bytes, the session and the stream."""
    length, _, names = member.partition(":")
    raw = names.encode()
    return Detached(raw[: int(length)].decode(), raw[int(length) :].decode(), seen_ms)
