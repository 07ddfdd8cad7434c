"""The stores as a worker meets them: files, servers, messages, and what is refused at the start."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from redis.asyncio import Redis

from registry.lease_records import (
    Cancel,
    LeaseLimits,
    LeaseOperation,
    Leave,
    Message,
    Poll,
    Register,
    Renew,
    Reply,
    Told,
    Word,
)
from registry.lease_state import LimitsDiffer
from server.stores.directory import entry_of
from server.stores.memory_store import MemoryStore, SharedMemory
from server.stores.redis_clients import CONNECTIONS_MAX
from server.stores.redis_store import RedisStore, without_secrets
from server.stores.sqlite_file import default_path
from server.stores.sqlite_store import SqliteStore
from server.stores.store import SessionStore, StoreRefused, StoreUnreachable
from server.stores.watched_store import WatchedStore
from tests.server import valkey_server

LIMITS = LeaseLimits()


class Clock:
    now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


async def hand_over(first: SessionStore, second: SessionStore) -> None:
    """A stream of one worker is superseded by one of another, and each is woken by a message."""
    to_first, to_second = first.messages(), second.messages()
    woken = asyncio.ensure_future(anext(to_first))
    wakes = asyncio.ensure_future(anext(to_second))
    # Whoever listens too late has to ask by itself, and does.
    await asyncio.sleep(0.2)
    granted = await first.ask(Register("s", "v/1"))
    assert granted.word is Word.GRANTED
    waiting = await second.ask(Register("s", "w/2"))
    assert waiting.word is Word.WAITING
    assert await woken == Message("v/1", Told.SUPERSEDED)
    token, ticket = granted.fencing_token, granted.ticket
    assert (await first.ask(Renew("s", "v/1", token, ticket, True))).word is Word.STOP
    assert (await first.ask(Leave("s", "v/1"))).word is Word.DONE
    assert await wakes == Message("w/2", Told.FREE)
    taken = await second.ask(Poll("s", "w/2", waiting.ticket))
    assert taken.word is Word.GRANTED
    assert taken.fencing_token > token
    assert (taken.left, taken.late) == ("v/1", ())


def run(program: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await program()

    asyncio.run(bounded())


def test_a_session_is_handed_over_in_memory() -> None:
    """From one worker to another of the same process."""

    async def program() -> None:
        shared = SharedMemory.new(LIMITS, Clock())
        await hand_over(MemoryStore(shared, "v"), MemoryStore(shared, "w"))

    run(program)


# ---- SQLite ----------------------------------------------------------------------------------


def sqlite(path: Path, worker: str, clock: Clock, limits: LeaseLimits = LIMITS) -> SqliteStore:
    return SqliteStore(path / "onestream" / "sessions.sqlite", limits, worker, now_ms=clock)


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
        with failing, store._in_transaction() as within:
            within.execute("INSERT INTO b VALUES (1)")
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
        with pytest.raises(StoreUnreachable, match="database is locked"):
            await store.ask(Register("s", "v/1"))
        stands_still.execute("ROLLBACK")
        assert (await store.ask(Register("s", "v/1"))).word is Word.WAITING
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


# ---- Valkey and Redis ------------------------------------------------------------------------

# Short, so that the quarantine of a new server is waited for in real time.
SHORT = LeaseLimits(lease_ms=300, margin_ms=50, grace_ms=100)


async def settled(store: RedisStore) -> None:
    """Returns once the quarantine is over, on the server's own clock."""
    reply = await store.ask(Register("", "v/settled"))
    while reply.word is Word.WAITING:
        await asyncio.sleep(reply.wait_ms / 1000)
        reply = await store.ask(Poll("", "v/settled", reply.ticket))
    await store.ask(Leave("", "v/settled"))


@pytest.mark.socket
def test_a_session_is_handed_over_through_a_server() -> None:
    """On the server's clock and with its messages; the script is loaded again where it is gone."""
    with valkey_server.running() as address:

        async def program() -> None:
            first = RedisStore(address, SHORT, "v", call_s=10)
            second = RedisStore(address, SHORT, "w", call_s=10)
            await first.start()
            await second.start()
            await settled(first)
            await first._client.script_flush()
            limits_are_long = LeaseLimits()
            first._limits = second._limits = limits_are_long
            await asyncio.sleep((SHORT.lease_ms + SHORT.margin_ms) / 1000)
            await hand_over(first, second)
            await first.close()
            await second.close()

        run(program)


@pytest.mark.socket
@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--maxmemory", "10mb", "--maxmemory-policy", "allkeys-lru"), "drops keys"),
        (("--replicaof", "127.0.0.1", "1"), "is a replica"),
        (("--cluster-enabled", "yes"), "is a node of a cluster"),
    ],
    ids=["evicts", "replica", "cluster"],
)
def test_a_server_on_which_the_promise_would_not_hold_is_refused(
    options: tuple[str, ...], why: str
) -> None:
    """At the start, with what to change."""
    with valkey_server.running(*options) as address:

        async def program() -> None:
            store = RedisStore(address, SHORT, "v", call_s=10)
            try:
                with pytest.raises(StoreRefused, match=why):
                    await store.start()
            finally:
                await store.close()

        run(program)


