"""SQLite's store as a test drives it: its clock, its generation and its whole state."""

from __future__ import annotations

from pathlib import Path

from registry.lease_records import Answer, LeaseOperation, LeaseSnapshot
from registry.lease_table import LeaseTable
from server.stores.sqlite_file import transaction
from server.stores.sqlite_store import SqliteStore
from sim.bench.proving.lease_states import LIMITS
from tests.server.conformance import Driven, Moment


class InSqlite(Driven):
    def __init__(self, folder: Path) -> None:
        self.moment = Moment()
        self.store = SqliteStore(
            folder / "sessions.sqlite", LIMITS, "w", now_ms=lambda: self.moment.now_ms
        )

    async def answer(self, operation: LeaseOperation) -> Answer:
        with transaction(self.store._opened()):
            self._set("file", self.moment.generation)
        return self.store._answer(operation)

    async def queue(self, session: str) -> tuple[str, ...]:
        return await self.store.queue(session)

    async def read(self) -> LeaseSnapshot:
        return await self.store.snapshot()

    async def write(self, state: LeaseSnapshot) -> None:
        db = self.store._opened()
        empty = LeaseTable(LIMITS).snapshot()
        with transaction(db):
            db.execute("DELETE FROM session")
            db.execute("DELETE FROM asked")
            for name, asked in state.asked:
                self.store._write_asked(db, name, asked, self.moment.now_ms)
            db.execute("DELETE FROM detached")
            for name, record in state.sessions:
                one = LeaseTable(LIMITS)
                one.restore(state)
                one.sessions = {name: record}
                db.execute("DELETE FROM detached")
                self.store._write(db, name, empty, one.snapshot())
            if not state.sessions:
                self.store._write(db, "", empty, state)
            for column, value in (("last", state.last), ("generation", state.generation)):
                self._set(column, value)
            self._set("quarantine_until_ms", state.quarantine_until_ms)
            self._set("active_until_ms", state.active_until_ms)

    def _set(self, column: str, value: object) -> None:
        self.store._opened().execute(f"UPDATE counters SET {column} = ?", (value,))
