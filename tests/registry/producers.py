"""Streams as a server has them, in virtual time, for the tests of the shell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from registry import Stream, StreamError, StreamRegistry
from sim import World, run

GRACE_S = 2.0
Main = Callable[[World], Awaitable[None]]


def simulate(main: Main) -> None:
    """Runs `main` once, in virtual time; raises what it raises."""
    raised: list[BaseException] = []

    async def program(world: World) -> None:
        try:
            await main(world)
        except BaseException as exc:
            raised.append(exc)
            raise

    outcome = run(program)
    if raised:
        raise raised[0]
    assert outcome.error is None
    assert outcome.violation is None, outcome.violation


def states(registry: StreamRegistry) -> dict[str, str]:
    return {stream.trace_id: stream.state.name for stream in registry.snapshot().streams}


def seconds(world: World) -> float:
    """The virtual time, to the millisecond."""
    return round(world.now, 3)


async def turns(count: int = 3) -> None:
    """Lets the loop run some iterations: a task's end is reported by callbacks."""
    for _ in range(count):
        await asyncio.sleep(0)


class Producer:
    """A stream's task behind a gate, and its register in another task, as a server has them."""

    def __init__(
        self,
        registry: StreamRegistry,
        name: str,
        *,
        session_id: str | None = "s",
        cleans_up_s: float = 0.0,
        swallows: bool = False,
    ) -> None:
        self.registry = registry
        self.name = name
        self.cleans_up_s = cleans_up_s
        self.swallows = swallows
        self.was_cancelled = False
        self.released = asyncio.Event()
        self.gate = asyncio.Event()
        self.task = asyncio.create_task(self.work(), name=name)
        entry = {"trace_id": name, "session_id": session_id, "task": self.task}
        self.register = asyncio.create_task(registry.register(entry), name=f"{name} register")

    async def work(self) -> None:
        try:
            while not self.released.is_set():
                try:
                    await self.released.wait()
                except asyncio.CancelledError:
                    self.was_cancelled = True
                    if not self.swallows:
                        raise
        finally:
            if self.cleans_up_s:
                await asyncio.sleep(self.cleans_up_s)
            await self.registry.pop(self.name)

    async def admitted(self) -> Stream:
        return await self.register

    async def turned_away(self) -> StreamError:
        """The error with which its register ended; its task is the caller's to end."""
        with pytest.raises(StreamError) as caught:
            await self.register
        self.released.set()
        await self.task
        return caught.value


async def released_at_the_end(main: Main, world: World) -> None:
    """Runs `main`, then lets every producer end, so that none has to be drained."""
    producers: list[Producer] = []
    make = Producer.__init__

    def remember(self: Producer, *args: object, **options: object) -> None:
        make(self, *args, **options)
        producers.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Producer, "__init__", remember)
        await main(world)
    for producer in producers:
        producer.released.set()
