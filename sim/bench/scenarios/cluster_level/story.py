"""What a scenario at cluster level is: workers that share a store, and what may befall them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.cluster_bench import ClusterBench
from sim.bench.harness.cluster_judgements import make_cluster_bench
from sim.bench.harness.log_capture import log_recorded
from sim.kernel.execution import Program
from sim.kernel.world import World


@dataclass(frozen=True, slots=True)
class ClusterScenario:
    """name, description, labels: as of a RegistryScenario.

    bench: of the bench. limit: the assumption that it breaks, which has to refute production; empty
    for a scenario within all of them.
    """

    name: str
    description: str
    play: Callable[[ClusterBench], Awaitable[None]]
    labels: tuple[str, ...]
    bench: dict[str, Any] = field(default_factory=dict)
    limit: str = ""
    # First every schedule with one departure, which may be a fault; with more time, every one.
    strategy: str | None = None
    reads_states: bool = True

    def applies_to(self, cls: type[Any]) -> bool:
        """Only production shares its sessions."""
        return issubclass(cls, StreamRegistry)

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        return self.labels

    def program_for(self, cls: type[Any]) -> Program:
        async def program(world: World) -> None:
            bench = make_cluster_bench(world, **self.bench)
            with log_recorded(world, bench.hear):
                await self.play(bench)

        return program
