"""A recording that notes the program's lines as well, see `program_lines.py`; and what is told of
them in a text."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TypeVar

from sim.counterexamples.explanation import Passing
from sim.counterexamples.fact import Fact
from sim.counterexamples.facts import facts_of
from sim.counterexamples.program_lines import LINES_MAX, ProgramLines
from sim.kernel import watchdog
from sim.kernel.execution import Program, run_execution
from sim.kernel.forks import LATER_S, ForkEnded, in_a_fork
from sim.kernel.guards import end_isolating, is_isolating
from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.origin import is_of_simulator
from sim.kernel.outcome import Outcome
from sim.kernel.recording import Recording
from sim.kernel.schedule import Bounds, Schedule
from sim.kernel.threads.workers import Threads, Worker
from sim.kernel.violation import Kind
from sim.kernel.world import VIOLATED, TraceLine
from sim.schedulers import Replay

T = TypeVar("T")

# Of a longer execution a text tells nothing of its lines: to note them takes some µs each.
OF_TEXT_MAX = 20_000


class Rows(list[T]):
    """Rows of a recording; tells of each that joins."""

    def __init__(self, joins: Callable[[T], None]) -> None:
        super().__init__()
        self._joins = joins

    def append(self, row: T) -> None:
        super().append(row)
        self._joins(row)


class LinedRecording(Recording):
    def __init__(self, lines_max: int = LINES_MAX) -> None:
        super().__init__()
        self.lines = ProgramLines(lines_max=lines_max)
        self.trace = Rows(self._joins)
        # Which callback of the loop, or turn of a thread, it is; and of each process whose turn it
        # is not, in the middle of which it stands.
        self._turn = self._turns_count = 0
        self._turn_of: dict[SimLoop, int] = {}

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
        self.lines.pauses(self._loop, True)

    def poll_ends(self) -> None:
        super().poll_ends()
        self.lines.pauses(self._loop, False)

    def _begin_turn(self) -> None:
        self._turns_count += 1
        self._turn = self._turns_count

    def turns_to(self, loop: SimLoop) -> None:
        self._turn_of[self._loop] = self._turn
        super().turns_to(loop)
        self._turn = self._turn_of.get(self._loop, 0)

    def runs(self, handle: asyncio.Handle) -> None:
        self._begin_turn()
        super().runs(handle)

    def thread_goes_on(self, worker: Worker) -> None:
        self._begin_turn()
        if worker.waits_for is None:
            self.lines.overtaken.add(self._turn)
        super().thread_goes_on(worker)

    def thread_stands(self, worker: Worker) -> None:
        super().thread_stands(worker)
        if asyncio.current_task(self._loop) is not None:
            # In the middle of a step of the loop's: what follows is no more of the thread's.
            self._begin_turn()
            if _is_loop_overtaken():
                self.lines.overtaken.add(self._turn)


class LinedReplay(Replay):
    """Replays a schedule, and notes the lines."""

    def __init__(self, departures: Iterable[tuple[int, int]], lines_max: int = LINES_MAX) -> None:
        super().__init__(departures)
        self.recording = LinedRecording(lines_max)

    def observer(self) -> Observer:
        return self.recording


def _is_loop_overtaken() -> bool:
    """Whether the loop's own thread stands between two lines, and does not wait in a call."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and is_of_simulator(frame.f_code.co_filename):
        if frame.f_code is Threads.let_others_go_on.__code__:
            return True
        frame = frame.f_back
    return False


def facts_in_lines(
    program: Program, schedule: Schedule, outcome: Outcome, passing: Passing
) -> list[Fact]:
    """What the lines of the program tell of a violation that a text does not show anyway.

    It is executed once more, and the passing execution before it. Nothing is told where the
    violation does not come back with its lines noted, or where noting them would take long.
    """
    violation = outcome.violation
    assert violation is not None
    if violation.kind is Kind.ENDLESS_STEP:
        # Each execution of it takes seconds.
        return []

    def facts() -> list[Fact]:
        there = None if passing.outcome is None else passing.outcome.departures
        if is_isolating():
            # A second execution in this fork would find what the first has changed.
            end_isolating()
            there = None
        taken = [(each.index, each.option) for each in there or ()]
        beside = None if there is None else _lined(program, taken, schedule.bounds)
        again = _lined(program, schedule.departures, schedule.bounds)
        found = again[0].violation
        if found is None or found.property != violation.property or again[1].is_cut:
            return []
        is_passing = beside is not None and beside[0].violation is None
        lines_beside = beside[1] if beside is not None and is_passing else None
        told = facts_of(again[1], lines_beside, violation.detail)
        return [each for each in told if not each.pattern.is_in_charts]

    if not is_isolating():
        return facts()
    try:
        return in_a_fork(facts, watchdog.seconds_left() + LATER_S)
    except ForkEnded:
        return []


def _lined(
    program: Program, departures: Iterable[tuple[int, int]], bounds: Bounds
) -> tuple[Outcome, ProgramLines]:
    replay = LinedReplay(departures, OF_TEXT_MAX)
    return run_execution(program, replay, bounds, traced=True), replay.recording.lines
