"""Bugs that others have reported: found where they are, proved absent where they are fixed."""

from __future__ import annotations

import pytest

from sim import explore
from sim.bugs import HISTORICAL_BUGS, HistoricalBug, httpcore_1093
from sim.bugs.base import this_version
from sim.kernel.execution import Program

BUGS_BY_ID = {bug.id: bug for bug in HISTORICAL_BUGS}
SHOWN_HERE = [bug for bug in HISTORICAL_BUGS if bug.shows_on(this_version())]
WITH_TWIN = [bug for bug in HISTORICAL_BUGS if bug.fixed is not None]


def name_of(bug: HistoricalBug) -> str:
    return bug.id


@pytest.mark.parametrize("bug", HISTORICAL_BUGS, ids=name_of)
def test_a_bug_is_found_exactly_where_it_is(bug: HistoricalBug) -> None:
    """Refuted on a version with the bug; where it is fixed, every schedule was executed."""
    report = explore(bug.program, strategy="depth-first", labels=bug.labels)
    if bug.shows_on(this_version()):
        assert report.verdict == "refuted", report.text
    else:
        assert (report.verdict, report.complete) == ("proved", 1.0), report.text


@pytest.mark.parametrize("bug", SHOWN_HERE, ids=name_of)
def test_its_counterexample_is_replayed_and_fits_a_screen(bug: HistoricalBug) -> None:
    """The schedule violates the same sentence again; the text has 40 lines of 100 columns."""
    found = explore(bug.program).counterexample
    assert found is not None
    violation = found.replay(bug.program).violation
    assert violation is not None
    assert violation.property == found.property
    lines = found.text.splitlines()
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100


# It has more schedules than all others together; three others have threads as well.
LARGEST_TWIN = "gh-111358"


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(bug, marks=[pytest.mark.thorough] * (bug.id == LARGEST_TWIN))
        for bug in WITH_TWIN
    ],
    ids=name_of,
)
def test_the_fixed_twin_is_proved(bug: HistoricalBug) -> None:
    """With the few lines that fix it, every schedule was executed, and its labels were reached."""
    assert bug.fixed is not None
    report = explore(bug.fixed, strategy="depth-first", labels=bug.labels)
    assert (report.verdict, report.covers) == ("proved", "every schedule"), report.text
    assert report.executions > 1


def test_the_lost_notify_is_found_in_few_executions() -> None:
    """gh-112202: 48 executions suffice, to find it or to have seen them all."""
    assert explore(BUGS_BY_ID["gh-112202"].program).executions <= 48


@pytest.mark.parametrize(
    "program", [httpcore_1093.fixed_in_one_window, httpcore_1093.fixed_in_two_windows]
)
def test_a_smaller_mend_of_httpcore_is_refuted(program: Program) -> None:
    """httpcore#1093: who knows of fewer than three windows still loses places of the pool."""
    assert explore(program).verdict == "refuted"


def test_uvicorn_tells_the_request_that_waits_alone() -> None:
    """On httptools, a client that leaves with a second request behind its first: found, fixed."""
    pytest.importorskip("httptools")
    from sim.bugs import uvicorn_pipelined as bug

    found = explore(bug.program, strategy="depth-first")
    assert found.counterexample is not None and found.counterexample.property == bug.TOLD
    report = explore(bug.fixed, strategy="depth-first", labels=[bug.BOTH_THERE])
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize(
    ("version", "shown"),
    [
        ((3, 11, 7), {"gh-86296", "gh-112202", "gh-116720"}),
        ((3, 12, 1), {"gh-112202", "gh-116720"}),
        ((3, 13, 0), set()),
        ((3, 14, 0), set()),
    ],
)
def test_expectations_follow_the_changelog(version: tuple[int, int, int], shown: set[str]) -> None:
    """Of those that CPython has fixed, a version shows the ones whose fix is not in it."""
    fixed_by_cpython = {bug.id for bug in HISTORICAL_BUGS if bug.fixed_in}
    assert {
        bug.id for bug in HISTORICAL_BUGS if bug.id in fixed_by_cpython and bug.shows_on(version)
    } == shown


def test_a_mend_that_was_carried_back_counts_for_its_line_alone() -> None:
    """Fixed in 3.11.9 and 3.12.3: absent from these on and from 3.13, shown by what is before."""
    bug = HistoricalBug("x", "x", "x", BUGS_BY_ID["gh-112202"].program)
    carried_back = HistoricalBug("x", "x", "x", bug.program, fixed_in=((3, 11, 9), (3, 12, 3)))
    shown = [(3, 11, 8), (3, 12, 2)]
    absent = [(3, 11, 9), (3, 12, 3), (3, 12, 9), (3, 13, 0)]
    assert all(carried_back.shows_on(version) for version in shown)  # type: ignore[arg-type]
    assert not any(carried_back.shows_on(version) for version in absent)  # type: ignore[arg-type]
    assert bug.shows_on((3, 13, 0))


def test_every_bug_names_its_report() -> None:
    """The link ends with the number of the id, and no two bugs share an id."""
    assert len(BUGS_BY_ID) == len(HISTORICAL_BUGS)
    for bug in HISTORICAL_BUGS:
        number = bug.id.replace("gh-", "#").rpartition("#")[2]
        assert bug.link.startswith("https://github.com/")
        assert bug.link.rpartition("/")[2] == number
