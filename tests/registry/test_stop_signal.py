"""The stop signal: set once, heard by all who wait, and a fresh one for each stream."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from registry import (
    StopSignal,
    StopSignals,
    StreamRegistry,
    clear_stream_cancelled,
    is_stream_cancelled,
    set_stream_cancelled,
)


def test_set_calls_what_waits() -> None:
    """While a block waits, `set` calls its callback once; a second `set` calls nothing."""
    signal = StopSignal()
    calls = []
    with signal.waking(lambda: calls.append("woken")):
        assert not signal.is_set()
        signal.set()
        assert signal.is_set()
        signal.set()
    assert calls == ["woken"]


def test_callbacks_run_in_the_order_in_which_they_were_left() -> None:
    """All callbacks run, first come first called, before `set` returns."""
    signal = StopSignal()
    calls = []
    with signal.waking(lambda: calls.append(1)), signal.waking(lambda: calls.append(2)):
        signal.set()
        assert calls == [1, 2]


def test_waking_after_set_calls_at_once() -> None:
    """Who begins to wait after the stop is woken before its block begins."""
    signal = StopSignal()
    signal.set()
    calls = []
    with signal.waking(lambda: calls.append("woken")):
        assert calls == ["woken"]
    assert calls == ["woken"]


def test_a_block_that_is_over_is_not_woken() -> None:
    """After its block, a callback is not called, also if the block ended with an exception."""
    signal = StopSignal()
    calls = []
    with pytest.raises(KeyError), signal.waking(lambda: calls.append("woken")):
        raise KeyError
    signal.set()
    assert calls == []


def test_leaving_one_of_two_equal_callbacks_keeps_the_other() -> None:
    """The same callback left twice is called once more after one of its blocks is over."""
    signal = StopSignal()
    calls = []

    def callback() -> None:
        calls.append("woken")

    with signal.waking(callback):
        with signal.waking(callback):
            pass
        signal.set()
    assert calls == ["woken"]


def test_an_exception_in_one_callback_keeps_no_other_from_running(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A callback that raises is logged; the others run, and `set` does not raise."""
    signal = StopSignal()
    calls = []

    def bad() -> None:
        raise OSError("the socket is gone")

    with (
        caplog.at_level(logging.ERROR, "onestream.registry"),
        signal.waking(bad),
        signal.waking(lambda: calls.append("woken")),
    ):
        signal.set()
    assert calls == ["woken"]
    assert "stop_callback_failed" in caplog.text
    assert "the socket is gone" in caplog.text


def test_an_exception_in_a_late_callback_does_not_reach_the_block() -> None:
    """A callback that is called at once, and raises, does not end the block that left it."""
    signal = StopSignal()
    signal.set()
    entered = False
    with signal.waking(lambda: 1 / 0):
        entered = True
    assert entered


def test_callbacks_run_in_the_thread_that_sets() -> None:
    """A callback runs in the thread that calls `set`, whichever thread added it."""
    signal = StopSignal()
    threads = []
    with signal.waking(lambda: threads.append(threading.current_thread())):
        setter = threading.Thread(target=signal.set)
        setter.start()
        setter.join()
    assert threads == [setter]


# ---- the note's functions --------------------------------------------------------------------


def test_the_notes_functions_without_await() -> None:
    """A thread sets, asks and clears the flag by plain calls, each of which acts at once."""
    try:
        assert not is_stream_cancelled("t1")
        set_stream_cancelled("t1")
        assert is_stream_cancelled("t1")
        assert not is_stream_cancelled("t2")
    finally:
        clear_stream_cancelled("t1")
    assert not is_stream_cancelled("t1")


def test_the_notes_functions_awaited() -> None:
    """A coroutine may await the same calls; they have acted before, and do not suspend it."""

    async def main() -> None:
        others_ran = []
        asyncio.get_running_loop().call_soon(others_ran.append, "other")
        await set_stream_cancelled("t1")
        assert is_stream_cancelled("t1")
        await clear_stream_cancelled("t1")
        assert not is_stream_cancelled("t1")
        assert others_ran == []

    asyncio.run(main())


def test_setting_the_flag_sets_the_streams_stop_signal() -> None:
    """`set_stream_cancelled` of a running stream sets the very signal that its threads hold."""

    async def main() -> None:
        async with StreamRegistry().stream("s", trace_id="t1") as stream:
            assert not stream.stop_signal.is_set()
            set_stream_cancelled("t1")
            assert stream.stop_signal.is_set()

    asyncio.run(main())


def test_each_stream_gets_a_fresh_flag() -> None:
    """A flag that was set before, or for an earlier stream, does not stop a later one."""

    async def main() -> None:
        registry = StreamRegistry()
        set_stream_cancelled("t1")
        for _ in range(2):
            async with registry.stream("s", trace_id="t1") as stream:
                assert not is_stream_cancelled("t1")
                assert not stream.stop_signal.is_set()
                set_stream_cancelled("t1")
            assert not is_stream_cancelled("t1")

    asyncio.run(main())


def test_clearing_by_signal_leaves_a_later_one_alone() -> None:
    """Who clears its own signal does not clear the one that took its place."""
    signals = StopSignals()
    old = signals.create("t1")
    new = signals.create("t1")
    new.set()
    signals.clear("t1", old)
    assert signals.is_set("t1")
    signals.clear("t1", new)
    assert not signals.is_set("t1")
    assert len(signals) == 0


def test_each_table_of_signals_stands_alone() -> None:
    """A registry with a table of its own touches neither the note's flags nor another table."""

    async def main() -> None:
        signals = StopSignals()
        async with StreamRegistry(stop_signals=signals).stream("s", trace_id="t1"):
            set_stream_cancelled("t1")
            assert not signals.is_set("t1")
            assert len(signals) == 1
        assert is_stream_cancelled("t1")
        assert len(signals) == 0

    try:
        asyncio.run(main())
    finally:
        clear_stream_cancelled("t1")
