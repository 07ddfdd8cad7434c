"""Sessions in memory: the workers are tasks of one process. For trials and as the reference."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from registry.lease_records import LeaseLimits, LeaseOperation, LeaseSnapshot, Message, Reply
from registry.lease_table import LeaseTable
from server.stores.store import worker_of


@dataclass
class SharedMemory:
    """What the stores of several workers have in common."""

    table: LeaseTable
    now_ms: Callable[[], int]
    # Another one, where writes were lost.
    generation: str = "memory"
    inboxes: dict[str, list[asyncio.Queue[Message]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    @classmethod
    def new(cls, limits: LeaseLimits, now_ms: Callable[[], int]) -> SharedMemory:
        # Nobody can have held a session before: no quarantine.
        return cls(LeaseTable(limits, generation="memory"), now_ms)


class MemoryStore:
    def __init__(self, shared: SharedMemory, worker: str) -> None:
        self._shared = shared
        self._worker = worker

    @property
    def limits(self) -> LeaseLimits:
        return self._shared.table.limits

    async def start(self) -> None:
        pass

    async def ask(self, operation: LeaseOperation) -> Reply:
        shared = self._shared
        answer = shared.table.apply(operation, shared.now_ms(), shared.generation)
        for message in answer.messages:
            for inbox in shared.inboxes[worker_of(message.stream)]:
                inbox.put_nowait(message)
        return answer.reply

    async def messages(self) -> AsyncIterator[Message]:
        inbox: asyncio.Queue[Message] = asyncio.Queue()
        inboxes = self._shared.inboxes[self._worker]
        inboxes.append(inbox)
        try:
            while True:
                yield await inbox.get()
        finally:
            inboxes.remove(inbox)

    async def queue(self, session: str) -> tuple[str, ...]:
        return self._shared.table.queue(session, self._shared.now_ms())

    async def snapshot(self) -> LeaseSnapshot:
        return self._shared.table.snapshot()

    async def close(self) -> None:
        pass
