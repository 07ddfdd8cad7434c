"""Three servers with a planted bug in how they handle connections, each broken and mended.

A streams server with asyncio alone, one of aiohttp, and one of uvicorn that httpx asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import httpx
import uvicorn
from aiohttp import ClientError, ClientSession, web

from sim import Fault, World

# One for all: `httpx` makes one of its own for each client, which takes 20 ms.
NO_TLS = ssl.create_default_context()


# ---- asyncio.start_server: a lock that a connection takes along ----------------------------------


class Printer:
    """One job at a time. A client that hangs up while it prints leaves the printer taken."""

    def __init__(self) -> None:
        self.is_free = asyncio.Event()
        self.is_free.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readline():
                await self.print(writer)
        except ConnectionError:
            pass
        writer.close()

    async def print(self, writer: asyncio.StreamWriter) -> None:
        await self.is_free.wait()
        self.is_free.clear()
        writer.write(b"printing\n")
        await writer.drain()
        await asyncio.sleep(1)
        writer.write(b"done\n")
        await writer.drain()
        self.is_free.set()


class MendedPrinter(Printer):
    async def print(self, writer: asyncio.StreamWriter) -> None:
        await self.is_free.wait()
        self.is_free.clear()
        try:
            writer.write(b"printing\n")
            await writer.drain()
            await asyncio.sleep(1)
            writer.write(b"done\n")
            await writer.drain()
        finally:
            self.is_free.set()


def of_streams(printer_class: type[Printer]) -> Any:
    async def program(world: World) -> None:
        server = await asyncio.start_server(printer_class().serve, "127.0.0.1", 7000)
        world.network.may_fail(Fault.RESET)
        for _ in range(2):
            with contextlib.suppress(ConnectionError):
                reader, writer = await asyncio.open_connection("127.0.0.1", 7000)
                try:
                    writer.write(b"job\n")
                    while line := await reader.readline():
                        if line == b"done\n":
                            break
                except ConnectionError:
                    world.reached("reset")
                finally:
                    writer.transport.abort()
        server.close()

    return program


# ---- aiohttp: a slot that a lost client keeps ----------------------------------------------------


class Downloads:
    """One at a time; who comes while it runs is told to come back."""

    def __init__(self) -> None:
        self.is_busy = False

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.is_busy:
            return web.Response(status=503)
        self.is_busy = True
        answer = await self.send(request)
        self.is_busy = False
        return answer

    async def send(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"all of it")
        await asyncio.sleep(1)
        await answer.write_eof()
        return answer


class MendedDownloads(Downloads):
    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.is_busy:
            return web.Response(status=503)
        self.is_busy = True
        try:
            return await self.send(request)
        finally:
            self.is_busy = False


def of_aiohttp(downloads_class: type[Downloads]) -> Any:
    async def program(world: World) -> None:
        app = web.Application()
        app.router.add_post("/", downloads_class().handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 8000).start()
        world.network.may_fail(Fault.RESET)
        # So that no time limit of aiohttp's own ends a download: what is late is so by less.
        world.network.late_max_s = 2.0
        for _ in range(2):
            try:
                # Of a GET aiohttp's client would ask once more by itself, while this one runs.
                async with (
                    ClientSession() as client,
                    client.post("http://127.0.0.1:8000/") as answer,
                ):
                    await answer.read()
                    world.check(answer.status == 200, "a download that has ended leaves its slot")
            except (ClientError, TimeoutError):
                world.reached("reset")
            await asyncio.sleep(10)
        await runner.cleanup()

    return program


# ---- httpx and uvicorn: a request that is sent again ---------------------------------------------


class Till:
    """Takes ten of a balance for each request, an ASGI application."""

    def __init__(self) -> None:
        self.balance = 100
        self.seen: set[bytes] = set()

    def withdraw(self, number: bytes) -> None:
        self.balance -= 10

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.withdraw(dict(scope["headers"])[b"idempotency-key"])
        headers = [(b"content-length", b"2"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"ok"})


class MendedTill(Till):
    def withdraw(self, number: bytes) -> None:
        if number not in self.seen:
            self.seen.add(number)
            super().withdraw(number)


def of_uvicorn(till_class: type[Till]) -> Any:
    async def program(world: World) -> None:
        till = till_class()
        options = {"lifespan": "off", "ws": "none", "log_level": "critical", "http": "h11"}
        server = uvicorn.Server(uvicorn.Config(till, port=8000, **options))
        listener = socket.create_server(("127.0.0.1", 8000))
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)
        world.network.may_fail(Fault.RESET)
        async with httpx.AsyncClient(verify=NO_TLS) as client:
            for _ in range(2):
                try:
                    await client.post("http://127.0.0.1:8000/", headers={"Idempotency-Key": "1"})
                    break
                except httpx.TransportError:
                    world.reached("asked again")
        server.should_exit = True
        await serving
        world.check(till.balance == 90, "it is withdrawn once")

    return program
