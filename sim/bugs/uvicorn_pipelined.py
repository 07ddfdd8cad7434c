"""uvicorn on httptools: who is answered is not told that its client has left, if another request of
that client waits behind it.

This is uvicorn itself, on a transport in memory. With httptools a second request on a connection
is parsed while the first is answered, and becomes the protocol's `cycle`; when the connection is
lost, that one is told. The first is known to nobody: its `receive()` never says `http.disconnect`,
its `send()` writes into a closed transport for as long as it likes. In uvicorn 0.54.0, on any
version of Python; with h11 the second request is parsed only once the first is answered. We know of
no report. Level stack of the bench found it (`httptools.leaves_with_more_behind`).

The fixed protocol remembers the cycle that runs.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from sim.kernel.world import World

TOLD = "a request whose client has left is told so"
BOTH_THERE = "left with two requests"


class FixedProtocol(HttpToolsProtocol):
    running: RequestResponseCycle | None = None

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self.running = cycle
        super()._start_asgi_task(cycle, app)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.running is not None and not self.running.response_complete:
            self.running.disconnected = True
            self.running.message_event.set()


class Transport(asyncio.Transport):
    """Takes what is written, and is lost when the client leaves."""

    is_lost = False

    def write(self, data: Any) -> None:
        pass

    def is_closing(self) -> bool:
        return self.is_lost

    def close(self) -> None:
        self.is_lost = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


async def program(world: World) -> None:
    await _leaves(world, HttpToolsProtocol)


async def fixed(world: World) -> None:
    await _leaves(world, FixedProtocol)


async def _leaves(world: World, protocol_class: type[HttpToolsProtocol]) -> None:
    is_told = asyncio.Event()

    async def streams_until_told(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        # uvicorn logs what the end of the execution cancels.
        with suppress(asyncio.CancelledError):
            while (await receive())["type"] != "http.disconnect":
                pass
            is_told.set()

    config = uvicorn.Config(
        streams_until_told, http=protocol_class, ws="none", lifespan="off", log_config=None
    )
    config.load()
    protocol = protocol_class(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    protocol.data_received(_request("/first"))

    async def asks_for_more() -> None:
        await world.outside("a second request comes", latest=1)
        if not transport.is_lost:
            protocol.data_received(_request("/second"))

    second = asyncio.create_task(asks_for_more())
    await world.outside("the client leaves", latest=1)
    if second.done():
        world.reached(BOTH_THERE)
    transport.is_lost = True
    protocol.connection_lost(None)
    await second
    await asyncio.sleep(1)
    world.check(is_told.is_set(), TOLD)


def _request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
