"""The bench at server level: the production application, its clients, and the fake Ollama.

The registry is the production one behind an observed protocol; settings, routes, responses and
the Ollama clients are those that serve real users. What stands around them is simulated: clock,
transports, executor and ASGI server.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.types import Message

import registry.stop_signal
import server.ollama_thread
import server.wakeable
from registry import StreamRegistry
from server.app import create_app
from server.events import Events
from server.service import Service
from server.settings import Settings
from sim.bench.harness.answers import content_of
from sim.bench.harness.asgi import Exchange, SimServer
from sim.bench.harness.deliveries import Deliveries, prompt_of
from sim.bench.harness.http_bench import KEYS, PROFILE, Client, HttpBench, settings_of
from sim.bench.harness.judgement import Judgements, Moment
from sim.fake_ollama import Profile
from sim.fake_ollama.modes import Mode
from sim.fake_ollama.simulated import Connection, SimOllama
from sim.kernel.world import World
from sim.schedulers.states.abstraction import describe, leave_out

# Worker threads share data with the loop in these: every line of them is a switch point.
DECLARED_FILES = tuple(
    str(module.__file__) for module in (registry.stop_signal, server.ollama_thread, server.wakeable)
)

# Otherwise each state would be read with all settings and models of Ollama in it.
describe(Settings, Mode, Profile)
# What is counted decides nothing.
leave_out(Events, "_listeners")
leave_out(Service, "metrics")


class ServerBench(HttpBench):
    """One execution's server with everything around it."""

    def __init__(
        self,
        world: World,
        cls: type[Any],
        judgements: Judgements,
        *,
        client: Client = "async",
        settings: Mapping[str, Any] | None = None,
        profile: Profile = PROFILE,
        buffer_bytes: int = 0,
        threads_max: int = 4,
        lines: bool = True,
        loop_lines: bool = False,
        close_s: float = 0.0,
    ) -> None:
        """lines: whether a thread may be overtaken at every line of DECLARED_FILES, and not only
        where it blocks, locks or calls the loop; loop_lines: whether the loop may be, too.
        """
        super().__init__(world, settings_of(client, "http://ollama:11434", **(settings or {})))
        self.ollama = SimOllama(world.loop, profile)
        self.ollama.on_event = lambda name, text: world.record(text, actor=name)
        self.ollama.close_s = close_s
        self.ollama.before_change = world.ask_always
        self.ollama.on_landed = self._landed
        self.deliveries = Deliveries()
        if client == "thread" and lines:
            world.declare(*DECLARED_FILES, in_loop=loop_lines)
        self.executor = world.executor(threads_max=threads_max)
        self.is_production = issubclass(cls, StreamRegistry)
        self.registry = self._make_registry(cls)
        self.app = _application(self.settings)
        self.app.state.bench = self
        self.server = SimServer(world, self.app, buffer_bytes=buffer_bytes)
        self.asked_to_stream: set[str] = set()
        self.be_judged(judgements)

    def _make_registry(self, cls: type[Any]) -> Any:
        if not self.is_production:
            return cls.for_server(self.executor)
        return self.observed_registry(cls, self.executor)

    # -- what scenarios do
    #
    # What uvicorn does within `data_received`, and what a signal's handler does, happens in the
    # iteration of the poll that found it: `world.outside(…, call=…)`. That a client has left, it
    # hears an iteration later: asyncio's transport closes itself at the end of the data, and has
    # `connection_lost` called soon. So does a coroutine that waits for the event, and `leave`s.

    async def post(
        self,
        name: str,
        session: str | None = "s",
        *,
        earliest: float = 0.0,
        latest: float | None = 0.0,
        **asked: Any,
    ) -> Exchange:
        """As `post_now`, when the outside world says so: in the poll's own iteration."""
        exchanges: list[Exchange] = []

        def arrives() -> None:
            exchanges.append(self.post_now(name, session, **asked))

        what = f"{name} arrives"
        await self.world.outside(what, call=arrives, earliest=earliest, latest=latest)
        return exchanges[0]

    def post_now(
        self,
        name: str,
        session: str | None = "s",
        *,
        model: str = "fake:normal",
        key: str = "alice",
        stream: bool = True,
        strategy: str | None = None,
        text: str | None = None,
        half: bool = False,
    ) -> Exchange:
        """A prompt arrives; `name` is its text, if there is none."""
        if stream:
            self.asked_to_stream.add(name)
        messages = [{"role": "user", "content": text or name}]
        body = {"model": model, "messages": messages, "stream": stream}
        exchange = self.server.request(
            name,
            "POST",
            "/v1/chat/completions",
            headers=self.headers_of_prompt(name, session, key, strategy),
            body=json.dumps(body).encode(),
            half=half,
        )
        exchange.on_send = lambda message: self._sends(exchange, message)
        return exchange

    async def press_stop(self, exchange: Exchange, *, key: str = "alice") -> Exchange:
        stop = self.press_stop_now(exchange, key=key)
        await self.over(stop)
        return stop

    def press_stop_now(self, exchange: Exchange, *, key: str = "alice") -> Exchange:
        """The request to stop it arrives."""
        return self.server.request(
            f"stop {exchange.name}",
            "POST",
            f"/v1/streams/{exchange.given_id}/cancel",
            headers={"authorization": f"Bearer {KEYS[key]}"},
        )

    async def over(self, *exchanges: Exchange) -> None:
        """Waits until these requests are over."""
        tasks = [each.task for each in exchanges if each.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    def terminate(self) -> asyncio.Task[None]:
        """SIGTERM, which the server acts upon at once; the task is what uvicorn does of it."""
        self.app.state.service.begin_shutdown()
        ending = self._end_as_uvicorn(begun=self.world.now)
        return self.world.loop.create_task(ending, name="SIGTERM")

    async def _end_as_uvicorn(self, begun: float) -> None:
        """It waits for its connections, then shuts down."""
        tasks = [each.task for each in self.server.exchanges if each.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self.grace_s)
        await self.server.stop()
        self.judges.ask(Moment.CLOSED, self.world.now - begun)

    async def play(self, scenario: Callable[[ServerBench], Awaitable[None]]) -> None:
        """Start-up, the scenario, quiet, shut-down."""
        await self.server.start()
        await scenario(self)
        await self._quiet()
        if self.server.is_up:
            await self.server.stop()
        # What is done about an end is done by callbacks and threads that are some steps behind;
        # they have had their turn before the clock moves.
        await asyncio.sleep(0.1)
        for exchange in self.server.exchanges:
            self.judges.ask(Moment.ENDED, exchange)
        self.judges.ask(Moment.QUIET)

    async def _quiet(self) -> None:
        await self.over(*self.server.exchanges)
        # Streams outlive their responses by their clean-up.
        pending = [task for task in self.world.loop.tasks if self._is_of_stream(task)]
        if pending:
            await asyncio.wait(pending)

    @staticmethod
    def is_of_server(task: asyncio.Task[Any]) -> bool:
        """Not one of the bench's, and not the lifespan, which ends only with the process."""
        name = task.get_name()
        return name.endswith(" request") or name.startswith(
            ("stream-", "agent-", "watch-", "thread-", "register-")
        )

    @staticmethod
    def _is_of_stream(task: asyncio.Task[Any]) -> bool:
        return task.get_name().startswith(("stream-", "agent-", "watch-")) and not task.done()

    # -- what the driver sees

    @property
    def exchanges(self) -> Iterable[Exchange]:
        """All requests so far."""
        return self.server.exchanges

    def said_to(self, prompt: str) -> str:
        return self.deliveries.said_to(prompt)

    def prompts_upstream(self) -> list[str]:
        """A call lasts until it is over for Ollama and for our end of the connection."""
        open_calls = self._connections_open()
        return [] if len(open_calls) < 2 else _prompts_of(open_calls)

    def calls_open(self) -> list[str]:
        return _prompts_of(self._connections_open())

    def _connections_open(self) -> list[Connection]:
        return [each for each in self.ollama.connections if not each.is_over]

    def stream_of(self, exchange: Exchange) -> asyncio.Task[Any]:
        """The stream's own task."""
        name = f"stream-{exchange.given_id}"
        return next(task for task in self.world.loop.tasks if task.get_name() == name)

    def _sends(self, exchange: Exchange, message: Message) -> None:
        if content := content_of(message.get("body", b"")):
            self.deliveries.hand(exchange.name, content)
            self.judges.ask(Moment.SENDS, exchange)

    def _landed(self, connection: Connection, data: bytes) -> None:
        self.deliveries.land(connection, data, self.world.now)


def _prompts_of(connections: Iterable[Connection]) -> list[str]:
    return [prompt for each in connections if (prompt := prompt_of(each)) is not None]


@cache
def _application(settings: Settings) -> FastAPI:
    """The production application. Its parameters look up what differs between executions."""

    def bench() -> ServerBench:
        found: ServerBench = app.state.bench
        return found

    app = create_app(
        settings,
        new_registry=lambda _: bench().registry,
        async_transport=lambda: bench().ollama.transport(),
        thread_transport=lambda wake: bench().ollama.blocking_transport(wake),
        new_trace_id=lambda: bench().new_trace_id(),
        wall_clock=lambda: bench().world.now,
        signals=(),
    )
    return app
