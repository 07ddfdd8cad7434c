"""The HTTP front: the fake Ollama as a real server on a real port, on uvicorn.

    async with running(FakeOllama(profile_named("normal"), wall_clock_ns)) as front:
        ...                                # front.base_url is "http://127.0.0.1:<port>"

It can share an event loop with other servers: it takes no signal handlers, and it neither
writes to uvicorn's loggers nor configures them. `serve` is the stand-alone program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import uvicorn
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sim.fake_ollama.modes import MODES
from sim.fake_ollama.profiles import PROFILE_SENTENCES, profile_named
from sim.fake_ollama.script import FakeOllama
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Hang, Head, Sleep, Step

DEFAULT_PORT = 11434
STOP_S = 1.0  # how long a stop waits for the running requests, once their connections are gone
STOP_TURNS = 5
KEEP_ALIVE_S = 75

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_logger = logging.getLogger("onestream.fake_ollama")


def wall_clock_ns() -> int:
    """Return the nanoseconds since 1970 (in whole microseconds), as a real server stamps them."""
    return (datetime.now(UTC) - _EPOCH) // timedelta(microseconds=1) * 1000


class HttpFront:
    """The ASGI application: performs the script's steps on one HTTP request each.

    `base_url` is empty until `running` has put it on a port.
    """

    def __init__(self, fake: FakeOllama) -> None:
        self.fake = fake
        self.base_url = ""
        self._server: uvicorn.Server | None = None
        self._stopping = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"the fake Ollama speaks HTTP only, not {scope['type']}")
        body = await _read_body(receive)
        if body is None:
            return
        gone = asyncio.create_task(_until_disconnect(receive))
        steps = self.fake.handle(scope["method"], scope["path"], body)
        try:
            for step in steps:
                await self._perform(step, scope, send, gone)
                if gone.done():
                    break
        finally:
            # The answer is over, or the client has left: the script frees what the request held.
            steps.close()
            gone.cancel()

    async def _perform(
        self, step: Step, scope: Scope, send: Send, gone: asyncio.Task[None]
    ) -> None:
        """Perform one step, or as much of it as the client stays for."""
        match step:
            case Sleep(seconds, deaf=True):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._stopping.wait()
            case Sleep(seconds):
                await asyncio.wait({gone}, timeout=seconds)
            case Hang():
                await asyncio.wait({gone})
            case Acquire(waiter):
                granted = asyncio.get_running_loop().create_future()
                waiter.call_when_granted(partial(granted.set_result, None))
                await asyncio.wait({granted, gone}, return_when=asyncio.FIRST_COMPLETED)
            case Head():
                await send(_head_message(step))
            case Body(data):
                await send({"type": "http.response.body", "body": data, "more_body": True})
                # One turn of the loop, so that a disconnect is noticed between two segments.
                await asyncio.sleep(0)
            case End():
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            case Drop():
                await self._drop(scope, gone)

    async def _drop(self, scope: Scope, gone: asyncio.Task[None]) -> None:
        """Close the connection without ending the response.

        A server other than ours does so itself when the application returns too early.
        """
        for connection in self._connections():
            if connection.client == scope["client"]:
                connection.transport.close()
                await asyncio.wait({gone})

    def _connections(self) -> list[_QuietProtocol]:
        if self._server is None:
            return []
        connections = self._server.server_state.connections
        return [known for known in connections if isinstance(known, _QuietProtocol)]

    async def _start(self, listener: socket.socket) -> None:
        config = uvicorn.Config(
            self,
            interface="asgi3",
            http=_QuietProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        self._server = uvicorn.Server(config)
        # Not `Server.serve`: it takes the signal handlers, and polls ten times a second.
        self._server.lifespan = config.lifespan_class(config)
        await self._server.startup(sockets=[listener])

    async def _stop(self) -> None:
        """Stop listening, break off every connection, and wait up to STOP_S for the requests."""
        assert self._server is not None
        self._stopping.set()
        for listening in self._server.servers:
            listening.close()
        await self._break_off()
        tasks = set(self._server.server_state.tasks)
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=STOP_S)
            for task in late:
                task.cancel()
        await self._break_off()

    async def die(self) -> None:
        """As when its process is killed: its connections are reset, and it listens no more."""
        assert self._server is not None
        for listening in self._server.servers:
            listening.close()
        for connection in self._connections():
            opened = connection.transport.get_extra_info("socket")
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await self._break_off()

    async def _break_off(self) -> None:
        # What was accepted last becomes a connection some turns of the loop later, and one that is
        # aborted closes its socket in the next.
        for _ in range(STOP_TURNS):
            for connection in self._connections():
                connection.transport.abort()
            await asyncio.sleep(0)


class _QuietProtocol(H11Protocol):
    """uvicorn's h11 protocol with a logger of its own: another server may use uvicorn's."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _logger
        self.access_log = False