@pytest.mark.parametrize(
    ("info", "why"),
    [
        ({"redis_version": "v7"}, "is version v7; sessions need Valkey, or Redis"),
        ({}, "is version unknown; sessions need"),
        ({"redis_version": "6.2.14"}, "is version 6.2.14; sessions need Valkey"),
        ({"redis_version": "7.2.4", "role": "slave"}, "is a replica"),
        (
            {"redis_version": "8.0.0", "maxmemory": 5, "maxmemory_policy": "allkeys-lfu"},
            "maxmemory-policy allkeys-lfu",
        ),
    ],
)
def test_what_a_server_says_of_itself_is_checked(info: dict[str, object], why: str) -> None:
    """Its version first, then whether it can keep a promise."""
    store = RedisStore("redis://user:secret@host:1/0", SHORT, "v")
    with pytest.raises(StoreRefused, match=why) as refused:
        store._check(info, 1_800_000_000_000)
    assert "secret" not in str(refused.value)


def test_a_server_whose_clock_was_never_set_is_refused() -> None:
    """Its numbers would begin anew with each start."""
    store = RedisStore("redis://host:1/0", SHORT, "v")
    with pytest.raises(StoreRefused, match="never set"):
        store._check({"valkey_version": "9.1.2", "redis_version": "7.2.4"}, 5_000)
    store._check({"valkey_version": "9.1.2", "redis_version": "7.2.4"}, 1_800_000_000_000)


def test_no_secret_of_the_address_is_shown() -> None:
    """User and password stay out of sentences."""
    assert without_secrets("rediss://me:secret@h:6380/2") == "rediss://…@h:6380/2"
    assert without_secrets("redis://h") == "redis://h"


