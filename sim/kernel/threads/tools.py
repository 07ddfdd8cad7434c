"""The threads of the tools that run a suite: pytest-xdist's, a debugger's.

They are those that were there when the package `sim` was imported, which pytest does as it begins.
The rest of it is imported when it is first used, and by then a suite may have threads of its own.
"""

from __future__ import annotations

import _thread
import sys
import threading

# With the object that `threading` had for it; None for one that `threading` did not start.
_TOOLS = {
    each: threading._active.get(each)  # type: ignore[attr-defined]
    for each in sys._current_frames()
    if each not in {threading.main_thread().ident, _thread.get_ident()}
}


def is_a_tool(thread: int) -> bool:
    """The system gives the number of a thread that has ended to the next one."""
    if thread not in _TOOLS:
        return False
    now = threading._active.get(thread)  # type: ignore[attr-defined]
    return now is _TOOLS[thread] or isinstance(now, threading._DummyThread)
