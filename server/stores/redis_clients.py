"""The clients of one Valkey or Redis: by its address, or by Sentinels that know where it is now.

They have no limits of their own, which would count how late this process is, and send nothing
twice: an operation that a client repeats would have a second effect that nobody knows of.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from server.store_address import Sentinels, sentinels_of

# Of one worker.
CONNECTIONS_MAX = 64


class RedisClients:
    """client: for calls, of which one may take call_s. listener: for messages."""

    def __init__(self, url: str, call_s: float) -> None:
        common: dict[str, Any] = {
            "protocol": 2,
            "socket_timeout": None,
            "socket_connect_timeout": None,
            "retry": Retry(NoBackoff(), 0),
        }
        named = sentinels_of(url)
        if named is None:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=CONNECTIONS_MAX, timeout=None, **common
            )
            self.client = Redis.from_pool(pool)
            self.listener = Redis.from_url(url, **common)
            self._all = [self.client, self.listener]
            return
        sentinel = _sentinel(named, call_s, common)
        options = {**parse_url(named.url), **common}
        options["ssl"] = options.pop("connection_class", None) is not None
        # The Sentinels say it.
        del options["host"]
        options.pop("port", None)
        self.client = sentinel.master_for(named.primary, **options)
        self.listener = sentinel.master_for(named.primary, **options)
        self._all = [self.client, self.listener, *sentinel.sentinels]

    async def close(self) -> None:
        """Each of them, also where another fails."""
        async with AsyncExitStack() as exits:
            for each in self._all:
                exits.push_async_callback(each.aclose)


def _sentinel(named: Sentinels, call_s: float, common: dict[str, Any]) -> Sentinel:
    # One that hangs leaves the others, and the call itself, a part of its time.
    share_s = call_s / (len(named.hosts) + 1)
    limits = {**common, "socket_timeout": share_s, "socket_connect_timeout": share_s}
    return Sentinel(named.hosts, sentinel_kwargs=limits)  # type: ignore[no-untyped-call]
