"""The bench at stack level: all that serves real users, from the sockets up.

uvicorn with the production protocol, the application, the registry behind an observed protocol,
both Ollama clients with their own transports, and the fake Ollama's HTTP front on another uvicorn.
What stands around them is simulated: the kernel's sockets, clock and entropy, and the executor.
"""

from __future__ import annotations

import asyncio
import enum
import json
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import cache
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from registry.wording import STREAM_START
from server.app import create_app
from server.ollama_async import async_transport_factory
from server.run import config_for, signals_swallowed
from server.settings import Settings
from sim.bench.harness.answers import content_of
from sim.bench.harness.http_bench import KEYS, PROFILE, Client, HttpBench, settings_of
from sim.bench.harness.http_client import ClientConnection, SocketExchange, StackExchange
from sim.bench.harness.httpx_client import HttpxClient, HttpxExchange
from sim.bench.harness.judgement import Judgements, Moment
from sim.bench.harness.stack_ollama import ObservedFront, UpstreamCall
from sim.fake_ollama import FakeOllama, Profile
from sim.fake_ollama.http_front import HttpFront, running
from sim.fake_ollama.simulated import EPOCH_NS
from sim.kernel.network.addresses import Machine
from sim.kernel.network.streams import StreamSocket
from sim.kernel.world import World

HOST = "127.0.0.1"
PORT = 8000
PROMPTS = "/v1/chat/completions"
OLLAMA_PORT = 11434
# Of its machine, where it is another than the server's.
OLLAMAS_NAME, OLLAMAS_ADDRESS = "ollama", "10.0.0.2"
# How long the bench waits for what is under way, in virtual seconds: what arrives late does so at
# one of uvicorn's next ticks, each of which is 0.1 s from the one before.
QUIET_S = 1.0


class Parser(enum.Enum):
    """Which protocol of uvicorn's the server's connections have."""

    # Whichever uvicorn would pick.
    PRODUCTIONS = "production's, on h11"
    # A class that a user gives to uvicorn is left as it is: without production's limits.
    HTTPTOOLS = "uvicorn's own, on httptools"


