"""What an execution is told of the machine: how many CPUs it has, by which pools have threads.

One and the same number everywhere, so that a verdict does not hang on who explores. A loop that
stands alone is told the machine's own. What the standard library asks the machine by a process of
its own, as which CPU it has, does not change: it is asked as outside of executions.
"""

from __future__ import annotations

import ctypes.util
import functools
import os
import platform
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread, none_runs
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


def _asked_outside(real: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(real)
    @forwards
    def ask(*args: Any, **kwargs: Any) -> Any:
        with none_runs():
            return real(*args, **kwargs)

    return ask


# trio asks the first while it is imported, and httpx imports trio where it is installed.
_ASK_BY_A_PROCESS: list[tuple[Any, str]] = [
    (ctypes.util, "find_library"),
    (platform, "_syscmd_file"),
    (platform._Processor, "from_subprocess"),  # type: ignore[attr-defined]
]
_REPLACEMENTS += [
    (holder, name, _asked_outside(getattr(holder, name)))
    for holder, name in _ASK_BY_A_PROCESS
    if hasattr(holder, name)
]


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of functions within an exploration."""
    return _REPLACEMENTS
