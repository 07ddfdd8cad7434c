"""Valkey and Redis as a worker meets them: what is refused at the start, connections, restarts."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis

from registry.lease_records import (
    LeaseLimits,
    Leave,
    Message,
    Poll,
    Register,
    Renew,
    Told,
    Word,
)
from server.stores.redis_clients import CONNECTIONS_MAX
from server.stores.redis_store import RedisStore, without_secrets
from server.stores.store import StoreRefused, StoreUnreachable
from tests.server import valkey_server
from tests.server.asked_stores import LIMITS, hand_over, run

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
