"""The fake Ollama in virtual time: its script, run by SimPy processes, behind httpx transports.

The third and the second front of the one script; `http_front.py` is the first. What arrives at
the client arrives as outside events, so its landing is the scheduler's choice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, Protocol, TypeAlias

import httpx
import simpy

from sim.fake_ollama.profiles import Profile
from sim.fake_ollama.script import Call, FakeOllama, Steps
from sim.fake_ollama.steps import Acquire, Body, Drop, End, Hang, Head, Sleep
from sim.kernel.environment import Arrival, Environment
from sim.kernel.loop import SimLoop
from sim.kernel.origin import modelled
from sim.kernel.threads.workers import TimeLimit

# Virtual time begins at the turn of the year 2026, so that stamps on the wire look like stamps.
EPOCH_NS = 1_767_225_600_000_000_000

Received: TypeAlias = Head | Body | End | Drop


class Holder(Protocol):
    """Wakes a thread: it gets each socket that the thread may block on."""

    def hold(self, sock: SimSocket, /) -> None: ...


class SimOllama:
    """The fake, its world, and every connection to it of one execution."""

    def __init__(self, loop: SimLoop, profile: Profile) -> None:
        self.loop = loop
        self.environment: Environment = loop.environment
        self.fake = FakeOllama(profile, self._now_ns)
        # Refuses connections while true, as a host on which no Ollama runs.
        self.is_down = False
        # How long the next look-ups of the host name take, in a thread: nothing can wake a thread
        # out of one.
        self.lookup_s: list[float] = []
        # How long an async client waits for its end of a connection to close, once Ollama has
        # noticed it: TLS has a closing handshake, for one.
        self.close_s = 0.0
        self.connections: list[Connection] = []
        # From the body of a request and the steps of its answer: the steps that are performed.
        self.played: Callable[[bytes, Steps], Steps] = lambda body, steps: steps
        # Called before something lands, and before a client shuts or closes its end: a thread does
        # several of these between two polls of the loop.
        self.before_change: Callable[[], None] = lambda: None
        # Called with what happens on a connection: its name, and words for it.
        self.on_event: Callable[[str, str], None] = lambda name, text: None
        # Called with the connection and the data of each segment that has landed.
        self.on_landed: Callable[[Connection, bytes], None] = lambda connection, data: None

    def connect(self, request: httpx.Request, body: bytes, *, in_thread: bool) -> Connection:
        """Raises httpx.ConnectError while Ollama is down."""
        if self.is_down:
            raise modelled(httpx.ConnectError("connection refused", request=request))
        connection = Connection(self, request, body, in_thread=in_thread)
        self.connections.append(connection)
        self.on_event(connection.name, f"{request.method} {request.url.path} begins")
        return connection

    def transport(self) -> httpx.AsyncBaseTransport:
        return SimAsyncTransport(self)

    def blocking_transport(self, wake: Holder) -> httpx.BaseTransport:
        return SimBlockingTransport(self, wake)

    def age_s(self, call: Call) -> float:
        """How long ago the call began, in virtual seconds."""
        return (self._now_ns() - call.started_ns) / 1e9

    def _now_ns(self) -> int:
        # In whole microseconds, as Ollama writes them: the nanoseconds only count readings.
        return EPOCH_NS + round(self.environment.now * 1e6) * 1000


class Connection:
    """One HTTP exchange with the fake; the client's end of it is `receive` and `close`.

    body: of the request. timeout_s: how long the client waits for each thing to receive.
    """

    def __init__(
        self, ollama: SimOllama, request: httpx.Request, body: bytes, *, in_thread: bool
    ) -> None:
        self.name = f"ollama {len(ollama.connections) + 1}"
        self.body = body
        self.timeout_s: float | None = request.extensions["timeout"].get("read")
        # The client has closed its end, and Ollama its own.
        self.is_closed = False
        self.is_played = False
        self._ollama = ollama
        self._environment = ollama.environment
        self._is_in_thread = in_thread
        self._loop = ollama.loop
        # Ollama would not notice now if the client left.
        self.is_deaf = False
        steps = ollama.fake.handle(request.method, request.url.path, body)
        self._steps = ollama.played(body, steps)
        # Triggered when the client has shut its end.
        self._gone: simpy.Event = self._environment.event()
        # Landed and not yet received by the client.
        self._inbox: deque[Received] = deque()
        self._hold: Head | None = None
        self._receiver: asyncio.Future[None] | None = None
        self._environment.process(self._play())

    @property
    def is_shut(self) -> bool:
        return bool(self._gone.triggered)

    @property
    def is_over(self) -> bool:
        """Both ends are closed; or the client's is, and Ollama has not noticed yet."""
        return self.is_closed and (self.is_played or self.is_deaf)

    @property
    def unread(self) -> int:
        """How many segments have landed that the client has not received."""
        return sum(isinstance(each, Body) for each in self._inbox)

    # -- the client's end

    def receive_blocking(self) -> Received | None:
        """As `receive`, in a worker thread; None once this end was shut."""
        over = TimeLimit(self._loop.threads, self.timeout_s)
        self._loop.threads.block("recv", lambda: bool(self._inbox) or self.is_shut or over(), over)
        if self.is_shut:
            return None
        if not self._inbox:
            self.close()
            raise modelled(httpx.ReadTimeout("timed out"))
        return self._inbox.popleft()

    async def receive(self) -> Received:
        """The next thing that Ollama sent. Raises httpx.ReadTimeout."""
        try:
            async with asyncio.timeout(self.timeout_s):
                while not self._inbox:
                    self._receiver = self._loop.create_future()
                    try:
                        await self._receiver
                    finally:
                        self._receiver = None
        except TimeoutError as exc:
            self.close()
            raise modelled(httpx.ReadTimeout("timed out")) from exc
        return self._inbox.popleft()

    def shut(self) -> None:
        """Ollama notices in the same instant, unless its script is deaf. May be repeated."""
        if not self.is_shut:
            self._ollama.before_change()
            self._ollama.on_event(self.name, "is shut by the server")
            self._gone.succeed()
            self._environment.run_due()

    def close(self) -> None:
        """Shuts this end, and closes it. May be repeated."""
        self.shut()
        if not self.is_closed:
            self._ollama.before_change()
            self.is_closed = True

    async def aclose(self) -> None:
        """As `close`, but closing takes time after the shutting; a cancel cuts that short."""
        self.shut()
        try:
            if self._ollama.close_s and not self.is_closed:
                await asyncio.sleep(self._ollama.close_s)
        finally:
            self.close()

    # -- Ollama's end

    def _play(self) -> Generator[simpy.Event, Any, None]:
        env, gone = self._environment, self._gone
        sent = 0
        try:
            for step in self._steps:
                match step:
                    case Sleep(seconds, deaf=True):
                        self.is_deaf = True
                        yield env.timeout(seconds)
                        self.is_deaf = False
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
            self.is_played = True

    def _arrival(self, name: str) -> Arrival:
        return self._environment.announce(name, 0.0, 0.0, lambda: not self.is_shut)

    def _deliver(self, step: Body | End | Drop) -> None:
        self._ollama.before_change()
        self._ollama.on_event(self.name, f"sends its {type(step).__name__.lower()}")
        head, self._hold = self._hold, None
        if head is not None:
            self._inbox.append(head)
        self._inbox.append(step)
        if isinstance(step, Body):
            self._ollama.on_landed(self, step.data)
        if not self._is_in_thread:
            # As with a socket: the poll runs a callback, and that wakes the reader. A thread's
            # socket does not belong to the loop.
            self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)


