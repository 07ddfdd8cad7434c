"""A store in trouble under running workers: who is refused, what is said, and that it heals."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from registry.lease_records import (
    LeaseLimits,
    LeaseOperation,
    Leave,
    Message,
    Register,
    Renew,
    Reply,
    Told,
    Word,
)
from registry.states import Strategy
from server.stores.leased_registry import LeasedRegistry
from server.stores.memory_store import MemoryStore, SharedMemory
from server.stores.redis_store import RedisStore
from server.stores.sqlite_store import SqliteStore
from server.stores.store import RecordUnreadable, StoreRefused, StoreUnreachable, look
from server.stores.watched_store import StoreState, WatchedStore
from sim import World, run
from tests.server import valkey_server
from tests.server.support import error_of, prompt, run_async
from tests.server.workers import UNHURRIED, settle_valkey, workers

# Long in real time, so that only what is asked decides.
LIMITS = LeaseLimits(lease_ms=3_600_000)
NOW_MS = 1_800_000_000_000
EVICTS = ("maxmemory-policy allkeys-lru", "maxmemory 1gb")
KEEPS = ("maxmemory-policy noeviction",)


async def configured(address: str, *settings: str) -> None:
    async with Redis.from_url(address) as client:
        for each in settings:
            await client.config_set(*each.split())


@pytest.mark.socket
def test_a_server_that_begins_to_evict_lets_nobody_in_until_all_have_said_that_they_hold() -> None:
    """Who waits and who comes is told the policy; who holds goes on, its record lost or not."""
    now_ms = NOW_MS

    async def main(address: str) -> None:
        nonlocal now_ms
        clock = {"now_ms": lambda: now_ms, "generation": lambda: "g"}
        store = RedisStore(address, LIMITS, "v", call_s=10, **clock)  # type: ignore[arg-type]
        await store.start()
        now_ms += LIMITS.quarantine_ms
        held = await store.ask(Register("s", "v/1"))
        waits = await store.ask(Register("s", "v/2", Strategy.ENQUEUE))
        assert (held.word, waits.word) == (Word.GRANTED, Word.WAITING)
        await configured(address, *EVICTS)
        for operation in (Register("s", "v/3"), Register("t", "v/4"), look("v")):
            with pytest.raises(StoreRefused, match=r"maxmemory-policy allkeys-lru.*set maxmemory"):
                await store.ask(operation)
        renewal = Renew("s", "v/1", held.fencing_token, held.ticket)
        assert (await store.ask(renewal)).word is Word.OK
        await store._client.delete(store._session_key("s"))
        await configured(address, *KEEPS)
        assert (await store.ask(Register("s", "v/5"))).word is Word.WAITING
        assert (await store.ask(Register("t", "v/4"))).word is Word.WAITING
        # A newer one waits: the stream holds its session again, and is told to stop.
        assert (await store.ask(renewal)).word is Word.STOP
        now_ms += LIMITS.quarantine_ms
        assert (await store.ask(Register("t", "v/4"))).word is Word.GRANTED
        await store.close()

    with valkey_server.running() as address:
        run_async(main(address))


@pytest.mark.socket
@pytest.mark.parametrize("kind", ["another", "half", "list"])
def test_keys_that_are_none_of_ours_fail_those_whom_they_are_about(kind: str) -> None:
    """With the prefix and what to do; workers start, and other sessions go on."""

    async def main(address: str) -> None:
        store = RedisStore(address, LIMITS, "v", call_s=10)
        async with Redis.from_url(address) as client:
            if kind == "another":
                await client.set(store._session_key("s"), "mine")
            elif kind == "half":
                await client.hset(store._session_key("s"), "holder", "x/y")
            else:
                await client.rpush(store._asked_key("s"), "mine")
            # No text in any encoding of ours.
            await client.set(store._session_key("").encode() + b"\xff", "mine")
        await store.start()
        says = r"keys beginning with \{onestream\}:.*Name another JARVIS_SESSIONS_PREFIX"
        with pytest.raises(RecordUnreadable, match=says):
            await store.ask(Leave("s", "v/1"))
        if kind != "list":
            with pytest.raises(RecordUnreadable, match=says):
                await store.queue("s")
        assert (await store.ask(Register("t", "v/1"))).word is Word.WAITING
        await store.close()

    with valkey_server.running() as address:
        run_async(main(address))


@pytest.mark.socket
def test_what_another_release_writes_in_words_of_its_own_is_said_and_ends_nothing() -> None:
    """In a record or in a reply it is one that cannot be read; a message wakes whom it names."""

    async def main(address: str) -> None:
        store = RedisStore(address, LIMITS, "v", call_s=10)
        await store.start()
        await store._client.hset(store._key("counters"), "quarantine", 0)
        granted = await store.ask(Register("s", "v/1"))
        assert granted.word is Word.GRANTED
        async with aclosing(store.messages()) as messages:
            woken = asyncio.ensure_future(anext(messages))
            channel = store._channel("v")
            # Until somebody hears it.
            while not await store._client.publish(channel, "preempted v/1"):
                pass
            for each in (b"\xff\xff", b"", b"cancelled v/2"):
                await store._client.publish(channel, each)
            heard = [await woken, *[await anext(messages) for _ in range(3)]]
        assert heard[0] == Message("v/1", Told.FREE)
        assert heard[3] == Message("v/2", Told.CANCELLED)
        key = store._session_key("s")
        await store._client.hset(key, mapping={"stop": 1, "why": "preempted"})
        renewal = Renew("s", "v/1", granted.fencing_token, granted.ticket)
        with pytest.raises(RecordUnreadable, match=r"another release\. Name another JARVIS_SESS"):
            await store.ask(renewal)
        directory = store.directory
        await store._client.zadd(store._key("running:key-a"), {b"\xff": 1})
        await store._client.hset(store._key("counters"), "quarantine", "soon")
        for asks in (directory.described("key-a"), directory.be_seen("v", 1000), store.queue("s")):
            with pytest.raises(RecordUnreadable, match="that this release cannot read"):
                await asks
        await store.close()

    with valkey_server.running() as address:
        run_async(main(address))


def test_a_file_with_what_another_release_has_written_is_used_all_the_same(tmp_path: Path) -> None:
    """A worker starts, other sessions go on, a message wakes whom it names."""
    path = tmp_path / "own" / "sessions.sqlite"

    async def main() -> None:
        dead = SqliteStore(path, LIMITS, "dead")
        await dead.start()
        await dead.ask(Register("s", "dead/1"))
        await dead.ask(Register("t", "dead/2"))
        # As the kernel gives back what a process held; its file stays.
        assert dead._locks._fd is not None
        os.close(dead._locks._fd)
        dead._locks._fd = None
        await dead.close()
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("UPDATE session SET record = 'junk' WHERE name = 's'")
            db.execute("INSERT INTO asked VALUES ('u', 'junk', ?)", (time.monotonic_ns(),))
            store = SqliteStore(path, LIMITS, "v")
            await store.start()
            assert await store.queue("t") == ()
            for session in ("s", "u"):
                with pytest.raises(RecordUnreadable, match="that this release cannot read"):
                    await store.ask(Register(session, "v/1"))
            assert (await store.ask(Register("t", "v/1"))).word is Word.WAITING
            # Whom the record names is not known: they stay dead for who can read it.
            assert store._locks.gone() == ["dead"]
            db.execute("INSERT INTO message VALUES (1, 'v', 'v/1', 'preempted', 0)")
            async with aclosing(store.messages()) as messages:
                assert await anext(messages) == Message("v/1", Told.FREE)
            await store.close()

    run_async(main())


def test_a_look_in_the_quarantine_waits_for_nothing() -> None:
    """It is nobody's stream, and would stand in the way of the prompts that wait."""

    async def main() -> None:
        shared = SharedMemory.new(LIMITS, lambda: NOW_MS)
        shared.generation = "another"
        store = MemoryStore(shared, "v")
        assert (await store.ask(Register("s", "v/1"))).word is Word.WAITING
        for session in ("", "s", "t"):
            assert (await store.ask(look("v", session))).word is Word.GONE
        assert await store.queue("s") == ("v/1",)
        assert await store.queue("t") == ()

    run_async(main())


