"""The fake Ollama in virtual time: its script, played by SimPy processes, behind httpx transports.

The third and the second front of the one script; `http_front.py` is the first. What arrives at
the client arrives as outside events, so its landing is the scheduler's choice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, Protocol

import httpx
import simpy

from sim.environment import Arrival, Environment
from sim.fake_ollama.profiles import Profile
from sim.fake_ollama.script import Call, FakeOllama, Steps
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Hang, Head, Sleep
from sim.loop import SimLoop
from sim.threads import deadline

# Virtual time begins at the turn of the year 2026, so that stamps on the wire look like stamps.
EPOCH_NS = 1_767_225_600_000_000_000


class Holder(Protocol):
    """What wakes a thread: it is told of each socket that the thread may block on."""

    def hold(self, sock: SimSocket, /) -> None: ...


class SimOllama:
    """The fake, its world, and every connection to it of one execution."""

    def __init__(self, loop: SimLoop, profile: Profile) -> None:
        self.loop = loop
        self.environment: Environment = loop.environment
        self.fake = FakeOllama(profile, self._now_ns)
        # Refuses connections while true, as a host on which no Ollama runs.
        self.is_down = False
        # How long the look-ups of the host name take that come next, in a thread: nothing can
        # wake a thread out of one.
        self.lookup_s: list[float] = []
        self.connections: list[Connection] = []

    def connect(self, method: str, path: str, body: bytes) -> Connection:
        number = len(self.connections) + 1
        steps = self.fake.handle(method, path, body)
        connection = Connection(self.environment, self.loop, steps, f"ollama {number}")
        self.connections.append(connection)
        return connection

    def transport(self) -> httpx.AsyncBaseTransport:
        return SimAsyncTransport(self)

    def blocking_transport(self, wake: Holder) -> httpx.BaseTransport:
        return SimBlockingTransport(self, wake)

    def age_s(self, call: Call) -> float:
        """How long ago the call began, in virtual seconds."""
        return (self._now_ns() - call.started_ns) / 1e9

    def _now_ns(self) -> int:
        return EPOCH_NS + round(self.environment.now * 1e9)


class Connection:
    """One HTTP exchange with the fake; the client's end of it is `receive` and `close`."""

    def __init__(self, environment: Environment, loop: SimLoop, steps: Steps, name: str) -> None:
        self.name = name
        self._environment = environment
        self._loop = loop
        self._steps = steps
        # Triggered when the client has closed its end.
        self._gone: simpy.Event = environment.event()
        # Landed and not yet received by the client.
        self._inbox: deque[Head | Body | End | Drop] = deque()
        self._receiver: asyncio.Future[None] | None = None
        environment.process(self._play())

    # -- the client's end

    @property
    def is_closed(self) -> bool:
        return bool(self._gone.triggered)

    def receive_blocking(self, timeout_s: float | None) -> Head | Body | End | Drop | None:
        """As `receive`, in a worker thread; None once this end was shut. Raises TimeoutError."""
        over = deadline(self._loop.threads, timeout_s)
        self._loop.threads.block("recv", lambda: bool(self._inbox) or self.is_closed or over())
        if self.is_closed:
            return None
        if not self._inbox:
            raise TimeoutError("timed out")
        return self._inbox.popleft()

    async def receive(self) -> Head | Body | End | Drop:
        """The next thing that Ollama sent."""
        while not self._inbox:
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        return self._inbox.popleft()

    def close(self) -> None:
        """Ollama hears of it in the same instant, unless its script is deaf. May be repeated."""
        if not self._gone.triggered:
            self._gone.succeed()
            self._environment.run_due()

    # -- Ollama's end

    def _play(self) -> Generator[simpy.Event, Any, None]:
        env, gone = self._environment, self._gone
        sent = 0
        try:
            for step in self._steps:
                match step:
                    case Sleep(seconds, deaf=True):
                        yield env.timeout(seconds)
                    case Sleep(seconds):
                        yield env.timeout(seconds) | gone
                    case Hang():
                        yield gone
                    case Acquire(waiter):
                        granted = env.event()
                        waiter.call_when_granted(lambda granted=granted: granted.succeed())  # type: ignore[misc]
                        yield granted | gone
                    case Head():
                        # Leaves with the first bytes of the body.
                        self._hold = step
                    case Body() | End() | Drop():
                        sent += 1
                        yield self._arrival(f"{self.name} sends {sent}") | gone
                        if not gone.triggered:
                            self._deliver(step)
                if gone.triggered:
                    break
        finally:
            self._steps.close()

    def _arrival(self, name: str) -> Arrival:
        return self._environment.announce(name, 0.0, 0.0, lambda: not self._gone.triggered)

    def _deliver(self, step: Body | End | Drop) -> None:
        head, self._hold = self._hold, None
        if head is not None:
            self._inbox.append(head)
        self._inbox.append(step)
        # As with a socket: what the poll found is a callback, and that wakes the reader.
        self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)

    _hold: Head | None = None


