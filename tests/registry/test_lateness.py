"""A loop that stood still: the grace and the limit of the queue count none of it."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from registry import QueueTimeout, StreamRegistry, StreamSuperseded
from tests.late_loop import LateLoop, late_run, turns

STOOD_S = 60.0


def test_an_old_stream_that_had_no_turn_is_not_late(caplog: pytest.LogCaptureFixture) -> None:
    """Its clean-up takes a few turns of the loop, and the loop did not turn for a minute."""

    async def main(loop: LateLoop) -> None:
        registry = StreamRegistry(grace_s=2)
        begun = asyncio.Event()

        async def old() -> None:
            with suppress(StreamSuperseded):
                async with registry.stream("s"):
                    try:
                        begun.set()
                        await asyncio.sleep(3600)
                    finally:
                        await turns(3)

        running = asyncio.create_task(old())
        await begun.wait()
        with caplog.at_level(logging.INFO):
            loop.call_soon(stand_still, loop)
            async with registry.stream("s"):
                pass
        await asyncio.wait({running})

    late_run(main)
    said = [entry.getMessage().split()[0] for entry in caplog.records]
    assert "prev_stream_finished_cleanly" in said
    assert "prev_stream_timeout_on_cancel" not in said


def test_an_old_stream_that_does_not_end_is_left_by_a_late_loop_too() -> None:
    """It has its grace once more, and the next stream begins."""

    async def main(loop: LateLoop) -> None:
        registry = StreamRegistry(grace_s=2)
        begun, ends = asyncio.Event(), asyncio.Event()

        async def old() -> None:
            with suppress(StreamSuperseded):
                async with registry.stream("s"):
                    begun.set()
                    while not ends.is_set():
                        with suppress(asyncio.CancelledError):
                            await ends.wait()

        running = asyncio.create_task(old())
        await begun.wait()
        next_one = asyncio.create_task(_enters(registry))
        is_let_in = []
        for _ in range(3):
            await turns(20)
            is_let_in.append(next_one.done())
            stand_still(loop)
        ends.set()
        await asyncio.wait({running})
        assert is_let_in == [False, False, True]

    late_run(main)


def test_a_place_in_the_queue_is_not_lost_while_the_loop_stands() -> None:
    """The stream before it had no turn to end."""

    async def main(loop: LateLoop) -> None:
        registry = StreamRegistry(queue_s=30)
        begun = asyncio.Event()

        async def first(needed: int) -> None:
            async with registry.stream("s"):
                begun.set()
                await turns(needed)

        for needed, is_let_in in ((5, True), (100, False)):
            running = asyncio.create_task(first(needed))
            await begun.wait()
            loop.call_soon(stand_still, loop)
            loop.call_later(STOOD_S, stand_still, loop)
            entering = registry.stream("s", strategy="enqueue")
            if is_let_in:
                async with entering:
                    pass
            else:
                with pytest.raises(QueueTimeout):
                    await entering.__aenter__()
            begun.clear()
            await asyncio.wait({running})

    late_run(main)


def stand_still(loop: LateLoop) -> None:
    loop.now_s += STOOD_S


async def _enters(registry: StreamRegistry) -> None:
    async with registry.stream("s"):
        pass
