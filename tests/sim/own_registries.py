"""A user's registries, with the note's three methods: a correct one, and wrong ones.

`tests/sim/test_check.py` gives them to `onestream check --registry`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

GRACE_S = 2.0
Entry = Mapping[str, Any]


class Refusing:
    """Correct, and different from ours: a stream that does not end within the grace stays.

    The newest register waits, an overtaken one is refused, and so is one that has waited in vain.
    """

    def __init__(self) -> None:
        self.holders: dict[str, Entry] = {}
        self.newest: dict[str, str] = {}

    async def register(self, entry: Entry) -> None:
        session_id, trace_id = entry["session_id"], entry["trace_id"]
        if not session_id:
            return
        self.newest[session_id] = trace_id
        try:
            await self.take_over(session_id, trace_id)
            self.holders[session_id] = entry
        finally:
            if self.newest.get(session_id) == trace_id:
                del self.newest[session_id]

    async def take_over(self, session_id: str, trace_id: str) -> None:
        loop = asyncio.get_running_loop()
        patience = loop.time() + GRACE_S
        while (holder := self.holders.get(session_id)) is not None:
            if not holder["task"].cancelling():
                holder["task"].cancel()
            await self.wait_for_end(holder["task"], patience - loop.time())
            if self.newest.get(session_id) != trace_id:
                raise RuntimeError("a newer prompt came")
            if not holder["task"].done():
                raise RuntimeError("the older stream does not end")
            if self.holders.get(session_id) is holder:
                del self.holders[session_id]

    async def wait_for_end(self, task: asyncio.Task[None], seconds: float) -> None:
        await asyncio.wait({task}, timeout=max(0.0, seconds))

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool:
        for entry in self.holders.values():
            if entry["trace_id"] == trace_id and not entry["task"].cancelling():
                return bool(entry["task"].cancel())
        return False

    async def pop(self, trace_id: str) -> None:
        for session_id, entry in list(self.holders.items()):
            if entry["trace_id"] == trace_id:
                del self.holders[session_id]


class LetsBothIn(Refusing):
    """Wrong: after the wait it does not check for newer ones."""

    async def take_over(self, session_id: str, trace_id: str) -> None:
        holder = self.holders.get(session_id)
        if holder is not None:
            holder["task"].cancel()
            await self.wait_for_end(holder["task"], GRACE_S)


class WaitsForEver(Refusing):
    """Wrong: the wait ends only with the stream."""

    async def wait_for_end(self, task: asyncio.Task[None], seconds: float) -> None:
        await asyncio.wait({task})


class KeepsEntries(Refusing):
    """Wrong: somewhere a list remembers everything."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Entry] = []

    async def register(self, entry: Entry) -> None:
        self.history.append(entry)
        await super().register(entry)


class StopsTheNeighbours(Refusing):
    """Wrong: a register stops the streams of every session."""

    async def take_over(self, session_id: str, trace_id: str) -> None:
        for holder in self.holders.values():
            holder["task"].cancel()
        await super().take_over(session_id, trace_id)


class LocksWhileItWaits(Refusing):
    """Wrong: one lock for all sessions is held across the wait."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = asyncio.Lock()

    async def register(self, entry: Entry) -> None:
        async with self.lock:
            await super().register(entry)


class WaitsForItself(Refusing):
    """Wrong: the last act of a stream waits for the end of the stream."""

    async def pop(self, trace_id: str) -> None:
        for entry in list(self.holders.values()):
            if entry["trace_id"] == trace_id and entry["task"] is asyncio.current_task():
                await asyncio.Event().wait()
        await super().pop(trace_id)


class LacksPop:
    """Not a registry: a method is missing."""

    async def register(self, entry: Entry) -> None: ...

    async def cancel(self, trace_id: str, reason: str | None = None) -> bool: ...


class NeverRests(Refusing):
    """Wrong: its register looks again and again, without waiting for anything."""

    async def register(self, entry: Entry) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)