class SimAsyncTransport(httpx.AsyncBaseTransport):
    """What httpx.AsyncHTTPTransport is to a real Ollama."""

    def __init__(self, ollama: SimOllama) -> None:
        self._ollama = ollama

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self._ollama.is_down:
            raise httpx.ConnectError("connection refused", request=request)
        body = await request.aread()
        connection = self._ollama.connect(request.method, request.url.path, body)
        timeout_s = request.extensions["timeout"].get("read")
        try:
            head = await _received_async(connection, timeout_s)
        except BaseException:
            connection.close()
            raise
        if not isinstance(head, Head):
            connection.close()
            raise httpx.RemoteProtocolError("server disconnected without sending a response")
        return httpx.Response(
            head.status,
            headers={"content-type": head.content_type},
            stream=_AsyncBody(connection, timeout_s),
        )


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, connection: Connection, timeout_s: float | None) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            match await _received_async(self._connection, self._timeout_s):
                case Body(data):
                    yield data
                case End():
                    return
                case _:
                    raise httpx.RemoteProtocolError(
                        "peer closed connection without sending complete message body"
                    )

    async def aclose(self) -> None:
        self._connection.close()


async def _received_async(
    connection: Connection, timeout_s: float | None
) -> Head | Body | End | Drop:
    try:
        async with asyncio.timeout(timeout_s):
            return await connection.receive()
    except TimeoutError as exc:
        connection.close()
        raise httpx.ReadTimeout("timed out") from exc


class SimSocket:
    """What a worker thread blocks on. Shutting it down wakes the thread, once it is connected."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def shutdown(self, how: int, /) -> None:
        if self.connection is None:
            raise OSError("transport endpoint is not connected")
        self.connection.close()


class SimBlockingTransport(httpx.BaseTransport):
    """What httpx.HTTPTransport is to a real Ollama, in a worker thread."""

    def __init__(self, ollama: SimOllama, wake: Holder) -> None:
        self._ollama = ollama
        self._wake = wake

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        threads = self._ollama.loop.threads
        sock = SimSocket()
        self._wake.hold(sock)
        if self._ollama.lookup_s:
            over = deadline(threads, self._ollama.lookup_s.pop(0))
            threads.block("getaddrinfo", over)
        threads.pause("connect")
        if self._ollama.is_down:
            raise httpx.ConnectError("connection refused", request=request)
        sock.connection = connection = self._ollama.connect(
            request.method, request.url.path, request.read()
        )
        # Whoever came before the connect found nothing to shut.
        self._wake.hold(sock)
        timeout_s = request.extensions["timeout"].get("read")
        head = _received(connection, timeout_s)
        if not isinstance(head, Head):
            connection.close()
            raise httpx.RemoteProtocolError("server disconnected without sending a response")
        return httpx.Response(
            head.status,
            headers={"content-type": head.content_type},
            stream=_BlockingBody(connection, timeout_s),
        )


class _BlockingBody(httpx.SyncByteStream):
    def __init__(self, connection: Connection, timeout_s: float | None) -> None:
        self._connection = connection
        self._timeout_s = timeout_s

    def __iter__(self) -> Iterator[bytes]:
        while True:
            match _received(self._connection, self._timeout_s):
                case Body(data):
                    yield data
                case End():
                    return
                case _:
                    raise httpx.RemoteProtocolError(
                        "peer closed connection without sending complete message body"
                    )

    def close(self) -> None:
        self._connection.close()


def _received(connection: Connection, timeout_s: float | None) -> Head | Body | End | Drop | None:
    try:
        return connection.receive_blocking(timeout_s)
    except TimeoutError as exc:
        connection.close()
        raise httpx.ReadTimeout(str(exc)) from exc
