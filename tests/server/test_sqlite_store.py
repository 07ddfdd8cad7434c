"""The file as a worker meets it: messages, whose it is, and what is refused or told."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from registry.lease_records import (
    Cancel,
    LeaseLimits,
    Message,
    Register,
    Renew,
    Told,
    Word,
)
from registry.lease_state import LimitsDiffer
from server.stores.sqlite_file import default_path
from server.stores.sqlite_store import SqliteStore
from server.stores.store import StoreRefused, StoreUnreachable
from tests.server.asked_stores import LIMITS, Clock, hand_over, run, sqlite


@pytest.mark.socket
def test_a_session_is_handed_over_through_a_file(tmp_path: Path) -> None:
    """By two connections to one file, after the quarantine of a new one."""

    async def program() -> None:
        clock = Clock()
        first, second = sqlite(tmp_path, "v", clock), sqlite(tmp_path, "w", clock)
        await first.start()
        await second.start()
        assert (await first.ask(Register("t", "v/0"))).word is Word.WAITING
        clock.now_ms += LIMITS.quarantine_ms
        await hand_over(first, second)
        await first.close()
        await second.close()

    run(program)


def test_a_worker_is_sent_the_messages_of_its_own_operations(tmp_path: Path) -> None:
    """A stream that one of the same worker supersedes is woken as any other."""

    async def program() -> None:
        clock = Clock()
        store = sqlite(tmp_path, "v", clock)
        await store.start()
        clock.now_ms += LIMITS.quarantine_ms
        messages = store.messages()
        woken = asyncio.ensure_future(anext(messages))
        await store.ask(Register("s", "v/1"))
        # By then it has looked, and found nothing.
        await asyncio.sleep(0.1)
        await store.ask(Register("s", "v/2"))
        assert await woken == Message("v/1", Told.SUPERSEDED)
        await store.close()

    run(program)


def test_the_file_is_the_users_alone(tmp_path: Path) -> None:
    """Whatever the umask says, for the file, its companions and its directory."""

    async def program() -> None:
        store = sqlite(tmp_path, "v", Clock())
        before = os.umask(0)
        try:
            await store.start()
        finally:
            os.umask(before)
        folder = tmp_path / "onestream"
        modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in folder.iterdir()}
        assert modes == {
            "sessions.sqlite": 0o600,
            "sessions.sqlite-wal": 0o600,
            "sessions.sqlite-shm": 0o600,
            "sessions.sqlite.worker-v": 0o600,
        }
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        await store.close()

    run(program)


def test_a_directory_of_others_is_refused(tmp_path: Path) -> None:
    """Where others may write, they may replace the file."""
    (tmp_path / "onestream").mkdir()
    (tmp_path / "onestream").chmod(0o777)
    with pytest.raises(StoreRefused, match=r"chmod 700.*JARVIS_SESSIONS=sqlite:/path"):
        run(sqlite(tmp_path, "v", Clock()).start)


def test_a_path_with_a_typing_error_leaves_no_directories_behind(tmp_path: Path) -> None:
    """The one of the file is made, where the one above it is there."""
    store = SqliteStore(tmp_path / "no" / "such" / "sessions.sqlite", LIMITS, "v")
    with pytest.raises(
        StoreRefused, match=rf"{tmp_path / 'no'} is not; look at the path, or mkdir"
    ):
        run(store.start)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("fails", "says"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "This user has to be able to write"),
        (OSError(errno.EROFS, "Read-only file system"), "This user has to be able to write"),
        (OSError(errno.ENOSPC, "No space left on device"), "The disk may be full"),
    ],
    ids=["denied", "read-only", "full"],
)
def test_why_a_file_cannot_be_asked_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: OSError, says: str
) -> None:
    """The cause that it has, and never that something is to be deleted."""
    store = sqlite(tmp_path, "v", Clock())

    def refuse(*_: object) -> int:
        raise fails

    (tmp_path / "onestream").mkdir(mode=0o700)
    monkeypatch.setattr("server.stores.sqlite_file.os.open", refuse)
    with pytest.raises(StoreUnreachable, match=says) as refused:
        run(store.start)
    assert "delete" not in str(refused.value)


def test_a_disk_that_is_full_within_a_transaction_is_said_and_has_changed_nothing(
    tmp_path: Path,
) -> None:
    """SQLite ends such a transaction by itself; what was kept is there when there is room again."""

    async def program() -> None:
        store = sqlite(tmp_path, "v", Clock())
        await store.start()
        await store.ask(Register("s", "v/1"))
        before = (await store.snapshot()).sessions
        db = store._opened()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreUnreachable, match="The disk may be full"):
            await store.ask(Register("s" * 100_000, "v/2"))
        assert (await store.snapshot()).sessions == before
        db.execute("PRAGMA max_page_count = 100000")
        assert (await store.ask(Register("t", "v/2"))).word is Word.WAITING
        await store.close()

    run(program)


def test_a_commit_that_fails_leaves_no_transaction_behind(tmp_path: Path) -> None:
    """It would hold the lock of the file, and every later request of all workers would fail."""

    async def program() -> None:
        store, other = (sqlite(tmp_path, name, Clock()) for name in ("v", "w"))
        await store.start()
        await other.start()
        db = store._opened()
        db.execute("PRAGMA foreign_keys = ON")
        db.execute("CREATE TABLE a(x INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE b(x INTEGER REFERENCES a DEFERRABLE INITIALLY DEFERRED)")
        # Which is found by the commit.
        failing = pytest.raises(StoreUnreachable, match="constraint failed")
        with failing:
            await store._in_transaction(lambda within: within.execute("INSERT INTO b VALUES (1)"))
        for each in (store, other):
            assert (await each.ask(Register("s", f"{each._worker}/1"))).word is Word.WAITING
            await each.close()

    run(program)


def test_a_path_that_is_a_directory_or_gone_is_said(tmp_path: Path) -> None:
    """At the start, and when it becomes so later."""
    tmp_path.chmod(0o700)

    async def program() -> None:
        with pytest.raises(StoreRefused, match="is a directory; name a file in it"):
            await SqliteStore(tmp_path, LIMITS, "v").start()
        store = sqlite(tmp_path, "v", Clock())
        await store.start()
        shutil.rmtree(store.path.parent)
        with pytest.raises(StoreUnreachable, match=r"onestream is gone: mkdir"):
            await store.ask(Register("s", "v/1"))
        await store.close()

    run(program)


def test_a_worker_whose_file_cannot_be_removed_ends_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In a directory that has become read-only: a line of the log, and its lock is free."""

    async def program() -> None:
        store = sqlite(tmp_path, "v", Clock())
        await store.start()

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", refuse)
            await store.close()
        assert "worker_file_left worker=v" in caplog.text
        other = sqlite(tmp_path, "w", Clock())
        await other.start()
        assert "sessions.sqlite.worker-v" not in [e.name for e in other.path.parent.iterdir()]
        await other.close()

    run(program)