class StackBench(HttpBench):
    """One execution's server, its clients and its Ollama."""

    def __init__(
        self,
        world: World,
        cls: type[Any],
        judgements: Judgements,
        *,
        client: Client = "async",
        settings: Mapping[str, Any] | None = None,
        profile: Profile = PROFILE,
        threads_max: int = 4,
        ollama_at: str = HOST,
        clients_hear_late: bool = False,
        ollama_hears_late: bool = False,
        parser: Parser = Parser.PRODUCTIONS,
    ) -> None:
        """ollama_at: an address or name of Ollama's machine, if it is not the server's.

        clients_hear_late, ollama_hears_late: whether what the server sends to them may be late;
        else what they send alone, which says the same where they act on what they have heard.
        """
        address = f"http://{ollama_at}:{OLLAMA_PORT}"
        super().__init__(world, settings_of(client, address, **(settings or {})))
        self.ollamas_machine: Machine | None = None
        if ollama_at != HOST:
            self.ollamas_machine = world.network.machine(OLLAMAS_NAME, OLLAMAS_ADDRESS)
        world.network.may_cut = _is_read_by_production
        collectors = []
        if not clients_hear_late:
            collectors.append(_is_of_client)
        if not ollama_hears_late:
            collectors.append(_is_of_ollama)
        if collectors:
            world.network.at_once = lambda receiver: any(each(receiver) for each in collectors)
        self.profile = profile
        self.server_address = HOST
        self._cls = cls
        self._threads_max = threads_max
        self._parser = parser
        self._begin()
        self.connections: list[ClientConnection] = []
        self.httpx_clients: list[HttpxClient] = []
        self.prompts: dict[str, StackExchange] = {}
        self._serving: asyncio.Task[None] | None = None
        self.be_judged(judgements)

    def _begin(self) -> None:
        """What the processes keep in their memory."""
        self._renew_ollama()
        self._renew_server()

    def _renew_ollama(self) -> None:
        self.fake = FakeOllama(self.profile, lambda: EPOCH_NS + round(self.world.now * 1e6) * 1000)
        self.front = ObservedFront(self.fake, self._our_end_of)

    def _renew_server(self) -> None:
        self.new_async_transport = async_transport_factory(self.settings.ollama_host)
        executor = self.world.executor(threads_max=self._threads_max)
        self.registry = self.observed_registry(self._cls, executor)

    # -- what scenarios do

    async def connect(self, name: str) -> ClientConnection:
        """A connection to the server."""
        connection = ClientConnection(self.world, name)
        self.connections.append(connection)
        await connection.connect(self.server_address, PORT)
        return connection

    async def post(
        self,
        name: str,
        session: str | None = "s",
        *,
        over: ClientConnection | None = None,
        earliest: float = 0.0,
        latest: float | None = 0.0,
        **asked: Any,
    ) -> SocketExchange:
        """A client sends a prompt, over a connection of its own if it is given none."""
        await self.world.outside(f"{name} is sent", earliest=earliest, latest=latest)
        connection = over or await self.connect(name)
        exchange, data = self.prompt(connection, name, session, **asked)
        await connection.send(data)
        return exchange

    def prompt(
        self,
        connection: ClientConnection,
        name: str,
        session: str | None = "s",
        *,
        body: bytes | None = None,
        **asked: Any,
    ) -> tuple[SocketExchange, bytes]:
        """A prompt whose text is its name, and the bytes that the client has to send for it."""
        headers, prompt = self._asked(name, session, **asked)
        exchange, data = connection.ask(
            name, "POST", PROMPTS, headers, prompt if body is None else body
        )
        self.prompts[name] = exchange
        return exchange, data

    def httpx_client(self, connections_max: int) -> HttpxClient:
        """With a pool of this many connections to the server."""
        client = HttpxClient(self.world, f"http://{self.server_address}:{PORT}", connections_max)
        self.httpx_clients.append(client)
        return client

    async def post_by(
        self,
        client: HttpxClient,
        name: str,
        session: str | None = "s",
        *,
        body: bytes | None = None,
        earliest: float = 0.0,
        latest: float | None = 0.0,
        **asked: Any,
    ) -> HttpxExchange:
        """A client of httpx sends a prompt, over whichever connection its pool takes."""
        await self.world.outside(f"{name} is sent", earliest=earliest, latest=latest)
        headers, prompt = self._asked(name, session, **asked)
        exchange = client.ask(name, PROMPTS, headers, prompt if body is None else body)
        self.prompts[name] = exchange
        return exchange

    def _asked(
        self,
        name: str,
        session: str | None,
        *,
        model: str = "fake:normal",
        key: str = "alice",
        stream: bool = True,
        strategy: str | None = None,
        padding_bytes: int = 0,
    ) -> tuple[dict[str, str], bytes]:
        """Headers and body of a prompt. padding_bytes: how much longer it is than its name."""
        messages = [{"role": "system", "content": " " * padding_bytes}] if padding_bytes else []
        messages.append({"role": "user", "content": name})
        headers = self.headers_of_prompt(name, session, key, strategy)
        headers[_NAME_HEADER] = name
        asked = {"model": model, "messages": messages, "stream": stream}
        return headers, json.dumps(asked).encode()

    async def press_stop(self, exchange: StackExchange, *, key: str = "alice") -> SocketExchange:
        """Another connection asks to stop it; returns the answer."""
        name = f"stop {exchange.name}"
        connection = await self.connect(name)
        path = f"/v1/streams/{exchange.given_id}/cancel"
        headers = {"authorization": f"Bearer {KEYS[key]}"}
        stop, data = connection.ask(name, "POST", path, headers, b"")
        await connection.send(data)
        await stop.over.wait()
        return stop

    async def over(self, *exchanges: StackExchange) -> None:
        """Waits until these are answered, or their connections have ended."""
        for each in exchanges:
            await each.over.wait()

    def newest_of(self, *exchanges: StackExchange) -> StackExchange:
        """That whose stream has begun last: the newest that was registered always begins.

        The network may bring first what was sent later, and bodies in another order than heads.
        """
        begun = [line.fields.get("trace") for line in self.logged if line.event == STREAM_START]
        places = {trace: place for place, trace in enumerate(begun)}
        return max(exchanges, key=lambda each: places.get(each.given_id, -1))

    async def terminate(self, *, earliest: float = 0.0, latest: float | None = 0.0) -> None:
        """SIGTERM; waits until the process would have ended."""
        assert self._serving is not None
        await self.world.signal(signal.SIGTERM, earliest=earliest, latest=latest)
        begun = self.world.now
        await self._serving
        self.judges.ask(Moment.CLOSED, self.world.now - begun)

    def cut_ollama_off(self) -> None:
        """Nothing passes between the server and Ollama's machine, and nobody is told."""
        self.world.record("is cut off", actor="Ollama")
        self.world.network.cut(self.world.network.here.name, OLLAMAS_NAME)

    def reconnect_ollama(self) -> None:
        """What was sent meanwhile arrives."""
        self.world.record("is there again", actor="Ollama")
        self.world.network.heal(self.world.network.here.name, OLLAMAS_NAME)

    async def kill_ollama(self) -> None:
        """Its process ends without a clean-up."""
        self.world.record("is killed", actor="Ollama")
        await self.front.die()

    async def play(self, scenario: Callable[[StackBench], Awaitable[None]]) -> None:
        """Start-up, the scenario, quiet, shut-down."""
        async with AsyncExitStack() as stack:
            await self._start_ollama(stack)
            await self._start()
            await scenario(self)
            await self._quiet()
            if self._is_serving:
                await self.terminate()
            await asyncio.sleep(QUIET_S)
            for exchange in self.prompts.values():
                self.judges.ask(Moment.ENDED, exchange)
            self.judges.ask(Moment.QUIET)

    async def _start_ollama(self, stack: AsyncExitStack) -> None:
        at = HOST if self.ollamas_machine is None else OLLAMAS_ADDRESS
        with self.world.network.on(self.ollamas_machine or self.world.network.here):
            await stack.enter_async_context(self._ollama_runs(at))

    def _ollama_runs(self, at: str) -> AbstractAsyncContextManager[HttpFront]:
        return running(self.fake, host=at, port=OLLAMA_PORT, new_front=lambda fake: self.front)

    async def _start(self) -> None:
        server = self._new_server(HOST)
        self._serving = self.world.loop.create_task(self._serve(server), name="uvicorn")
        await server.has_started.wait()

    @property
    def _is_serving(self) -> bool:
        return self._serving is not None and not self._serving.done()

    def _new_server(self, host: str) -> _Server:
        app = _application(self.settings)
        app.state.bench = self
        config = config_for(_Watched(self, app), self.settings, host, PORT, log_config=None)
        if self._parser is Parser.HTTPTOOLS:
            config.http = _httptools_protocol()
        return _Server(config)

    async def _serve(self, server: uvicorn.Server) -> None:
        with signals_swallowed():
            await server.serve()

    async def _quiet(self) -> None:
        """All is answered, and nobody is connected any more."""
        await self.over(*self.prompts.values())
        # What connections do at their end is for scenarios.
        self.world.network.at_once = lambda receiver: True
        for connection in self.connections:
            connection.close()
        for client in self.httpx_clients:
            await client.close()
        # Streams outlive their responses by their clean-up.
        pending = [task for task in self.world.loop.tasks if _is_of_stream(task)]
        if pending:
            await asyncio.wait(pending)
        await asyncio.sleep(QUIET_S)

    # -- what the driver sees

    @property
    def exchanges(self) -> Iterable[StackExchange]:
        return self.prompts.values()

    def said_to(self, prompt: str) -> str:
        return "".join(each.said for each in self.front.calls if each.prompt == prompt)

    def prompts_upstream(self) -> list[str]:
        return [each.prompt for each in self.calls_held()]

    def calls_held(self) -> list[UpstreamCall]:
        """Those whose connection is open at our end."""
        return [each for each in self.front.calls if each.is_held]

    def sockets(self) -> list[StreamSocket]:
        """All that are open, on either side."""
        opened = self.world.network.open_by_fd.values()
        return [each for each in opened if isinstance(each, StreamSocket)]

    def sockets_of_server(self) -> list[StreamSocket]:
        """To its clients, to Ollama, and where it listens."""
        clients = [each for each in self.sockets() if each.port == PORT]
        return clients + self.sockets_to_ollama()

    def sockets_to_ollama(self) -> list[StreamSocket]:
        """Our ends of its connections."""
        return [each for each in self.sockets() if _peer_port(each) == OLLAMA_PORT]

    def _our_end_of(self, ollamas: asyncio.Transport) -> StreamSocket | None:
        fd = ollamas.get_extra_info("socket").fileno()
        opened = self.world.network.open_by_fd.get(fd)
        return opened.other if isinstance(opened, StreamSocket) else None


