"""What workers tell one another of their streams, where the store has lost it."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from registry.lease_records import Cancel, LeaseLimits, Message
from server import shared_streams
from server.archive import Record
from server.shared_streams import SharedStreams, correct_stopped
from server.stores.directory import Directory, Entry, Seen
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore
from server.stores.store import StoreUnreachable
from sim import World, run
from tests.server import valkey_server
from tests.server.support import run_async, settings

LIMITS = LeaseLimits()


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


async def looks() -> None:
    """At a store that answers."""


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
            look=looks,
            clock=lambda: 0.0,
        )
        shared.add(record("t1"), "key-a/s")
        await shared._be_seen_once(6500)
        await shared._describe_last()
        assert [each.trace_id for each in await store.directory.described("key-a")] == ["t1"]
        for each in store.path.parent.glob("s.sqlite*"):
            each.unlink()
        assert await store.directory.described("key-a") == []
        await store.ask(Cancel("", "v/"))
        assert caplog.messages == [f"sessions_file_replaced worker=v file={store.path}"]
        caplog.clear()
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


def test_what_cannot_be_described_for_long_is_dropped_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """First those that go on, as they are described again with their end."""
    monkeypatch.setattr(shared_streams, "_PENDING_MAX", 2)
    store = SqliteStore(tmp_path / "own" / "s.sqlite", LIMITS, "v", now_ms=Clock())
    ended: set[str] = set()
    shared = SharedStreams(
        store.directory,
        "v",
        settings=settings(),
        view_of=lambda each: {"state": "ENDED" if each.trace_id in ended else "ACTIVE"},
        wall_clock=lambda: 0.0,
        look=looks,
        clock=lambda: 0.0,
    )
    records = {name: record(name) for name in ("t1", "t2", "t3")}

    def end(name: str) -> None:
        records[name].ended_at = 1.0
        ended.add(name)
        shared.changed(name)

    for name in ("t1", "t2"):
        shared.add(records[name], "s")
    end("t1")
    shared.add(records["t3"], "s")
    assert list(shared._pending) == ["t1", "t3"]
    assert list(shared._running) == ["t1", "t2", "t3"]
    for name in ("t2", "t3"):
        end(name)
    assert list(shared._pending) == ["t2", "t3"]
    assert list(shared._running) == ["t2", "t3"]


def test_a_list_over_all_workers_has_one_active_stream_of_a_session() -> None:
    """Whose worker has not described it since it was stopped is shown as STOPPING."""
    rows = [
        ("t3", "b", "ACTIVE"),
        ("t2", "a", "ACTIVE"),
        ("t1", "b", "ACTIVE"),
        ("t0", "a", "ENDED"),
    ]
    views = [{"trace_id": t, "session_id": s, "state": state} for t, s, state in rows]
    correct_stopped(views)
    assert [view["state"] for view in views] == ["ACTIVE", "ACTIVE", "STOPPING", "ENDED"]


class AwayDirectory:
    """Of a store that does not answer, and that knows no worker once it does."""

    async def describe(self, entry: Entry, *, keep_ms: int, ended_max: int) -> None:
        raise StoreUnreachable("away")

    async def be_seen(self, worker: str, within_ms: int) -> Seen:
        return Seen(was_known=False, unsettled_ms=0, now_ms=0)


def of_store_that_is_away(monkeypatch: pytest.MonkeyPatch, *, pending_max: int) -> SharedStreams:
    monkeypatch.setattr(shared_streams, "_PENDING_MAX", pending_max)
    return SharedStreams(
        cast(Directory, AwayDirectory()),
        "v",
        settings=settings(),
        view_of=lambda each: {"state": "ACTIVE" if each.ended_at is None else "ENDED"},
        wall_clock=lambda: 0.0,
        look=looks,
        clock=lambda: 0.0,
    )


def test_an_end_that_could_not_be_described_is_dropped_as_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It runs no more and pends still: who adds the stream that drops it sees no error."""
    shared = of_store_that_is_away(monkeypatch, pending_max=2)
    for name in ("t1", "t2", "t3"):
        each = record(name)
        each.ended_at = 1.0
        shared.add(each, "s")
        if name == "t1":
            with pytest.raises(StoreUnreachable):
                run_async(shared._describe_next())
    assert list(shared._pending) == ["t2", "t3"]
    assert list(shared._running) == ["t2", "t3"]


