"""A real Valkey or Redis by TLS, and what workers that are gone leave there."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from registry.lease_records import Cancel, LeaseLimits, Leave, Register, Renew, Word
from server.stores.directory import Entry
from server.stores.redis_records import record_of
from server.stores.redis_store import RedisStore
from server.stores.store import StoreUnreachable
from tests.server import valkey_server
from tests.server.support import run_async

pytestmark = pytest.mark.socket

# Long in real time, so that only a clock of the test's decides.
LIMITS = LeaseLimits(lease_ms=3_600_000)
NOW_MS = 1_800_000_000_000


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of an authority of its own, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")
    make = "req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 3 -subj /CN=store"
    names = ("-addext", "subjectAltName=IP:127.0.0.1")
    subprocess.run([openssl, *make.split(), *names], cwd=folder, check=True, capture_output=True)
    return folder


@asynccontextmanager
async def tls_in_front_of(path: str, certificate: Path) -> AsyncIterator[int]:
    """The port of what takes TLS, and passes all on to the server at the path."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def test_a_store_is_asked_by_tls(certificate: Path) -> None:
    """With the authority that the address names; without it nothing is asked, and why is said."""
    with valkey_server.running() as address:
        path = address.removeprefix("unix://")

        async def main() -> None:
            async with Redis.from_url(address) as client:
                await client.config_set("requirepass", "pa/ss")
            async with tls_in_front_of(path, certificate) as port:
                url = f"rediss://:pa%2Fss@127.0.0.1:{port}/0"
                trusts = f"{url}?ssl_ca_certs={certificate / 'cert.pem'}"
                store = RedisStore(trusts, LIMITS, "v", call_s=10)
                await store.start()
                assert (await store.ask(Register("s", "v/1"))).word is Word.WAITING
                assert await store.queue("s") == ("v/1",)
                await store.close()
                stranger = RedisStore(url, LIMITS, "w", call_s=10)
                with pytest.raises(StoreUnreachable, match="certificate verify failed") as refused:
                    await stranger.start()
                assert "pa%2Fss" not in str(refused.value)
                await stranger.close()

        run_async(main())


RIGHTS = "+@all -@dangerous +info ~{onestream}:* &{onestream}:*"


@pytest.mark.parametrize(
    ("rights", "refused"),
    [
        (RIGHTS, None),
        (f"{RIGHTS} -evalsha", "evalsha"),
        (f"{RIGHTS} -info", "info"),
        (f"{RIGHTS} -subscribe", "subscribe"),
        (f"{RIGHTS} resetchannels", "channel"),
        (f"{RIGHTS} resetkeys", "key"),
    ],
    ids=["enough", "scripts", "info", "messages", "channels", "keys"],
)
def test_a_user_who_may_not_do_all_is_refused_with_what_it_needs(
    rights: str, refused: str | None
) -> None:
    """At the start, and not with the first stop: a user of an ACL has no channels by default."""
    with valkey_server.running() as address:

        async def main() -> None:
            async with Redis.from_url(address) as client:
                user = ("ACL", "SETUSER", "me", "on", ">pw", "resetkeys", "resetchannels")
                await client.execute_command(*user, *rights.split())
            store = RedisStore(f"unix://me:pw@{address[7:]}", LIMITS, "v", call_s=10)
            if refused is None:
                await store.start()
                await store.ask(Register("s", "v/1"))
                # It stops another, who is told.
                await store.ask(Register("s", "v/2"))
                entry = Entry("key-a", "1", "v", "s", at_ms=1, version=1, ended=True)
                await store.directory.describe(entry, keep_ms=1_000_000, ended_max=0)
                assert await store.directory.described("key-a") == []
            else:
                with pytest.raises(StoreUnreachable, match=f"permission.*{refused}.*ACL SETUSER"):
                    await store.start()
            await store.close()

        run_async(main())


def test_a_server_that_forgets_the_script_is_given_it_again() -> None:
    """SCRIPT FLUSH, as a restart without it, is nothing that a stream notices."""
    with valkey_server.running() as address:

        async def main() -> None:
            store = RedisStore(address, LIMITS, "v", call_s=10)
            await store.start()
            first = await store.ask(Register("s", "v/1"))
            await store._client.script_flush()
            assert (await store.ask(Register("s", "v/1"))).ticket == first.ticket
            await store.close()

        run_async(main())


