"""The file of the sessions: where it is, who may read it, and what its errors mean."""

from __future__ import annotations

import errno
import os
import secrets
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

try:
    import fcntl
except ImportError:  # Not on Windows, where a file that is open cannot be removed.
    fcntl = None  # type: ignore[assignment]

from server.stores.store import StoreRefused, StoreUnreachable

NAME_ANOTHER = (
    "name a file in a directory of your own: JARVIS_SESSIONS=sqlite:/path/to/sessions.sqlite"
)
# How SQLite's files end that stand beside the one of the sessions.
_BESIDE = ("-wal", "-shm")
# What SQLite says where somebody else has it locked, and where the system does not let it.
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_DENIED = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)


def default_path() -> Path:
    """In the user's runtime directory, which is memory; else in a directory of the user's own."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "onestream" / "sessions.sqlite"
    return Path(tempfile.gettempdir()) / f"onestream-{os.getuid()}" / "sessions.sqlite"


def make_private(directory: Path) -> None:
    """Raises StoreRefused where others could read or replace the file.

    It is made, and none above it: a path with a typing error would leave its directories behind.
    """
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        found = directory.stat()
    except FileNotFoundError:
        raise StoreRefused(
            f"the directory {directory} for the sessions is made where the one above it is there, "
            f"and {directory.parent} is not; look at the path, or mkdir -p {directory.parent}"
        ) from None
    except OSError as exc:
        raise StoreRefused(
            f"the directory {directory} for the sessions cannot be made: {exc.strerror}; "
            f"{NAME_ANOTHER}"
        ) from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise StoreRefused(
            f"the directory {directory} for the sessions is not this user's alone (owner "
            f"{found.st_uid}, mode {stat.S_IMODE(found.st_mode):o}): "
            f"{'chmod 700 it, or ' if found.st_uid == os.getuid() else ''}{NAME_ANOTHER}"
        )


# A file by what the system knows it by; None where there is none.
Inode = tuple[int, int] | None


class Files(NamedTuple):
    """What stands at the path, and the two files beside it that belong to it while it is open.

    With others of them than another worker has, SQLite would show each of both its own sessions.
    """

    main: Inode
    wal: Inode
    shm: Inode


def files_at(path: Path) -> Files:
    return Files(*(_inode_of(f"{path}{ending}") for ending in ("", *_BESIDE)))


def _inode_of(path: str) -> Inode:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def remove_left_beside(path: Path, before: Files) -> None:
    """What belongs to the file that was here before, and would be taken for the new one's."""
    now = files_at(path)
    if now.main == before.main:
        return
    for ending, is_old in zip(_BESIDE, (now.wal == before.wal, now.shm == before.shm), strict=True):
        if is_old:
            Path(f"{path}{ending}").unlink(missing_ok=True)


def new_mark(now_ms: int) -> str:
    """Of a file of sessions: another one means that what was written before may be lost."""
    return f"{secrets.token_hex(8)}@{now_ms}"


def is_made_since(mark: str, then_ms: int, now_ms: int) -> bool:
    """Whether a file with this mark is one that was not there yet; one put back was."""
    _, _, made = mark.partition("@")
    return made.isdecimal() and then_ms < int(made) <= now_ms


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        # On a full disk SQLite has rolled it back itself; a commit that fails has not.
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def is_locked(exc: Exception) -> bool:
    return _code_of(exc) in _BUSY or isinstance(exc, BlockingIOError)


@contextmanager
def opening_alone(path: Path) -> Iterator[None]:
    """Of all workers one at a time: raises BlockingIOError, which `is_locked`, for the others.

    What one has just made beside the file another would remove as that of the file before, and the
    first would never know that what it has open stands there no more.
    """
    if fcntl is None:
        yield
        return
    # The directory: no file in it, which somebody might remove as well.
    directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(directory)


def _code_of(exc: Exception) -> int:
    code: int = getattr(exc, "sqlite_errorcode", 0)
    return code & 0xFF


@contextmanager
def errors(path: Path) -> Iterator[None]:
    """SQLite's errors as the store's."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise StoreUnreachable(
            f"the sessions in {path} cannot be asked: {exc}. {_advice(path, exc)}"
        ) from exc


def _advice(path: Path, exc: sqlite3.Error | OSError) -> str:
    code = _code_of(exc)
    if path.is_dir():
        return f"It is a directory: {NAME_ANOTHER}"
    if not path.parent.is_dir():
        return f"The directory {path.parent} is gone: mkdir -m 700 it, or {NAME_ANOTHER}"
    if code in _DENIED or getattr(exc, "errno", None) in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"This user has to be able to write it and {path.parent}; else {NAME_ANOTHER}"
    if is_locked(exc):
        return (
            "Another process has it locked: a worker that stands still within its own request, or "
            "a program that was made to look into it"
        )
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return (
            f"The file is damaged, or not one of sessions: end all workers and delete the file if "
            f"nothing else needs it, or {NAME_ANOTHER}"
        )
    if code == sqlite3.SQLITE_ERROR:
        return (
            "The file may be of another release: end all workers and delete it if nothing else "
            f"needs it, or {NAME_ANOTHER}"
        )
    return "The disk may be full or failing"