def test_a_deleted_file_has_forgotten_the_sessions_and_lets_nobody_in_at_once(
    tmp_path: Path,
) -> None:
    """The holder says so again meanwhile, and keeps its session."""

    async def program() -> None:
        clock = Clock()
        first, second = sqlite(tmp_path, "v", clock), sqlite(tmp_path, "w", clock)
        await first.start()
        clock.now_ms += LIMITS.quarantine_ms
        granted = await first.ask(Register("s", "v/1"))
        for each in (tmp_path / "onestream").iterdir():
            each.unlink()
        await second.start()
        assert (await second.ask(Register("s", "w/2"))).word is Word.WAITING
        renewal = Renew("s", "v/1", granted.fencing_token, granted.ticket)
        assert (await first.ask(renewal)).word is Word.STOP
        await first.close()
        await second.close()

    run(program)


def test_a_worker_that_stands_still_within_its_transaction_makes_the_store_unreachable(
    tmp_path: Path,
) -> None:
    """Others wait a moment, and say so; once it has gone on, they are answered."""

    async def program() -> None:
        store = sqlite(tmp_path, "v", Clock())
        await store.start()
        stands_still = sqlite3.connect(store.path, isolation_level=None)
        stands_still.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnreachable, match="Another process has it locked"):
            await store.ask(Register("s", "v/1"))
        stands_still.execute("ROLLBACK")
        assert (await store.ask(Register("s", "v/1"))).word is Word.WAITING
        stands_still.close()
        await store.close()

    run(program)


