"""The published fix (the note's three changes), completed only where it leaves `...`.

It waits for the old task outside of its lock, sets a flag for the worker thread, and registers
the new stream afterwards. What is wrong with it is in sim/bench/README.md.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import Executor
from typing import Any

from registry.stop_signal import StopSignals
from sim.bench.subjects.at_server import PublishedAtServer

_req_logger = logging.getLogger("onestream.subjects")


class StreamRegistry:
    def __init__(self) -> None:
        # The note's flags, which its worker threads read; a table for each registry.
        self.flags = StopSignals()
        self._lock = asyncio.Lock()
        self._by_trace: dict[str, dict[str, Any]] = {}
        self._by_session: dict[str, str] = {}

    async def register(self, entry: dict[str, Any]) -> None:
        prev_task = None
        prev_trace = None
        async with self._lock:
            if entry["session_id"]:
                prev_trace = self._by_session.get(entry["session_id"])
                prev = self._by_trace.get(prev_trace) if prev_trace else None
                if prev is not None and prev_trace is not None:
                    prev_task = prev["task"]
                    prev_task.cancel()
                    await self._set_stream_cancelled(prev_trace)
                    _req_logger.info(
                        f"stream_cancelled trace={prev_trace} reason=new_stream_registered"
                    )
        # RELEASE LOCK - allow old stream to finish cleanup
        # WAIT for old stream to complete (max 2 seconds)
        if prev_task:
            session_id = entry["session_id"]
            try:
                await asyncio.wait_for(prev_task, timeout=2.0)
            except asyncio.TimeoutError:  # noqa: UP041 - as published
                _req_logger.info(
                    f"prev_stream_timeout_on_cancel session={session_id} trace={prev_trace}"
                )
            except (asyncio.CancelledError, Exception):
                _req_logger.info(
                    f"prev_stream_finished_cleanly session={session_id} trace={prev_trace}"
                )
            else:
                _req_logger.info(
                    f"prev_stream_finished_cleanly session={session_id} trace={prev_trace}"
                )
        # NOW register new stream (guaranteed no conflicts)
        async with self._lock:
            self._by_trace[entry["trace_id"]] = entry
            if entry["session_id"]:
                self._by_session[entry["session_id"]] = entry["trace_id"]

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        entry = self._by_trace.get(trace_id)
        if entry is None:
            return False
        # Cancel the async task
        entry["task"].cancel()
        # Set flag so ollama_client running in to_thread() can check it
        await self._set_stream_cancelled(trace_id)
        _req_logger.info(f"stream_cancelled trace={trace_id} reason={reason}")
        return True

    async def pop(self, trace_id: str) -> None:
        async with self._lock:
            entry = self._by_trace.pop(trace_id, None)
            if entry is not None and self._by_session.get(entry["session_id"]) == trace_id:
                del self._by_session[entry["session_id"]]
        self.flags.clear(trace_id)

    async def _set_stream_cancelled(self, trace_id: str) -> None:
        self.flags.set(trace_id)

    @classmethod
    def for_server(cls, executor: Executor) -> PublishedAtServer:
        registry = cls()
        return PublishedAtServer(registry, registry.flags, executor)
