"""Ends a step that never returns to the loop: a `while True` without an await, say.

No property is checked, and no bound of virtual time reached, while one callback runs. So real time
has to end it: the processor's, which a busy or sleeping machine does not lengthen. `setitimer(2)`
interrupts the process every `TICK_S`, and where two interruptions in a row find the same poll of
the same execution, the running step is broken off by an exception. Without `setitimer` (on
Windows), and outside the main thread, there is no watchdog.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from sim.kernel.current import executions
from sim.kernel.diagnosis import place_in_program
from sim.kernel.errors import StepBrokenOff
from sim.kernel.violation import Kind

TICK_S = 3.0
"""Seconds of processor time; a step is broken off after one to two of these."""

# Bound here: a program's tests may put something else there.
_handle = signal.signal

# The execution, and the number of its poll, that the last tick found.
_found: tuple[int, int] | None = None


@contextmanager
def watched() -> Iterator[None]:
    """Within the block no step of an execution runs for ever."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or not hasattr(signal, "setitimer"):
        yield
        return
    before = _handle(signal.SIGVTALRM, _tick)
    signal.setitimer(signal.ITIMER_VIRTUAL, TICK_S, TICK_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        _handle(signal.SIGVTALRM, before)


def _tick(signal_number: int, frame: FrameType | None) -> None:
    global _found
    found, _found = _found, None
    if not executions or not executions[-1].is_watched:
        return
    loop = executions[-1].loop
    _found = executions[-1].serial, loop.environment.polls
    if found == _found:
        seen = f"one had the processor for {TICK_S:g} s; it stood in {place_in_program(frame)}"
        loop.get_stuck(Kind.ENDLESS_STEP, seen)
        raise StepBrokenOff(seen)