@pytest.mark.parametrize(
    ("trouble", "mend", "says"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "memory is full: raise maxmemory"),
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE", "has become a replica: name the primary"),
        (
            "CONFIG SET min-replicas-to-write 1",
            "CONFIG SET min-replicas-to-write 0",
            "Fewer replicas follow it than min-replicas-to-write: look at them",
        ),
    ],
    ids=["full", "replica", "alone"],
)
def test_a_server_that_takes_no_writes_any_more_has_changed_nothing(
    trouble: str, mend: str, says: str
) -> None:
    """What it was asked has no effect, why is said, and afterwards all is as before."""
    with valkey_server.running() as address:

        async def main() -> None:
            store = RedisStore(address, LIMITS, "v", call_s=10)
            await store.start()
            await store.ask(Register("s", "v/1"))
            before = (await store.snapshot()).sessions
            await store._client.execute_command(*trouble.split())
            for operation in (Register("s", "v/2"), Leave("s", "v/1"), Cancel("s", "v/1")):
                with pytest.raises(StoreUnreachable, match=says):
                    await store.ask(operation)
            await store._client.execute_command(*mend.split())
            assert (await store.snapshot()).sessions == before
            await store.ask(Leave("s", "v/1"))
            assert (await store.snapshot()).sessions == ()
            await store.close()

        run_async(main())


def test_who_holds_waits_for_its_turn_and_who_asks_for_a_session_is_told() -> None:
    """Where a worker does not get round to ask: that is no silence of the store."""

    async def main() -> None:
        store = RedisStore("unix:///nowhere/socket", LIMITS, "v", call_s=0.05)
        for turn in (store._turn_of_holders, store._turn_of_asking):
            while not turn.locked():
                await turn.acquire()
        renewal = asyncio.ensure_future(store.ask(Renew("s", "v/1", 1, 1)))
        with pytest.raises(StoreUnreachable, match="was not asked: 16 requests"):
            await store.ask(Register("s", "v/2"))
        assert not renewal.done()
        # No renewal stands in the way of a prompt.
        store._turn_of_asking.release()
        with pytest.raises(StoreUnreachable, match="does not answer"):
            await store.ask(Register("s", "v/2"))
        assert not renewal.done()
        store._turn_of_holders.release()
        with pytest.raises(StoreUnreachable, match="does not answer"):
            await renewal
        await store.close()

    run_async(main())


def test_a_record_has_what_the_release_before_reads() -> None:
    """Its script puts both back, and loses the session while it is held where they are missing."""
    with valkey_server.running() as address:

        async def main() -> None:
            clock = {"now_ms": lambda: now_ms, "generation": lambda: "g"}
            store = RedisStore(address, LIMITS, "v", call_s=10, **clock)  # type: ignore[arg-type]
            now_ms = NOW_MS
            await store.start()
            now_ms += LIMITS.quarantine_ms
            assert (await store.ask(Register("s", "v/1"))).word is Word.GRANTED
            fields = await store._client.hgetall(store._session_key("s"))
            assert (fields[b"holder"], fields[b"previous"], fields[b"finished"]) == (
                b"v/1",
                b"",
                b"0",
            )
            await store.close()

        run_async(main())


def test_streams_that_were_late_are_read_as_the_script_writes_them() -> None:
    """A name may contain what Python takes for the end of a line."""
    late = ("v/1\u2028x", "v/2\x1c", "v/3")
    record = record_of({"late": "\n".join(late), "late_ms": "5", "left": ""})
    assert record.late == late
    assert record_of({"left": ""}).late == ()


def test_what_workers_that_are_gone_have_left_is_forgotten_at_the_next_start() -> None:
    """A day later, if nobody asks for the session; one that is held stays.

    Until then who takes it over has to log what it takes over.
    """
    with valkey_server.running() as address:

        async def main() -> None:
            now_ms = NOW_MS

            def store(worker: str) -> RedisStore:
                clock = {"now_ms": lambda: now_ms, "generation": lambda: "g"}
                return RedisStore(address, LIMITS, worker, call_s=10, **clock)  # type: ignore[arg-type]

            gone, lives, starts = store("gone"), store("lives"), store("starts")
            await gone.start()
            now_ms += LIMITS.quarantine_ms
            for number in range(3):
                assert (await gone.ask(Register(f"s{number}", f"gone/{number}"))).fencing_token
            await gone.ask(Register("s0", "gone/waits"))
            now_ms += LIMITS.lease_ms + LIMITS.margin_ms
            await starts.start()
            assert len((await lives.snapshot()).sessions) == 3
            now_ms += 24 * 3600 * 1000
            await lives.ask(Register("mine", "lives/1"))
            await starts.start()
            assert [name for name, _ in (await lives.snapshot()).sessions] == ["mine"]
            for each in (gone, lives, starts):
                await each.close()

        run_async(main())
