"""What an execution is told of the machine: how many CPUs it has, by which pools have threads.

One and the same number everywhere, so that a verdict does not hang on who explores. A loop that
stands alone is told the machine's own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.origin import forwards

# Since 3.13 a process may be given fewer than the machine has, and pools ask for those.
_ASKED = ("cpu_count", "process_cpu_count")
_of_this_process: Callable[[], int | None] = getattr(os, "process_cpu_count", os.cpu_count)


def real_cpus() -> int:
    """As asyncio counts them for its default pool."""
    return _of_this_process() or 1


def _bound_of_cpus() -> int | None:
    """None where the machine's own are told."""
    execution = execution_of_this_thread()
    if execution is None or execution.is_alone:
        return None
    execution.loop.bounds_hit.add("cpus")
    cpus: int = execution.loop.bounds.cpus
    return cpus


def _counted(real: Callable[[], int | None]) -> Callable[[], int | None]:
    @functools.wraps(real)
    @forwards
    def cpu_count() -> int | None:
        cpus = _bound_of_cpus()
        return real() if cpus is None else cpus

    return cpu_count


def _affine(real: Callable[[int], set[int]]) -> Callable[[int], set[int]]:
    @functools.wraps(real)
    @forwards
    def sched_getaffinity(pid: int) -> set[int]:
        own = real(pid)
        cpus = _bound_of_cpus()
        return own if cpus is None else set(range(cpus))

    return sched_getaffinity


_REPLACEMENTS: list[tuple[Any, str, Any]] = [
    (os, name, _counted(getattr(os, name))) for name in _ASKED if hasattr(os, name)
]
if hasattr(os, "sched_getaffinity"):
    _REPLACEMENTS.append((os, "sched_getaffinity", _affine(os.sched_getaffinity)))


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of functions within an exploration."""
    return _REPLACEMENTS
