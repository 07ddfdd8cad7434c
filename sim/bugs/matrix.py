"""`onestream bugs`: every historical bug, explored on each CPython that is available."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, islice
from textwrap import fill

from sim.bugs import HISTORICAL_BUGS
from sim.bugs.base import HistoricalBug, this_version, version_text
from sim.bugs.interpreters import Interpreter, find_interpreters, run_elsewhere
from sim.exploration.executing import Watch, unwatched
from sim.exploration.report import Report
from sim.exploration.runs import outcomes
from sim.exploration.search import explore
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Program
from sim.schedulers import DepthFirst

BUDGET_S = 60.0
# How many executions are counted at most, to say how many of them fail.
COUNTED_MAX = 1000
MORE = COUNTED_MAX + 1

# What fits a terminal.
_WIDTH = 80
# Between two columns, as `table_text` has it.
_GAP = 2
_FIXED = "  fixed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One program, explored on one version.

    The fields are the keys of the JSON. is_mended: whether it is the fixed program. expected: the
    verdict that it must have. executions: to the first counterexample, or to exhaust all
    schedules. schedules: how many there are in all, failing: how many of them violate the
    property; both None where there are more than COUNTED_MAX.
    """

    bug: str
    is_mended: bool
    expected: str
    verdict: str
    reason: str
    executions: int
    seconds: float
    schedules: int | None
    failing: int | None
    violated: str | None
    schedule: str | None

    @property
    def holds(self) -> bool:
        return self.verdict == self.expected

    @property
    def text(self) -> str:
        mark = "" if self.holds else " !"
        if self.verdict == Verdict.PROVED:
            return f"absent ({self.executions}){mark}"
        if self.verdict == Verdict.REFUTED:
            among = f" ({self.failing}/{self.schedules})" if self.schedules else ""
            return f"at {self.executions}{among}{mark}"
        return f"{self.verdict}{mark}"


@dataclass(frozen=True, slots=True)
class Column:
    """The results of one version; cells is empty and `missing` says why if it could not be run.

    is_wanted: whether the matrix fails if it is missing.
    """

    version: str
    cells: tuple[Cell, ...] = ()
    missing: str | None = None
    is_wanted: bool = False

    @property
    def holds(self) -> bool:
        if self.missing is not None:
            return not self.is_wanted
        return all(cell.holds for cell in self.cells)


def run_here(watch: Callable[[str], Watch] = unwatched) -> Column:
    """Explores every bug, and its fixed twin, on the running interpreter.

    watch: of the search with this name.
    """
    cells = []
    for bug in HISTORICAL_BUGS:
        expected = Verdict.REFUTED if bug.shows_on(this_version()) else Verdict.PROVED
        cells.append(explore_cell(bug, bug.program, expected, watch=watch(bug.id)))
        if bug.fixed is not None:
            seen = watch(f"{bug.id} fixed")
            cells.append(explore_cell(bug, bug.fixed, Verdict.PROVED, is_mended=True, watch=seen))
    return Column(version_text(this_version()), tuple(cells))


def explore_cell(
    bug: HistoricalBug,
    program: Program,
    expected: str,
    *,
    is_mended: bool = False,
    watch: Watch,
) -> Cell:
    report = explore(
        program, strategy="depth-first", labels=bug.labels, budget_s=BUDGET_S, watch=watch
    )
    schedules, failing = _counted(program, report)
    found = report.counterexample
    return Cell(
        bug=bug.id,
        is_mended=is_mended,
        expected=expected,
        verdict=report.verdict,
        reason=report.reason,
        executions=report.executions,
        seconds=round(report.seconds, 3),
        schedules=schedules,
        failing=failing,
        violated=found.property if found is not None else None,
        schedule=found.schedule if found is not None else None,
    )


def _counted(program: Program, report: Report) -> tuple[int | None, int | None]:
    """How many schedules there are, and how many fail; the search stops at the first that does."""
    if report.verdict == Verdict.PROVED:
        return report.executions, 0
    if report.verdict != Verdict.REFUTED:
        return None, None
    fails = [each.violation is not None for each in islice(outcomes(program, DepthFirst()), MORE)]
    return (None, None) if len(fails) == MORE else (len(fails), sum(fails))


def run_matrix(
    pythons: Iterable[str] = (),
    watch: Callable[[str], Watch] = unwatched,
    on_process: Callable[[str], None] = lambda version: None,
) -> list[Column]:
    """A column for this interpreter, and one for each other that is found or named.

    on_process: called with the version of each other before its process begins.
    """
    columns = [run_here(watch)]
    for interpreter in find_interpreters(pythons):
        on_process(interpreter.version)
        columns.append(column_of(interpreter))
    return sorted(columns, key=lambda column: [*map(_number, column.version.split("."))])


