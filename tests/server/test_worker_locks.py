"""A worker of the same host that dies is noticed at once, by the lock that its process held."""

from __future__ import annotations

import os
from pathlib import Path

from registry.lease_records import LeaseLimits, Poll, Register, Word
from registry.states import Strategy
from server.stores.sqlite_store import SqliteStore, monotonic_ms
from tests.server.support import run_async

LIMITS = LeaseLimits()


async def stores(folder: Path, *names: str) -> list[SqliteStore]:
    """Started; the quarantine of their file is over."""
    path = folder / "shared" / "sessions.sqlite"
    old = SqliteStore(path, LIMITS, "old", now_ms=lambda: monotonic_ms() - 60_000)
    await old.start()
    await old.close()
    made = [SqliteStore(path, LIMITS, name) for name in names]
    for each in made:
        await each.start()
    return made


def lock_files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.glob("shared/*.worker-*"))


def kill(store: SqliteStore) -> None:
    """As far as others see: the kernel closes what its process had open."""
    fd, db = store._locks._fd, store._db
    assert fd is not None
    assert db is not None
    os.close(fd)
    db.close()
    store._locks._fd = store._db = None


def test_the_session_of_a_dead_worker_is_free_at_once(tmp_path: Path) -> None:
    """For a new prompt, and for one that has waited; not while the worker lives."""

    async def main() -> None:
        first, second = await stores(tmp_path, "v", "w")
        assert (await first.ask(Register("s", "v/1"))).word is Word.GRANTED
        assert (await first.ask(Register("t", "v/2"))).word is Word.GRANTED
        waiting = await second.ask(Register("s", "w/1"))
        assert waiting.word is Word.WAITING
        poll = Poll("s", "w/1", waiting.ticket)
        assert (await second.ask(poll)).word is Word.WAITING
        kill(first)
        assert (await second.ask(poll)).word is Word.GRANTED
        assert (await second.ask(Register("t", "w/2"))).word is Word.GRANTED
        await second.close()

    run_async(main())


def test_a_dead_worker_that_waits_holds_up_nobody(tmp_path: Path) -> None:
    """Its place in the queue goes to the next."""

    async def main() -> None:
        first, second = await stores(tmp_path, "v", "w")
        assert (await second.ask(Register("s", "w/1"))).word is Word.GRANTED
        await first.ask(Register("s", "v/1", Strategy.ENQUEUE))
        waiting = await second.ask(Register("s", "w/2", Strategy.ENQUEUE))
        kill(first)
        snapshot = await second.snapshot()
        assert [each.stream for each in snapshot.session("s").waiting] == ["v/1", "w/2"]
        await second.ask(Poll("s", "w/2", waiting.ticket, Strategy.ENQUEUE))
        snapshot = await second.snapshot()
        assert [each.stream for each in snapshot.session("s").waiting] == ["w/2"]
        await second.close()

    run_async(main())


def test_who_starts_buries_the_dead(tmp_path: Path) -> None:
    """Their streams leave every session, and their files go."""

    async def main() -> None:
        (first,) = await stores(tmp_path, "v")
        await first.ask(Register("s", "v/1"))
        await first.ask(Register("t", "v/2"))
        kill(first)
        (second,) = await stores(tmp_path, "w")
        assert (await second.snapshot()).sessions == ()
        assert lock_files(tmp_path) == ["sessions.sqlite.worker-w"]
        await second.close()
        assert lock_files(tmp_path) == []

    run_async(main())


def test_a_worker_without_a_file_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Somebody may have emptied the folder: its lease decides, as on another host."""

    async def main() -> None:
        first, second = await stores(tmp_path, "v", "w")
        assert (await first.ask(Register("s", "v/1"))).word is Word.GRANTED
        for name in lock_files(tmp_path):
            os.unlink(tmp_path / "shared" / name)
        assert (await second.ask(Register("s", "w/1"))).word is Word.WAITING
        await first.close()
        await second.close()

    run_async(main())
