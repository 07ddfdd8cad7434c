"""The times of files within an execution: by its clock, for `time.time() - st_mtime`.

A file is what its path leads to through symbolic links, also by another hard link; a directory
changes with what is made, renamed and removed in it. What the execution writes was changed when it
opened the file for that, which is all that an audit event tells; what is written to a file that
stays open is taken for older. What was there before is as old as it was when the exploration began,
and what is younger than that, as what an earlier execution has left, is new. Times that the program
sets by `os.utime` are what it has set.
"""

from __future__ import annotations

import functools
import os
import stat
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


_real_stat, _real_lstat, _readlink = os.stat, os.lstat, os.readlink
_LINKS_MAX = 40
"""As many as Linux follows."""

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
    if not flags & _WRITES or (key := _key(path)) is None:
        return
    before = None if flags & os.O_TRUNC else _looked_at(key)
    if before is None:
        if flags & os.O_CREAT and not os.path.lexists(key):
            _forget(execution, key)
            _note(execution, os.path.dirname(key))
        _note(execution, key)
        return
    # Only what is written to it changes it.
    as_before_ns = _changed_ns(_noted(execution, key), before)
    _set(execution, key, Changed(_now_ns(execution), before, as_before_ns))


def _sets(execution: Execution, path: Any, times: Any, ns: Any, dir_fd: Any) -> None:
    key = _key(path, dir_fd)
    if key is None:
        return
    if times is None and ns is None:
        _note(execution, key)
        return
    set_s = times[1] if ns is None else ns[1] / 1e9
    # Later is what it has of the system: a copy's time is its original's, by `os.stat` elsewhere.
    if set_s < execution.entropy.wall_seen + DAY_S:
        _set(execution, key, Changed(SET))
    else:
        _forget(execution, key)


def _renames(execution: Execution, src: Any, dst: Any, src_fd: Any = -1, dst_fd: Any = -1) -> None:
    old, new = _key(src, src_fd, follows=False), _key(dst, dst_fd, follows=False)
    if old is None or new is None or not os.path.lexists(old):
        return
    _forget(execution, new)
    changed, within = execution.entropy.changed, old + os.sep
    for key in [each for each in changed if each == old or each.startswith(within)]:
        changed[new + key[len(old) :]] = changed.pop(key)
    for key in (old, new):
        _note(execution, os.path.dirname(key))


def _makes(execution: Execution, path: Any, mode: Any, dir_fd: Any) -> None:
    key = _key(path, dir_fd, follows=False)
    if key is not None and not os.path.lexists(key):
        _note(execution, key)
        _note(execution, os.path.dirname(key))


def _makes_symlink(execution: Execution, src: Any, dst: Any, dir_fd: Any) -> None:
    _makes(execution, dst, None, dir_fd)


def _links(execution: Execution, src: Any, dst: Any, src_fd: Any, dst_fd: Any) -> None:
    """From now on both are one file, which has its time by its inode."""
    old, new = _key(src, src_fd), _key(dst, dst_fd, follows=False)
    if old is None or new is None or not os.path.exists(old) or os.path.lexists(new):
        return
    _forget(execution, new)
    noted = execution.entropy.changed.pop(old, None)
    inode = _inode(old, links_min=1)
    if noted is not None and inode is not None:
        execution.entropy.changed[inode] = noted
    _note(execution, os.path.dirname(new))


def _removes(execution: Execution, path: Any, dir_fd: Any) -> None:
    key = _key(path, dir_fd, follows=False)
    if key is None or not os.path.lexists(key):
        return
    is_folder = os.path.isdir(key) and not os.path.islink(key)
    if is_folder and os.listdir(key):
        # It will be refused.
        return
    if _inode(key) is None:
        _forget(execution, key)
    _note(execution, os.path.dirname(key))


def _truncates(execution: Execution, path: Any, length: Any) -> None:
    key = _key(path)
    if key is not None:
        _note(execution, key)


EVENTS: dict[str, Callable[..., None]] = {
    "open": _opens,
    "os.utime": _sets,
    "os.rename": _renames,
    "os.mkdir": _makes,
    "os.symlink": _makes_symlink,
    "os.link": _links,
    "os.remove": _removes,
    "os.rmdir": _removes,
    "os.truncate": _truncates,
}


# -- what the execution has noted, by the path; by the inode of what has several


def _note(execution: Execution, key: str) -> None:
    _set(execution, key, Changed(_now_ns(execution)))


def _set(execution: Execution, key: str, changed: Changed) -> None:
    execution.entropy.changed[_inode(key) or key] = changed


def _noted(execution: Execution, key: str) -> Changed | None:
    """By the inode also where one path is left of several."""
    changed = execution.entropy.changed
    noted: Changed | None = changed.get(key)
    return changed.get(_inode(key, links_min=1) or "") if noted is None else noted


