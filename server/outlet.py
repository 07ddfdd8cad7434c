"""Where log lines leave the process: a thread writes them, so that nobody else waits for a reader.

A terminal that was stopped with Ctrl-S, or a pipe that nobody reads, blocks whoever writes to it,
for ever. A daemon thread may be blocked: what comes meanwhile waits up to a limit, and beyond it
is dropped, counted and told.
"""

from __future__ import annotations

import atexit
import os
import select
import threading
from collections import deque

# What waits for the reader; a burst of some thousand lines.
WAITING_MAX_BYTES = 256 * 1024
# So long the end of the process waits for lines to be taken, all in all.
PATIENCE_S = 0.3


class Outlet:
    """Stands where a handler of `logging` has its stream; `fd` is written to directly.

    Not through `sys.stderr`: its lock, held by a thread that is blocked, ends the interpreter's
    own end with an abort.
    """

    def __init__(self, fd: int, *, waiting_max_bytes: int = WAITING_MAX_BYTES) -> None:
        self._fd = fd
        self._waiting_max_bytes = waiting_max_bytes
        self._changed = threading.Condition()
        # All below only under the condition. What the thread has not taken yet, and its size,
        # which is at most waiting_max_bytes.
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._thread: threading.Thread | None = None
        self._patience_s: float | None = None

    # -- what `logging` calls

    def write(self, text: str) -> int:
        """Returns at once."""
        line = text.encode("utf-8", "backslashreplace")
        with self._changed:
            if self._waiting_bytes + len(line) > self._waiting_max_bytes:
                self._dropped += 1
            else:
                self._waiting.append(line)
                self._waiting_bytes += len(line)
                self._start()
                self._changed.notify_all()
        return len(text)

    def flush(self) -> None:
        """Waits for nothing, but at the end of the process: then for a moment."""
        if self._patience_s is not None:
            self.drain()

    def end(self) -> None:
        """From now on lines are waited for, `PATIENCE_S` in all: the process may end any moment."""
        if self._patience_s is None:
            self._patience_s = PATIENCE_S

    def drain(self) -> None:
        """Waits until everything is written, or patience is used up."""
        with self._changed:
            patience_s = PATIENCE_S if self._patience_s is None else self._patience_s
            if not self._changed.wait_for(self._is_drained, timeout=patience_s):
                self._patience_s = 0.0

    def _is_drained(self) -> bool:
        return not self._waiting and not self._is_writing

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="onestream-log", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:
                # No thread is to be had now; with the next line there may be.
                self._thread = None
                return
            atexit.register(self.drain)

    # -- in the thread

    def _run(self) -> None:
        while True:
            lines = self._take()
            try:
                self._write(lines)
            except OSError:
                # Nobody will ever read it, or the disk is full: then it is lost.
                with self._changed:
                    self._dropped += 1
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()

    def _take(self) -> bytes:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting)
            if self._dropped:
                told = f"log_lines_dropped {self._dropped}: nobody took what was logged in time\n"
                self._waiting.append(told.encode())
                self._dropped = 0
            lines = b"".join(self._waiting)
            self._waiting.clear()
            self._waiting_bytes = 0
            self._is_writing = True
            return lines

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest[:65536]) :]
            except BlockingIOError:
                # The descriptor was set so by somebody who shares it.
                select.select([], [self._fd], [])
