"""What `check` says while it works, and how it is interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from types import FrameType
from typing import TextIO

from sim.exploration import Findings
from sim.schedulers import Scheduler

REDRAW_EVERY_S = 0.1
PLAIN_EVERY_S = 3.0
WIDTH_MAX = 100


class Progress:
    """One line that is redrawn on a terminal, else a plain line every few seconds.

    stream: None to say nothing. budget_s: of everything, counted from now.
    """

    def __init__(
        self, stream: TextIO | None, budget_s: float, *, plain_every_s: float = PLAIN_EVERY_S
    ) -> None:
        self._stream = stream
        self._is_terminal = stream is not None and stream.isatty()
        self._every_s = REDRAW_EVERY_S if self._is_terminal else plain_every_s
        self._deadline = perf_counter() + budget_s
        self._next_at = perf_counter() + self._every_s
        self._is_drawn = False
        self.is_interrupted = False

    def show(self, name: str, begun: float, findings: Findings, scheduler: Scheduler) -> bool:
        """To be called often. begun: a reading of perf_counter. Whether to stop: see Watch."""
        now = perf_counter()
        if self._stream is not None and now >= self._next_at:
            self._next_at = now + self._every_s
            left_s = max(0.0, self._deadline - now)
            line = f"{name}: {_figures(findings, scheduler, now - begun)}, {left_s:.0f} s left"
            self._write(self._stream, line)
        return self.is_interrupted

    def clear(self) -> None:
        """Takes the line away, so that something else can be printed."""
        if self._is_drawn and self._stream is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
        self._is_drawn = False

    def _write(self, stream: TextIO, line: str) -> None:
        if self._is_terminal:
            stream.write(f"\r\x1b[K{line[:WIDTH_MAX]}")
        else:
            stream.write(line + "\n")
        self._is_drawn = self._is_terminal
        stream.flush()

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C lets the execution under way end, then the search; a second one is Python's own.

        An exception raised in the middle of an execution could be swallowed by the code under
        check, and would leave it undrained.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def interrupt(number: int, frame: FrameType | None) -> None:
            self.is_interrupted = True
            signal.signal(signal.SIGINT, signal.default_int_handler)

        signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _figures(findings: Findings, scheduler: Scheduler, seconds: float) -> str:
    words = [f"{findings.executions} executions", f"{findings.executions / seconds:.0f}/s"]
    words.append(scheduler.name)
    finished = scheduler.bound_finished
    if finished is not None and finished >= 0:
        words.append(f"bound {finished} finished")
    words.append(f"{findings.choice_points} choice points deep")
    # One that is divided does not know what its parts have seen.
    if scheduler.complete:
        words.append(f"{scheduler.complete:.0%} of the weight")
    return ", ".join(words)
