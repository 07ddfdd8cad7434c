"""What a scenario at server level is: HTTP requests, and one of the two Ollama clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from registry import StreamRegistry
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.server_bench import ServerBench
from sim.bench.harness.server_judgements import make_server_bench
from sim.fake_ollama import Profile
from sim.kernel.execution import Program
from sim.kernel.world import World
from sim.schedulers.states.abstraction import describe

Client = Literal["async", "thread"]
BOTH: tuple[Client, ...] = ("async", "thread")

# Limits and a profile that several scenarios have.
SILENCE = {"first_chunk_seconds": 5.0, "stream_inactivity_seconds": 3.0}
SHORT = Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=2)


@dataclass(frozen=True, slots=True)
class ServerDefinition:
    """A scenario without its client. name, description, labels: as of a RegistryScenario.

    settings: of the server. bench: of the bench.
    """

    name: str
    description: str
    play: Callable[[ServerBench], Awaitable[None]]
    labels: tuple[str, ...]
    clients: tuple[Client, ...] = BOTH
    settings: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)
    # Whether the published registries are judged in it, too: they have no gate and no states, so
    # most scenarios require what they never promised.
    judges_published: bool = False
    # None for the usual one of the level.
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class ServerScenario:
    """A scenario with one of the two Ollama clients."""

    definition: ServerDefinition
    client: Client

    @property
    def name(self) -> str:
        return f"{self.definition.name}.{self.client}"

    @property
    def description(self) -> str:
        return self.definition.description

    @property
    def strategy(self) -> str | None:
        return self.definition.strategy

    @property
    def reads_states(self) -> bool:
        return self.client == "async"

    def applies_to(self, cls: type[Any]) -> bool:
        if issubclass(cls, StreamRegistry):
            return True
        return self.definition.judges_published and hasattr(cls, "for_server")

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        return self.definition.labels if issubclass(cls, StreamRegistry) else ()

    def program_for(self, cls: type[Any]) -> Program:
        async def program(world: World) -> None:
            bench = make_server_bench(
                world,
                cls,
                client=self.client,
                settings=self.definition.settings,
                **self.definition.bench,
            )
            with log_recorded(world, bench.logged.append):
                await bench.play(self.definition.play)

        return program


describe(ServerDefinition, ServerScenario)
