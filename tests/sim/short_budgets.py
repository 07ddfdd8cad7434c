"""Budgets of tenths of a second, which a busy machine may spend before a program is at work."""

from __future__ import annotations

from typing import Any

from sim import Report, explore
from sim.kernel.execution import Program

_SHORT_S = (0.3, 3.0, 30.0, 300.0)


def spent_within(program: Program, **more: Any) -> Report:
    """Of the first budget that ends while the program runs, or in another way."""
    for budget_s in _SHORT_S:
        report = explore(program, budget_s=budget_s, **more)
        # A budget that ends before names nothing: "the budget is spent (0 executions, …)".
        if not report.reason.startswith("the budget is spent ("):
            return report
    raise AssertionError(f"{_SHORT_S[-1]} s were spent before the program was at work")
