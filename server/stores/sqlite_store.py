"""Sessions in a file of SQLite's: for the workers of one host, whose clock is the same for all.

Each operation is one short transaction around the lease table itself. It runs in the event loop:
it takes a tenth of a millisecond, and a thread would cost as much. A process that is stopped
within its own blocks the others: their operations wait, and not their loops, and after a quarter
of a second the store is unreachable.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from registry import attempts
from registry.attempts import Asked
from registry.lease_records import (
    Answer,
    Detached,
    Holder,
    LeaseLimits,
    LeaseOperation,
    LeaseSnapshot,
    Leave,
    Message,
    Poll,
    Register,
    Reply,
    SessionRecord,
    Waiting,
    Why,
)
from registry.lease_table import LeaseTable
from registry.states import Strategy
from server.lines import line
from server.stores import sqlite_directory
from server.stores.sqlite_directory import SqliteDirectory
from server.stores.sqlite_file import (
    Files,
    errors,
    files_at,
    is_locked,
    is_made_since,
    make_private,
    new_mark,
    opening_alone,
    remove_left_beside,
    transaction,
)
from server.stores.store import (
    RecordUnreadable,
    StoreRefused,
    StoreUnreachable,
    look,
    told_of,
    worker_of,
)
from server.stores.worker_locks import WorkerLocks

_logger = logging.getLogger("onestream.registry")
_T = TypeVar("_T")

# A transaction takes a tenth of a millisecond; who finds the file locked tries again after each of
# these, a quarter of a second in all, and then waits for a process that stands still.
AGAIN_S = (0.001, 0.002, 0.005, *(0.01,) * 24)
# How often a worker looks for messages; a look costs some microseconds.
LOOK_S = 0.02


_SCHEMA = """
CREATE TABLE IF NOT EXISTS counters(
    one INTEGER PRIMARY KEY CHECK (one = 1), file TEXT, last INTEGER, generation TEXT,
    quarantine_until_ms INTEGER, active_until_ms INTEGER, limits_text TEXT);
