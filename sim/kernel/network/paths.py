"""What the Unix sockets of a machine are bound to: paths, and names of the abstract namespace.

A path stays when its socket is closed, until it is unlinked, as a file does. It stands beside the
files of the system, which are only looked at: the directory it is in has to exist there.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat
from collections.abc import Callable
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.isolation import outside
from sim.kernel.network.errors import os_error
from sim.kernel.origin import forwards

# Bound here: a system binds a socket without a call of `os`, which a suite may have replaced by
# one that refuses to block.
_getcwd, _lstat, _stat, _unlink = os.getcwd, os.lstat, os.stat, os.unlink
_FIRST_INODE = 1_000_000


def is_abstract(path: str) -> bool:
    return path.startswith("\0")


def _key(path: str, kind: int = 0) -> str:
    """kind: of the socket; each kind has abstract names of its own."""
    if is_abstract(path):
        return f"{path}\0{kind}"
    return os.path.normpath(path if os.path.isabs(path) else os.path.join(_getcwd(), path))


def _mode(of: Callable[[str], os.stat_result], path: str) -> int:
    """Of a file of the system; 0 where there is none."""
    try:
        return of(path).st_mode
    except (OSError, ValueError):
        return 0


class Paths:
    """Of one machine."""

    def __init__(self) -> None:
        self._bound: dict[str, Any] = {}
        self._modes: dict[str, int] = {}
        self._inodes: dict[str, int] = {}
        self._numbers = itertools.count(_FIRST_INODE)

    def require_free(self, path: str, kind: int) -> None:
        """Raises as `bind` does where something is there, or no directory is."""
        key = _key(path, kind)
        if key in self._bound or (not is_abstract(path) and _mode(_lstat, key)):
            raise os_error(errno.EADDRINUSE)
        if not is_abstract(path) and not stat.S_ISDIR(_mode(_stat, os.path.dirname(key))):
            is_there = _mode(_lstat, os.path.dirname(key))
            raise os_error(errno.ENOTDIR if is_there else errno.ENOENT)

    def bind(self, bound: Any, path: str) -> None:
        key = _key(path, bound.kind)
        self._bound[key] = bound
        self._modes[key] = stat.S_IFSOCK | 0o755
        self._inodes[key] = next(self._numbers)

    def at(self, path: str, kind: int) -> Any:
        """Who is bound there. Raises as `connect` does."""
        if not path:
            raise os_error(errno.EINVAL)
        found = self._bound.get(_key(path, kind))
        if found is None and not is_abstract(path) and not _mode(_lstat, _key(path)):
            raise os_error(errno.ENOENT)
        if found is None or not found.fds:
            raise os_error(errno.ECONNREFUSED)
        if found.kind != kind:
            raise os_error(errno.EPROTOTYPE)
        return found

    def closed(self, bound: Any) -> None:
        """An abstract name is gone with its socket."""
        if is_abstract(bound.port):
            del self._bound[_key(bound.port, bound.kind)]

    # -- what is asked of a file

    def has(self, path: object) -> bool:
        if not self._bound or not isinstance(path, (str, bytes, os.PathLike)):
            return False
        return _key(os.fsdecode(path)) in self._bound

    def unlink(self, path: Any) -> None:
        del self._bound[_key(os.fsdecode(path))]

    def rename(self, path: Any, to: Any) -> None:
        """What was there is replaced, also a file of the system's."""
        key, to_key = _key(os.fsdecode(path)), _key(os.fsdecode(to))
        if to_key not in self._bound and _mode(_lstat, to_key):
            _unlink(to_key)
        for each in (self._bound, self._modes, self._inodes):
            each[to_key] = each.pop(key)

    def access(self, path: Any, mode: int) -> bool:
        """To its owner, by whom it was bound; root may all but run what nobody may run."""
        kept = stat.S_IMODE(self._modes[_key(os.fsdecode(path))])
        if os.getuid() == 0:
            return not mode & os.X_OK or bool(kept & 0o111)
        return kept >> 6 & mode == mode

    def stat(self, path: Any) -> os.stat_result:
        key = _key(os.fsdecode(path))
        return os.stat_result(
            (self._modes[key], self._inodes[key], 0, 1, os.getuid(), os.getgid(), 0, 0, 0, 0)
        )

    def chmod(self, path: Any, mode: int) -> None:
        self._modes[_key(os.fsdecode(path))] = stat.S_IFSOCK | stat.S_IMODE(mode)


def _beside_files(real: Callable[..., Any], act: Callable[..., Any]) -> Callable[..., Any]:
    """Of a path that a simulated socket is bound to the one, of any other the other."""

    @functools.wraps(real)
    @forwards
    def call(path: Any, *args: Any, **options: Any) -> Any:
        execution = execution_of_this_thread()
        if execution is not None and execution.loop.has_network:
            paths = execution.loop.network.machine_here().paths
            if paths.has(path):
                return act(paths, path, *args, **{k: v for k, v in options.items() if k == "mode"})
        return real(path, *args, **options)

    return call


def _renames(real: Callable[..., None]) -> Callable[..., None]:
    """Of a path that a simulated socket is bound to, or to one."""

    @functools.wraps(real)
    @forwards
    def call(path: Any, to: Any, **options: Any) -> None:
        execution = execution_of_this_thread()
        if execution is not None and execution.loop.has_network:
            paths = execution.loop.network.machine_here().paths
            if paths.has(path):
                paths.rename(path, to)
                return
            if paths.has(to):
                os.stat(path)
                paths.unlink(to)
        real(path, to, **options)

    return call


def replacements() -> list[tuple[Any, str, Any]]:
    """By module and name, what takes the place of what within an exploration."""
    acts: dict[str, Callable[..., Any]] = {
        "stat": Paths.stat,
        "lstat": Paths.stat,
        "unlink": Paths.unlink,
        "remove": Paths.unlink,
        "chmod": Paths.chmod,
        "access": Paths.access,
    }
    of_one = [
        (os, name, _beside_files(outside.beneath(os, name), act)) for name, act in acts.items()
    ]
    return of_one + [(os, name, _renames(getattr(os, name))) for name in ("rename", "replace")]
