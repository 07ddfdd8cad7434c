"""The times of files within an execution: by its clock, for `time.time() - st_mtime`.

What the execution writes was changed when it opened the file for that, which is all that an audit
event tells; what is written to a file that stays open is taken for older. What was there before is
as old as it was when the exploration began, and what is younger than that, as what an earlier
execution has left, is new. Times that the program sets by `os.utime` are what it has set.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import time_ns
from typing import Any

from sim.kernel.current import Execution, execution_of_this_thread
from sim.kernel.origin import forwards

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_CREAT
_KINDS = ("atime", "mtime", "ctime")
DAY_S = 86_400.0
SET = -1
"""In the place of a time: that of the file itself, which the program has set."""


_real_stat = os.stat

Look = tuple[int, int]
"""The system's time of a file, in nanoseconds, and its size."""


@dataclass(frozen=True, slots=True)
class Changed:
    """What the execution has done to a file, at `ns` of its clock.

    before: how it looked, if it has that time only once it looks otherwise; as_before_ns: until
    then, None if it was not changed before.
    """

    ns: int
    before: Look | None = None
    as_before_ns: int | None = None

    def canonical_state(self) -> object:
        return self.ns, self.as_before_ns


# When the exploration began, by the system's clock; whether blocks within it leave that as it is.
_begun_ns, _is_held = time_ns(), False


def begin() -> None:
    """Executions follow. Not to be called while one runs."""
    global _begun_ns
    if not _is_held:
        _begun_ns = time_ns()


@contextmanager
def begun() -> Iterator[None]:
    """Within the block, and in forks that are made there, a file has one age."""
    global _is_held
    begin()
    was_held, _is_held = _is_held, True
    try:
        yield
    finally:
        _is_held = was_held


def _has_clock(execution: Execution | None) -> bool:
    """Not that of a loop that stands alone, which begins at the system's."""
    return execution is not None and not execution.is_alone


def heard(event: str, args: tuple[Any, ...]) -> None:
    """One of EVENTS, before it happens."""
    execution = execution_of_this_thread()
    if execution is not None and _has_clock(execution):
        EVENTS[event](execution, *args)


def _now_ns(execution: Execution) -> int:
    """A microsecond ago, as a system dates files by its last tick, some milliseconds ago.

    That is no reading: modules that are compiled are written once, and not in each execution.
    """
    return int(execution.entropy.wall_seen * 1e6 - 1) * 1000


def _opens(execution: Execution, path: Any, mode: Any, flags: int) -> None:
    if not flags & _WRITES:
        return
    key = _key(path)
    before = None if flags & os.O_TRUNC or key is None else _looked_at(key)
    if before is None:
        _note(execution, path)
    elif key is not None:
        # Only what is written to it changes it.
        as_before_ns = _changed_ns(execution.entropy.changed.get(key), before)
        changed = Changed(_now_ns(execution), before, as_before_ns)
        execution.entropy.changed[key] = changed


def _sets(execution: Execution, path: Any, times: Any, ns: Any, dir_fd: Any) -> None:
    if times is None and ns is None:
        _note(execution, path)
        return
    key, set_s = _key(path), times[1] if ns is None else ns[1] / 1e9
    # Later is what it has of the system: a copy's time is its original's, by `os.scandir`.
    if key is not None and set_s < execution.entropy.wall_seen + DAY_S:
        execution.entropy.changed[key] = Changed(SET)
    elif key is not None:
        execution.entropy.changed.pop(key, None)


def _renames(execution: Execution, src: Any, dst: Any, *dir_fds: Any) -> None:
    changed, new = execution.entropy.changed, _key(dst)
    old = changed.pop(_key(src) or "", None)
    if new is not None:
        changed.pop(new, None)
        if old is not None:
            changed[new] = old


def _note(execution: Execution, path: Any, *others: Any) -> None:
    key = _key(path)
    if key is not None:
        execution.entropy.changed[key] = Changed(_now_ns(execution))


EVENTS: dict[str, Callable[..., None]] = {
    "open": _opens,
    "os.utime": _sets,
    "os.rename": _renames,
    "os.mkdir": _note,
    "os.truncate": _note,
}


def _key(path: Any) -> str | None:
    if isinstance(path, int):
        return _path_of(path)
    return (
        os.path.abspath(os.fsdecode(path)) if isinstance(path, (str, bytes, os.PathLike)) else None
    )


def _path_of(fd: int) -> str | None:
    """Where the system tells it."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None


def _looked_at(path: str) -> Look | None:
    try:
        found = _real_stat(path)
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size


def _changed_ns(changed: Changed | None, look: Look) -> int | None:
    if changed is None:
        return None
    return changed.as_before_ns if changed.before == look else changed.ns


def _shown(execution: Execution, found: os.stat_result, path: Any) -> os.stat_result:
    entropy = execution.entropy
    noted = entropy.changed.get(_key(path) or "") if entropy.changed else None
    changed = _changed_ns(noted, (found.st_mtime_ns, found.st_size))
    if changed == SET:
        return found
    reduced: Any = found.__reduce__()
    kind, (base, rest) = reduced
    fields, others = list(base), dict(rest)
    begins_ns = round(entropy.epoch_s * 1e9)
    for at, name in enumerate(_KINDS, 7):
        ns = changed
        if ns is None:
            ns = begins_ns - max(0, _begun_ns - getattr(found, f"st_{name}_ns"))
        fields[at] = ns // 1_000_000_000
        others[f"st_{name}"], others[f"st_{name}_ns"] = ns / 1e9, ns
    shown: os.stat_result = kind(tuple(fields), others)
    return shown


def _keeps_its_own() -> bool:
    """Whether it is `linecache`, which compares what it has seen outside of executions as well."""
    return sys._getframe(2).f_globals.get("__name__") == "linecache"


def by_own_clock(real: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
    """`os.stat` and its like."""

    @functools.wraps(real)
    @forwards
    def stat(path: Any, *args: Any, **options: Any) -> os.stat_result:
        found = real(path, *args, **options)
        execution = execution_of_this_thread()
        if execution is None or not _has_clock(execution) or _keeps_its_own():
            return found
        return _shown(execution, found, path)

    return stat


def replacements() -> list[tuple[Any, str, Any]]:
    return [(os, name, by_own_clock(getattr(os, name))) for name in ("stat", "lstat", "fstat")]
