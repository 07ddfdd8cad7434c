"""Hashes that are the same in every run, so that sets iterate in the same order.

asyncio's TaskGroup and anyio keep tasks and scopes in sets, and by default these are ordered by
address: the order in which a group cancels its children then varies from run to run. Here tasks
hash by their names, and the others by a counter that starts anew with each execution.
"""

from __future__ import annotations

import asyncio
import itertools
import zlib
from typing import Any

import anyio._backends._asyncio as anyio_asyncio

_serials = itertools.count(1)


def restart_serials() -> None:
    """To be called before each execution."""
    global _serials
    _serials = itertools.count(1)


def hash_of_name(name: str) -> int:
    """The number in `Task-7`, so that the order is mostly that in which tasks were made.

    From the name and not from a counter, so that a state, which holds the tasks' names, also
    decides the order of sets of them; sim/export/shim.py has the same.
    """
    number = name.removeprefix("Task-")
    return int(number) if number.isdecimal() else zlib.crc32(name.encode())


class SimTask(asyncio.Task[Any]):
    # None until it is first asked for.
    _sim_hash: int | None = None

    def __hash__(self) -> int:
        if self._sim_hash is None:
            self._sim_hash = hash_of_name(self.get_name())
        return self._sim_hash


class SimFuture(asyncio.Future[Any]):
    # 0 until it is first asked for.
    _sim_hash = 0

    def __hash__(self) -> int:
        if not self._sim_hash:
            self._sim_hash = next(_serials)
        return self._sim_hash


class SimCancelScope(anyio_asyncio.CancelScope):
    __slots__ = ("_sim_hash",)

    def __hash__(self) -> int:
        try:
            return self._sim_hash
        except AttributeError:
            self._sim_hash: int = next(_serials)
            return self._sim_hash


def use_deterministic_scopes() -> None:
    """From now on anyio makes its scopes of the class above, in this process."""
    anyio_asyncio.CancelScope = SimCancelScope  # type: ignore[misc]
