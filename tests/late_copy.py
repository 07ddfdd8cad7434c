"""A fresh copy of the process that is forked when it is asked for the first time.

`explore` forks before its first execution, to have a copy that no execution has changed. In a
process that has imported the whole suite a fork takes some 40 ms, more than most searches here, and
most are never asked. Where a program keeps nothing from one execution to the next, one that is
forked late answers the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sim.exploration.fresh_copy import FreshCopy
from sim.kernel import forks
from sim.kernel.current import executions


class LateCopy(FreshCopy):
    def __init__(self, subject: object) -> None:
        self._pid = None
        self._subject = subject
        self._is_due = forks.are_possible() and not executions

    @property
    def is_alive(self) -> bool:
        return self._is_due or super().is_alive

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._is_due:
            self._is_due = False
            self._begin(self._subject)
        return super().ask(function, *arguments)
