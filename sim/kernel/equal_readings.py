"""Readings of the wall clock that show what the last one showed.

On stock Python two calls of `time.time()` or of `datetime.now()` in a row are mostly equal, and
not always: what lies between them takes less than the microsecond that they can tell apart. A poll
takes more, and so does another thread's turn.
"""

from __future__ import annotations

import sys
from types import FrameType

from sim.kernel.environment import READING_S
from sim.kernel.large_things import works_on_much
from sim.kernel.loop import SimLoop
from sim.kernel.notices import Special
from sim.kernel.origin import is_of_simulator
from sim.kernel.step_lines import Frames, LineCounter, callers_in_step, let_go_of_locals

IN_A_ROW = 16
"""How many may be equal to one: a microsecond has room for no more."""

LINES_BETWEEN = 100
"""Of Python, in one step: what runs more after a reading takes longer than a clock may stand still.

Those of the simulator's own reading count, some twenty. A line that works on something large takes
longer as well (`large_things.py`): so the execution decides, and no machine's speed.
"""

NEAR_S = 10 * READING_S
"""How far the clock may have gone on between two equal ones: other clocks were read."""


class EqualReadings:
    """Of one loop: which of its readings are equal to the one before, by `Bounds.equal_readings`.

    in_a_row: how many the last one made.
    """

    __slots__ = ("_at_s", "_lines", "_loop", "_moment", "_pairs", "in_a_row")

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        # When the clock showed something new last, and how often another reading could be equal.
        self._moment: object = None
        self._at_s, self._pairs = 0.0, 0
        self.in_a_row = 0
        # Counts the lines since the last reading, where some may be equal.
        self._lines: LineCounter | None = None
        if loop.bounds.equal_readings:
            self._lines = LineCounter(LINES_BETWEEN, self._lines_passed, begins=self._line_begins)

    def is_next(self) -> bool:
        """Whether the reading that is made now is one."""
        if self._lines is None:
            return self._is_equal()
        self._lines.end()
        is_equal = self._is_equal()
        frame = sys._getframe()
        # The lines that read go on after it.
        if any(map(_works_on_much, [*callers_in_step(frame)])):
            self.forget_the_last()
        else:
            self._lines.begin(frame)
        return is_equal

    def _is_equal(self) -> bool:
        loop = self._loop
        now = loop.environment.now
        thread = loop.threads.current
        number = None if thread is None else thread.number
        moment = loop.environment.polls, loop.threads.switches, number
        is_near = moment == self._moment and now <= self._at_s + NEAR_S
        if is_near and self.in_a_row < IN_A_ROW:
            loop.bounds_hit.add("equal_readings")
            self._pairs += 1
            if _is_chosen(loop.bounds.equal_readings, self._pairs):
                loop.environment.observer.meets(Special.EQUAL_READINGS)
                self.in_a_row += 1
                return True
        self._moment, self._at_s, self.in_a_row = moment, now, 0
        return False

    def forget_the_last(self) -> None:
        """The next one is later."""
        self._moment = None

    def end(self) -> None:
        """No reading follows."""
        if self._lines is not None:
            self._lines.end()

    def _lines_passed(self, frames: Frames) -> int:
        self.forget_the_last()
        self.end()
        return 0

    def _line_begins(self, frame: FrameType) -> None:
        if not is_of_simulator(frame.f_code.co_filename) and works_on_much(frame):
            self._lines_passed([])


def _works_on_much(frame: FrameType) -> bool:
    """Of one whose line has begun, and goes on."""
    if is_of_simulator(frame.f_code.co_filename):
        return False
    found = works_on_much(frame)
    let_go_of_locals(frame)
    return found


def _is_chosen(which: int, pair: int) -> bool:
    """which: none are equal for 0, all for 1, and some, by that number, for more."""
    return which == 1 or (which > 1 and hash((which, hash((which, pair)))) & 1 == 1)
