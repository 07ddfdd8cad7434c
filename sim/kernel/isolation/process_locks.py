"""The locks of `multiprocessing` under a loop that stands alone: suites have them for threads.

They are written in C, and one that waits holds up all threads of a loop. While this process has
no child, only one of these can release it, and so it waits among them.
"""

from __future__ import annotations

import sys
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.origin import forwards


def waiting_among_threads(real: Any) -> Any:
    """The class `_multiprocessing.SemLock`, whose instances wait as the loop's threads do."""

    class SemLock(real):  # type: ignore[misc]
        @forwards
        def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
            execution = execution_of_this_thread()
            if not block or execution is None or _has_children():
                return bool(super().acquire(block, timeout))
            if not super().acquire(False):
                threads = execution.loop.threads
                threads.block_until("SemLock.acquire", lambda: not self._is_zero(), timeout)
                return bool(super().acquire(False))
            return True

        @forwards
        def __enter__(self) -> bool:
            return self.acquire()

    return SemLock


def _has_children() -> bool:
    process: Any = sys.modules.get("multiprocessing.process")
    return process is not None and bool(process.active_children())
