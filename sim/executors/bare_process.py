"""A worker's own process, where what asks for the work is a process of somebody else's.

Ray changes those in which it calls methods: each record of the log reads the clock once more there,
and has another handler; what an execution does would be another thing than at home. Here are
onestream and the program alone, as with `--jobs`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from mmap import mmap
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from tempfile import TemporaryFile

from sim.executors.base import Answer, IsStopped, Task
from sim.executors.pickled import NotPicklable, answered, dumped, taken

# How soon a batch learns that it is stopped.
_POLL_S = 0.05
_MAIN = "from sim.executors.bare_process import main; main()"


class BareProcess:
    """Does one task after the other; a process begins anew where one has ended. To be closed.

    folder: where programs are found from; "" for the current one. hash_seed: of strings, by which
    sets of them have their order, so that all workers have the same.
    """

    def __init__(self, folder: str, hash_seed: str) -> None:
        self._folder = folder if folder and Path(folder).is_dir() else None
        self._hash_seed = hash_seed
        # One byte: whether what runs is stopped. The process sees it without asking the system.
        with TemporaryFile() as file:
            file.write(b"\0")
            file.flush()
            self._stop = mmap(file.fileno(), 1)
            self._file = os.dup(file.fileno())
        self._begin()

    def do(self, number: int, task: Task, is_stopped: IsStopped) -> Answer:
        """The task's answer, or how the process was lost."""
        try:
            pickled = dumped(task)
        except NotPicklable as exc:
            return Answer(number, error=exc)
        self._stop[0] = 0
        try:
            self._connection.send_bytes(pickled)
            while not self._connection.poll(_POLL_S):
                if is_stopped():
                    self._stop[0] = 1
            answer = self._connection.recv_bytes()
        except (EOFError, OSError):
            how = f"its process ended with {self._process.wait()}"
            self._connection.close()
            self._begin()
            return Answer(number, loss=how)
        return taken(number, answer)

    def close(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._stop.close()
        os.close(self._file)

    def _begin(self) -> None:
        self._connection, other = Pipe()
        given = (other.fileno(), self._file)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, *map(str, (*given, os.getpid()))],
                cwd=self._folder,
                env={**os.environ, "PYTHONHASHSEED": self._hash_seed},
                pass_fds=given,
            )


# ---- in that process ---------------------------------------------------------------------------


def main() -> None:
    connection_fd, file_fd, parent = map(int, sys.argv[1:])
    del sys.argv[1:]
    # Ctrl-C is for who asked.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = mmap(file_fd, 1)

    def is_stopped(getppid: Callable[[], int] = os.getppid) -> bool:
        return stop[0] == 1 or getppid() != parent

    with Connection(connection_fd) as connection, suppress(EOFError, OSError):
        while True:
            connection.send_bytes(answered(connection.recv_bytes(), is_stopped))
