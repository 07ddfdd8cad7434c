"""Whether a KeyboardInterrupt is somebody's Ctrl-C, or the program's own.

Both come out of the running step. The first ends the exploration, the second is what the program
does on stock asyncio as well, and so a violation.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Bound here: a program's tests may put something else there.
_handle, _handler_of = signal.signal, signal.getsignal

_is_interrupted = False


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """Within the block `is_interrupt` knows of each Ctrl-C; its handler does what it did."""
    global _is_interrupted
    before = _handler_of(signal.SIGINT)
    # Only the main thread may set a handler, and only there is KeyboardInterrupt raised.
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    _is_interrupted = False
    handler = before

    def noting(signal_number: int, frame: FrameType | None) -> None:
        global _is_interrupted
        _is_interrupted = True
        handler(signal_number, frame)

    _handle(signal.SIGINT, noting)
    try:
        yield
    finally:
        _handle(signal.SIGINT, before)


def is_interrupt(raised: BaseException) -> bool:
    """Whether it was raised by a Ctrl-C."""
    is_here = threading.current_thread() is threading.main_thread()
    return isinstance(raised, KeyboardInterrupt) and _is_interrupted and is_here
