"""What the server asks of a registry: of one process, or of workers that share a store."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from registry import Snapshot, State, Stream


class Registry(Protocol):
    # Called with the trace id of a stream that may be in another state now, and when other workers
    # want to hear of one.
    on_change: Callable[[str], None]

    async def register(self, entry: Mapping[str, Any]) -> Stream: ...

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool: ...

    async def pop(self, trace_id: str) -> None: ...

    async def close(self) -> None: ...

    def state_of(self, trace_id: str) -> State | None: ...

    def snapshot(self) -> Snapshot: ...
