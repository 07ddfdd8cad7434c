"""What a scenario is: a program for the bench, and the labels that show what it reached."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from registry import StreamRegistry
from registry.protocol import GRACE_S
from sim.bench.harness.log_capture import LogLine, log_recorded
from sim.bench.harness.registry_bench import Bench, Request
from sim.bench.harness.registry_judgements import make_bench
from sim.kernel.execution import Program
from sim.kernel.world import World

GRACE = GRACE_S


class Scenario(Protocol):
    """A scenario of one level."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def strategy(self) -> Any:
        """The name of one, or a new scheduler; None for the usual one of the level.

        This module does not name its type: exported files hold it, and no scheduler.
        """
        ...

    @property
    def reads_states(self) -> bool:
        """Whether matching states is what to deepen with.

        Where there are worker threads it can be read, but slowly, and there are too many.
        """
        ...

    def applies_to(self, cls: type[Any]) -> bool:
        """Whether the registry has the methods that the scenario needs."""
        ...

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        """What some execution has to reach for a proof."""
        ...

    def program_for(self, cls: type[Any]) -> Program:
        """The program that plays it on a fresh registry of this class."""
        ...


@dataclass(frozen=True, slots=True)
class RegistryScenario:
    """name: as on the command line. description: what happens in it, in words.

    labels: what some execution has to reach, with any registry: what the driver sees.
    labels_of_ours: what else has to be reached with the production registry.
    needs: methods that it needs of a registry beyond the note's three.
    """

    name: str
    description: str
    play: Callable[[Bench], Awaitable[None]]
    labels: tuple[str, ...]
    labels_of_ours: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    strategy: str | None = None
    reads_states: bool = True

    def labels_for(self, cls: type[Any]) -> tuple[str, ...]:
        ours = issubclass(cls, StreamRegistry)
        return self.labels + self.labels_of_ours if ours else self.labels

    def applies_to(self, cls: type[Any]) -> bool:
        return all(hasattr(cls, method) for method in self.needs)

    def program_for(self, cls: type[Any]) -> Program:
        """The program that plays it on a fresh registry of this class."""
        return program_of(cls, self.play)


def program_of(
    cls: type[Any],
    play: Callable[[Bench], Awaitable[None]],
    on_line: Callable[[World, LogLine], None] = lambda world, line: None,
) -> Program:
    """A scenario on a fresh registry of this class; on_line is called with each log line."""

    async def program(world: World) -> None:
        bench = make_bench(world, cls)
        with log_recorded(world, bench.hear, partial(on_line, world)):
            await play(bench)
            await bench.quiet()

    return program


# -- what streams do in scenarios


async def steady(request: Request) -> None:
    """Emits two chunks, half a second apart."""
    for serial in (1, 2):
        await request.outside(f"chunk {serial}", 0.5, 0.5)
        await request.emit(f"chunk {serial}")


async def instant(request: Request) -> None:
    """Emits at once and is over."""
    await request.emit("chunk 1")


def cleans_up_for(earliest_s: float, latest_s: float) -> Callable[[Request], Awaitable[None]]:
    """Streams without end; once cancelled, takes its time within the given window."""

    async def work(request: Request) -> None:
        try:
            await request.outside("chunk that never comes", 1000, 1000)
        finally:
            await request.outside("has cleaned up", earliest_s, latest_s)

    return work


def swallows_cancel_for(seconds: float) -> Callable[[Request], Awaitable[None]]:
    """Continues regardless for `seconds` after it was cancelled."""

    async def work(request: Request) -> None:
        try:
            await request.outside("chunk that never comes", 1000, 1000)
        except asyncio.CancelledError:
            await request.hold_on(seconds)

    return work
