"""What a scenario at server level is: see `http_story.py`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.server_bench import ServerBench
from sim.bench.harness.server_judgements import make_server_bench
from sim.bench.scenarios.http_story import HttpDefinition, HttpScenario
from sim.fake_ollama import Profile
from sim.kernel.execution import Program
from sim.kernel.world import World
from sim.schedulers.states.abstraction import describe

# Limits and a profile that several scenarios have.
SILENCE = {"first_chunk_seconds": 5.0, "stream_inactivity_seconds": 3.0}
SHORT = Profile(load_s=0.2, prompt_eval_s=0.1, chunk_s=0.2, chunks=2)


@dataclass(frozen=True, slots=True)
class ServerDefinition(HttpDefinition[ServerBench]):
    # Whether the published registries are judged in it, too: they have no gate and no states, so
    # most scenarios require what they never promised.
    judges_published: bool = False
    # None for the usual one of the level.
    strategy: str | None = None


@dataclass(frozen=True, slots=True)
class ServerScenario(HttpScenario[ServerDefinition]):
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
            bench = make_server_bench(world, cls, **self.bench_options)
            with log_recorded(world, bench.logged.append):
                await bench.play(self.definition.play)

        return program


describe(ServerDefinition, ServerScenario)
