"""The historical bugs, forced on stock asyncio: on this interpreter, and on others that there are.

A counterexample that was found here comes on the plain interpreter, with the same trace. On one
where the bug is fixed it does not: the property holds, or the program takes another path.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sim import explore
from sim.bugs import HISTORICAL_BUGS, HistoricalBug
from sim.bugs.base import this_version
from sim.bugs.interpreters import find_interpreters
from sim.export.sources import NotExportable, bundle_of
from tests.sim.exported_files import HERE as PLAIN
from tests.sim.exported_files import NOT_FORCED, run_alone

HERE = [bug for bug in HISTORICAL_BUGS if bug.shows_on(this_version())]
CPYTHON = [bug for bug in HERE if bug.fixed_in and bug.fixed is None]


def exported(bug: HistoricalBug) -> tuple[str, list[str]]:
    """The file, and the lines that the simulator's trace has."""
    found = explore(bug.program).counterexample
    assert found is not None
    trace = found.replay(bug.program).trace
    lines = [f"{line.at:.9f} {line.actor} {line.text}" for line in trace]
    return found.export(bug.program), [" ".join(line.split()) for line in lines]


def run(python: str, text: str, folder: Path) -> tuple[int, list[str]]:
    code, output = run_alone(text, folder, python)
    assert "Traceback" not in output, output
    return code, [" ".join(line.split()) for line in output.splitlines()]


@pytest.mark.parametrize("bug", HERE, ids=lambda bug: bug.id)
def test_a_historical_bug_comes_on_stock_asyncio(bug: HistoricalBug, tmp_path: Path) -> None:
    """The exported file shows each line of the simulator's trace, and exits with 1."""
    if bug.id in NOT_FORCED:
        with pytest.raises(NotExportable, match=NOT_FORCED[bug.id]):
            exported(bug)
        return
    text, trace = exported(bug)
    # A program of an installed package needs that package, and so this environment.
    python = sys.executable if bundle_of(bug.program).packages else PLAIN
    code, output = run(python, text, tmp_path)
    assert code == 1, output
    assert output[: len(trace)] == trace
    assert output[len(trace)].startswith("VIOLATED: ")


@pytest.mark.parametrize("bug", CPYTHON, ids=lambda bug: bug.id)
def test_it_does_not_come_where_it_is_fixed(bug: HistoricalBug, tmp_path: Path) -> None:
    """On the other CPythons of this machine: 1 only where the changelog has the bug, too."""
    others = [each for each in find_interpreters() if each.missing is None]
    if not others:
        pytest.skip("no other CPython is available here")
    text, _ = exported(bug)
    for other in others:
        assert other.path is not None
        code, output = run(other.path, text, tmp_path)
        version = tuple(int(part) for part in other.version.split("."))
        shows = bug.shows_on((version[0], version[1], version[2]))
        print(f"{bug.id} on {other.version}: {code}")
        assert code in ((1, 3) if shows else (0, 3)), (other.version, output)
