"""The stack in processes: the server and Ollama each on a host of its own, clients outside of them.

What a process keeps in memory is gone with it: the registry, connections, threads, Ollama's slots.
What befalls them is the kernel's: a process crashes and starts anew, stands still, its host loses
its power, the two are parted; before any step, or in place of any message.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from registry.protocol import StreamProtocol
from registry.stop_signal import StopSignals
from server.run import signals_swallowed
from sim.bench.harness.http_client import ClientConnection, SocketExchange
from sim.bench.harness.judgement import Judgements, Moment, sentence
from sim.bench.harness.stack_bench import (
    OLLAMAS_ADDRESS,
    OLLAMAS_NAME,
    QUIET_S,
    StackBench,
)
from sim.kernel.hosts.run import How
from sim.kernel.world import World

SERVER, SERVERS_ADDRESS = "server", "10.0.0.3"
ANYWHERE = "0.0.0.0"
# How long a client waits before it asks again, and how often it does.
AGAIN_S = 0.5
TRIES_MAX = 20


# Of a process that is gone: it has no stream.
_NO_REGISTRY = StreamProtocol()


class HostsBench(StackBench):
    """One execution's processes. server, ollama: may crash, be paused, start anew."""

    def __init__(
        self, world: World, cls: type[Any], judgements: Judgements, **options: Any
    ) -> None:
        self._registry: Any = None
        # How long the server may stand still in all.
        self._stands_s = 0.0
        self.server_host, self.ollama_host = world.host(SERVER), world.host(OLLAMAS_NAME)
        world.network.machine(SERVER, SERVERS_ADDRESS)
        # What is on its way to Ollama's process is where the two may be parted.
        options |= {"ollama_at": OLLAMAS_ADDRESS, "ollama_hears_late": True}
        super().__init__(world, cls, judgements, **options)
        self.server_address = SERVERS_ADDRESS
        self.ollama = self.ollama_host.run(self._ollama_main)
        self.server = self.server_host.run(self._server_main)

    def _begin(self) -> None:
        """Each process does for itself, as often as it starts."""
        self._renew_ollama()

    @property
    def registry(self) -> Any:
        """Of the process that runs now."""
        is_there = self._registry is not None and self.server.is_running
        return self._registry if is_there else _NO_REGISTRY

    @registry.setter
    def registry(self, made: Any) -> None:
        self._registry = made

    # -- the processes

    async def _ollama_main(self) -> None:
        calls = self.front.calls
        self._renew_ollama()
        self.front.calls = calls
        async with self._ollama_runs(ANYWHERE):
            await asyncio.Event().wait()

    async def _server_main(self) -> None:
        self.stop_signals = StopSignals()
        self._renew_server()
        with signals_swallowed():
            await self._new_server(ANYWHERE).serve()
        this = asyncio.current_task()
        left = [each.get_name() for each in asyncio.all_tasks() if each is not this]
        self.world.check(not left, sentence("L3 no_leak"), f"tasks {', '.join(left)}")

    # -- what scenarios do

    async def connect(self, name: str) -> ClientConnection:
        """Tries again while nobody listens."""
        tries = 0
        while True:
            try:
                return await super().connect(name)
            except OSError as exc:
                tries += 1
                self.world.check(tries < TRIES_MAX, "the server is there again", f"{name}: {exc!r}")
            await asyncio.sleep(AGAIN_S)

    async def asked_until_answered(self, name: str, **asked: Any) -> SocketExchange:
        """The client asks again, as often as it is told an error or loses its connection."""
        tries = 0
        while True:
            tries += 1
            exchange = await self.post(f"{name} try {tries}", **asked)
            await self.over(exchange)
            if exchange.status == 200 and exchange.error_code is None and exchange.is_whole:
                return exchange
            self.world.reached(f"{name} was told {exchange.error_code}")
            said = f"{exchange.name}: {exchange.body!r}"
            self.world.check(tries < TRIES_MAX, "who asks again is answered", said)
            await asyncio.sleep(AGAIN_S)

    def may_pause(self, for_s: float) -> None:
        """The server's process may stand still for so long; judges are patient with it."""
        self.server.may_pause(for_s)
        self._stands_s = for_s
        self.slack_s += for_s

    async def terminate(self, *, earliest: float = 0.0, latest: float | None = 0.0) -> None:
        """SIGTERM to its process; waits for its end, which may be a crash before that lands."""
        self.world.signal(signal.SIGTERM, to=self.server, earliest=earliest, latest=latest)
        begun = self.world.now + (earliest if latest is None else latest)
        end = await self.server.ended()
        is_well = end.how in (How.RETURNED, How.CRASHED)
        self.world.check(is_well, "the server ends by itself", f"{end}")
        self.judges.ask(Moment.CLOSED, self.world.now - begun - self._stands_s)

    async def play(self, scenario: Callable[[Any], Awaitable[None]]) -> None:
        """Start-up, the scenario, quiet, shut-down."""
        first = await self.connect("first")
        first.close()
        await scenario(self)
        await self._quiet()
        # What crashes as late as here starts anew.
        for _ in range(1 + self.world.faults.faults_max):
            if self.server.is_running:
                await self.terminate()
            await asyncio.sleep(2 * QUIET_S)
        for exchange in self.prompts.values():
            self.judges.ask(Moment.ENDED, exchange)
        self.judges.ask(Moment.QUIET)
