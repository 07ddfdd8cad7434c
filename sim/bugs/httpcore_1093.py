"""httpcore#1093: a request that is cancelled between two steps takes a place of the pool along.

This is httpcore itself, the pool under httpx, on a network in memory. A request waits, since the
pool is full. Another one ends: the pool makes a new connection and assigns it to the request, which
wakes it. Before that one runs, it is cancelled. Nobody ever connects the connection, so it is
neither idle nor closed nor failed, and the pool keeps its place for ever: with one connection,
every request after that ends in PoolTimeout. Open in httpcore 1.0.9, on any version of Python.

The fixed pool takes out what is in use and belongs to no request. The search refuted two smaller
fixes of ours, and so showed two further windows: the connection is made and the request has not yet
marked it as active (also described in the comments on httpcore#1099); and the response is being
closed, where `Task.cancel()` passes through anyio's shield, so that the request stays in the pool.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import httpcore
from httpcore import (
    AsyncConnectionInterface,
    AsyncConnectionPool,
    AsyncNetworkBackend,
    AsyncNetworkStream,
)

from sim.bugs.base import HistoricalBug
from sim.kernel.world import World

if TYPE_CHECKING:
    from httpcore._async.connection_pool import PoolByteStream

URL = "http://example.org/"
POOL_S = 30.0


class Stream(AsyncNetworkStream):
    """One answer without keep-alive, when the outside world says."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        await self._world.outside("an answer comes", latest=1)
        return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        pass

    async def aclose(self) -> None:
        pass

    def get_extra_info(self, info: str) -> Any:
        return None


class Network(AsyncNetworkBackend):
    def __init__(self, world: World) -> None:
        self._world = world

    async def connect_tcp(self, *args: Any, **kwargs: Any) -> AsyncNetworkStream:
        return Stream(self._world)


class FixedPool(AsyncConnectionPool):
    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        try:
            response = await super().handle_async_request(request)
        except BaseException:
            await self.take_back_lost()
            raise
        response.stream = self.guarded(cast("PoolByteStream", response.stream))
        return response

    def guarded(self, body: PoolByteStream) -> AsyncIterable[bytes]:
        return FixedBody(self, body)

    async def take_back_lost(self) -> None:
        owned = [request.connection for request in self._requests]
        for connection in tuple(self._connections):
            if connection not in owned and self.is_lost(connection):
                self._connections.remove(connection)
        await self._close_connections(self._assign_requests_to_connections())

    @staticmethod
    def is_lost(connection: AsyncConnectionInterface) -> bool:
        """Whether it is in use, now that no request has it."""
        return not connection.is_idle()


class FixedBody:
    def __init__(self, pool: FixedPool, body: PoolByteStream) -> None:
        self._pool = pool
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._body:
            yield part

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        except BaseException:
            request = self._body._pool_request
            if request in self._pool._requests:
                self._pool._requests.remove(request)
            await self._pool.take_back_lost()
            raise


class TwoWindowsPool(FixedPool):
    """Knows nothing of the window in which the response is closed."""

    def guarded(self, body: PoolByteStream) -> AsyncIterable[bytes]:
        return body


class OneWindowPool(TwoWindowsPool):
    """Knows of the window in the report alone."""

    @staticmethod
    def is_lost(connection: AsyncConnectionInterface) -> bool:
        return "CONNECTING" in repr(connection)


async def program(world: World) -> None:
    await _three_requests(world, AsyncConnectionPool)


async def fixed(world: World) -> None:
    await _three_requests(world, FixedPool)


async def fixed_in_one_window(world: World) -> None:
    await _three_requests(world, OneWindowPool)


async def fixed_in_two_windows(world: World) -> None:
    await _three_requests(world, TwoWindowsPool)


async def _three_requests(world: World, pool_class: type[AsyncConnectionPool]) -> None:
    pool = pool_class(max_connections=1, network_backend=Network(world))

    async def get() -> None:
        await pool.request("GET", URL, extensions={"timeout": {"pool": POOL_S}})

    first = asyncio.create_task(get(), name="first")
    second = asyncio.create_task(get(), name="second")
    await world.outside("the second is cancelled", latest=2)
    if second.cancel():
        world.reached("cancelled under way")
    await first
    with suppress(asyncio.CancelledError):
        await second
    try:
        await get()
    except httpcore.PoolTimeout:
        world.check(False, "an idle pool serves a request", repr(pool))


BUG = HistoricalBug(
    id="httpcore#1093",
    title="a cancelled request takes a place of the pool along",
    link="https://github.com/encode/httpcore/issues/1093",
    program=program,
    fixed=fixed,
    labels=("cancelled under way",),
    package="httpcore",
)
