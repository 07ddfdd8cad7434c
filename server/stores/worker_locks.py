"""Which workers of this host are gone: each holds a lock that the kernel gives back with it."""

from __future__ import annotations

import glob
import logging
import os
from pathlib import Path

try:
    import fcntl
except ImportError:  # Not on Windows: there a dead worker is noticed when its leases are over.
    fcntl = None  # type: ignore[assignment]

from server.lines import line

_logger = logging.getLogger("onestream.registry")


class WorkerLocks:
    """A file for each worker next to that of the sessions, locked while its process lives.

    A worker without a file is not known to be gone: somebody may have deleted it.
    """

    def __init__(self, sessions: Path, worker: str) -> None:
        self._folder = sessions.parent
        self._begin = f"{sessions.name}.worker-"
        self._worker = worker
        self._fd: int | None = None

    def hold(self) -> None:
        """Again where its file was removed."""
        if fcntl is None or (self._fd is not None and self._path(self._worker).exists()):
            return
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        # Under another name until it is locked: free ones are taken for those of the dead.
        unlocked = self._path(f".{self._worker}")
        fd = os.open(unlocked, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(unlocked, self._path(self._worker))
        self._fd = fd

    def is_gone(self, worker: str) -> bool:
        if fcntl is None or worker == self._worker:
            return False
        try:
            fd = os.open(self._path(worker), os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            # Shared: two that look at once must not take one another for the worker.
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def gone(self) -> list[str]:
        files = self._folder.glob(f"{glob.escape(self._begin)}*")
        names = sorted(each.name.removeprefix(self._begin) for each in files)
        return [name for name in names if not name.startswith(".") and self.is_gone(name)]

    def forget(self, worker: str) -> None:
        """Nothing of it is left."""
        self._path(worker).unlink(missing_ok=True)

    def release(self) -> None:
        if self._fd is None:
            return
        try:
            self.forget(self._worker)
        except OSError as exc:
            # It is free all the same: others see that its worker is gone.
            _logger.warning(line("worker_file_left", str(exc), worker=self._worker))
        os.close(self._fd)
        self._fd = None

    def _path(self, worker: str) -> Path:
        return self._folder / f"{self._begin}{worker}"
