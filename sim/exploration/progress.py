"""The progress that a command prints while it works, and how it is interrupted."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from time import perf_counter
from types import FrameType
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sim.counted import counted
from sim.exploration.report import Findings
from sim.schedulers import Scheduler

REDRAW_EVERY_S = 0.1
PLAIN_EVERY_S = 3.0


class Progress:
    """One line that is redrawn on a terminal, else a plain line every few seconds.

    stream: None to print nothing. budget_s: of everything, counted from now; None if there is none.
    Leaving it as a context removes the line.
    """

    def __init__(
        self,
        stream: TextIO | None,
        budget_s: float | None = None,
        *,
        every_s: float | None = None,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._stream = stream
        self._terminal = _terminal(stream)
        # While the line is drawn. No thread refreshes it: jobs may be forked at any time.
        self._live: Live | None = None
        usual_s = PLAIN_EVERY_S if self._terminal is None else REDRAW_EVERY_S
        self._every_s = usual_s if every_s is None else every_s
        self._clock = clock
        now = clock()
        self._deadline = None if budget_s is None else now + budget_s
        self._next_at = now + self._every_s
        self.is_interrupted = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, words: Callable[[], str]) -> None:
        """To be called often; it calls `words` when it is time for a line."""
        now = self._clock()
        if self._stream is None or now < self._next_at:
            return
        self._next_at = now + self._every_s
        line = words()
        if self._deadline is not None:
            # A search may be complete before.
            line += f", at most {max(0.0, self._deadline - now):.0f} s more"
        self._write(self._stream, line)

    def watch(self, name: str) -> Callable[[Findings, Scheduler], bool]:
        """The `watch` of a search that begins now: it shows how far that is, and Ctrl-C ends it."""
        return partial(self.searched, name, perf_counter())

    def searched(self, name: str, begun: float, findings: Findings, scheduler: Scheduler) -> bool:
        """Shows it; whether the search is to stop. begun: a reading of perf_counter."""
        self.show(lambda: search_words(name, perf_counter() - begun, findings, scheduler))
        return self.is_interrupted

    def clear(self) -> None:
        """Removes the line, so that something else can be printed."""
        if self._live is not None:
            self._live.stop()
        self._live = None

    def _write(self, stream: TextIO, line: str) -> None:
        if self._terminal is None:
            stream.write(line + "\n")
            stream.flush()
            return
        if self._live is None:
            self._live = Live(
                console=self._terminal,
                auto_refresh=False,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        self._live.update(Text(line, no_wrap=True, overflow="ellipsis"), refresh=True)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Ctrl-C lets the current execution end, then the search; a second one is Python's own.

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


def _terminal(stream: TextIO | None) -> Console | None:
    """None where no line can be redrawn."""
    if stream is None or not stream.isatty():
        return None
    console = Console(file=stream, force_terminal=True)
    return None if console.is_dumb_terminal else console


def search_words(name: str, seconds: float, findings: Findings, scheduler: Scheduler) -> str:
    """How far a search is after `seconds`."""
    words = [counted(findings.executions, "execution"), f"{findings.executions / seconds:.0f}/s"]
    words.append(scheduler.name)
    finished = scheduler.bound_finished
    if finished is not None and finished >= 0:
        words.append(f"bound {finished} finished")
    words.append(f"{counted(findings.choice_points, 'choice point')} deep")
    # One that is divided does not know what its parts have visited.
    if scheduler.complete:
        words.append(f"{scheduler.complete:.0%} of the weight")
    return f"{name}: {', '.join(words)}"
