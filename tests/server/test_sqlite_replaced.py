"""The file of the sessions, or one of those beside it, is removed or replaced while workers run."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.lease_records import Register, Word
from server.stores.directory import Entry
from server.stores.sqlite_file import opening_alone
from server.stores.sqlite_store import SqliteStore
from tests.server.asked_stores import LIMITS, Clock, run, sqlite


async def _started(folder: Path, name: str, clock: Clock) -> SqliteStore:
    store = sqlite(folder, name, clock)
    await store.start()
    return store


@pytest.mark.parametrize("removed", [("-wal",), ("-shm",), ("-wal", "-shm"), ("", "-wal", "-shm")])
def test_who_comes_when_a_part_of_the_file_was_removed_waits_for_the_leases(
    removed: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Who opens it then sees none of what the others write, so that two would hold a session."""

    async def program() -> None:
        clock = Clock()
        store = await _started(tmp_path, "v", clock)
        clock.now_ms += LIMITS.quarantine_ms
        before = await store.ask(Register("s", "v/1"))
        assert before.word is Word.GRANTED
        clock.now_ms += 1
        for ending in removed:
            os.unlink(f"{store.path}{ending}")
        assert (await store.ask(Register("t", "v/2"))).word is Word.WAITING
        assert f"sessions_file_replaced worker=v file={store.path}" in caplog.text
        clock.now_ms += LIMITS.quarantine_ms
        granted = await store.ask(Register("t", "v/3"))
        assert granted.word is Word.GRANTED
        assert granted.fencing_token > before.fencing_token
        await store.close()

    run(program)


def test_a_file_that_is_put_back_has_not_kept_who_holds(tmp_path: Path) -> None:
    """It is as it was; of those who came meanwhile one would be let in beside who holds."""

    async def program() -> None:
        clock = Clock()
        first, second = [await _started(tmp_path, name, clock) for name in ("v", "w")]
        kept = first.path.with_suffix(".kept")
        clock.now_ms += LIMITS.quarantine_ms
        await first.ask(Register("s", "v/1"))
        os.rename(first.path, kept)
        assert (await first.ask(Register("t", "v/2"))).word is Word.WAITING
        clock.now_ms += LIMITS.quarantine_ms
        granted = await first.ask(Register("t", "v/3"))
        assert granted.word is Word.GRANTED
        os.rename(kept, first.path)
        clock.now_ms += 1
        assert (await second.ask(Register("t", "w/4"))).word is Word.WAITING
        # The other one sees that its file is another, too, and that this was said.
        clock.now_ms += LIMITS.quarantine_ms - 1
        assert (await first.ask(Register("t", "v/5"))).word is Word.WAITING
        clock.now_ms += 1
        taken = await second.ask(Register("t", "w/6"))
        assert taken.word is Word.GRANTED
        assert taken.fencing_token > granted.fencing_token
        await first.close()
        await second.close()

    run(program)


def test_streams_of_a_file_that_is_put_back_are_not_listed(tmp_path: Path) -> None:
    """They would run for ever: that they have ended stood in the file that is gone."""

    async def program() -> None:
        clock = Clock()
        store = await _started(tmp_path, "v", clock)
        kept = store.path.with_suffix(".kept")
        await store.directory.be_seen("v", 9999)
        runs = Entry("key", "t1", "v", "s", 0, 1, False, "{}")
        await store.directory.describe(runs, keep_ms=9999, ended_max=9)
        # Into the file itself, as SQLite does now and then.
        store._opened().execute("PRAGMA wal_checkpoint")
        os.rename(store.path, kept)
        clock.now_ms += 1
        ended = replace(runs, version=2, ended=True)
        await store.directory.describe(ended, keep_ms=9999, ended_max=9)
        assert await store.directory.described("key") == [ended]
        os.rename(kept, store.path)
        clock.now_ms += 1
        assert await store.directory.described("key") == []
        assert not (await store.directory.be_seen("v", 9999)).was_known
        await store.close()

    run(program)


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _notes(path: Path) -> None:
    path.write_text("not a database, but the notes of a year\n" * 200)


@pytest.mark.parametrize("another", [_nothing, _notes])
def test_nothing_of_the_old_file_is_taken_for_the_new_ones(
    another: Callable[[Path], None], tmp_path: Path
) -> None:
    """What stands beside it belongs to the old one: with it the new one would be a damaged one."""

    async def program() -> None:
        clock = Clock()
        store = await _started(tmp_path, "v", clock)
        clock.now_ms += LIMITS.quarantine_ms
        await store.ask(Register("s", "v/1"))
        new = store.path.with_suffix(".new")
        another(new)
        os.rename(new, store.path)
        said = ""
        try:
            await store.ask(Register("s", "v/2"))
        except Exception as exc:
            said = str(exc)
        assert ("file is not a database" in said) == (another is _notes)
        store.path.unlink()
        assert (await store.ask(Register("s", "v/3"))).word is Word.WAITING
        assert len((await store.snapshot()).sessions) == 1
        await store.close()

    run(program)


def test_workers_open_the_file_anew_one_after_the_other(tmp_path: Path) -> None:
    """Who removes what is left beside it would remove what another has just made there."""

    async def program() -> None:
        store = await _started(tmp_path, "v", Clock())
        os.rename(store.path, store.path.with_suffix(".kept"))
        with opening_alone(store.path):
            asked = asyncio.ensure_future(store.ask(Register("s", "v/1")))
            await asyncio.sleep(0)
            assert not asked.done()
            assert not store.path.exists()
        assert (await asked).word is Word.WAITING
        assert store.path.exists()
        with opening_alone(store.path):
            # Who has it open waits for nobody.
            assert (await store.ask(Register("s", "v/2"))).word is Word.WAITING
        await store.close()

    run(program)


def test_a_worker_whose_files_were_removed_is_known_to_be_gone_all_the_same(tmp_path: Path) -> None:
    """It holds a new lock beside the new file."""

    async def program() -> None:
        clock = Clock()
        first, second = [await _started(tmp_path, name, clock) for name in ("v", "w")]
        for each in first.path.parent.iterdir():
            each.unlink()
        for store in (first, second):
            await store.ask(Register("s", f"{store._worker}/1"))
            assert store._locks._path(store._worker).exists()
        assert not second._locks.is_gone("v")
        lock = first._locks._path("v").rename(tmp_path / "of the dead")
        await first.close()
        lock.rename(first._locks._path("v"))
        assert second._locks.is_gone("v")
        await second.close()

    run(program)
