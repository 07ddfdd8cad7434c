"""`asyncio.as_completed`, which makes tasks of coroutines in the order of a set.

On stock that is the order of their addresses, so that no two executions were alike. Here it is that
of the list, and beside a search others are looked at, as for every set of tasks.
"""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.hashing import in_set_order, next_serial
from sim.kernel.notices import Special
from sim.kernel.origin import forwards


class _Place:
    """Where a coroutine stands in such a set."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __hash__(self) -> int:
        return self._number


def _tasks_of(awaitables: Iterable[Any], execution: Execution) -> list[asyncio.Future[Any]]:
    """Its tasks and futures, and a task for each coroutine."""
    each = [*dict.fromkeys(awaitables)]
    coroutines = sum(not asyncio.isfuture(one) for one in each)
    if coroutines > 1:
        execution.loop.environment.observer.meets(Special.SETS_OF_COROUTINES)
    by_place = {
        one if asyncio.isfuture(one) else _Place(in_set_order(next_serial())): one for one in each
    }
    # Of a set, not of the dict, which keeps the order in which they came.
    return [asyncio.ensure_future(by_place[place]) for place in {*by_place}]


def _is_no_iterable(fs: object) -> bool:
    """What asyncio refuses, in its own words."""
    return asyncio.isfuture(fs) or asyncio.iscoroutine(fs)


_real = asyncio.as_completed


def _as_completed(fs: Any, *, timeout: float | None = None) -> Any:
    execution = execution_of_this_thread()
    if execution is None or _is_no_iterable(fs):
        return _real(fs, timeout=timeout)
    return _real(_tasks_of(fs, execution), timeout=timeout)


def _generator(fs: Any, *, timeout: float | None = None) -> Iterator[Any]:
    """Before 3.13 the tasks are made when the first is asked for."""
    yield from _as_completed(fs, timeout=timeout)


_stand_in = forwards(
    functools.wraps(_real)(_as_completed if sys.version_info >= (3, 13) else _generator)
)


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of asyncio's function within an exploration."""
    return [(holder, "as_completed", _stand_in) for holder in (asyncio, asyncio.tasks)]
