"""The flag that stops a stream's worker threads: one per stream, safe in any thread.

A flag that a thread only reads between chunks does not help while no chunk comes, so it has
callbacks: a thread that blocks in a read leaves one that wakes the read.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager

_logger = logging.getLogger("onestream.registry")


class StopSignal:
    """Set once, never unset; callbacks run in the thread that sets it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_set = False
        self._callbacks: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Sets the flag and runs what `waking` has left. A second call does nothing."""
        with self._lock:
            if self._is_set:
                return
            self._is_set = True
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            _run(callback)

    @contextmanager
    def waking(self, callback: Callable[[], object]) -> Iterator[None]:
        """While the block runs, `set` calls `callback`; at once if it is already set.

        The callback must not block, and may be called while the block is just ending.
        """
        with self._lock:
            missed = self._is_set
            if not missed:
                self._callbacks.append(callback)
        if missed:
            _run(callback)
        try:
            yield
        finally:
            with self._lock:
                if callback in self._callbacks:
                    self._callbacks.remove(callback)


def _run(callback: Callable[[], object]) -> None:
    try:
        callback()
    except Exception:
        # One bad callback must keep neither the others nor the registry from stopping.
        _logger.exception("stop_callback_failed callback=%r", callback)


class StopSignals:
    """The stop signals of the streams that are known, by trace id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._signals: dict[str, StopSignal] = {}

    def create(self, trace_id: str) -> StopSignal:
        """A fresh signal: a flag left from an earlier stream must not stop this one."""
        signal = StopSignal()
        with self._lock:
            self._signals[trace_id] = signal
        return signal

    def set(self, trace_id: str) -> None:
        with self._lock:
            signal = self._signals.setdefault(trace_id, StopSignal())
        signal.set()

    def is_set(self, trace_id: str) -> bool:
        with self._lock:
            signal = self._signals.get(trace_id)
        return signal is not None and signal.is_set()

    def clear(self, trace_id: str, signal: StopSignal | None = None) -> None:
        """Forgets the flag; with `signal` given, only if it is still that one."""
        with self._lock:
            if signal is None or self._signals.get(trace_id) is signal:
                self._signals.pop(trace_id, None)

    def __len__(self) -> int:
        return len(self._signals)


class _Done:
    """What is already done, for callers that await it."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


STOP_SIGNALS = StopSignals()


def set_stream_cancelled(trace_id: str) -> _Done:
    """Sets the stream's flag, at once. A coroutine may await it; a thread just calls it."""
    STOP_SIGNALS.set(trace_id)
    return _Done()


def is_stream_cancelled(trace_id: str) -> bool:
    """What a worker thread asks between two chunks."""
    return STOP_SIGNALS.is_set(trace_id)


def clear_stream_cancelled(trace_id: str) -> _Done:
    """Forgets the flag, at once; may be awaited. The registry does so when a stream ends."""
    STOP_SIGNALS.clear(trace_id)
    return _Done()