def _forget(execution: Execution, key: str) -> None:
    execution.entropy.changed.pop(key, None)
    if (inode := _inode(key, links_min=1)) is not None and _inode(key) is None:
        execution.entropy.changed.pop(inode, None)


def _inode(key: str, links_min: int = 2) -> str | None:
    """Its name, of a file that has this number of paths; directories have one."""
    try:
        found = _real_lstat(key)
    except (OSError, ValueError):
        return None
    if found.st_nlink < links_min or stat.S_ISDIR(found.st_mode):
        return None
    return f"inode {found.st_dev}:{found.st_ino}"


def _key(path: Any, dir_fd: int | None = None, *, follows: bool = True) -> str | None:
    """Where it leads to. follows: also if it is a symbolic link itself."""
    if isinstance(path, int):
        return _path_of(path)
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None
    text = os.fsdecode(path)
    if dir_fd is not None and dir_fd >= 0:
        text = os.path.join(_path_of(dir_fd) or "", text)
    return _led_to(text, follows=follows)


def _led_to(path: str, *, follows: bool) -> str:
    """As `os.path.realpath`, which asks `os.lstat` that is asked here."""
    if os.name == "nt":
        return os.path.abspath(path)
    rest = os.path.join(os.getcwd(), path).rstrip("/").split("/")[::-1]
    at, links = "/", 0
    while rest:
        part = rest.pop()
        if part == "..":
            at = os.path.dirname(at)
        if part in ("", ".", ".."):
            continue
        at_part = os.path.join(at, part)
        target = _target_of(at_part) if (rest or follows) and links < _LINKS_MAX else None
        if target is None:
            at = at_part
            continue
        links += 1
        at = "/" if target.startswith("/") else at
        rest += target.split("/")[::-1]
    return at


def _target_of(path: str) -> str | None:
    try:
        return _readlink(path)
    except (OSError, ValueError):
        return None


def _path_of(fd: int) -> str | None:
    """Where the system tells it."""
    try:
        return _readlink(f"/proc/self/fd/{fd}")
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


def _shown(execution: Execution, found: os.stat_result, key: str | None) -> os.stat_result:
    entropy = execution.entropy
    noted = None if key is None else _noted(execution, key)
    changed = _changed_ns(noted, (found.st_mtime_ns, found.st_size))
    if changed == SET:
        return found
    reduced: Any = found.__reduce__()
    kind, (base, rest) = reduced
    fields, others = list(base), dict(rest)
    begins_ns = round((entropy.epoch_s + entropy.environment.begun_s) * 1e9)
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

    is_lstat = real.__name__ == "lstat"

    @functools.wraps(real)
    @forwards
    def of_path(path: Any, *args: Any, **options: Any) -> os.stat_result:
        found = real(path, *args, **options)
        execution = execution_of_this_thread()
        if execution is None or not _has_clock(execution) or _keeps_its_own():
            return found
        if not execution.entropy.changed:
            return _shown(execution, found, None)
        follows = not is_lstat and options.get("follow_symlinks", True)
        return _shown(execution, found, _key(path, options.get("dir_fd"), follows=follows))

    return of_path


class Entry:
    """An `os.DirEntry`, which nothing can inherit from, with the times of the execution."""

    def __init__(self, entry: os.DirEntry[Any], folder: Any) -> None:
        self._entry = entry
        self._folder = folder

    @property
    def __class__(self) -> type:
        return os.DirEntry

    @__class__.setter
    def __class__(self, value: type) -> None:
        raise TypeError("os.DirEntry has no other class")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)

    def __fspath__(self) -> Any:
        return self._entry.path

    def __repr__(self) -> str:
        return repr(self._entry)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        found = self._entry.stat(follow_symlinks=follow_symlinks)
        execution = execution_of_this_thread()
        if execution is None or not _has_clock(execution):
            return found
        # Of a directory that is open the entries have their names alone.
        folder = _path_of(self._folder) if isinstance(self._folder, int) else None
        path = self._entry.path if folder is None else os.path.join(folder, self._entry.name)
        return _shown(execution, found, _key(path, follows=follow_symlinks))


class _Entries:
    """What `os.scandir` returns: an iterator, and a context that closes it."""

    def __init__(self, entries: Any, folder: Any) -> None:
        self._entries, self._folder = entries, folder

    def __iter__(self) -> _Entries:
        return self

    def __next__(self) -> Entry:
        return Entry(next(self._entries), self._folder)

    def __enter__(self) -> _Entries:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        self._entries.close()


_real_scandir = os.scandir


@functools.wraps(_real_scandir)
@forwards
def _scandir(path: Any = None) -> Any:
    execution = execution_of_this_thread()
    entries = _real_scandir(path)
    if execution is None or not _has_clock(execution):
        return entries
    return _Entries(entries, path)


def replacements() -> list[tuple[Any, str, Any]]:
    names = ("stat", "lstat", "fstat")
    stats = [(os, name, by_own_clock(getattr(os, name))) for name in names]
    return [*stats, (os, "scandir", _scandir)]
