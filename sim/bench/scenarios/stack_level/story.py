"""What a scenario at stack level is, with clients on sockets: see `http_story.py`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from registry import StreamRegistry
from sim.bench.harness.log_capture import log_recorded
from sim.bench.harness.stack_bench import StackBench
from sim.bench.harness.stack_hosts import HostsBench
from sim.bench.harness.stack_judgements import make_hosts_bench, make_stack_bench
from sim.bench.scenarios.http_story import HttpDefinition, HttpScenario
from sim.kernel.execution import Program
from sim.kernel.world import World


@dataclass(frozen=True, slots=True)
class StackDefinition(HttpDefinition[StackBench]):
    """Played on sockets. needs: a module that the server itself does not need."""

    needs: str | None = None


@dataclass(frozen=True, slots=True)
class HostsDefinition(HttpDefinition[HostsBench]):
    """The same, with the server and Ollama in processes of their own."""

    needs: str | None = None


@dataclass(frozen=True, slots=True)
class StackScenario(HttpScenario[StackDefinition | HostsDefinition]):
    # Sockets are not among what can be read.
    strategy: str | None = None
    reads_states: bool = False

    def applies_to(self, cls: type[Any]) -> bool:
        needs = self.definition.needs
        is_installed = needs is None or find_spec(needs) is not None
        return is_installed and issubclass(cls, StreamRegistry)

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        return self.definition.labels

    def program_for(self, cls: type[Any]) -> Program:
        definition, options = self.definition, self.bench_options

        async def program(world: World) -> None:
            if isinstance(definition, HostsDefinition):
                on_hosts = make_hosts_bench(world, cls, **options)
                with _heard(world, on_hosts):
                    await on_hosts.play(definition.play)
            else:
                bench = make_stack_bench(world, cls, **options)
                with _heard(world, bench):
                    await bench.play(definition.play)

        return program


@contextmanager
def _heard(world: World, bench: StackBench) -> Iterator[None]:
    with log_recorded(world, bench.logged.append), _logging_is_set_up(world):
        yield


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
