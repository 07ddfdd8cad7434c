"""The streams of all workers in SQLite, in the file of the sessions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Protocol, TypeVar

from registry.lease_records import Message
from server.stores.directory import Entry, Seen

SCHEMA = """
CREATE TABLE IF NOT EXISTS stream(
    owner TEXT, trace_id TEXT, worker TEXT, session TEXT, at_ms INTEGER, version INTEGER,
    ended INTEGER, view TEXT, written_ms INTEGER, PRIMARY KEY (owner, trace_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS worker(name TEXT PRIMARY KEY, until_ms INTEGER) WITHOUT ROWID;
"""
_T = TypeVar("_T")
_FIELDS = "owner, trace_id, worker, session, at_ms, version, ended, view"


class Transactions(Protocol):
    """Does the work in a transaction of the store's connection, and waits for its turn."""

    async def __call__(self, work: Callable[[sqlite3.Connection], _T]) -> _T: ...


class SqliteDirectory:
    """send: writes a message within a transaction.

    is_gone: whether the process of a worker has ended.
    """

    def __init__(
        self,
        in_transaction: Transactions,
        now_ms: Callable[[], int],
        send: Callable[[sqlite3.Connection, Message], None],
        is_gone: Callable[[str], bool],
    ) -> None:
        self._send = send
        self._in_transaction = in_transaction
        self._now_ms = now_ms
        self._is_gone = is_gone

    async def describe(self, entry: Entry, *, keep_ms: int, ended_max: int) -> None:
        now_ms = self._now_ms()

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                f"INSERT OR REPLACE INTO stream({_FIELDS}, written_ms) "
                f"VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*astuple(entry), now_ms),
            )
            if entry.ended:
                self._forget_old(db, entry.owner, now_ms, keep_ms, ended_max)

        await self._in_transaction(write)

    def _forget_old(
        self, db: sqlite3.Connection, owner: str, now_ms: int, keep_ms: int, ended_max: int
    ) -> None:
        # A clock that was set anew with the host makes times that are ahead.
        is_old = "NOT written_ms BETWEEN ? AND ?"
        since = (now_ms - keep_ms, now_ms)
        db.execute("DELETE FROM worker WHERE NOT until_ms >= ?", (now_ms - keep_ms,))
        db.execute(
            f"DELETE FROM stream WHERE {is_old} AND "
            f"(ended OR worker NOT IN (SELECT name FROM worker))",
            since,
        )
        db.execute(
            "DELETE FROM stream WHERE owner = ? AND trace_id IN (SELECT trace_id FROM stream "
            "WHERE owner = ? AND ended ORDER BY written_ms DESC LIMIT -1 OFFSET ?)",
            (owner, owner, ended_max),
        )

    async def described(self, owner: str) -> list[Entry]:
        find = f"SELECT {_FIELDS} FROM stream WHERE owner = ? ORDER BY at_ms DESC, trace_id"
        rows = await self._in_transaction(lambda db: db.execute(find, (owner,)).fetchall())
        return [_entry(row) for row in rows]

    async def found(self, owner: str, trace_ids: Sequence[str]) -> list[Entry]:
        find = f"SELECT {_FIELDS} FROM stream WHERE owner = ? AND trace_id = ?"
        rows = await self._in_transaction(
            lambda db: [db.execute(find, (owner, each)).fetchone() for each in trace_ids]
        )
        return [_entry(row) for row in rows if row is not None]

    async def be_seen(self, worker: str, within_ms: int) -> Seen:
        def write(db: sqlite3.Connection) -> Seen:
            now_ms = self._now_ms()
            known = db.execute("SELECT 1 FROM worker WHERE name = ?", (worker,)).fetchone()
            db.execute("INSERT OR REPLACE INTO worker VALUES (?, ?)", (worker, now_ms + within_ms))
            (until_ms,) = db.execute("SELECT quarantine_until_ms FROM counters").fetchone()
            return Seen(known is not None, max(0, until_ms - now_ms), now_ms)

        return await self._in_transaction(write)

    async def is_seen(self, worker: str) -> bool:
        find = "SELECT until_ms FROM worker WHERE name = ?"
        row = await self._in_transaction(lambda db: db.execute(find, (worker,)).fetchone())
        return row is not None and self._now_ms() < row[0] and not self._is_gone(worker)

    async def tell(self, message: Message) -> None:
        await self._in_transaction(lambda db: self._send(db, message))


def _entry(row: tuple[str, str, str, str, int, int, int, str]) -> Entry:
    owner, trace_id, worker, session, at_ms, version, ended, view = row
    return Entry(owner, trace_id, worker, session, at_ms, version, bool(ended), view)