def test_an_event_loop_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    """It goes on while many operations do, and each is answered once the file is free."""

    async def program() -> None:
        store = sqlite(tmp_path, "v", Clock())
        await store.start()
        stands_still = sqlite3.connect(store.path, isolation_level=None)
        stands_still.execute("BEGIN IMMEDIATE")
        asked = [asyncio.ensure_future(store.ask(Register(f"s{i}", f"v/{i}"))) for i in range(9)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in asked)
        stands_still.execute("ROLLBACK")
        assert {(await each).word for each in asked} == {Word.WAITING}
        stands_still.close()
        await store.close()

    run(program)


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """What is no database is neither read nor overwritten."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database, but the notes of a year\n" * 100)
    tmp_path.chmod(0o700)
    before = path.read_bytes()
    with pytest.raises(StoreUnreachable, match="not a database"):
        run(SqliteStore(path, LIMITS, "v").start)
    assert path.read_bytes() == before


def test_workers_with_other_limits_are_refused(tmp_path: Path) -> None:
    """While a lease of the others may run."""

    async def program() -> None:
        clock = Clock()
        first = sqlite(tmp_path, "v", clock)
        await first.start()
        clock.now_ms += LIMITS.quarantine_ms
        await first.ask(Register("s", "v/1"))
        second = sqlite(tmp_path, "w", clock, LeaseLimits(grace_ms=5))
        with pytest.raises(LimitsDiffer, match=r"grace_ms 5 \(others 2000\)"):
            await second.start()
        await first.close()
        await second.close()

    run(program)


def test_a_store_that_was_closed_or_did_not_start_opens_nothing(tmp_path: Path) -> None:
    """A task that was left behind would leave a connection open that nobody closes."""

    async def program() -> None:
        clock = Clock()
        first, second = (
            sqlite(tmp_path, "v", clock),
            sqlite(tmp_path, "w", clock, replace(LIMITS, grace_ms=9)),
        )
        await first.start()
        clock.now_ms += LIMITS.quarantine_ms
        await first.ask(Register("s", "v/1"))
        with pytest.raises(LimitsDiffer):
            await second.start()
        assert second._db is None
        await first.close()
        for store in (first, second):
            with pytest.raises(StoreUnreachable, match="were closed by this worker"):
                await store.ask(Cancel("s", "v/1"))
            with pytest.raises(StoreUnreachable):
                await anext(store.messages())
            assert store._db is None
        clock.now_ms += LIMITS.quarantine_ms
        await second.start()
        await second.close()

    run(program)


def test_the_default_path_is_in_the_users_own_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime directory, which is memory; without one a directory with the user's number."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/")
    assert default_path() == Path("/onestream/sessions.sqlite")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_path().parent.name == f"onestream-{os.getuid()}"


def test_a_record_of_another_release_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    """Less or more than this one says is no failure; what it cannot do without is a 503."""

    async def program() -> None:
        clock = Clock()
        store = sqlite(tmp_path, "v", clock)
        await store.start()
        clock.now_ms += LIMITS.quarantine_ms
        granted = await store.ask(Register("s", "v/1"))
        db = sqlite3.connect(store.path, isolation_level=None)
        (text,) = db.execute("SELECT record FROM session").fetchone()
        record = json.loads(text)
        del record["late"], record["late_ms"], record["holder"]["overdue"]
        record |= {"more": 1, "holder": record["holder"] | {"previous": "v/0"}}
        db.execute("UPDATE session SET record = ?", (json.dumps(record),))
        renew = Renew("s", "v/1", granted.fencing_token, granted.ticket)
        assert (await store.ask(renew)).word is Word.OK
        for wrong in ({"holder": {"stream": "v/1"}}, [], {"holder": "v/1"}):
            db.execute("UPDATE session SET record = ?", (json.dumps(wrong),))
            with pytest.raises(StoreUnreachable, match="that this release cannot read"):
                await store.ask(renew)
        db.close()
        await store.close()

    run(program)