CREATE TABLE IF NOT EXISTS session(name TEXT PRIMARY KEY, record TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS detached(
    session TEXT, stream TEXT, seen_ms INTEGER, PRIMARY KEY (session, stream)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS asked(
    session TEXT PRIMARY KEY, prompts TEXT, until_ms INTEGER) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS asked_until ON asked(until_ms);
CREATE TABLE IF NOT EXISTS message(
    number INTEGER PRIMARY KEY AUTOINCREMENT, worker TEXT, stream TEXT, told TEXT, sent_ms INTEGER);
"""


def monotonic_ms() -> int:
    """The host's own clock, the same in every process."""
    return time.monotonic_ns() // 1_000_000


class SqliteStore:
    def __init__(
        self,
        path: Path,
        limits: LeaseLimits,
        worker: str,
        *,
        now_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self.path = path
        self._limits = limits
        self._worker = worker
        self._now_ms = now_ms
        self._locks = WorkerLocks(path, worker)
        self._db: sqlite3.Connection | None = None
        # Who asks then, as a task that was left behind, opens nothing that nobody would close.
        self._is_closed = False
        # What is open; where others stand at this path, what was written may be lost.
        self._files: Files | None = None
        # When they were last there.
        self._seen_ms = 0
        self._generation = ""
        # Whether there may be messages of which `data_version` says nothing: it counts what other
        # connections have written.
        self._must_look = True

    @property
    def limits(self) -> LeaseLimits:
        return self._limits

    async def start(self) -> None:
        """What it has opened is closed again where it raises."""
        self._is_closed = False
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise

    async def _start(self) -> None:
        if self.path.is_dir():
            raise StoreRefused(
                f"{self.path} is a directory; name a file in it: "
                f"JARVIS_SESSIONS=sqlite:{self.path / 'sessions.sqlite'}"
            )
        make_private(self.path.parent)
        await self._when_free(self._enter)
        await self.ask(look(self._worker))

    def _enter(self) -> None:
        self._opened()
        self._locks.hold()
        self._bury_all()

    async def ask(self, operation: LeaseOperation) -> Reply:
        answer = await self._when_free(lambda: self._answer(operation))
        return answer.reply

    async def messages(self) -> AsyncIterator[Message]:
        seen: int | None = None
        while True:
            seen, found = await self._when_free(partial(self._look, seen))
            for message in found:
                yield message
            await asyncio.sleep(LOOK_S)

    def _look(self, seen: int | None) -> tuple[int, list[Message]]:
        """What tells whether others have written since, and the messages."""
        db = self._opened()
        (version,) = db.execute("PRAGMA data_version").fetchone()
        if not self._must_look and version == seen:
            return version, []
        found = self._taken_messages(db)
        self._must_look = False
        return version, found

    async def queue(self, session: str) -> tuple[str, ...]:
        return await self._in_transaction(
            lambda db: self._table_of(db, session).queue(session, self._now_ms())
        )

    async def snapshot(self) -> LeaseSnapshot:
        return await self._in_transaction(self._snapshot)

    def _snapshot(self, db: sqlite3.Connection) -> LeaseSnapshot:
        table = self._counters(db)
        rows = db.execute("SELECT name, record FROM session").fetchall()
        table.sessions = {name: _record(text) for name, text in rows}
        table.detached = self._detached(db)
        prompts = db.execute("SELECT session, prompts FROM asked").fetchall()
        table.asked = {name: attempts.from_text(text) for name, text in prompts}
        return table.snapshot()

    @property
    def directory(self) -> SqliteDirectory:
        return SqliteDirectory(
            self._in_transaction,
            self._now_ms,
            lambda db, message: self._send(db, (message,), self._now_ms()),
            self._locks.is_gone,
        )

    async def close(self) -> None:
        self._is_closed = True
        if self._db is not None:
            self._db.close()
            self._db = None
        self._locks.release()

    # -- one transaction

    async def _when_free(self, work: Callable[[], _T]) -> _T:
        """Its result; again, from its begin, while another process has the file locked."""
        for pause_s in AGAIN_S:
            with errors(self.path):
                try:
                    return work()
                except (sqlite3.Error, OSError) as exc:
                    if not is_locked(exc):
                        raise
            await asyncio.sleep(pause_s)
        with errors(self.path):
            return work()

    async def _in_transaction(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def whole() -> _T:
            db = self._opened()
            with transaction(db):
                return work(db)

        return await self._when_free(whole)

    def _answer(self, operation: LeaseOperation) -> Answer:
        db = self._opened()
        with transaction(db):
            name = operation.session
            table = self._table_of(db, name)
            if isinstance(operation, Register | Leave):
                self._read_asked(db, table, name)
            before = table.snapshot()
            now_ms = self._now_ms()
            messages: tuple[Message, ...] = ()
            if isinstance(operation, Register | Poll):
                messages = self._bury(table, name, now_ms)
            answer = table.apply(operation, now_ms, self._generation)
            after = table.snapshot()
            self._write(db, name, before, after)
            if before.asked != after.asked:
                self._write_asked(db, name, table.asked.get(name, ()), now_ms)
            self._send(db, (*messages, *answer.messages), now_ms)
        return answer

    def _read_asked(self, db: sqlite3.Connection, table: LeaseTable, session: str) -> None:
        find = "SELECT prompts FROM asked WHERE session = ?"
        row = db.execute(find, (session,)).fetchone()
        if row is not None:
            with _reading():
                table.asked[session] = attempts.from_text(row[0])

    def _write_asked(
        self, db: sqlite3.Connection, session: str, asked: tuple[Asked, ...], now_ms: int
    ) -> None:
        # Those of sessions that nobody has asked for since; also of a time that never comes.
        keep_ms = max(self._limits.repeat_ms, attempts.KEEP_MS)
        db.execute(
            "DELETE FROM asked WHERE NOT until_ms BETWEEN ? AND ? OR session = ?",
            (now_ms, now_ms + keep_ms, session),
        )
        if asked:
            text = attempts.as_text(asked)
            db.execute("INSERT INTO asked VALUES (?, ?, ?)", (session, text, now_ms + keep_ms))

    def _bury(self, table: LeaseTable, session: str, now_ms: int) -> tuple[Message, ...]:
        """The streams of dead processes leave the session: the kernel has ended all they did."""
        record = table.sessions.get(session, SessionRecord())
        streams = [each.stream for each in record.waiting]
        if record.holder is not None:
            streams.append(record.holder.stream)
        streams += [each.stream for each in table.detached.values() if each.session == session]
        gone = {each: self._locks.is_gone(each) for each in {}.fromkeys(map(worker_of, streams))}
        messages: tuple[Message, ...] = ()
        for stream in streams:
            if gone[worker_of(stream)]:
                _logger.warning(line("worker_gone", stream=stream, seen_by=self._worker))
                leave = Leave(session, stream)
                messages += table.apply(leave, now_ms, self._generation).messages
        return messages

    def _bury_all(self) -> None:
        """Those of all sessions, so that nothing refers to the files of the dead."""
        dead = self._locks.gone()
        if not dead:
            return
        db = self._opened()
        with transaction(db):
            now_ms = self._now_ms()
            sessions = {name for (name,) in db.execute("SELECT name FROM session")}
            all_read = True
            for name in sorted(sessions | {session for session, _ in self._detached(db)}):
                try:
                    table = self._table_of(db, name)
                except RecordUnreadable:
                    # Its session's prompts say so. Which of the dead it names is not known.
                    all_read = False
                    continue
                before = table.snapshot()
                messages = self._bury(table, name, now_ms)
                self._write(db, name, before, table.snapshot())
                self._send(db, messages, now_ms)
            if not all_read:
                return
            names = [(worker,) for worker in dead]
            db.executemany("DELETE FROM worker WHERE name = ?", names)
        for worker in dead:
            self._locks.forget(worker)

    def _table_of(self, db: sqlite3.Connection, session: str) -> LeaseTable:
        """What is kept of this session and of all that are detached."""
        table = self._counters(db)
        row = db.execute("SELECT record FROM session WHERE name = ?", (session,)).fetchone()
        if row is not None:
            table.sessions[session] = _record(row[0])
        table.detached = self._detached(db)
        return table

    def _counters(self, db: sqlite3.Connection) -> LeaseTable:
        table = LeaseTable(self._limits)
        row = db.execute(
            "SELECT last, generation, quarantine_until_ms, active_until_ms, limits_text, file "
            "FROM counters"
        ).fetchone()
        with _reading():
            *counters, self._generation = row
        (
            table.last,
            table.generation,
            table.quarantine_until_ms,
            table.active_until_ms,
            table.limits_text,
        ) = counters
        return table

    def _detached(self, db: sqlite3.Connection) -> dict[tuple[str, str], Detached]:
        rows = db.execute("SELECT session, stream, seen_ms FROM detached").fetchall()
        return {(session, stream): Detached(session, stream, ms) for session, stream, ms in rows}

    def _write(
        self, db: sqlite3.Connection, name: str, before: LeaseSnapshot, after: LeaseSnapshot
    ) -> None:
        if _counters_of(before) != _counters_of(after):
            db.execute(
                "UPDATE counters SET last = ?, generation = ?, quarantine_until_ms = ?, "
                "active_until_ms = ?, limits_text = ?",
                _counters_of(after),
            )
        if before.sessions != after.sessions:
            if after.sessions:
                text = json.dumps(asdict(after.session(name)), default=_value)
                db.execute("INSERT OR REPLACE INTO session VALUES (?, ?)", (name, text))
            else:
                db.execute("DELETE FROM session WHERE name = ?", (name,))
        if before.detached != after.detached:
            db.execute("DELETE FROM detached")
            rows = [(each.session, each.stream, each.seen_ms) for each in after.detached]
            db.executemany("INSERT INTO detached VALUES (?, ?, ?)", rows)

    def _send(self, db: sqlite3.Connection, messages: tuple[Message, ...], now_ms: int) -> None:
        if not messages:
            return
        # Those to a worker that is gone.
        too_old_ms = now_ms - self._limits.lease_ms
        db.execute("DELETE FROM message WHERE NOT sent_ms BETWEEN ? AND ?", (too_old_ms, now_ms))
        rows = [(worker_of(m.stream), m.stream, m.told.value, now_ms) for m in messages]
        insert = "INSERT INTO message(worker, stream, told, sent_ms) VALUES (?, ?, ?, ?)"
        db.executemany(insert, rows)
        self._must_look = True

    def _taken_messages(self, db: sqlite3.Connection) -> list[Message]:
        find = "SELECT number, stream, told FROM message WHERE worker = ? ORDER BY number"
        rows = db.execute(find, (self._worker,)).fetchall()
        if rows:
            numbers = [(number,) for number, _, _ in rows]
            with transaction(db):
                db.executemany("DELETE FROM message WHERE number = ?", numbers)
        return [Message(stream, told_of(told)) for _, stream, told in rows]

    # -- the file

    def _opened(self) -> sqlite3.Connection:
        """The connection to the file that stands at the path now, which is made if there is none.

        Who deletes it, or one of those beside it, takes the sessions of all workers along: the new
        one has another generation, and so gets one that was there before and is put back.
        """
        if self._is_closed:
            raise StoreUnreachable(f"the sessions in {self.path} were closed by this worker")
        now_ms = self._now_ms()
        if self._db is not None and files_at(self.path) == self._files:
            self._seen_ms = now_ms
            return self._db
        with opening_alone(self.path):
            return self._opened_anew(now_ms)

    def _opened_anew(self, now_ms: int) -> sqlite3.Connection:
        if self._db is not None:
            _logger.warning(line("sessions_file_replaced", worker=self._worker, file=self.path))
            self._db.close()
            self._db = None
        if self._files is not None:
            remove_left_beside(self.path, self._files)
        # Before SQLite opens it, which would ask the umask; -wal and -shm get the same mode.
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        before = files_at(self.path)
        db = sqlite3.connect(self.path, isolation_level=None, timeout=0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # A commit waits for no disk: what a power cut takes along was of workers it ended.
            db.execute("PRAGMA synchronous = NORMAL")
            with transaction(db):
                for statement in filter(str.strip, (_SCHEMA + sqlite_directory.SCHEMA).split(";")):
                    db.execute(statement)
                db.execute(
                    "INSERT OR IGNORE INTO counters VALUES (1, ?, 0, '', 0, 0, ?)",
                    (new_mark(now_ms), self._limits.text),
                )
                if self._files is not None:
                    self._mark_as_new(db, now_ms)
                    self._locks.hold()
        except BaseException:
            db.close()
            raise
        # The two beside it are made as it is opened.
        self._db, self._files = db, files_at(self.path)._replace(main=before.main)
        self._seen_ms, self._must_look = now_ms, True
        return db

    def _mark_as_new(self, db: sqlite3.Connection, now_ms: int) -> None:
        """Unless it is: the worker that saw it first has done so, or has made it."""
        (mark,) = db.execute("SELECT file FROM counters").fetchone()
        if not is_made_since(str(mark), self._seen_ms, now_ms):
            db.execute("UPDATE counters SET file = ?", (new_mark(now_ms),))
            # It may say that streams run which have ended. The workers are not known to it, and so
            # describe those that do again.
            for table in ("stream", "worker"):
                db.execute(f"DELETE FROM {table}")


def _counters_of(state: LeaseSnapshot) -> tuple[int, str, int, int, str]:
    return (
        state.last,
        state.generation,
        state.quarantine_until_ms,
        state.active_until_ms,
        state.limits_text,
    )


def _value(each: object) -> object:
    """An enum, as its value."""
    assert isinstance(each, Strategy | Why)
    return each.value


_HOLDER, _WAITING = (frozenset(each.name for each in fields(of)) for of in (Holder, Waiting))


def _record(text: str) -> SessionRecord:
    """One of another release may say less, or more. Raises RecordUnreadable."""
    with _reading():
        return _record_of(json.loads(text))


@contextmanager
def _reading() -> Iterator[None]:
    """What was found there: it need not be what this release writes."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        raise RecordUnreadable(
            f"the store of sessions has a record that this release cannot read "
            f"({type(exc).__name__}: {exc}); end all workers, and delete the file if nothing else "
            f"needs it"
        ) from exc


def _record_of(raw: dict[str, Any]) -> SessionRecord:
    holder = raw.get("holder")
    if holder is not None:
        why = holder.get("why")
        known = {name: holder[name] for name in holder if name in _HOLDER}
        holder = Holder(**{**known, "why": why and Why(why)})
    waiting = []
    for each in raw.get("waiting", ()):
        known = {name: each[name] for name in each if name in _WAITING}
        waiting.append(Waiting(**{**known, "strategy": Strategy(each["strategy"])}))
    late = tuple(raw.get("late", ()))
    return SessionRecord(
        holder, tuple(waiting), raw.get("left", ""), late, int(raw.get("late_ms", 0))
    )
