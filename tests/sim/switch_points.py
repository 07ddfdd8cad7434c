"""Threads with all their switch points, also those that show nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from sim.kernel.threads import locks


@contextmanager
def all_switch_points() -> Iterator[None]:
    """Within the block a thread may be overtaken before each lock that it takes."""

    def stand(_: object, threads: Any, *rest: object) -> None:
        threads.pause("lock.acquire")

    # No mock of it: that would keep each frame that it is given, with what lies in there.
    def is_needless(*_: object, **__: object) -> bool:
        return False

    with (
        mock.patch.object(locks.SimLock, "_sim_stand", stand),
        mock.patch.object(locks, "is_needless", is_needless),
    ):
        yield
