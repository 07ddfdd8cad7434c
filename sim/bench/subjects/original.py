"""The published registry before its fix: it cancels the old stream and does not wait for it."""

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
        self._lock = asyncio.Lock()
        self._by_trace: dict[str, dict[str, Any]] = {}
        self._by_session: dict[str, str] = {}

    async def register(self, entry: dict[str, Any]) -> None:
        async with self._lock:
            if entry["session_id"]:
                prev_trace = self._by_session.get(entry["session_id"])
                prev = self._by_trace.get(prev_trace) if prev_trace else None
                if prev is not None:
                    prev["task"].cancel()
                    _req_logger.info(
                        f"stream_cancelled trace={prev_trace} reason=new_stream_registered"
                    )
                self._by_session[entry["session_id"]] = entry["trace_id"]
            self._by_trace[entry["trace_id"]] = entry

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        async with self._lock:
            entry = self._by_trace.get(trace_id)
            if entry is None:
                return False
            entry["task"].cancel()
            _req_logger.info(f"stream_cancelled trace={trace_id} reason={reason}")
            return True

    async def pop(self, trace_id: str) -> None:
        async with self._lock:
            entry = self._by_trace.pop(trace_id, None)
            if entry is not None and self._by_session.get(entry["session_id"]) == trace_id:
                del self._by_session[entry["session_id"]]

    @classmethod
    def for_server(cls, executor: Executor) -> PublishedAtServer:
        return PublishedAtServer(cls(), StopSignals(), executor)
