"""StreamRegistry.register: who is admitted, who waits and who is turned away, in virtual time."""

from __future__ import annotations

import asyncio

import pytest

from registry import (
    StreamCancelled,
    StreamRegistry,
    StreamSuperseded,
    TraceIdKnown,
    is_stream_cancelled,
)
from sim import World
from tests.registry.producers import (
    GRACE_S,
    Producer,
    released_at_the_end,
    seconds,
    simulate,
    states,
    turns,
)


def test_register_on_a_free_session_is_answered_at_once() -> None:
    """A register on a free session returns the stream's handle in the same instant."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        stream = await first.admitted()
        assert seconds(world) == 0.0
        assert (stream.trace_id, stream.session_id, stream.task) == ("p1", "s", first.task)
        assert stream.fencing_token == 1
        assert stream.is_active
        assert states(registry) == {"p1": "ACTIVE"}
        first.released.set()
        await first.task
        await turns()
        assert not stream.is_active
        assert registry.snapshot().streams == ()

    simulate(main)


def test_register_waits_until_the_older_stream_has_cleaned_up() -> None:
    """A second register is answered in the instant in which the first stream has ended."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        second = Producer(registry, "p2")
        await turns()
        assert states(registry) == {"p1": "STOPPING", "p2": "WAITING"}
        await second.admitted()
        assert seconds(world) == 0.5
        assert first.task.done()
        assert states(registry) == {"p2": "ACTIVE"}

    simulate(main)


def test_register_waits_no_longer_than_the_grace() -> None:
    """A stream that swallows its cancel is detached when its grace is over, and not waited for."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        stream = await first.admitted()
        second = Producer(registry, "p2")
        await second.admitted()
        assert seconds(world) == GRACE_S
        assert states(registry) == {"p1": "DETACHED", "p2": "ACTIVE"}
        assert first.was_cancelled
        assert not stream.is_active
        first.released.set()
        await first.task
        await turns()
        assert states(registry) == {"p2": "ACTIVE"}

    simulate(main)


def test_a_third_register_overtakes_the_second_within_the_same_grace() -> None:
    """The second register raises superseded at once, and the third waits for what is left."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        await asyncio.sleep(1.5)
        third = Producer(registry, "p3")
        error = await second.turned_away()
        assert isinstance(error, StreamSuperseded)
        assert error.trace_id == "p2"
        assert not second.was_cancelled
        assert seconds(world) == 1.5
        await third.admitted()
        assert seconds(world) == GRACE_S
        first.released.set()

    simulate(main)


def test_registers_of_other_sessions_and_of_none_do_not_wait() -> None:
    """While one session is stopping, another session and streams without one are answered."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", swallows=True).admitted()
        Producer(registry, "p2")
        for name, session_id in (("q1", "t"), ("n1", None), ("n2", None), ("n3", "")):
            await Producer(registry, name, session_id=session_id).admitted()
        await Producer(registry, "n4", session_id="").admitted()
        assert seconds(world) == 0.0
        assert registry.snapshot().sessions_kept == 2
        await registry.close()

    simulate(lambda world: released_at_the_end(main, world))


def test_register_refuses_what_is_not_a_task() -> None:
    """An entry without a task of asyncio raises TypeError, and nothing is kept of it."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        coroutine = asyncio.sleep(0)
        with pytest.raises(TypeError, match=r"entry\['task'\] of stream 'p1'"):
            await registry.register({"trace_id": "p1", "session_id": "s", "task": coroutine})
        coroutine.close()
        assert registry.snapshot().streams == ()
        assert not is_stream_cancelled("p1")

    simulate(main)


def test_a_known_trace_id_leaves_the_first_stream_alone() -> None:
    """The second register raises; the first stream keeps its state, its task and its signal."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        stream = await first.admitted()
        other = asyncio.create_task(asyncio.sleep(0))
        with pytest.raises(TraceIdKnown, match="'p1'"):
            await registry.register({"trace_id": "p1", "session_id": "t", "task": other})
        await other
        await turns()
        assert states(registry) == {"p1": "ACTIVE"}
        assert not first.was_cancelled
        assert not stream.stop_signal.is_set()
        await registry.cancel("p1")
        assert stream.stop_signal.is_set()

    simulate(main)


def test_a_task_that_is_over_before_its_register_leaves_nothing() -> None:
    """Registering a finished task is answered, and the stream ends at once."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        task = asyncio.create_task(asyncio.sleep(0))
        await task
        await registry.register({"trace_id": "p1", "session_id": "s", "task": task})
        await turns()
        assert registry.snapshot().streams == ()

    simulate(main)


def test_a_task_that_ends_while_its_register_waits_withdraws_it() -> None:
    """If the waiting stream's task is over, its register raises cancelled and nothing is kept."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1", cleans_up_s=0.5)
        await first.admitted()
        task = asyncio.create_task(asyncio.sleep(0.1))
        with pytest.raises(StreamCancelled):
            await registry.register({"trace_id": "p2", "session_id": "s", "task": task})
        assert seconds(world) == 0.1
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)


def test_a_caller_that_leaves_while_it_waits_withdraws_its_stream() -> None:
    """A cancelled register stays a CancelledError; the holder's grace goes on."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=GRACE_S)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        await asyncio.sleep(0.5)
        second.register.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second.register
        assert states(registry) == {"p1": "STOPPING"}
        third = Producer(registry, "p3")
        await third.admitted()
        assert seconds(world) == GRACE_S
        for producer in (first, second, third):
            producer.released.set()

    simulate(main)


def test_a_caller_that_leaves_just_as_it_is_admitted_leaks_nothing() -> None:
    """Cancelled in the step in which it becomes ACTIVE, a stream is stopped and then forgotten."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        first = Producer(registry, "p1")
        await first.admitted()
        second = Producer(registry, "p2")
        await turns()
        left = 0
        # The step in which p2 becomes ACTIVE, before its caller has had its turn.
        while registry.snapshot().streams[0].trace_id == "p1" and left < 20:
            await asyncio.sleep(0)
            left += 1
        assert states(registry) == {"p2": "ACTIVE"}
        assert not second.register.done()
        second.register.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second.register
        assert states(registry) == {"p2": "STOPPING"}
        await turns()
        assert second.was_cancelled
        assert registry.snapshot().streams == ()
        assert registry.snapshot().sessions_kept == 0

    simulate(main)


def test_a_register_that_times_out_leaves_nothing() -> None:
    """asyncio.timeout around a waiting register raises TimeoutError, and the stream is gone."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1", cleans_up_s=1.0).admitted()
        task = asyncio.create_task(asyncio.sleep(5))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await registry.register({"trace_id": "p2", "session_id": "s", "task": task})
        assert states(registry) == {"p1": "STOPPING"}

    simulate(main)
