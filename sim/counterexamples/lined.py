"""A recording that notes the program's lines as well: see `program_lines.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from sim.counterexamples.program_lines import ProgramLines
from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.recording import Recording
from sim.kernel.threads.workers import Worker
from sim.kernel.world import VIOLATED, TraceLine
from sim.schedulers import Replay

T = TypeVar("T")


class Rows(list[T]):
    """Rows of a recording; tells of each that joins."""

    def __init__(self, joins: Callable[[T], None]) -> None:
        super().__init__()
        self._joins = joins

    def append(self, row: T) -> None:
        super().append(row)
        self._joins(row)


class LinedRecording(Recording):
    def __init__(self) -> None:
        super().__init__()
        self.lines = ProgramLines()
        self.trace = Rows(self._joins)
        # Which callback of the loop, or turn of a thread, it is.
        self._turn = 0

    def patched(self) -> AbstractContextManager[None]:
        return self._patched()

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with super().patched(), self.lines.traced(self._now_of_lines):
            yield

    def _now_of_lines(self) -> tuple[SimLoop, float, int]:
        return self._loop, self._world.now, self._turn

    def _joins(self, row: TraceLine) -> None:
        if row.text == VIOLATED:
            self.lines.violated(self._world.loops)

    def poll_begins(self) -> None:
        super().poll_begins()
        self.lines.pauses(True)

    def poll_ends(self) -> None:
        super().poll_ends()
        self.lines.pauses(False)

    def runs(self, handle: asyncio.Handle) -> None:
        self._turn += 1
        super().runs(handle)

    def thread_goes_on(self, worker: Worker) -> None:
        self._turn += 1
        super().thread_goes_on(worker)


class LinedReplay(Replay):
    """Replays a schedule, and notes the lines."""

    def __init__(self, departures: Iterable[tuple[int, int]]) -> None:
        super().__init__(departures)
        self.recording = LinedRecording()

    def observer(self) -> Observer:
        return self.recording
