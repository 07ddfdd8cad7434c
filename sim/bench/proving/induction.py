"""Induction on code: production's own `apply`, on every state that the invariant allows.

A state need not be reachable. If each operation, on each state in which the invariant holds, leads
to one in which it holds, then it holds always. The states end at a cut-off; `locality.py` has the
reasons why more streams and sessions would show nothing new.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sim.exploration.verdict import Verdict

# The type of an operation and the situation that it met: a key of a table.
Row = tuple[type[Any], Any]


def row_text(row: Row) -> str:
    return f"{row[0].__name__}, {row[1].value}"


@dataclass(frozen=True, slots=True)
class Taken:
    """One operation on one state. rows: those of the table that were taken, none where it has none.

    violated: the name of what does not hold, or None. describe: state and operation, as text.
    """

    rows: tuple[Row, ...]
    violated: str | None
    describe: Callable[[], str]


@dataclass(frozen=True, slots=True)
class Table:
    """steps: of each state, all that can be asked of it, taken."""

    name: str
    rows: Iterable[Row]
    steps: Callable[[], Iterator[list[Taken]]]


@dataclass(frozen=True, slots=True)
class Induction:
    """What came of it. violated, counterexample: of the first violation; it ended there."""

    table: str
    states: int
    steps: int
    seconds: float
    rows: int
    rows_missing: tuple[str, ...]
    violated: str | None = None
    counterexample: str = ""

    @property
    def verdict(self) -> Verdict:
        if self.violated is not None:
            return Verdict.REFUTED
        return Verdict.INCONCLUSIVE if self.rows_missing else Verdict.PROVED


def induct(table: Table) -> Induction:
    """Takes every step, up to the first that violates something."""
    begun = time.perf_counter()
    states = steps = 0
    rows: set[Row] = set()
    for taken_of_one in table.steps():
        states += 1
        for taken in taken_of_one:
            steps += 1
            rows.update(taken.rows)
            if taken.violated is not None:
                seconds = time.perf_counter() - begun
                found = taken.violated, taken.describe()
                return Induction(table.name, states, steps, seconds, len(rows), (), *found)
    missing = tuple(sorted(row_text(row) for row in set(table.rows) - rows))
    return Induction(table.name, states, steps, time.perf_counter() - begun, len(rows), missing)