@pytest.mark.socket
def test_a_server_that_is_away_is_asked_once() -> None:
    """An operation that may have taken effect is not sent again by the client itself."""

    async def program() -> None:
        asked = 0

        async def close_after_the_request(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            nonlocal asked
            await reader.read(1)
            asked += 1
            writer.close()

        server = await asyncio.start_server(close_after_the_request, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", SHORT, "v", call_s=10)
        with pytest.raises(StoreUnreachable, match="does not answer"):
            await store.ask(Register("s", "v/1"))
        assert asked == 1
        server.close()
        await store.close()

    run(program)


@pytest.mark.socket
def test_a_server_that_closes_what_it_has_accepted_is_not_looked_for_in_the_network() -> None:
    """With as many clients as it takes, it says so and closes, and the client reads no more."""
    with valkey_server.running() as address:

        async def program() -> None:
            store = RedisStore(address, SHORT, "v", call_s=10)
            async with Redis.from_url(address) as client:
                await client.config_set("maxclients", 1)
                with pytest.raises(StoreUnreachable, match="its log, maxclients and protected"):
                    await store.ask(Register("s", "v/1"))
            await store.close()
            away = RedisStore("redis://127.0.0.1:1", SHORT, "v", call_s=10)
            with pytest.raises(StoreUnreachable, match="look at the server and the network"):
                await away.ask(Register("s", "v/1"))
            await away.close()

        run(program)


@pytest.mark.socket
@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.", "authentication fail"),
        (b"-NOAUTH Authentication required.", "authentication failed .*JARVIS_SESSIONS"),
        (b"-LOADING Redis is loading the dataset in memory", "answered: .*loading"),
    ],
    ids=["wrong", "missing", "loading"],
)
def test_a_server_that_answers_is_not_said_to_be_silent(reply: bytes, says: str) -> None:
    """A password that is wrong or missing is no matter of the network."""

    async def program() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                if line.startswith(b"*"):
                    writer.write(reply + b"\r\n")
            writer.close()

        server = await asyncio.start_server(refuse, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://:hush@127.0.0.1:{port}", SHORT, "v", call_s=10)
        with pytest.raises(StoreUnreachable, match=says) as refused:
            await store.start()
        assert "network" not in str(refused.value)
        assert "hush" not in str(refused.value)
        await store.close()
        server.close()

    run(program)


@pytest.mark.socket
def test_a_connection_for_messages_that_is_half_open_is_noticed() -> None:
    """A peer that is gone without a word sends none, and would be waited for without end."""

    async def program() -> None:
        async def fall_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # What the client says of itself at first is answered, too.
            while b"SUBSCRIBE" not in (line := await reader.readline()):
                if line.startswith(b"*"):
                    writer.write(b"+OK\r\n")
            writer.write(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n")
            await reader.read(-1)
            writer.close()

        server = await asyncio.start_server(fall_silent, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", SHORT, "v", call_s=10, health_s=0.05)
        with pytest.raises(StoreUnreachable, match="silent"):
            await anext(store.messages())
        await store.close()
        server.close()

    run(program)


@pytest.mark.socket
def test_a_connection_for_messages_on_which_nothing_happens_stays() -> None:
    """A server that answers the question whether it is there is listened to, however quiet."""

    async def program() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked = 0
            while line := await reader.readline():
                if line.startswith(b"*"):
                    continue
                if b"CLIENT" in line or b"SELECT" in line:
                    writer.write(b"+OK\r\n")
                if b"SUBSCRIBE" in line:
                    writer.write(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n")
                if b"PING" in line:
                    asked += 1
                    writer.write(b"*2\r\n$4\r\npong\r\n$5\r\nalive\r\n")
                if asked == 2:
                    writer.write(b"*3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$8\r\nfree v/1\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"redis://127.0.0.1:{port}", SHORT, "v", call_s=10, health_s=0.3)
        messages = store.messages()
        assert await anext(messages) == Message("v/1", Told.FREE)
        await messages.aclose()  # type: ignore[attr-defined]
        await store.close()
        server.close()

    run(program)


@pytest.mark.socket
def test_a_server_that_was_started_again_lets_nobody_in_at_once() -> None:
    """Its generation is another one: a holder says so again, and keeps its session."""

    async def program() -> None:
        with valkey_server.running() as address:
            store = RedisStore(address, SHORT, "v", call_s=10)
            await store.start()
            await settled(store)
            granted = await store.ask(Register("s", "v/1"))
            await store.close()
        with valkey_server.running() as address:
            store = RedisStore(address, LIMITS, "v", call_s=10)
            assert (await store.ask(Register("s", "w/2"))).word is Word.WAITING
            renewal = Renew("s", "v/1", granted.fencing_token, granted.ticket)
            assert (await store.ask(renewal)).word is Word.STOP
            assert (await store.ask(Register("t", "w/3"))).word is Word.WAITING
            await store.close()

    run(program)


@pytest.mark.socket
def test_names_with_any_character_are_kept_apart() -> None:
    """Sessions whose names look alike to a pattern, or begin alike, share nothing."""
    with valkey_server.running() as address:

        async def program() -> None:
            store = RedisStore(address, LIMITS, "v", call_s=10, generation=lambda: "g")
            await store.ask(Register("a", "v/0"))
            await store._client.hset(store._key("counters"), "quarantine", 0)
            for number, session in enumerate(("*", "a:", "ä", "a b\nc", "[a]", "w:x")):
                got = await store.ask(Register(session, f"v/é {number}"))
                assert got.word is Word.GRANTED
            kept = dict((await store.snapshot()).sessions)
            assert set(kept) == {"a", "*", "a:", "ä", "a b\nc", "[a]", "w:x"}
            await store.close()

        run(program)


@pytest.mark.socket
def test_a_thousand_streams_of_one_worker_ask_at_once() -> None:
    """Each gets its answer, over few connections: a client that refuses some would end streams."""
    with valkey_server.running() as address:

        async def program() -> None:
            store = RedisStore(address, LIMITS, "v", call_s=30)
            await store.start()
            asked = (store.ask(Register(f"s{number}", f"v/{number}")) for number in range(1000))
            replies = await asyncio.gather(*asked)
            assert {each.word for each in replies} <= {Word.WAITING, Word.GRANTED}
            clients = await store._client.info("clients")
            assert clients["connected_clients"] <= CONNECTIONS_MAX
            await store.close()

        run(program)


def test_only_what_the_store_did_not_answer_counts_as_unanswered() -> None:
    """Neither what its asker gave up, nor a refusal, which is an answer."""
    outcomes: list[Exception] = [
        StoreUnreachable("away"),
        StoreRefused("no"),
        LimitsDiffer(LIMITS, replace(LIMITS, queue_max=9).text, 0),
    ]

    class Answers(MemoryStore):
        async def ask(self, operation: LeaseOperation) -> Reply:
            if outcomes:
                raise outcomes.pop(0)
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    async def main() -> None:
        heard: list[object] = []
        store = WatchedStore(Answers(SharedMemory.new(LIMITS, Clock()), "w"), "w")
        store.on_asked = lambda event: heard.append(dict(event.fields)["answer"])
        for exc in list(outcomes):
            with pytest.raises(type(exc)):
                await store.ask(Cancel("s", "w/1"))
        asks = asyncio.create_task(store.ask(Cancel("s", "w/1")))
        await asyncio.sleep(0)
        asks.cancel()
        await asyncio.wait({asks})
        assert heard == ["none", "refused", "refused", "unknown"]

    run(main)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ({"more": 1, "worker": "w", "at_ms": 2000, "view": '{"chunks": 3, "new": 4}'}, (2, 3)),
        ({"worker": "w"}, (0, 0)),
        ({"worker": "w", "view": "no JSON"}, (0, 0)),
        ({"worker": "w", "view": "[]"}, (0, 0)),
        ([], (0, 0)),
    ],
)
def test_an_entry_of_another_release_is_shown(text: object, shown: tuple[int, int]) -> None:
    """What it says beyond this one is left out, and what it lacks is as of a stream that began."""
    entry = entry_of("key", "t", json.dumps(text))
    assert (entry.owner, entry.trace_id, entry.ended) == ("key", "t", False)
    view = entry.shown
    assert (view["created"], view["chunks"]) == shown
    assert view["state"] == "ACTIVE"
    assert view["timings_ms"]["started"] is None


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