def _number(text: str) -> int:
    return int(text) if text.isdigit() else -1


def column_of(interpreter: Interpreter) -> Column:
    if interpreter.missing is None:
        try:
            answer = run_elsewhere(interpreter)
        except RuntimeError as exc:
            return Column(interpreter.version, missing=str(exc), is_wanted=interpreter.is_wanted)
        cells = tuple(Cell(**cell) for cell in answer["cells"])
        return Column(answer["version"], cells, is_wanted=interpreter.is_wanted)
    return Column(interpreter.version, missing=interpreter.missing, is_wanted=interpreter.is_wanted)


# ---- what is printed ------------------------------------------------------------------------


def as_json(columns: list[Column]) -> str:
    bugs = [
        {
            "id": bug.id,
            "title": bug.title,
            "link": bug.link,
            "mended_in": [version_text(version) for version in bug.fixed_in],
            "package": bug.package,
        }
        for bug in HISTORICAL_BUGS
    ]
    answer = {
        "holds": all(column.holds for column in columns),
        "bugs": bugs,
        "columns": [column_as_json(column) for column in columns],
    }
    return json.dumps(answer, indent=2)


def column_as_json(column: Column) -> dict[str, object]:
    return {
        "version": column.version,
        "missing": column.missing,
        "holds": column.holds,
        "cells": [asdict(cell) for cell in column.cells],
    }


def print_matrix(columns: list[Column]) -> None:
    # Here, since another interpreter that plays a column need not have it.
    from sim.tables import table_text

    played = [column for column in columns if column.missing is None]
    print("at N (F/A): the Nth execution is the first counterexample; F of all A fail")
    print("absent (A): all A schedules were executed, and none fails")
    if len(played) == 1:
        print(f"\n{table_text(_one_version(played[0]), width=_WIDTH)}")
    else:
        for some in _that_fit(played):
            print(f"\n{table_text(as_rows(some))}")
        about = [[bug.id, bug.title] for bug in HISTORICAL_BUGS]
        print(f"\n{table_text(about, width=_WIDTH)}")
    print("\nwhere each was reported: --json, and sim/bugs/README.md")
    for column in columns:
        if column.missing is not None:
            print("\n" + fill(f"MISSING {column.version}: {column.missing}", _WIDTH))
    _print_surprises(played)


def _that_fit(columns: Sequence[Column]) -> Iterator[Sequence[Column]]:
    """The columns in order, as many beside each other as fit a terminal."""
    left = columns
    while left:
        rows = as_rows(left)
        widths = (max(len(row[at]) + _GAP for row in rows) for at in range(len(rows[0])))
        ends = list(accumulate(widths))
        taken = max(sum(end - _GAP <= _WIDTH for end in ends[1:]), 1)
        yield left[:taken]
        left = left[taken:]


def _one_version(column: Column) -> list[list[str]]:
    """A row for each bug, with what was found in it mended, and what it is: so it fits a screen."""
    rows = [["", column.version, "fixed", ""]]
    for bug in HISTORICAL_BUGS:
        found, *fixed = [
            text
            for is_mended in (False, True)
            for text in _cells([column], bug, is_mended=is_mended)
        ]
        rows.append([bug.id, found, *(fixed or [""]), bug.title])
    return rows


def as_rows(columns: Sequence[Column]) -> list[list[str]]:
    """The versions first, then a row for each bug, and one for it mended."""
    rows = [["", *(column.version for column in columns)]]
    for bug in HISTORICAL_BUGS:
        rows.append([bug.id, *_cells(columns, bug, is_mended=False)])
        if bug.fixed is not None:
            rows.append([_FIXED, *_cells(columns, bug, is_mended=True)])
    return rows


def _cells(columns: Sequence[Column], bug: HistoricalBug, *, is_mended: bool) -> list[str]:
    return [
        cell.text
        for column in columns
        for cell in column.cells
        if (cell.bug, cell.is_mended) == (bug.id, is_mended)
    ]


def _print_surprises(columns: list[Column]) -> None:
    surprises = [(column, cell) for column in columns for cell in column.cells if not cell.holds]
    if not surprises:
        versions = ", ".join(column.version for column in columns)
        print(f"\nevery verdict is the expected one, on {versions}")
        return
    print("\n! not as expected:")
    for column, cell in surprises:
        name = f"{cell.bug}{' fixed' if cell.is_mended else ''}"
        print(f"  {name} on {column.version}: expected {cell.expected}, but {cell.verdict}:")
        print(f"    {cell.reason}")
