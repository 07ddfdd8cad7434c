"""What a program does that is reported to the execution's observer, from any place.

The other hooks are the loop's and the environment's, which call them where they are observed
(`observed.py`).
"""

from __future__ import annotations

import enum
from typing import Any


class Special(enum.Enum):
    """What few programs do, and not every observer supports."""

    SIGNAL = enum.auto()
    RANDOM_NUMBERS = enum.auto()
    TASK_FACTORY = enum.auto()
    EAGER_TASKS = enum.auto()
    WORKER_THREADS = enum.auto()
    SIMPY_PROCESSES = enum.auto()
    ENDLESS_STEP = enum.auto()
    PROCESSES = enum.auto()
    SOCKETS = enum.auto()
    TIMERS_APART = enum.auto()
    EQUAL_READINGS = enum.auto()
    SLOW_STEP = enum.auto()
    COLLECTIONS = enum.auto()
    SETS_OF_COROUTINES = enum.auto()


class Notices:
    """Without an observer: see `observer.py`."""

    def uses(self, name: tuple[object, ...], *, is_write: bool) -> None:
        """The current step uses what the program has declared as shared."""

    def tells(self, what: str, *, actor: str, is_chatter: bool = False) -> None:
        """A line of the trace, from below the program."""

    def thread_fails(self, name: str, raised: BaseException) -> None:
        """It ends a thread of the program's own, and `threading.excepthook` would print it."""

    def turns_to(self, loop: Any) -> None:
        """From now on what happens, happens in that loop: a process's, or the program's own."""

    def meets(self, special: Special) -> None: ...


NO_OBSERVER = Notices()
