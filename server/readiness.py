"""Whether Ollama answers: /readyz needs no key, so Ollama is asked at most once in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from server.errors import ApiError

# Shorter than any monitor's pace, long enough that a stranger cannot have Ollama asked at will.
FRESH_S = 1.0


class Readiness:
    """The last answer of `ask`, kept for a moment; one call at a time.

    ask: asks Ollama; raises ApiError where it does not answer within a limit.
    """

    def __init__(self, ask: Callable[[], Awaitable[object]]) -> None:
        self._ask = ask
        self._lock = asyncio.Lock()
        self._fresh_until = 0.0
        # How often what was asked has changed since.
        self._changes = 0
        # The result of the last call, while it is fresh.
        self._error: ApiError | None = None

    def forget(self) -> None:
        """What was asked may no longer be so: the next check asks anew."""
        self._changes += 1
        self._fresh_until = 0.0

    async def check(self) -> None:
        """Raises ApiError if Ollama did not answer just now. Waits as long as Ollama does."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if loop.time() >= self._fresh_until:
                changes = self._changes
                self._error = await self._outcome()
                if changes == self._changes:
                    self._fresh_until = loop.time() + FRESH_S
            error = self._error
        if error is not None:
            # A new one, since an exception that is raised often gathers all its tracebacks.
            raise error.again()

    async def _outcome(self) -> ApiError | None:
        try:
            await self._ask()
        except ApiError as exc:
            return exc
        return None