def _httptools_protocol() -> type[asyncio.Protocol]:
    """httptools is there where uvicorn[standard] is installed."""
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

    return HttpToolsProtocol


def _peer_port(opened: StreamSocket) -> int | None:
    return opened.peer[1] if isinstance(opened.peer, tuple) else None


def _is_of_client(receiver: StreamSocket) -> bool:
    return _peer_port(receiver) == PORT


def _is_of_ollama(receiver: StreamSocket) -> bool:
    return bool(receiver.port == OLLAMA_PORT)


def _is_read_by_production(receiver: StreamSocket) -> bool:
    return receiver.port == PORT or _peer_port(receiver) == OLLAMA_PORT


def _is_of_stream(task: asyncio.Task[Any]) -> bool:
    return task.get_name().startswith(("stream-", "agent-", "watch-")) and not task.done()


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.has_started = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.has_started.set()


_NAME_HEADER = "x-bench-prompt"


class _Watched:
    """The application; what it hands to `send` is judged before."""

    def __init__(self, bench: StackBench, app: FastAPI) -> None:
        self._bench = bench
        self._app = app
        self.state = app.state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = [value for name, value in scope.get("headers", ()) if name == _NAME_HEADER.encode()]
        exchange = self._bench.prompts.get(names[0].decode()) if names else None
        if exchange is not None:
            send = _WatchedSend(self._bench, exchange, scope, send).send
        try:
            await self._app(scope, receive, send)
        except Exception as exc:
            sentence = "no request ends in an exception"
            self._bench.world.fail(sentence, f"{scope.get('path')}: {exc!r}", raised=exc)


class _WatchedSend:
    """transport: as of what it stands for, by which the application drops a connection."""

    def __init__(
        self, bench: StackBench, exchange: StackExchange, scope: Scope, send: Send
    ) -> None:
        self._bench = bench
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self.transport = send.__self__.transport  # type: ignore[attr-defined]

    async def send(self, message: Message) -> None:
        self._exchange.given_id = self._scope["state"].get("trace_id")
        # When it arrives is the network's affair.
        self._exchange.heard_at = self._bench.world.now
        if content_of(message.get("body", b"")):
            self._bench.judges.ask(Moment.SENDS, self._exchange)
        await self._send(message)


@cache
def _application(settings: Settings) -> FastAPI:
    """The production application. Its parameters look up what differs between executions."""

    def bench() -> StackBench:
        found: StackBench = app.state.bench
        return found

    app = create_app(
        settings,
        new_registry=lambda _: bench().registry,
        # As the application's own, but that no execution has the threads of another.
        async_transport=lambda: bench().new_async_transport(),
        new_trace_id=lambda: bench().new_trace_id(),
        wall_clock=lambda: bench().world.now,
    )
    return app
