"""The ASGI server around the application, and the clients of it, in virtual time.

Stands where uvicorn stands. As there, a request is a task that is created when its bytes have
arrived; `send` returns silently once the client has left, and waits while a client that does not
read leaves more than `buffer_bytes` unsent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from sim.bench.harness.answers import Answer
from sim.kernel.world import World

BUFFER_BYTES = 64 * 1024


class Exchange(Answer):
    """One HTTP request and what came back, as its client sees it.

    on_send: called first, with each message that the application hands to `send`.
    """

    def __init__(
        self, world: World, name: str, scope: Scope, body: bytes, *, half: bool, buffer_bytes: int
    ) -> None:
        super().__init__(name, world.now)
        self.scope = scope
        self.task: asyncio.Task[None] | None = None
        self.ended_at: float | None = None
        self._world = world
        self._requests: list[Message] = []
        first = body[: len(body) // 2] if half else body
        self._rest = body[len(first) :]
        self._arrives(first, more_body=half)
        self._buffer_bytes = buffer_bytes
        self._unread = 0
        self._changed: asyncio.Event = asyncio.Event()
        self.on_send: Callable[[Message], None] = lambda message: None

    # -- what the client does

    def leave(self) -> None:
        self.has_left = True
        self._world.record(f"{self.name} leaves", actor="outside")
        self._changed.set()

    def read_on(self) -> None:
        self.is_reading = True
        self.reads_since = self._world.now
        self._unread = 0
        self._changed.set()

    def stop_reading(self) -> None:
        self.is_reading = False

    def send_rest(self, body: bytes | None = None) -> None:
        """The second half of a body that was sent in two, or something else in its place."""
        self._arrives(self._rest if body is None else body, more_body=False)
        self._changed.set()

    def _arrives(self, body: bytes, *, more_body: bool) -> None:
        self._requests.append({"type": "http.request", "body": body, "more_body": more_body})

    # -- what the client sees

    @property
    def given_id(self) -> str | None:
        found: str | None = self.scope["state"].get("trace_id")
        return found

    # -- what the application calls

    async def receive(self) -> Message:
        while True:
            if self._requests:
                return self._requests.pop(0)
            if self.has_left or self.is_whole:
                return {"type": "http.disconnect"}
            await self._change()

    async def send(self, message: Message) -> None:
        self.on_send(message)
        if self.has_left:
            return
        if self.is_whole:
            seen = f"{self.name}: {message}"
            self._world.fail("nothing is sent after the end of an answer", seen)
        self.heard_at = self._world.now
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            self._world.record(f"is answered with {self.status}", actor=self.name)
            return
        data = message.get("body", b"")
        self._record(data, is_last=not message.get("more_body", False))
        self.body += data
        if not self.is_reading:
            self._unread += len(data)
        if not message.get("more_body", False):
            self.is_whole = True
            self._changed.set()
        while not self.is_reading and self._unread > self._buffer_bytes and not self.has_left:
            await self._change()

    def _record(self, data: bytes, *, is_last: bool) -> None:
        """For the trace of a counterexample: what comes, in few words."""
        if self._world.trace is None:
            return
        parts = []
        if b'"content":"' in data:
            parts.append("content")
        if b'"error"' in data:
            parts.append("an error")
        if is_last:
            parts.append("the end")
        if parts:
            self._world.record(f"gets {' and '.join(parts)}", actor=self.name)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class SimServer:
    """Runs the application as uvicorn does: lifespan, and a task for each request."""

    def __init__(self, world: World, app: ASGIApp, *, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.world = world
        self.exchanges: list[Exchange] = []
        self._app = app
        self._buffer_bytes = buffer_bytes
        self._lifespan: asyncio.Task[None] | None = None
        self._to_lifespan: asyncio.Queue[Message] = asyncio.Queue()
        self._from_lifespan: asyncio.Queue[Message] = asyncio.Queue()

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}
        run = self._app(scope, self._to_lifespan.get, self._from_lifespan.put)
        self._lifespan = loop.create_task(_coroutine(run), name="lifespan")
        await self._send_lifespan("startup")

    @property
    def is_up(self) -> bool:
        return self._lifespan is not None and not self._lifespan.done()

    async def stop(self) -> None:
        """The lifespan's shut-down, which uvicorn begins when no connection is left."""
        await self._send_lifespan("shutdown")
        assert self._lifespan is not None
        await asyncio.wait({self._lifespan})

    def request(
        self,
        name: str,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        half: bool = False,
    ) -> Exchange:
        """The bytes of a request have arrived; with `half`, only half of its body has."""
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
            "client": ("127.0.0.1", 50000 + len(self.exchanges)),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }
        exchange = Exchange(
            self.world, name, scope, body, half=half, buffer_bytes=self._buffer_bytes
        )
        self.exchanges.append(exchange)
        loop = asyncio.get_running_loop()
        exchange.task = loop.create_task(self._serve(exchange), name=f"{name} request")
        return exchange

    async def _serve(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except Exception as exc:
            self.world.fail(
                "no request ends in an exception", f"{exchange.name}: {exc!r}", raised=exc
            )
        finally:
            exchange.ended_at = self.world.now

    async def _send_lifespan(self, what: str) -> None:
        await self._to_lifespan.put({"type": f"lifespan.{what}"})
        answer = await self._from_lifespan.get()
        done = answer["type"] == f"lifespan.{what}.complete"
        self.world.check(done, "the lifespan starts and ends", f"{answer}")


async def _coroutine(awaitable: Any) -> None:
    await awaitable
