"""The published registries inside our server, as they were published: without gate and wake-up.

The note's streams have no emit gate, and their worker threads read a flag between two chunks; no
thread is woken, and none is counted. Everything else is the production server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any, TypeVar

from registry.protocol import Snapshot, StreamProtocol
from registry.stop_signal import StopSignals

T = TypeVar("T")


class PublishedFlag:
    """The flag that a worker thread reads; it wakes nothing."""

    def __init__(self, flags: StopSignals, trace_id: str) -> None:
        self._flags = flags
        self._trace_id = trace_id

    def is_set(self) -> bool:
        return self._flags.is_set(self._trace_id)

    def set(self) -> None:
        self._flags.set(self._trace_id)

    @contextmanager
    def waking(self, callback: Callable[[], object]) -> Iterator[None]:
        yield


class PublishedStream:
    """What the note's code has in place of a stream's handle."""

    stop_error = None
    # Its threads are not counted.
    is_queued = False
    thread_began_at = None

    def __init__(self, trace_id: str, flags: StopSignals, executor: Executor) -> None:
        self.trace_id = trace_id
        self.stop_signal = PublishedFlag(flags, trace_id)
        self._executor = executor

    def raise_if_stopped(self) -> None:
        """It has no gate: its task is cancelled, and that is all."""

    async def emit(self, send: Callable[[T], Awaitable[None]], content: T) -> None:
        await send(content)

    async def run_in_thread(self, func: Callable[..., T], *args: Any) -> T:
        """asyncio.to_thread: a cancel ends the await, and not the thread."""
        return await asyncio.wrap_future(self._executor.submit(func, *args))


class PublishedAtServer:
    """A published registry with the rest of the interface that the server uses."""

    def __init__(self, registry: Any, flags: StopSignals, executor: Executor) -> None:
        self._registry = registry
        self._flags = flags
        self._executor = executor
        self._tasks: dict[str, asyncio.Task[object]] = {}

    async def register(self, entry: Mapping[str, Any]) -> PublishedStream:
        await self._registry.register(entry)
        self._tasks[entry["trace_id"]] = entry["task"]
        return PublishedStream(entry["trace_id"], self._flags, self._executor)

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        return bool(await self._registry.cancel(trace_id, reason))

    async def pop(self, trace_id: str) -> None:
        self._tasks.pop(trace_id, None)
        await self._registry.pop(trace_id)

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    def state_of(self, trace_id: str) -> None:
        """Always None: see below."""

    def snapshot(self) -> Snapshot:
        """The published registries show no states."""
        return StreamProtocol().snapshot()
