"""What a scenario at stack level is: clients on sockets, and one of the two Ollama clients."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.stack_bench import StackBench
from sim.bench.harness.stack_judgements import make_stack_bench
from sim.bench.scenarios.server_level.story import BOTH, Client
from sim.kernel.execution import Program
from sim.kernel.world import World


@dataclass(frozen=True, slots=True)
class StackDefinition:
    """A scenario without its client. name, description, labels: as of a RegistryScenario.

    settings: of the server. bench: of the bench.
    """

    name: str
    description: str
    play: Callable[[StackBench], Awaitable[None]]
    labels: tuple[str, ...]
    clients: tuple[Client, ...] = BOTH
    settings: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StackScenario:
    """A scenario with one of the two Ollama clients."""

    definition: StackDefinition
    client: Client
    # Sockets are not among what can be read.
    strategy: str | None = None
    reads_states: bool = False

    @property
    def name(self) -> str:
        return f"{self.definition.name}.{self.client}"

    @property
    def description(self) -> str:
        return self.definition.description

    def applies_to(self, cls: type[Any]) -> bool:
        return issubclass(cls, StreamRegistry)

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        return self.definition.labels

    def program_for(self, cls: type[Any]) -> Program:
        async def program(world: World) -> None:
            bench = make_stack_bench(
                world,
                cls,
                client=self.client,
                settings=self.definition.settings,
                **self.definition.bench,
            )
            with log_recorded(world, bench.logged.append), _logging_is_set_up(world):
                await bench.play(self.definition.play)

        return program


@contextmanager
def _logging_is_set_up(world: World) -> Iterator[None]:
    """What uvicorn complains of is a violation.

    The server finds handlers, and so leaves the process's logging as it is.
    """
    added = (
        (logging.getLogger(), logging.NullHandler()),
        (logging.getLogger("uvicorn.error"), _Complaints(world)),
    )
    for logger, handler in added:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, handler in added:
            logger.removeHandler(handler)


class _Complaints(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.fail("uvicorn has nothing to complain of", record.getMessage())
