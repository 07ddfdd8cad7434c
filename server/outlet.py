"""Where log lines leave the process: a thread writes them, so that nothing else waits for a reader.

A terminal that was stopped with Ctrl-S, or a pipe that nobody reads, blocks every writer for
ever. A daemon thread may be blocked: what comes meanwhile waits up to a limit, and beyond it is
dropped, counted and reported. The thread exists only while there is something to write: a process
that is quiet can be forked without one.
"""

from __future__ import annotations

import atexit
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

# What waits for the reader; a burst of some thousand lines.
WAITING_MAX_BYTES = 256 * 1024
# How long the end of the process waits for lines to be taken, in all.
PATIENCE_S = 0.3
# How long the thread waits for a further line before it ends: a busy log keeps one.
LINGER_S = 0.2
# Between two writes: in a burst, a thread that has its turn for each line costs more than writing.
BATCH_S = 0.01
# What a pipe takes at once whenever it takes anything: POSIX's smallest PIPE_BUF.
AT_ONCE_BYTES = 512


def said_of_dropped(count: int) -> str:
    return f"log_lines_dropped {count}: nobody took what was logged in time"


class Outlet:
    """The stream of a handler of `logging`; `fd` is written to directly.

    Not through `sys.stderr`: its lock, held by a thread that is blocked, ends the interpreter's
    own end with an abort.
    """

    def __init__(
        self,
        fd: int,
        *,
        waiting_max_bytes: int = WAITING_MAX_BYTES,
        said_of_dropped: Callable[[int], str] = said_of_dropped,
    ) -> None:
        self._fd = fd
        self._said_of_dropped = said_of_dropped
        self._waiting_max_bytes = waiting_max_bytes
        self._changed = threading.Condition()
        # All below only under the condition. What the thread has not taken yet, and its size,
        # which is at most waiting_max_bytes. Only while nothing waits may the thread end, and
        # adding a line starts one if there is none: so no line is forgotten.
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._thread: threading.Thread | None = None
        self._linger_s = LINGER_S
        # Set when lines are waited for.
        self._ending = threading.Event()
        self._patience_s: float | None = None
        self._is_drained_at_exit = False

    # -- what `logging` calls

    def write(self, text: str) -> int:
        """Returns at once."""
        line = text.encode("utf-8", "backslashreplace")
        if sys.is_finalizing():
            # No thread runs any more, and one may have stopped where it held the lock.
            self._write_at_once(deque([line]), 0.0)
            return len(text)
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
        if self._patience_s is not None and not sys.is_finalizing():
            self.drain()

    def end(self) -> None:
        """From now on lines are waited for, `PATIENCE_S` in all: the process may end any moment."""
        self._ending.set()
        if self._patience_s is None:
            self._patience_s = PATIENCE_S

    def drain(self) -> None:
        """Waits until everything is written, or patience is used up."""
        with self._changed:
            patience_s = PATIENCE_S if self._patience_s is None else self._patience_s
            if self._thread is None and self._waiting:
                # No thread could be started: at the interpreter's end there never can.
                self._write_at_once(self._waiting, patience_s)
                self._waiting_bytes = sum(map(len, self._waiting))
            if not self._changed.wait_for(self._is_drained, timeout=patience_s):
                self._patience_s = 0.0

    def close(self) -> None:
        """As `drain`, and the thread has ended, unless it is blocked. Later lines still go out."""
        self._ending.set()
        with self._changed:
            self._linger_s = 0.0
            self._changed.notify_all()
            thread = self._thread
        self.drain()
        if thread is not None:
            thread.join(PATIENCE_S)

    def _write_at_once(self, lines: deque[bytes], patience_s: float) -> None:
        """In the thread that asks: what is taken in time, without being blocked. The rest stays."""
        deadline = time.monotonic() + patience_s
        try:
            while lines:
                wait_s = max(deadline - time.monotonic(), 0)
                if not select.select([], [self._fd], [], wait_s)[1]:
                    return
                written = os.write(self._fd, lines[0][:AT_ONCE_BYTES])
                lines[0] = lines[0][written:]
                if not lines[0]:
                    lines.popleft()
        except OSError:
            # As in the thread: nobody will ever read it.
            lines.clear()

    def _is_drained(self) -> bool:
        return not self._waiting and not self._is_writing

    def _start(self) -> None:
        if self._thread is not None:
            return
        self._thread = threading.Thread(target=self._run, name="onestream-log", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            # No thread can be started now; with the next line it may be possible.
            self._thread = None
        if not self._is_drained_at_exit:
            self._is_drained_at_exit = True
            atexit.register(self.drain)

    # -- in the thread

    def _run(self) -> None:
        while lines := self._take():
            try:
                self._write(lines)
            except OSError:
                # Nobody will ever read it, or the disk is full: then it is lost.
                with self._changed:
                    self._dropped += 1
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
            self._ending.wait(BATCH_S)

    def _take(self) -> bytes:
        """What waits; nothing if that was so for a moment: then the thread has to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._linger_s, self._linger_s)
            if not self._waiting:
                self._thread = None
                return b""
            if self._dropped:
                line = self._said_of_dropped(self._dropped)
                self._waiting.append(f"{line}\n".encode())
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
                # Another process that shares the descriptor has set it so.
                select.select([], [self._fd], [])