@contextlib.asynccontextmanager
async def running(
    fake: FakeOllama,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    new_front: Callable[[FakeOllama], HttpFront] = HttpFront,
) -> AsyncIterator[HttpFront]:
    """Serve the fake on a real port while the block runs; port 0 picks a free one.

    Yields the front, whose `base_url` says where. Raises OSError if the address is taken. The
    end of the block breaks off all requests, hung streams too, in STOP_S at most.
    """
    listener = _listen(host, port)
    front = new_front(fake)
    front.base_url = _base_url(host, listener.getsockname()[1])
    try:
        await front._start(listener)
        try:
            yield front
        finally:
            await front._stop()
    finally:
        listener.close()


async def serve(
    *,
    profile: str = "normal",
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serve until cancelled, or until SIGINT or SIGTERM.

    Announces its address and the models, by `announce` or else `print`. Raises ValueError for an
    unknown profile, OSError if the address is taken.
    """
    fake = FakeOllama(profile_named(profile), wall_clock_ns)
    stop = asyncio.Event()
    async with running(fake, host=host, port=port) as front:
        with _signals_call(stop.set):
            say = partial(print, flush=True) if announce is None else announce
            say(announcement(front, profile))
            await stop.wait()


def announcement(front: HttpFront, profile: str) -> str:
    """Return what a human wants to know: the address, the profile, each model with a sentence."""
    width = max(len(name) for name in MODES)
    plain = ", ".join(front.fake.profile.models)
    return "\n".join(
        [
            f"fake Ollama on {front.base_url}, profile {profile}: {PROFILE_SENTENCES[profile]}",
            f"models {plain} are fake:{front.fake.profile.mode}; and one model for each mode:",
            *(f"  fake:{mode.name:<{width}}  {mode.sentence}" for mode in MODES.values()),
        ]
    )


@contextlib.contextmanager
def _signals_call(callback: Callable[[], None]) -> Iterator[None]:
    """Call back on SIGINT and SIGTERM, where the platform and the thread allow it."""
    loop = asyncio.get_running_loop()
    taken: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            before = signal.getsignal(number)
            loop.add_signal_handler(number, callback)
            taken[number] = before
    try:
        yield
    finally:
        for number, before in taken.items():
            loop.remove_signal_handler(number)
            signal.signal(number, before)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises OSError if the address is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named: without it, segments
    # are held back until the client acknowledges the one before, 40 ms late.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


async def _read_body(receive: Receive) -> bytes | None:
    """Return the request's body, or None if the client left before its end."""
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        part: bytes = message.get("body", b"")
        body += part
        if not message.get("more_body", False):
            return body


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _head_message(head: Head) -> Message:
    headers = [(b"content-type", head.content_type.encode("ascii"))]
    if head.length_bytes is not None:
        headers.append((b"content-length", str(head.length_bytes).encode("ascii")))
    return {"type": "http.response.start", "status": head.status, "headers": headers}


def _base_url(host: str, port: int) -> str:
    """Return an address to connect to: one listens on 0.0.0.0 and ::, but cannot connect there."""
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
