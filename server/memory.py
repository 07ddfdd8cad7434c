"""Memory of a process that serves: what long bodies leave free, how often cycles are looked for.

Nothing of a body is kept, but the parts of several are mixed in the heap, so that the memory of the
process grew with each one, and stayed: the C library keeps it for later.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress

# After a body of this size memory is given back, once what was made of it is freed, too.
LONG_BYTES = 1024 * 1024
PAUSE_S = 1.0
# New objects until cycles are looked for among them, where Python's own are 700 or 2,000. A prompt
# makes hundreds that stay for as long as it streams, and leaves few in cycles.
YOUNG_MAX = 100_000


def collect_rarely() -> None:
    """For a process that does nothing but serve: what is there now stays, and is not looked at."""
    gc.freeze()
    _, *older = gc.get_threshold()
    gc.set_threshold(YOUNG_MAX, *older)


def give_back() -> None:
    """Asks glibc (malloc_trim(3)); where there is none (musl, macOS, Windows), nothing."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class FreeMemory:
    """Gives free memory back to the system after long bodies, once in PAUSE_S at most."""

    def __init__(self, give_back: Callable[[], None] = give_back) -> None:
        self._give_back = give_back
        # Set exactly while a body was long and nothing was given back since.
        self._timer: asyncio.TimerHandle | None = None

    def after(self, body_bytes: int) -> None:
        """A request with a body of this size is over."""
        if body_bytes >= LONG_BYTES and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PAUSE_S, self._pause_over)

    def _pause_over(self) -> None:
        self._timer = None
        self._give_back()