class SimAsyncTransport(httpx.AsyncBaseTransport):
    """What httpx.AsyncHTTPTransport is to a real Ollama."""

    def __init__(self, ollama: SimOllama) -> None:
        self._ollama = ollama

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = self._ollama.connect(request, await request.aread(), in_thread=False)
        try:
            return _response(await connection.receive(), _AsyncBody(connection))
        except BaseException:
            await connection.aclose()
            raise


class _AsyncBody(httpx.AsyncByteStream):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (data := _data(await self._connection.receive())) is not None:
            yield data

    async def aclose(self) -> None:
        await self._connection.aclose()


class SimSocket:
    """What a worker thread blocks on. Shutting it down wakes the thread, once it is connected."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def shutdown(self, how: int, /) -> None:
        if self.connection is None:
            raise modelled(OSError("transport endpoint is not connected"))
        self.connection.shut()


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
            over = TimeLimit(threads, self._ollama.lookup_s.pop(0))
            threads.block("getaddrinfo", over, over)
        threads.pause("connect")
        connection = self._ollama.connect(request, request.read(), in_thread=True)
        sock.connection = connection
        try:
            # A stop that came before the connect found nothing to shut.
            self._wake.hold(sock)
            return _response(connection.receive_blocking(), _BlockingBody(connection))
        except BaseException:
            connection.close()
            raise


class _BlockingBody(httpx.SyncByteStream):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __iter__(self) -> Iterator[bytes]:
        while (data := _data(self._connection.receive_blocking())) is not None:
            yield data

    def close(self) -> None:
        self._connection.close()


# What both transports return for what they received.


def _response(received: Received | None, body: _AsyncBody | _BlockingBody) -> httpx.Response:
    if not isinstance(received, Head):
        raise modelled(httpx.RemoteProtocolError("server disconnected without sending a response"))
    return httpx.Response(
        received.status, headers={"content-type": received.content_type}, stream=body
    )


def _data(received: Received | None) -> bytes | None:
    """The data of a segment; None at the end of the body. Raises httpx.RemoteProtocolError."""
    match received:
        case Body(data):
            return data
        case End():
            return None
    cut = "peer closed connection without sending complete message body"
    raise modelled(httpx.RemoteProtocolError(cut))
