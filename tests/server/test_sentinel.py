"""Sessions in a Valkey that Sentinels name: found by its name, and found anew after a fail-over."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.sentinel import Sentinel
from redis.exceptions import RedisError

from registry.lease_records import Cancel, LeaseLimits, Register, Renew, Word
from server.stores.redis_clients import RedisClients
from server.stores.redis_store import RedisStore
from server.stores.store import StoreUnreachable
from tests.server import valkey_server
from tests.server.support import PATIENCE_S, free_port, run_async

pytestmark = pytest.mark.socket

LIMITS = LeaseLimits()
CALL_S = 10.0


@dataclass
class Watched:
    """A primary with its replica, and the Sentinel that watches them."""

    primary: subprocess.Popen[bytes]
    primary_port: int
    sentinel_port: int

    def url(self, name: str = "mymaster") -> str:
        # One that is away is passed over.
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel_port}/{name}/2"


@contextmanager
def watched(*, has_replica: bool) -> Iterator[Watched]:
    program = valkey_server.program()
    if program is None:
        pytest.skip(valkey_server.MISSING)
    with ExitStack() as exits:
        folder = Path(exits.enter_context(tempfile.TemporaryDirectory()))

        def started(port: int, *options: str) -> subprocess.Popen[bytes]:
            command = [str(program), *options, "--port", str(port), "--bind", "127.0.0.1"]
            process = subprocess.Popen([*command, "--dir", folder], stdout=subprocess.DEVNULL)
            exits.callback(process.wait)
            exits.callback(process.kill)
            wait_for(port, lambda client: client.ping())
            return process

        ports = [free_port() for _ in range(3)]
        plain = ("--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
        primary = started(ports[0], *plain)
        if has_replica:
            started(ports[1], *plain, "--replicaof", f"127.0.0.1 {ports[0]}")
            wait_for(ports[1], lambda client: client.info()["master_link_status"] == "up")
        settings = folder / "sentinel.conf"
        settings.write_text(
            f"sentinel monitor mymaster 127.0.0.1 {ports[0]} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 5000\n"
        )
        started(ports[2], str(settings), "--sentinel")
        yield Watched(primary, ports[0], ports[2])


def wait_for(port: int, condition: Callable[[Any], object], db: int = 0) -> None:
    """Until the server there is, and is as it should be."""
    deadline = time.monotonic() + PATIENCE_S
    with Redis(port=port, db=db) as client:
        while time.monotonic() < deadline:
            with suppress(RedisError, OSError):
                if condition(client):
                    return
            time.sleep(0.02)
    raise AssertionError(f"not within {PATIENCE_S} s on port {port}")


def test_a_store_is_found_by_its_name() -> None:
    """In its database, by the first Sentinel that answers; messages come from there as well."""

    async def main() -> None:
        with watched(has_replica=False) as there:
            first = RedisStore(there.url(), LIMITS, "v", call_s=CALL_S)
            second = RedisStore(there.url(), LIMITS, "w", call_s=CALL_S)
            await first.start()
            messages = first.messages()
            woken = asyncio.ensure_future(anext(messages))
            channel = "{onestream}:worker:v"
            port = there.primary_port
            await asyncio.to_thread(
                wait_for, port, lambda client: client.pubsub_numsub(channel)[0][1]
            )
            await asyncio.to_thread(wait_for, port, lambda client: client.keys("{onestream}:*"), 2)
            assert (await first.ask(Register("s", "v/1"))).word is Word.WAITING
            assert (await second.ask(Cancel("s", "v/1"))).word is Word.DONE
            assert (await woken).stream == "v/1"
            for store in (first, second):
                await store.close()

    run_async(main())


def test_a_name_that_no_sentinel_knows_is_said() -> None:
    """In a sentence that names what to look at."""

    async def main() -> None:
        with watched(has_replica=False) as there:
            store = RedisStore(there.url("nobody"), LIMITS, "v", call_s=CALL_S)
            with pytest.raises(StoreUnreachable, match="know no primary of that name"):
                await store.start()
            await store.close()

    run_async(main())


@pytest.mark.parametrize("hosts", ["127.0.0.1:1", "127.0.0.1:1,127.0.0.1:2"])
def test_all_clients_are_closed_and_so_are_those_of_the_sentinels(
    hosts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one fails; and with redis-py 6.0 to 8.0, whose Sentinel has no close."""
    monkeypatch.delattr(Sentinel, "aclose", raising=False)
    closed: list[AsyncRedis] = []

    async def aclose(client: AsyncRedis) -> None:
        closed.append(client)
        raise ConnectionError("reset by peer")

    async def main() -> None:
        clients = RedisClients(f"redis+sentinel://{hosts}/mymaster", CALL_S)
        monkeypatch.setattr(AsyncRedis, "aclose", aclose)
        with pytest.raises(ConnectionError, match="reset by peer"):
            await clients.close()
        assert {clients.client, clients.listener} < set(closed)
        assert len(set(closed)) == len(closed) == 2 + len(hosts.split(","))

    run_async(main())


@pytest.mark.thorough
def test_the_primary_is_found_anew_after_a_fail_over() -> None:
    """Its generation is another one: nobody is let in, and a holder says so again and goes on."""

    async def main() -> None:
        with watched(has_replica=True) as there:
            # Else the quarantine of a new store would be that of the fail-over.
            seed = RedisStore(there.url(), LIMITS, "seed", call_s=CALL_S, now_ms=lambda: 1)
            await seed.start()
            await seed.close()
            store = RedisStore(there.url(), LIMITS, "v", call_s=CALL_S)
            await store.start()
            granted = await store.ask(Register("s", "v/1"))
            assert granted.word is Word.GRANTED
            before = (await store.snapshot()).generation
            there.primary.kill()
            renewal = Renew("s", "v/1", granted.fencing_token, granted.ticket)
            renewed = None
            # As its worker does, until there is a primary again.
            async with asyncio.timeout(PATIENCE_S):
                while renewed is None:
                    with suppress(StoreUnreachable):
                        renewed = await store.ask(renewal)
            assert renewed.word is Word.OK
            assert (await store.snapshot()).generation != before
            assert (await store.ask(Register("t", "v/2"))).word is Word.WAITING
            await store.close()

    run_async(main())
