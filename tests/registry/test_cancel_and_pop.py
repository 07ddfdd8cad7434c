"""StreamRegistry.cancel and pop: how a stream is stopped from outside, and when it has ended."""

from __future__ import annotations

import asyncio

from registry import StreamCancelled, StreamRegistry
from sim import World
from tests.registry.producers import Producer, seconds, simulate, states, turns


def test_cancel_answers_true_once() -> None:
    """The first cancel of a stream stops it and says so; a later one, and one of nobody, do not."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        stream = await first.admitted()
        assert await registry.cancel("p1", "user_pressed_stop") is True
        assert states(registry) == {"p1": "STOPPING"}
        assert stream.stop_signal.is_set()
        assert await registry.cancel("p1") is False
        assert await registry.cancel("unknown") is False
        await asyncio.sleep(0.6)
        assert first.was_cancelled
        assert await registry.cancel("p1") is False
        assert states(registry) == {}

    simulate(main)


def test_cancel_of_a_waiting_stream_ends_its_register() -> None:
    """The register of a stream that is cancelled while it waits raises StreamCancelled at once."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", cleans_up_s=0.5).admitted()
        second = Producer(registry, "p2")
        await turns()
        assert await registry.cancel("p2", "user_pressed_stop") is True
        error = await second.turned_away()
        assert isinstance(error, StreamCancelled)
        assert "user_pressed_stop" in str(error)
        assert seconds(world) == 0.0
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)


def test_a_stop_is_told_once() -> None:
    """A stopped stream's task is cancelled once, whatever else is said about it afterwards."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        cancels = 0

        async def work() -> None:
            nonlocal cancels
            while True:
                try:
                    await asyncio.sleep(1.0)
                    return
                except asyncio.CancelledError:
                    cancels += 1

        task = asyncio.create_task(work())
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        await registry.cancel("p1")
        await registry.cancel("p1")
        await registry.pop("p1")
        second = Producer(registry, "p2")
        await second.admitted()
        assert cancels == 1
        second.released.set()

    simulate(main)


def test_pop_is_not_yet_the_end() -> None:
    """The stream holds its session after its own pop, until its task is over."""

    async def main(world: World) -> None:
        registry = StreamRegistry()

        async def work() -> None:
            await registry.pop("p1")
            await asyncio.sleep(0.5)

        task = asyncio.create_task(work())
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        assert states(registry) == {"p1": "ACTIVE"}
        await task
        await turns()
        assert states(registry) == {}

    simulate(main)


def test_pop_of_a_finished_task_ends_the_stream_at_once() -> None:
    """A pop after the task is over need not wait for a callback."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        task = asyncio.create_task(asyncio.sleep(0.5))
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await asyncio.wait({task})
        await registry.pop("p1")
        assert states(registry) == {}
        await registry.pop("p1")
        await registry.pop("unknown")

    simulate(main)


def test_pop_by_another_task_stops_the_stream() -> None:
    """A pop before the task is over is a stop, and the session stays held until its end."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        await registry.pop("p1")
        assert states(registry) == {"p1": "STOPPING"}
        await asyncio.wait({first.task})
        assert first.was_cancelled

    simulate(main)
