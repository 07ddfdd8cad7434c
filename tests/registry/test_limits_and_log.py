"""StreamRegistry's limits, its timers and the lines of its log."""

from __future__ import annotations

import logging

import pytest

from registry import Snapshot, StreamRefused, StreamRegistry
from registry.operations import Logged
from sim import World
from tests.registry.producers import Producer, released_at_the_end, seconds, simulate, turns


def test_nothing_is_left_on_the_loop_when_streams_have_ended() -> None:
    """Ended in time, a stopped stream leaves no grace timer behind."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "p1").admitted()
        second = Producer(registry, "p2")
        await second.admitted()
        second.released.set()
        await second.task
        await turns()
        assert [timer for timer in world.loop._scheduled if not timer.cancelled()] == []
        assert registry.snapshot() == Snapshot((), 0, 2, False, 4, 64, 8)

    simulate(main)


def test_limits_are_those_that_were_given() -> None:
    """The limits of the constructor are those by which streams are detached."""

    async def main(world: World) -> None:
        registry = StreamRegistry(grace_s=0.5, detached_per_session_max=0, detached_max=7)
        first = Producer(registry, "p1", swallows=True)
        await first.admitted()
        second = Producer(registry, "p2")
        assert isinstance(await second.turned_away(), StreamRefused)
        assert seconds(world) == 0.5
        assert registry.snapshot().streams[0].overdue
        assert registry.snapshot().detached_max == 7
        first.released.set()

    simulate(main)


def test_the_log_of_a_clean_finish_is_the_notes(caplog: pytest.LogCaptureFixture) -> None:
    """Superseded, finished in time: the lines of the note, in its order, at level INFO."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "abc", session_id="sess-1", cleans_up_s=0.15).admitted()
        await Producer(registry, "def", session_id="sess-1").admitted()

    with caplog.at_level(logging.INFO, "onestream.registry"):
        simulate(lambda world: released_at_the_end(main, world))
    assert [record.getMessage() for record in caplog.records][:5] == [
        "stream_start trace=abc trace_id=abc session=sess-1",
        "stream_cancelled trace=abc reason=new_stream_registered",
        "prev_stream_finished_cleanly session=sess-1 trace=abc",
        "stream_end trace=abc stream_id=abc session=sess-1 duration_ms=150",
        "stream_start trace=def trace_id=def session=sess-1",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}


def test_the_log_of_a_timeout_is_the_notes(caplog: pytest.LogCaptureFixture) -> None:
    """Superseded, not finished in time: the lines of the note; the timeout is a warning."""

    async def main(world: World) -> None:
        registry = StreamRegistry()
        await Producer(registry, "abc", session_id="sess-1", swallows=True).admitted()
        await Producer(registry, "def", session_id="sess-1").admitted()

    with caplog.at_level(logging.INFO, "onestream.registry"):
        simulate(lambda world: released_at_the_end(main, world))
    assert [(record.levelname, record.getMessage()) for record in caplog.records][1:4] == [
        ("INFO", "stream_cancelled trace=abc reason=new_stream_registered"),
        ("WARNING", "prev_stream_timeout_on_cancel session=sess-1 trace=abc"),
        ("INFO", "stream_start trace=def trace_id=def session=sess-1"),
    ]


def test_no_name_of_a_session_makes_a_line_of_its_own() -> None:
    """A field that is not one word is in quotes; the note's words stand as they are."""
    forged = "a\nstream_start trace=b\u2028"
    said = Logged("stream_start", (("trace", "t-1/x=y"), ("session", forged)), "a sentence")
    quoted = r'"a\nstream_start trace=b\u2028"'
    assert str(said) == f"stream_start trace=t-1/x=y session={quoted} a sentence"
