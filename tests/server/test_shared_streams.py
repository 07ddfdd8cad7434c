"""What workers tell one another of their streams, where the store has lost it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from registry.lease_records import Cancel, LeaseLimits
from server.archive import Record
from server.shared_streams import SharedStreams
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore
from tests.server import valkey_server
from tests.server.support import run_async, settings

LIMITS = LeaseLimits()


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


def record(trace_id: str) -> Record:
    return Record(trace_id, "key-a", "s", created=0, text_max_chars=9, registered_at=0.0)


def test_streams_that_outlive_the_store_are_described_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the worker's next sign of life; that the new store lets nobody in is logged once."""

    async def main() -> None:
        clock = Clock()
        store = SqliteStore(tmp_path / "own" / "s.sqlite", LIMITS, "v", now_ms=clock)
        await store.start()
        clock.now_ms += LIMITS.quarantine_ms
        shared = SharedStreams(
            store.directory,
            "v",
            settings=settings(),
            view_of=lambda record: {"state": "ACTIVE"},
            wall_clock=lambda: 0.0,
        )
        shared.add(record("t1"), "key-a/s")
        await shared._be_seen_once(6500)
        await shared._describe_last()
        assert [each.trace_id for each in await store.directory.described("key-a")] == ["t1"]
        for each in store.path.parent.glob("s.sqlite*"):
            each.unlink()
        assert await store.directory.described("key-a") == []
        await store.ask(Cancel("", "v/"))
        assert caplog.messages == []
        for _ in range(2):
            await shared._be_seen_once(6500)
        await shared._describe_last()
        assert [each.trace_id for each in await store.directory.described("key-a")] == ["t1"]
        (line,) = caplog.messages
        assert line.startswith("sessions_unsettled worker=v for_s=6.5 ")
        await store.close()

    caplog.set_level(logging.WARNING)
    run_async(main())


@pytest.mark.socket
def test_a_server_that_was_flushed_knows_no_worker_and_is_unsettled() -> None:
    """As a file that was deleted; until then a worker is known from its first sign of life on."""
    with valkey_server.running() as address:

        async def main() -> None:
            limits = LeaseLimits(lease_ms=3_600_000)
            store = RedisStore(address, limits, "v", call_s=10)
            await store.start()
            seen = [await store.directory.be_seen("v", 60_000) for _ in range(2)]
            assert [each.was_known for each in seen] == [False, True]
            assert 0 < seen[0].unsettled_ms <= limits.quarantine_ms
            await store._client.flushall()
            lost = await store.directory.be_seen("v", 60_000)
            assert (lost.was_known, lost.unsettled_ms) == (False, 0)
            await store.ask(Cancel("", "v/"))
            assert (await store.directory.be_seen("v", 60_000)).unsettled_ms > 0
            await store.close()

        run_async(main())
