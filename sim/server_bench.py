"""The bench at server level: the production application, its clients, and the fake Ollama.

The registry is the production one behind an observed protocol; settings, routes, responses and
the Ollama clients are those that serve real users. What stands around them is simulated: clock,
transports, executor and ASGI server.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Literal

from fastapi import FastAPI
from starlette.types import Message

import registry.stop_signal
import server.ollama_thread
import server.wakeable
from registry import StreamRegistry
from registry.protocol import Snapshot, State
from registry.stop_signal import StopSignals
from registry.wording import TIMEOUT_ON_CANCEL
from server.app import create_app
from server.ollama_thread import SEGMENTS_MAX
from server.settings import Settings
from sim.asgi import Exchange, SimServer, sse_data
from sim.bench import LIMITS, phrase_invariants
from sim.deliveries import Deliveries, Delivery, prompt_of
from sim.fake_ollama import Call, Profile
from sim.fake_ollama.modes import Mode
from sim.fake_ollama.simulated import Connection, SimOllama
from sim.judgement import sentence
from sim.left_out import describe
from sim.log_capture import LogLine
from sim.observed_protocol import ObservedProtocol
from sim.world import World

KEYS = {"alice": "alice-key", "bob": "bob-key"}
# Few chunks, long enough apart that what is told to come between them does.
PROFILE = Profile(
    load_s=1.0, slow_load_s=4.0, prompt_eval_s=0.1, chunk_s=0.2, chunks=2, fault_after_chunks=1
)

WHOLE = "an answer that ends without an error is all that Ollama said"
PROMPT = "what Ollama has sent is with a client that reads, but for the loop's lateness"
BACK_PRESSURE = "what waits for a client that does not read stays within buffer_max_chunks"
HEARD = "a client that reads hears something every ping_seconds"

# What a worker thread shares with the loop lies in these: every line of them is a switch point.
DECLARED_FILES = tuple(
    str(module.__file__) for module in (registry.stop_signal, server.ollama_thread, server.wakeable)
)

# Otherwise each state would be read with all settings and models of Ollama in it.
describe(Settings, Mode, Profile)


class ServerBench:
    """One execution's server with everything around it."""

    def __init__(
        self,
        world: World,
        cls: type[Any] = StreamRegistry,
        *,
        client: Literal["async", "thread"] = "async",
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
        self.world = world
        self.logged: list[LogLine] = []
        self.settings = _settings(client, **(settings or {}))
        self.grace_s = self.settings.grace_seconds
        self.ollama = SimOllama(world.loop, profile)
        self.ollama.tell = lambda name, text: world.record(text, actor=name)
        self.ollama.close_s = close_s
        self.ollama.before_change = world.ask_always
        self.ollama.on_landed = self._landed
        self.deliveries = Deliveries()
        if client == "thread" and lines:
            world.declare(*DECLARED_FILES, in_loop=loop_lines)
        self.executor = world.executor(threads_max=threads_max)
        self.stop_signals = StopSignals()
        self.is_production = issubclass(cls, StreamRegistry)
        self.registry = self._make_registry(cls)
        serials = itertools.count(1)
        self.new_trace_id: Callable[[], str] = lambda: f"t{next(serials)}"
        self.app = _application(self.settings)
        self.app.state.bench = self
        self.server = SimServer(world, self.app, buffer_bytes=buffer_bytes)
        # Whether a request's own task may be cancelled, so that nobody is left to end its answer.
        self.clients_may_be_cut = False
        self._sessions: dict[str, str] = {}
        self._asked_to_stream: set[str] = set()
        # When each stream that is STOPPING, or WAITING, was first seen so.
        self._since: dict[tuple[str, State], float] = {}
        # A snapshot with no such stream in it; between two operations there is but one snapshot.
        self._calm: Snapshot | None = None
        phrase_invariants(world)
        world.always(sentence("S3 no_silent_overlap"), self._no_silent_overlap)
        if self.is_production:
            world.always(sentence("L1 admission"), self._none_waits_too_long)
            world.always(sentence("L2 prompt_stop"), self._stops_reach_upstream)
            world.always(PROMPT, self._none_is_kept_waiting)
            world.always(BACK_PRESSURE, self._buffers_are_bounded)
            world.always(HEARD, self._none_is_left_in_silence)

    def _make_registry(self, cls: type[Any]) -> Any:
        if not self.is_production:
            return cls.for_server(self.executor)
        protocol = ObservedProtocol(self.world, **{**LIMITS, "grace_s": self.grace_s})
        return cls(protocol=protocol, executor=self.executor, stop_signals=self.stop_signals)

    @property
    def has_threads(self) -> bool:
        return self.settings.ollama_client == "thread"

    # -- what scenarios do

    async def post(
        self,
        name: str,
        session: str | None = "s",
        *,
        model: str = "fake:normal",
        key: str = "alice",
        stream: bool = True,
        strategy: str | None = None,
        text: str | None = None,
        earliest: float = 0.0,
        latest: float | None = 0.0,
        half: bool = False,
    ) -> Exchange:
        """A prompt arrives when the outside world says so; `name` is its text, if there is none."""
        await self.world.outside(f"{name} arrives", earliest=earliest, latest=latest)
        return self.post_now(
            name,
            session,
            model=model,
            key=key,
            stream=stream,
            strategy=strategy,
            text=text,
            half=half,
        )

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
        self._sessions[name] = f"{key}/{session}"
        if stream:
            self._asked_to_stream.add(name)
        messages = [{"role": "user", "content": text or name}]
        body = {"model": model, "messages": messages, "stream": stream}
        headers = {"authorization": f"Bearer {KEYS[key]}", "content-type": "application/json"}
        if session is not None:
            headers["x-session-id"] = session
        if strategy is not None:
            headers["x-session-strategy"] = strategy
        exchange = self.server.request(
            name,
            "POST",
            "/v1/chat/completions",
            headers=headers,
            body=json.dumps(body).encode(),
            half=half,
        )
        exchange.on_send = lambda message: self._judge_send(exchange, message)
        return exchange

    async def press_stop(self, exchange: Exchange, *, key: str = "alice") -> Exchange:
        headers = {"authorization": f"Bearer {KEYS[key]}"}
        stop = self.server.request(
            f"stop {exchange.name}",
            "POST",
            f"/v1/streams/{exchange.scope['state']['trace_id']}/cancel",
            headers=headers,
        )
        await self.over(stop)
        return stop

    async def over(self, *exchanges: Exchange) -> None:
        """Waits until these requests are done with."""
        tasks = [each.task for each in exchanges if each.task is not None]
        if tasks:
            await asyncio.wait(tasks)

    async def terminate(self) -> None:
        """SIGTERM, and then what uvicorn does: it waits for its connections, then shuts down."""
        begun = self.world.now
        self.app.state.service.begin_shutdown()
        tasks = [each.task for each in self.server.exchanges if each.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=self.grace_s)
        await self.server.stop()
        lasted_s = self.world.now - begun
        in_time = lasted_s <= self.grace_s + 1.0
        self.world.check(in_time, sentence("L5 shutdown"), f"it took {lasted_s:.3f} s")

    async def play(self, story: Callable[[ServerBench], Awaitable[None]]) -> None:
        """Lifespan, the story, quiet, lifespan."""
        await self.server.start()
        await story(self)
        await self._quiet()
        lifespan = self.server._lifespan
        if lifespan is not None and not lifespan.done():
            await self.server.stop()
        # What is done about an end is done by callbacks and threads that are some steps behind;
        # they have had their turn before the clock moves.
        await asyncio.sleep(0.1)
        if self.is_production:
            # What was published is judged by S3 alone: its threads are ours, and not woken.
            self._judge_ends()
            self._judge_leaks()

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

    # -- judgements

    def state_of(self, exchange: Exchange) -> State | None:
        trace_id = exchange.scope["state"].get("trace_id")
        for view in self.registry.snapshot().streams:
            if view.trace_id == trace_id:
                return State(view.state)
        return None

    def stream_of(self, exchange: Exchange) -> asyncio.Task[Any]:
        """The stream's own task."""
        name = f"stream-{exchange.scope['state']['trace_id']}"
        return next(task for task in self.world.loop.tasks if task.get_name() == name)

    def _judge_send(self, exchange: Exchange, message: Message) -> None:
        """S2: content is handed to `send` only while its stream is ACTIVE."""
        content = _content_of(message.get("body", b"")) if self.is_production else ""
        if not content:
            return
        self.deliveries.hand(exchange.name, content)
        state = self.state_of(exchange)
        if state is not State.ACTIVE:
            self.world.fail(
                sentence("S2 only_active_emits"), f"content of {exchange.name} in state {state}"
            )
        self.world.reached("content was sent")

    def _landed(self, connection: Connection, data: bytes) -> None:
        self.deliveries.land(connection, data, self.world.now)

    def _no_silent_overlap(self) -> bool:
        """S3: of two upstream calls of a session, the older is of a DETACHED stream, and logged.

        A call lasts until Ollama and our end of the connection are both done with it.
        """
        under_way = [each for each in self.ollama.connections if not each.is_over]
        if len(under_way) < 2:
            return True
        calls: dict[str, list[str]] = {}
        for connection in under_way:
            if (name := prompt_of(connection)) is not None:
                calls.setdefault(self._sessions.get(name, name), []).append(name)
        # Not by the order of the calls: the thread of a DETACHED stream that was stuck in a look-up
        # connects last, and has to notice then.
        return all(
            sum(not self._is_fenced_off(name) for name in names) <= 1
            for names in calls.values()
            if len(names) > 1
        )

    def _is_fenced_off(self, name: str) -> bool:
        exchange = next(each for each in self.server.exchanges if each.name == name)
        trace_id = exchange.scope["state"].get("trace_id")
        return self.state_of(exchange) is State.DETACHED and any(
            line.says(TIMEOUT_ON_CANCEL, trace=trace_id) for line in self.logged
        )

    def _slack_s(self) -> float:
        # Each iteration on the way may be late.
        return 10 * self.world.loop.bounds.lateness_s

    def _in_state_longer_than(self, state: State, limit_s: float) -> list[str]:
        snapshot = self.registry.snapshot()
        if snapshot is self._calm:
            return []
        now = self.world.now
        found = []
        is_calm = True
        for view in snapshot.streams:
            is_calm = is_calm and view.state is State.ACTIVE
            if view.state is not state:
                continue
            since = self._since.setdefault((view.trace_id, state), now)
            if now - since > limit_s + self._slack_s():
                found.append(view.trace_id)
        if is_calm:
            self._calm = snapshot
        return found

    def _none_waits_too_long(self) -> bool:
        """Who interrupts waits for the grace; who is enqueued until its wait is over."""
        waiting = self._in_state_longer_than(State.WAITING, self.grace_s)
        latest = self.world.now - self._slack_s()
        return not waiting or all(
            view.wait_deadline is not None and view.wait_deadline >= latest
            for view in self.registry.snapshot().streams
            if view.trace_id in waiting
        )

    def _stops_reach_upstream(self) -> bool:
        """L2, as far as it can be seen from outside: the connection of a stopped stream is shut.

        A thread that could not be woken may connect afterwards; it has to notice at once.
        """
        stopped = self._in_state_longer_than(State.STOPPING, 0.0)
        if not stopped:
            return True
        names = {
            each.name
            for each in self.server.exchanges
            if each.scope["state"].get("trace_id") in stopped
        }
        return not any(
            call.prompt in names and self.ollama.age_s(call) > self._slack_s()
            for call in self._calls_held()
        )

    def _calls_held(self) -> list[Call]:
        """The calls under way, but for those that Ollama goes on with only since it is deaf."""
        active = self.ollama.fake.active_calls
        if not active:
            return []
        held = {prompt_of(each) for each in self.ollama.connections if not each.is_over}
        return [call for call in active if call.prompt in held]

    def _owed_to(self, exchange: Exchange) -> Delivery | None:
        # Who asked for one object is handed nothing before the end.
        asked = exchange.name in self._asked_to_stream
        return self.deliveries.open_for(exchange) if asked else None

    def _none_is_kept_waiting(self) -> bool:
        if not self.deliveries or self.clients_may_be_cut:
            return True
        late_at = self.world.now - self._slack_s()
        for exchange in self.server.exchanges:
            delivery = self._owed_to(exchange)
            if delivery is None or not exchange.is_listening:
                continue
            since = max(delivery.oldest_at or 0.0, exchange.reads_since)
            if since < late_at and self.state_of(exchange) is State.ACTIVE:
                return False
        return True

    def _buffers_are_bounded(self) -> bool:
        if not self.deliveries:
            return True
        limit = self.settings.buffer_max_chunks
        if self.has_threads:
            # The thread reads ahead, and has one in its hands that finds no room.
            limit += SEGMENTS_MAX + 1
        for exchange in self.server.exchanges:
            delivery = self._owed_to(exchange)
            if delivery is None:
                continue
            held = delivery.held
            if held > limit:
                return False
            if held >= self.settings.buffer_max_chunks and not exchange.is_reading:
                self.world.reached("a buffer was full")
        return True

    def _none_is_left_in_silence(self) -> bool:
        too_long_ago = self.world.now - self.settings.ping_seconds - self._slack_s()
        return not any(
            max(each.heard_at, each.reads_since) < too_long_ago and each.is_streamed
            for each in self.server.exchanges
            if each.is_listening
        )

    def _judge_ends(self) -> None:
        """Every client that stayed was told how its prompt ended, and never by a bare end."""
        if self.clients_may_be_cut:
            return
        for exchange in self.server.exchanges:
            if exchange.has_left or not exchange.is_reading:
                continue
            whole = exchange.is_whole and (
                not exchange.is_streamed or exchange.messages[-1:] == ["[DONE]"]
            )
            self.world.check(
                whole,
                "every client that stays is told the end",
                f"{exchange.name}: {exchange.body!r}",
            )
            if exchange.status == 200 and exchange.error_code is None and self.is_production:
                said = self.deliveries.said_to(exchange)
                self.world.check(exchange.text == said, WHOLE, f"{exchange.name}: {exchange.text}")

    def _judge_leaks(self) -> None:
        world, name = self.world, sentence("L3 no_leak")
        active = self._calls_held()
        world.check(not active, name, f"upstream calls {active}")
        unclosed = [each.name for each in self.ollama.connections if not each.is_closed]
        world.check(not unclosed, name, f"connections {', '.join(unclosed)}")
        world.check(not len(self.stop_signals), name, f"{len(self.stop_signals)} stop signals")
        tasks = [task.get_name() for task in world.loop.tasks if not task.done()]
        world.check(tasks == ["program"], name, f"tasks {', '.join(tasks)}")
        suspended = [each for each in world.loop._asyncgens if _is_suspended(each)]
        workers = [f"worker {each.number} at {each.where}" for each in world.loop.threads.workers]
        world.check(not workers, name, ", ".join(workers))
        world.check(not suspended, name, f"generators {suspended}")


@cache
def _application(settings: Settings) -> FastAPI:
    """The production application. What differs between executions, its parameters look up."""

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


@cache
def _settings(client: Literal["async", "thread"], **values: Any) -> Settings:
    """Reading the environment for each execution would take longer than the execution."""
    keys = ",".join(KEYS.values())
    return Settings(
        api_keys=keys, ollama_host="http://ollama:11434", ollama_client=client, **values
    )


def _is_suspended(generator: Any) -> bool:
    return generator.ag_frame is not None


def _content_of(body: bytes) -> str:
    parts = []
    # Of one object, the body itself is the JSON.
    for text in sse_data(body) or [body.decode("utf-8", "replace")]:
        if not text.startswith("{"):
            continue
        for choice in json.loads(text).get("choices", ()):
            delta = choice.get("delta") or choice.get("message") or {}
            parts.append(delta.get("content") or "")
    return "".join(parts)
