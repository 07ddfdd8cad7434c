"""A fresh copy of the process that is this process itself.

`explore` forks before its first execution, to ask a process that no execution has changed whether a
violation is one. In a process that has imported the whole suite a fork takes some 40 ms, more than
most searches here. Where a program keeps nothing from one execution to the next, this process
answers the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Any

from sim.exploration import fresh_copy
from sim.exploration.fresh_copy import FreshCopy
from sim.exploration.subject import Problem
from sim.kernel import forks, watchdog
from sim.kernel.current import executions
from sim.kernel.errors import BudgetSpent


class CopyInPlace(FreshCopy):
    def __init__(self, problem: Problem) -> None:
        self._pid = None
        self._problem = problem
        self.bounds = problem.bounds
        self._is_possible = forks.are_possible() and not executions

    def ask(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if not self._is_possible:
            return None
        seconds = min(fresh_copy.ANSWER_S, watchdog.seconds_left())
        try:
            with watchdog.limited(perf_counter() + seconds):
                return function(replace(self._problem, bounds=self.bounds), *arguments)
        except BudgetSpent:
            return None