def test_more_streams_than_may_pend_are_described_again_where_the_store_has_lost_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those that have ended are dropped from what is gone through meanwhile."""
    shared = of_store_that_is_away(monkeypatch, pending_max=1)
    for name in ("t1", "t2", "t3"):
        shared._running[name] = each = (record(name), "s", 0)
        each[0].ended_at = 1.0
    run_async(shared._be_seen_once(6500))
    assert list(shared._pending) == ["t3"]
    assert list(shared._running) == ["t3"]


class AnsweringDirectory:
    """Streams that run at workers, of which those that live describe them anew when asked."""

    def __init__(self, counts: dict[str, int], living: set[str]) -> None:
        names = [(worker, f"{worker}{n}") for worker, count in counts.items() for n in range(count)]
        self._entries = {name: Entry("key-a", name, worker) for worker, name in names}
        self._living = living

    async def described(self, owner: str) -> list[Entry]:
        return list(self._entries.values())

    async def found(self, owner: str, trace_ids: list[str]) -> list[Entry]:
        return [self._entries[each] for each in trace_ids]

    async def is_seen(self, worker: str) -> bool:
        return worker in self._living

    async def tell(self, message: Message) -> None:
        worker, _, name = message.stream.partition("/")
        assert worker in self._living, f"{worker} is gone, and was asked"
        self._entries[name] = replace(self._entries[name], version=1)


def test_a_list_waits_for_nobody_who_is_gone_or_was_not_asked() -> None:
    """A gone worker does not answer; of more streams than are asked, the rest stays as it is."""

    async def program(world: World) -> None:
        directory = AnsweringDirectory({"dead": 3, "w": 60}, {"w"})
        shared = SharedStreams(
            cast(Directory, directory),
            "v",
            settings=settings(),
            view_of=lambda each: {},
            wall_clock=lambda: 0.0,
            look=looks,
            clock=lambda: 0.0,
        )
        found = await shared.others("key-a")
        assert world.now < shared_streams.ASK_S / 2
        assert [each.version for each in found] == [0] * 3 + [1] * 50 + [0] * 10
        assert [each.ended for each in found] == [True] * 3 + [False] * 60
        dead = await shared.other("key-a", "dead0")
        assert dead is not None and dead.shown["reason"] == "worker_lost"
        assert world.now < shared_streams.ASK_S / 2

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome


def test_the_stream_of_a_process_that_has_ended_is_not_shown_as_active(tmp_path: Path) -> None:
    """At once, as its sessions are free at once; also after another worker has begun."""

    async def main() -> None:
        clock = Clock()
        path = tmp_path / "own" / "s.sqlite"
        dead, store = (SqliteStore(path, LIMITS, name, now_ms=clock) for name in ("v", "w"))
        await dead.start()
        await store.start()
        await dead.directory.be_seen("v", 60_000)
        assert await store.directory.is_seen("v")
        # What the kernel does with a process that has ended.
        assert dead._locks._fd is not None
        os.close(dead._locks._fd)
        dead._locks._fd = None
        assert not await store.directory.is_seen("v")
        third = SqliteStore(path, LIMITS, "u", now_ms=clock)
        await third.start()
        assert not await store.directory.is_seen("v")
        for each in (dead, store, third):
            await each.close()

    run_async(main())


@pytest.mark.parametrize(
    ("times", "unsettled_ms", "told"),
    [
        # Of the store, and of the worker before and after it asks.
        ([(1000.0, 0.0, 0.0), (1001.5, 1.5, 1.5), (1003.0, 3.0, 3.0)], 0, []),
        ([(1000.0, 0.0, 0.0), (1061.5, 1.5, 1.5), (1063.0, 3.0, 3.0)], 0, [("60.0", "forward")]),
        ([(1000.0, 0.0, 0.0), (941.5, 1.5, 1.5)], 0, [("60.0", "back")]),
        # A worker that stood still while it asked knows less, and is no reason for an alarm.
        ([(1000.0, 0.0, 9.0), (1001.5, 9.5, 9.5)], 0, []),
        ([(1000.0, 0.0, 0.0), (1001.5, 1.5, 99.0), (1101.5, 101.5, 101.5)], 0, []),
        ([(1000.0, 0.0, 0.0), (1061.5, 1.5, 1.5)], 100, []),
    ],
    ids=["goes on", "forward", "back", "late", "late again", "another store"],
)
def test_a_store_whose_clock_is_set_is_told(
    times: list[tuple[float, float, float]],
    unsettled_ms: int,
    told: list[tuple[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By more than the margin of a lease; how late this worker is itself does not count."""
    clock = iter([at for _, *both in times for at in both])

    class Clocked:
        def __init__(self) -> None:
            self.said = iter(times)

        async def be_seen(self, worker: str, within_ms: int) -> Seen:
            return Seen(True, unsettled_ms, round(next(self.said)[0] * 1000))

    shared = SharedStreams(
        cast(Directory, Clocked()),
        "v",
        settings=settings(),
        view_of=lambda each: {},
        wall_clock=lambda: 0.0,
        look=looks,
        clock=lambda: next(clock),
    )

    async def main() -> None:
        for _ in times:
            await shared._be_seen_once(6500)

    run_async(main())
    lines = [text for text in caplog.messages if text.startswith("sessions_clock_set")]
    assert len(lines) == len(told)
    for text, (by_s, way) in zip(lines, told, strict=True):
        assert f"by_s={by_s} " in text
        assert f"was set {way}" in text
