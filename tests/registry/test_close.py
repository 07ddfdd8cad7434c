"""StreamRegistry.close: everything is stopped, and waited for no longer than the grace."""

from __future__ import annotations

import asyncio

from registry import StreamRefused, StreamRegistry
from sim import World
from tests.registry.producers import GRACE_S, Producer, seconds, simulate, states, turns


def test_close_refuses_stops_and_waits_as_long_as_it_must() -> None:
    """Close refuses what waits, stops what is active, and returns when all of it has ended."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        second = Producer(registry, "p2")
        other = Producer(registry, "q1", session_id="t", cleans_up_s=0.7)
        await turns()
        await registry.close()
        assert seconds(world) == 0.7
        assert isinstance(await second.turned_away(), StreamRefused)
        assert first.task.done()
        assert other.was_cancelled
        assert registry.snapshot().streams == ()
        assert registry.snapshot().closed
        late = Producer(registry, "p3")
        assert isinstance(await late.turned_away(), StreamRefused)

    simulate(main)


def test_close_waits_no_longer_than_the_grace() -> None:
    """What does not end within the grace is left behind, detached, and close returns."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        await asyncio.gather(registry.close(), registry.close())
        assert seconds(world) == GRACE_S
        await turns()
        assert states(registry) == {"p1": "DETACHED"}
        first.released.set()
        await registry.close()
        assert registry.snapshot().streams == ()

    simulate(main)


def test_close_of_a_quiet_registry_returns_at_once() -> None:
    """With no stream there is nothing to wait for, the first time and any other."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await registry.close()
        await registry.close()
        assert seconds(world) == 0.0

    simulate(main)
