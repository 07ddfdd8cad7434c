"""A step that never ends: how it is broken off at the same line in each run, and what is said."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from sim.kernel.current import Execution
from sim.kernel.errors import StepBrokenOff
from sim.kernel.running_step import where_it_stays, who_runs
from sim.kernel.step_lines import Frames, LineCounter
from sim.kernel.violation import Kind

# Bound here: the guards of an execution put a virtual clock there.
_now = time.perf_counter

LINES_SHOWN = 20_000
"""Where a step is known to be endless, it is broken off after this number of its lines."""


class EndlessStep:
    """A step after a poll, in an execution of the program with these choices.

    who: whose step, once it is known; a task has one step after a poll.
    """

    def __init__(self, program: object, poll: int, choices: Sequence[int], who: str | None) -> None:
        self.program = program
        self.who = who
        self._poll = poll
        self._choices = list(choices)

    def count_in(self, execution: Execution, choices: list[int]) -> None:
        """The lines after that poll are counted, if the execution comes there by the same choices.

        choices: those of the execution, to which it adds.
        """
        loop: Any = execution.loop
        lines_max = loop.bounds.step_lines_max
        lines_first = lines_max if self.who is None else min(LINES_SHOWN, lines_max)
        # The step that was allowed all its lines.
        longer = -1

        def is_over(frames: Frames) -> int:
            nonlocal longer
            is_known = who_runs(loop, _frames_of(frames)) == self.who and choices == self._choices
            if is_known or lines_first == lines_max or longer == counter.step:
                break_off(execution, frames)
            longer = counter.step
            return int(lines_max - lines_first)

        counter = LineCounter(lines_first, is_over)
        select = loop.select

        def select_and_count(timeout: float | None) -> Sequence[object]:
            counter.end()
            # That poll, or what is asked at the next one before it begins.
            is_next = loop.environment.polls in (self._poll - 1, self._poll)
            if is_next and choices == self._choices[: len(choices)]:
                count(execution, counter, sys._getframe())
            found: Sequence[object] = select(timeout)
            return found

        loop.select = select_and_count


def _frames_of(frames: Frames) -> list[FrameType]:
    return [frame for frame, _ in frames]


def count(execution: Execution, counter: LineCounter, frame: FrameType | None) -> None:
    """From now on, also in this frame and its callers, if nothing else counts."""
    if counter.begin(frame):
        execution.counter = counter


def break_off(execution: Execution, frames: Frames) -> NoReturn:
    """Called in the step, which is endless. frames: those in which it stays."""
    loop = execution.loop
    who = who_runs(loop, _frames_of(frames))
    lines = f"{loop.bounds.step_lines_max:,} lines in one step"
    seen = f"{who} goes on and on in {where_it_stays(frames)}: {lines}"
    if loop.threads.current is None:
        execution.endless = who
        refute(execution, seen)
    else:
        # The system would let another thread go on meanwhile, and that one may end it.
        note_break(execution)
        loop.refused, loop.has_spinning_thread = f"{seen}; {NO_PREEMPTION}", True
        loop.end_execution()
    raise StepBrokenOff(lines)


NO_PREEMPTION = (
    "a simulated thread is overtaken only where it waits, sleeps or takes a lock, so it is not "
    "known whether another one would end this: let it wait for what it needs, by an Event or a "
    "Condition, or call world.declare(__file__), whose lines let others go first"
)


def note_break(execution: Execution) -> None:
    execution.broken_off = (execution.serial, execution.loop.environment.polls), _now()


def refute(execution: Execution, seen: str) -> None:
    note_break(execution)
    execution.seen = seen
    execution.loop.get_stuck(Kind.ENDLESS_STEP, seen)


# Found by the last execution, whose replays the next ones are.
_known: list[EndlessStep] = []


def remember(endless: EndlessStep) -> None:
    _known[:] = [endless]


def known_of(program: object) -> EndlessStep | None:
    return _known[0] if _known and _known[0].program is program else None


def forget() -> None:
    _known.clear()