# ---- how it is noted -------------------------------------------------------------------------


class Refuses(MemoryStore):
    """Answers, and lets nobody in."""

    error: Exception | None = None

    async def ask(self, operation: LeaseOperation) -> Reply:
        if self.error is not None and not isinstance(operation, Renew):
            raise self.error
        return await super().ask(operation)


def test_a_store_that_lets_nobody_in_is_said_once_while_others_renew(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What holds is answered meanwhile, and each such answer would be a line, and a wrong state."""

    async def main() -> None:
        inner = Refuses(SharedMemory.new(LIMITS, lambda: NOW_MS), "v")
        store, changes = WatchedStore(inner, "v"), []
        store.on_change = lambda: changes.append(store.state)
        inner.error = StoreRefused("no")
        for number in range(3):
            with pytest.raises(StoreRefused):
                await store.ask(Register("s", f"v/{number}"))
            await store.ask(Renew("t", "v/t", 1, 1))
        inner.error = None
        await store.ask(look("v"))
        assert changes == [StoreState.REFUSES, StoreState.OK]

    run_async(main())
    events = [text.partition(" ")[0] for text in caplog.messages]
    assert events == ["sessions_refused", "sessions_reachable"]


def test_what_cannot_be_read_of_one_session_is_no_state_of_the_store() -> None:
    """Of what all have in common it is, which a look finds."""

    async def main() -> None:
        inner = Refuses(SharedMemory.new(LIMITS, lambda: NOW_MS), "v")
        store = WatchedStore(inner, "v")
        inner.error = RecordUnreadable("junk")
        states = []
        for operation in (Register("s", "v/1"), look("v")):
            with pytest.raises(RecordUnreadable):
                await store.ask(operation)
            states.append(store.state)
        assert states == [StoreState.OK, StoreState.REFUSES]

    run_async(main())


class Deaf(MemoryStore):
    """No message comes, for reasons that follow one another."""

    reasons: list[str]

    async def messages(self) -> AsyncIterator[Message]:
        if not self.reasons:
            await asyncio.get_running_loop().create_future()
        raise StoreUnreachable(self.reasons.pop(0))
        yield


def test_messages_that_do_not_come_are_said_once_and_are_no_state_of_the_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A user who may not subscribe, say: they only wake, and streams ask by themselves."""
    caplog.set_level(logging.WARNING)

    async def program(world: World) -> None:
        store = Deaf(SharedMemory.new(LIMITS, lambda: NOW_MS), "v")
        store.reasons = ["no right", "no right", "no right", "away", "no right"]
        registry = LeasedRegistry(store, "v", clock=lambda: world.now, queue_s=1)
        await registry.start()
        for _ in range(20):
            await asyncio.sleep(1)
            await registry.check()
        assert not store.reasons
        assert registry.store.state is StoreState.OK
        await registry.close()
        await registry.end()

    outcome = run(program)
    assert outcome.violation is None and outcome.error is None, outcome
    said = [text for text in caplog.messages if text.startswith("messages_lost")]
    assert [text.rpartition(": ")[2] for text in said] == ["no right", "away", "no right"]


@pytest.mark.socket
def test_ready_says_what_is_known_of_the_store() -> None:
    """Also within the moment for which an answer counts: it would say 200 of an unreachable one."""

    async def main(address: str) -> None:
        await settle_valkey(address, **UNHURRIED)
        async with workers(address, 1, **UNHURRIED) as (worker,):
            assert (await worker.http.get("/readyz")).status_code == 200
            await configured(address, *EVICTS)
            assert (await worker.post(prompt())).status_code == 503
            refused = await worker.http.get("/readyz")
            assert refused.status_code == 503
            assert "allkeys-lru" in error_of(refused)["message"]
            await configured(address, *KEEPS)
            await worker.registry.check()
            assert (await worker.http.get("/readyz")).status_code == 200

    with valkey_server.running() as address:
        run_async(main(address))
