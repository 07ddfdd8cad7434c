"""Clients of the whole stack that are httpx: with its pool, which keeps connections and uses them
again."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from functools import cache

import httpx

from sim.bench.harness.http_client import StackExchange
from sim.kernel.world import World

# The bench's own judgements limit how long an answer takes; a pool that has lost its place for a
# connection would never give one.
LIMITS = httpx.Timeout(None, pool=30.0)


class HttpxExchange(StackExchange):
    """port: of the client's end of its connection, once an answer has begun.

    raised: by which httpx said that nothing more comes.
    """

    port: int | None = None
    raised: httpx.TransportError | None = None
    # Assigned where the request is begun.
    task: asyncio.Task[None]

    @property
    def found_no_place(self) -> bool:
        """Its pool had none, though nobody uses one: httpcore#1093."""
        return isinstance(self.raised, httpx.PoolTimeout)

    async def leave(self) -> None:
        """Its task is cancelled, wherever it is, and ends."""
        self.has_left = True
        self.task.cancel()
        await asyncio.wait({self.task})


class HttpxClient:
    """One `httpx.AsyncClient`. exchanges: in the order in which they were begun."""

    def __init__(self, world: World, address: str, connections_max: int) -> None:
        self._world = world
        self.exchanges: list[HttpxExchange] = []
        limits = httpx.Limits(max_connections=connections_max)
        self._client = httpx.AsyncClient(
            base_url=address, verify=_tls(), limits=limits, timeout=LIMITS, trust_env=False
        )

    def ask(self, name: str, target: str, headers: Mapping[str, str], body: bytes) -> HttpxExchange:
        """Begins a request; nothing of it is sent yet."""
        exchange = HttpxExchange(name, self._world.now)
        request = self._client.build_request("POST", target, headers=headers, content=body)
        exchange.task = self._world.loop.create_task(
            self._exchange(exchange, request), name=f"{name} client"
        )
        self.exchanges.append(exchange)
        return exchange

    async def close(self) -> None:
        """Who has not had its answer leaves. May be repeated."""
        for each in self.exchanges:
            if not each.task.done():
                await each.leave()
        await self._client.aclose()

    async def _exchange(self, exchange: HttpxExchange, request: httpx.Request) -> None:
        try:
            response = await self._client.send(request, stream=True)
            try:
                await self._read(exchange, response)
            finally:
                await response.aclose()
        except httpx.TransportError as exc:
            exchange.raised, exchange.has_failed = exc, True
            self._world.record(f"fails: {type(exc).__name__}", actor=exchange.name)
        finally:
            exchange.over.set()

    async def _read(self, exchange: HttpxExchange, response: httpx.Response) -> None:
        exchange.status = response.status_code
        exchange.headers = dict(response.headers)
        _, exchange.port = response.extensions["network_stream"].get_extra_info("client_addr")
        self._world.record(f"is answered with {response.status_code}", actor=exchange.name)
        async for data in response.aiter_raw():
            exchange.body += data
        exchange.is_whole = True
        self._world.record("has its whole answer", actor=exchange.name)


@cache
def _tls() -> ssl.SSLContext:
    """httpx makes one for each client, which takes as long as an execution."""
    return ssl.create_default_context()
