"""Kills a worker between any two statements that it sends to SQLite's store, and reads the file.

    python -m tests.server.sqlite_crashes FOLDER [--all] [--some] [--instructions] [--autocommit]

SQLite is C, and no simulated disk holds its file. So the file is real, and the process is killed at
a count: before its first statement, before its second, and so on until it comes to its end; no
clock decides. What is found afterwards has to be what was there before, to the last row, or what
the whole operation leaves; and the next worker's operation on it does what the lease table does.

--all: each circumstance of each row, not one of each; --some: one of every fourth row.
--instructions: not between statements but between any two instructions of SQLite's own machine.
--autocommit: without transactions, which has to be found. A program of its own, since it forks.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from registry.lease_invariants import LeaseStep, violated
from registry.lease_records import Cancel, Message, Register, Told, Word
from registry.lease_table import LeaseTable
from server.stores import sqlite_store
from server.stores.directory import Entry
from server.stores.sqlite_store import SqliteStore
from sim.bench.proving.lease_states import LIMITS, NOW
from tests.server.conformance import Case, Differs, cases, compare
from tests.server.in_sqlite import InSqlite

Work = Callable[["Fuse"], None]


def nothing() -> None:
    pass


class Fuse:
    """Kills this process before the statement of that number, from when it is lit."""

    def __init__(self, at: int, *, instructions: bool) -> None:
        self._left = at
        self._instructions = instructions
        self.is_lit = False

    def put_into(self, db: sqlite3.Connection) -> None:
        if self._instructions:
            db.set_progress_handler(self._burn, 1)
        else:
            db.set_trace_callback(self._burn)

    def _burn(self, *_: object) -> None:
        if not self.is_lit:
            return
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def is_killed(work: Work, at: int, *, instructions: bool = False) -> bool:
    """Does it in a fork; whether that was killed before it came to the end."""
    child = os.fork()
    if child == 0:
        try:
            fuse = Fuse(at, instructions=instructions)
            connect = sqlite3.connect

            def with_fuse(*arguments: Any, **named: Any) -> sqlite3.Connection:
                db = connect(*arguments, **named)
                fuse.put_into(db)
                return db

            sqlite3.connect = with_fuse
            work(fuse)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, -signal.SIGKILL), f"what was to be killed has ended by itself: {code}"
    return code != 0


def dump(path: Path) -> list[str]:
    """All that the file holds, as statements."""
    db = sqlite3.connect(path)
    lines = list(db.iterdump())
    db.close()
    return lines


class Crashes:
    def __init__(self, folder: Path, *, instructions: bool) -> None:
        self.folder = folder
        self.path = folder / "sessions.sqlite"
        self.instructions = instructions
        self.kills = 0

    def each(self, work: Work, prepare: Callable[[], None]) -> Iterator[bool]:
        """After each kill False, at last, once it has come to its end, True."""
        for at in count(1):
            prepare()
            if not is_killed(work, at, instructions=self.instructions):
                yield True
                return
            self.kills += 1
            yield False

    def is_whole_or_nothing(
        self,
        what: str,
        work: Work,
        prepare: Callable[[], None],
        then: Callable[[], None] = nothing,
    ) -> None:
        """Raises Differs where it is found half done; then: what else is to hold of the file."""
        prepare()
        before = dump(self.path)
        assert not is_killed(work, 0)
        after = dump(self.path)
        for has_ended in self.each(work, prepare):
            found = dump(self.path)
            if found == after and self.instructions:
                # COMMIT has a last instruction, too, and has committed some before it.
                before = after
            if found != (after if has_ended else before):
                raise Differs(f"{what} was cut off, and left\n" + "\n".join(found))
            then()

    # -- the table's operations

    def of_case(self, case: Case) -> None:
        """An operation that is cut off has not been asked, and may be asked by the next."""
        state, _, operation = case

        def ask(fuse: Fuse) -> None:
            driven = InSqlite(self.folder)
            driven.moment.now_ms = NOW
            driven.store._opened()
            fuse.is_lit = True
            driven.store._answer(operation)

        self.is_whole_or_nothing(
            f"{state}\n{operation}",
            ask,
            lambda: self._write(case),
            then=lambda: asyncio.run(self._ask_again(case)),
        )

    def _write(self, case: Case) -> None:
        state, generation, _ = case

        async def program() -> None:
            driven = InSqlite(self.folder)
            driven.moment.now_ms = NOW
            await driven.write(state)
            driven._set("file", generation)
            db = driven.store._opened()
            db.execute("DELETE FROM message")
            db.execute("DELETE FROM sqlite_sequence")
            await driven.store.close()

        asyncio.run(program())

    async def _ask_again(self, case: Case) -> None:
        """As the table answers, with what it keeps; and the invariants of leases hold."""
        _, generation, operation = case
        driven = InSqlite(self.folder)
        driven.moment.now_ms, driven.moment.generation = NOW, generation
        before = await driven.read()
        table, alone = LeaseTable(LIMITS), LeaseTable(LIMITS)
        table.restore(before)
        alone.restore(before)
        await compare(table, driven, operation)
        await driven.store.close()
        answer = alone.apply(operation, NOW, generation)
        step = LeaseStep(before, operation, NOW, generation, answer, alone.snapshot(), LIMITS)
        broken = violated(step)
        if broken is not None:
            raise Differs(f"{broken}: {before}\n{operation}")

    # -- what is asked besides

    def of_the_rest(self) -> None:
        """Messages that are taken and sent, and the list of streams: whole, or not at all."""
        entry = Entry("key", "1", "w", "s", NOW, 1, True, "{}")
        message = Message("v/1", Told.SUPERSEDED)
        directory: dict[str, Callable[[SqliteStore], Any]] = {
            "describe": lambda store: store.directory.describe(entry, keep_ms=1000, ended_max=1),
            "be_seen": lambda store: store.directory.be_seen("w", 1000),
            "tell": lambda store: store.directory.tell(message),
            "take": lambda store: anext(store.messages()),
        }
        for name, asked in directory.items():

            async def program(fuse: Fuse, asked: Callable[[SqliteStore], Any] = asked) -> None:
                store = self._store("w")
                store._opened()
                fuse.is_lit = True
                await asked(store)
                await store.close()

            def work(fuse: Fuse, program: Callable[[Fuse], Any] = program) -> None:
                asyncio.run(program(fuse))

            self.is_whole_or_nothing(name, work, self._begin_anew)

    def of_starts(self) -> None:
        """Who comes after one that was killed while it started finds a store, and the dead buried.

        On a file that is not there yet, and on one of a worker that died while it held a session.
        """

        async def start(fuse: Fuse) -> None:
            fuse.is_lit = True
            await self._store("w").start()

        for prepare, is_held in ((self._remove, False), (self._leave_a_dead_worker, True)):
            for _ in self.each(lambda fuse: asyncio.run(start(fuse)), prepare):
                asyncio.run(self._begin_after(is_held=is_held))

    async def _begin_after(self, *, is_held: bool) -> None:
        store = self._store("x")
        await store.start()
        assert not store._locks.gone(), "the files of the dead are taken away"
        reply = await store.ask(Register("s", "x/1"))
        # A new file is in its quarantine; what a process held that is dead is free at once.
        assert reply.word is (Word.GRANTED if is_held else Word.WAITING), reply
        assert (await store.snapshot()).quarantine_until_ms > 0
        await store.close()

    def _store(self, worker: str, now_ms: int = NOW) -> SqliteStore:
        return SqliteStore(self.path, LIMITS, worker, now_ms=lambda: now_ms)

    def _remove(self) -> None:
        for each in self.folder.glob("*"):
            each.unlink()

    def _begin_anew(self) -> None:
        """Its quarantine is over, and there is a message for the worker."""
        self._remove()

        async def program() -> None:
            store = self._store("seed", NOW - LIMITS.quarantine_ms - 1)
            await store.ask(Cancel("", "seed/"))
            await store.directory.tell(Message("w/1", Told.FREE))
            # Made by chance, and not to be compared.
            store._opened().execute("UPDATE counters SET file = 'f', generation = 'f'")
            await store.close()

        asyncio.run(program())

    def _leave_a_dead_worker(self) -> None:
        self._begin_anew()

        async def hold(fuse: Fuse) -> None:
            store = self._store("dead")
            await store.start()
            assert (await store.ask(Register("s", "dead/1"))).word is Word.GRANTED
            await store.ask(Register("t", "dead/2"))
            os.kill(os.getpid(), signal.SIGKILL)

        assert is_killed(lambda fuse: asyncio.run(hold(fuse)), 0)


def chosen(*, all_of_them: bool) -> list[Case]:
    """Cases that are possible; one for each row, or each circumstance."""
    found: dict[object, Case] = {}
    for number, case in enumerate(cases()):
        state, generation, operation = case
        table = LeaseTable(LIMITS)
        table.restore(state)
        try:
            met = table._found(operation, NOW, generation)
            table.apply(operation, NOW, generation)
        except Exception:
            continue
        row = (type(operation), met.situation_of(operation, NOW))
        found[number if all_of_them else row] = case
    return list(found.values())


@contextmanager
def autocommit(db: sqlite3.Connection) -> Iterator[None]:
    yield


def main(folder: str, *options: str) -> None:
    # That the dead are buried is a warning.
    logging.getLogger("onestream").setLevel(logging.ERROR)
    crashes = Crashes(Path(folder), instructions="--instructions" in options)
    if "--autocommit" in options:
        sqlite_store.transaction = autocommit
    those = chosen(all_of_them="--all" in options)
    if "--some" in options:
        those = those[::4]
    for case in those:
        crashes.of_case(case)
    crashes.of_the_rest()
    crashes.of_starts()
    print(f"{len(those)} operations, {crashes.kills} kills")


if __name__ == "__main__":
    main(*sys.argv[1:])
