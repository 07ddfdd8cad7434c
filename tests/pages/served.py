"""A server with a fake Ollama, in a thread of its own, for a browser that a test drives."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import Any

from tests.server.support import Stack, stack


class Served:
    """Its address, and what the test may do with it while the browser looks."""

    def __init__(self, running: Stack) -> None:
        self.url = running.url
        self.is_over = asyncio.Event()
        self._stack = running
        self._loop = asyncio.get_running_loop()

    def prompt(self, text: str, session: str, model: str, key: str) -> None:
        """A client that is no browser sends a prompt, and reads its answer meanwhile."""
        body = {"messages": [{"role": "user", "content": text}], "model": model, "stream": True}
        headers = {"x-session-id": session, "authorization": f"Bearer {key}"}
        asking = self._stack.http.post("/v1/chat/completions", json=body, headers=headers)
        asyncio.run_coroutine_threadsafe(asking, self._loop)

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self.is_over.set)

    def shuts_down(self) -> None:
        """As at a signal: every stream is stopped, nothing new is let in."""
        self._loop.call_soon_threadsafe(self._stack.service.begin_shutdown)


@contextmanager
def served(profile: str = "parallel", **limits: Any) -> Iterator[Served]:
    """limits: the server's settings."""
    started: Queue[Served | BaseException] = Queue()

    async def serve() -> None:
        try:
            async with stack(profile, **limits) as running:
                found = Served(running)
                started.put(found)
                await found.is_over.wait()
        except BaseException as exc:
            started.put(exc)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="server")
    thread.start()
    try:
        found = started.get()
        if isinstance(found, BaseException):
            raise found
        try:
            yield found
        finally:
            found.end()
    finally:
        thread.join()
