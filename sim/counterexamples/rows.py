"""The rows of a counterexample's chart: what was recorded, and what became of the tasks.

Nearly every task goes on at nearly every step. These ordinary rows are left out where the program
records rows itself, and else the oldest of them, as far as there is no room: what leads to a
violation comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from operator import itemgetter

from sim.counterexamples.chart import OUTSIDE
from sim.counterexamples.departures import Words
from sim.kernel.outcome import Outcome
from sim.kernel.task_rows import Weight
from sim.kernel.world import VIOLATED, TraceLine

# With more a reader does not look at each.
ROWS_MAX = 24
# With more there is no room for what they do, where the program's own rows are long as well.
COLUMNS_MAX = 8


@dataclass(frozen=True, slots=True)
class Row:
    """weight: of a task's row; None for a line of the trace.

    number: which it is of the trace, or of the tasks' rows.
    """

    line: TraceLine
    weight: Weight | None = None
    number: int = 0

    @property
    def is_recorded(self) -> bool:
        return self.weight is None

    @property
    def is_ordinary(self) -> bool:
        return self.weight in (Weight.INNER, Weight.ORDINARY)

    @property
    def text(self) -> str:
        return f"{self.line.at:.3f} s, {self.line.actor}: {self.line.text}"


def rows_of(outcome: Outcome, words: Words) -> list[Row]:
    """All of them, in their order, up to the violation."""
    recording = outcome.recording
    assert recording is not None
    trace = list(outcome.trace)
    for at, event in recording.landings.items():
        # What announces an event may have said it in other words.
        if at < len(trace) and trace[at].text.startswith(event.name):
            more = trace[at].text.removeprefix(event.name)
            trace[at] = replace(trace[at], text=words.name(event) + more)
    # A task's row comes before the line that was the next to be recorded.
    placed = [((at, 1), Row(line, number=at)) for at, line in enumerate(trace)]
    for number, each in enumerate(recording.task_rows):
        line = TraceLine(each.at, each.actor, each.text)
        placed.append(((each.after, 0), Row(line, each.weight, number)))
    rows = [row for _, row in sorted(placed, key=itemgetter(0))]
    violated = [at for at, row in enumerate(rows) if row.line.text == VIOLATED]
    return rows[: violated[0] + 1] if violated else rows


def fitting(rows: Sequence[Row], marked: Row | None, rows_max: int) -> list[Row]:
    """Without ordinary rows, as far as that is needed; the marked one is kept."""
    records_itself = any(
        row.is_recorded and row.line.actor != OUTSIDE and row.line.text != VIOLATED for row in rows
    )
    if records_itself:
        telling = [row for row in rows if not row.is_ordinary or row is marked]
        shown = _of_recorded_actors(telling, marked)
        return _without_chatter(shown, marked, rows_max)
    if any(row.weight is Weight.ORDINARY for row in rows):
        # Of a program that is a library all rows may be in it.
        rows = [row for row in rows if row.weight is not Weight.INNER or row is marked]
    too_many = len(rows) - min(rows_max, ROWS_MAX)
    kept = []
    for row in rows:
        if too_many > 0 and row.is_ordinary and row is not marked:
            too_many -= 1
        else:
            kept.append(row)
    return kept


def _without_chatter(rows: list[Row], marked: Row | None, rows_max: int) -> list[Row]:
    """As far as that is needed: first the oldest."""
    too_many = len(rows) - rows_max
    kept = []
    for row in rows:
        if too_many > 0 and row.line.is_chatter and row is not marked:
            too_many -= 1
        else:
            kept.append(row)
    return kept


def _of_recorded_actors(rows: list[Row], marked: Row | None) -> list[Row]:
    """Where there are many actors, the columns are for those that the program speaks of."""
    recorded = {row.line.actor for row in rows if row.is_recorded}
    if len(recorded | {row.line.actor for row in rows}) <= COLUMNS_MAX:
        return rows
    return [
        row
        for row in rows
        if row.line.actor in recorded or row.weight is Weight.FAILURE or row is marked
    ]


def first_difference(here: Sequence[Row], there: Sequence[Row]) -> tuple[Row, Row | None] | None:
    """The first row that differs, and its counterpart if there is one.

    What became of tasks counts only where what was recorded is the same; that one goes on where the
    other is violated, only where both are the same.
    """
    after_violation = None
    for are_all in (False, True):
        ours, theirs = (
            [each for each in rows if are_all or each.is_recorded] for rows in (here, there)
        )
        for row, other in zip_longest(ours, theirs):
            if row is None:
                break
            if row.line.text == VIOLATED:
                if other is not None and after_violation is None:
                    after_violation = row, other
                break
            if other is None or other.text != row.text:
                return row, other
    return after_violation
