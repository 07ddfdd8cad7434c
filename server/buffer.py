"""The bounded queue between a stream's own task, which fills it, and the response, which drains it.

One writer, one reader, both on the event loop. Nothing in it belongs to the response: when the
client leaves, only the writer decides about the connection to Ollama.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque

from server.ollama import Chunk


class Came(enum.Enum):
    """How a wait of the reader has ended."""

    CHUNKS = "there are chunks to take"
    END = "nothing is there, and nothing comes any more"
    NOTHING = "neither came in time"


class Buffer:
    """At most `chunks_max` chunks wait here; the writer waits for the reader beyond that."""

    def __init__(self, chunks_max: int) -> None:
        self._chunks_max = chunks_max
        self._chunks: deque[Chunk] = deque()
        # Taken by the reader, and not yet handed to the client.
        self._unsettled = 0
        # No chunk comes after this; with an error, none that is here goes out either.
        self.is_over = False
        self.error: BaseException | None = None
        # Set exactly while the reader, or the writer, waits.
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    # -- the writer's side

    async def put(self, chunk: Chunk) -> None:
        """Adds a chunk, then waits as long as there is no room for another."""
        if self.is_over:
            return
        self._chunks.append(chunk)
        _wake(self._reader)
        while len(self._chunks) >= self._chunks_max and not self.is_over:
            await self._writer_waits()

    async def drained(self) -> None:
        """Waits until every chunk was handed to the client, or an error has dropped them."""
        while (self._chunks or self._unsettled) and not self.is_over:
            await self._writer_waits()

    def end(self, error: BaseException | None = None) -> None:
        """The last call that counts. An error drops what is queued; a second call does nothing."""
        if self.is_over:
            return
        self.is_over = True
        self.error = error
        if error is not None:
            self._chunks.clear()
        _wake(self._reader)
        _wake(self._writer)

    async def _writer_waits(self) -> None:
        self._writer = asyncio.get_running_loop().create_future()
        try:
            await self._writer
        finally:
            self._writer = None

    # -- the reader's side

    def take(self) -> list[Chunk]:
        """All queued chunks, for the reader to hand on and then to `settle`; maybe none."""
        chunks = list(self._chunks)
        self._chunks.clear()
        self._unsettled += len(chunks)
        _wake(self._writer)
        return chunks

    def settle(self) -> None:
        """What was taken has been handed to the client."""
        self._unsettled = 0
        _wake(self._writer)

    async def wait(self, timeout_s: float | None) -> Came:
        """Until there is a chunk to take, or the end is known; not longer than `timeout_s`."""
        if not self._chunks and not self.is_over:
            await self._reader_waits(timeout_s)
        if self._chunks:
            return Came.CHUNKS
        return Came.END if self.is_over else Came.NOTHING

    async def _reader_waits(self, timeout_s: float | None) -> None:
        # A chunk of most streams is waited for here: `asyncio.wait` takes an iteration more.
        loop = asyncio.get_running_loop()
        self._reader = loop.create_future()
        timer = None if timeout_s is None else loop.call_later(timeout_s, _wake, self._reader)
        try:
            await self._reader
            if self.is_over:
                # The writer ends in the same step as what it writes for. Who hears of it before it
                # has ended would cancel what is about to be over.
                await asyncio.sleep(0)
        finally:
            self._reader = None
            if timer is not None:
                timer.cancel()


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
