"""What scenarios at server and at stack level have in common: HTTP requests, and one of the two
Ollama clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from sim.bench.harness.http_bench import Client, HttpBench

BOTH: tuple[Client, ...] = ("async", "thread")

Bench = TypeVar("Bench", bound=HttpBench)


@dataclass(frozen=True, slots=True)
class HttpDefinition(Generic[Bench]):
    """A scenario without its client. name, description, labels: as of a RegistryScenario.

    settings: of the server. bench: of the bench.
    """

    name: str
    description: str
    play: Callable[[Bench], Awaitable[None]]
    labels: tuple[str, ...]
    clients: tuple[Client, ...] = BOTH
    settings: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)


Definition = TypeVar("Definition", bound=HttpDefinition[Any])


@dataclass(frozen=True, slots=True)
class HttpScenario(Generic[Definition]):
    """A scenario with one of the two Ollama clients."""

    definition: Definition
    client: Client

    @property
    def name(self) -> str:
        return f"{self.definition.name}.{self.client}"

    @property
    def description(self) -> str:
        return self.definition.description

    @property
    def bench_options(self) -> dict[str, Any]:
        """What its bench is made with."""
        settings = self.definition.settings
        return {"client": self.client, "settings": settings, **self.definition.bench}
