"""`onestream bugs`: its matrix, its exit code, and the other interpreters that it runs on."""

from __future__ import annotations

import importlib.metadata
import io
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sim.bugs import HISTORICAL_BUGS, gh_112202, interpreters, matrix, sse_starlette_156
from sim.bugs.base import this_version, version_text
from sim.bugs.interpreters import LINES, Interpreter, find_interpreters
from sim.cli import main

HERE = version_text(this_version())
NOWHERE = "/there/is/no/python"
OTHER_LINES = [line for line in LINES if not HERE.startswith(f"{line}.")]


@pytest.fixture
def short_matrix(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The matrix of these bugs alone, on the running interpreter and these others."""

    def use(*bugs: object, others: tuple[Interpreter, ...] = ()) -> None:
        monkeypatch.setattr(matrix, "HISTORICAL_BUGS", bugs)
        monkeypatch.setattr(matrix, "find_interpreters", lambda named: list(others))

    return use


def test_the_matrix_holds(
    short_matrix: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """With every verdict as expected it exits with 0, and has a line for bug and fixed twin."""
    short_matrix(gh_112202.BUG, sse_starlette_156.BUG)
    assert main(["bugs"]) == 0
    printed = capsys.readouterr().out
    assert HERE in printed
    assert "gh-112202" in printed
    assert "at 1 (8/33)" in printed
    assert "absent (33)" in printed
    assert f"every verdict is the expected one, on {HERE}" in printed


def test_the_matrix_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """However many versions there are: what has no room beside the others stands below them."""
    cells = [
        matrix.Cell(bug.id, mended, "", verdict, "", 123, 0.0, 1000, 999, None, None)
        for bug in HISTORICAL_BUGS
        for mended, verdict in ((False, "refuted"), (True, "proved"))
        if not mended or bug.fixed is not None
    ]
    versions = ("3.11.7", "3.12.1", "3.13.0", "3.14.0", "3.15.0")
    columns = [matrix.Column(version, tuple(cells)) for version in versions]
    matrix.print_matrix([*columns, matrix.Column("3.16", missing="no CPython 3.16 " * 20)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    heads = " ".join(line for line in lines if line.strip().startswith("3.1"))
    assert tuple(heads.split()) == versions
    assert sum(line.count("at 123 (999/1000)") for line in lines) == 5 * len(HISTORICAL_BUGS)


def test_one_version_fits_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """Each bug, what was found in it and in its twin, and what it is: 50 lines of 80 columns."""
    cells = [
        matrix.Cell(bug.id, mended, verdict, verdict, "", 123, 0.0, 1000, 999, None, None)
        for bug in HISTORICAL_BUGS
        for mended, verdict in ((False, "refuted"), (True, "proved"))
        if not mended or bug.fixed is not None
    ]
    matrix.print_matrix([matrix.Column("3.11.7", tuple(cells))])
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 50
    for bug in HISTORICAL_BUGS:
        (line,) = [each for each in lines if each.startswith(bug.id)]
        assert ("absent" in line) is (bug.fixed is not None)
        assert bug.title.split()[0] in line


def test_on_a_terminal_the_search_is_shown(
    short_matrix: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a line that is redrawn; elsewhere nothing stands among the results."""
    short_matrix(sse_starlette_156.BUG)
    monkeypatch.setattr("sim.exploration.progress.REDRAW_EVERY_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    for is_terminal in (True, False):
        errors = io.StringIO()
        monkeypatch.setattr(errors, "isatty", lambda is_terminal=is_terminal: is_terminal)
        monkeypatch.setattr("sys.stderr", errors)
        assert main(["bugs", "--this-version"]) == 0
        assert ("sse-starlette#156 fixed: " in errors.getvalue()) is is_terminal
        assert main(["bugs", "--this-version", "--quiet"]) == 0
        assert ("sse-starlette#156 fixed: " in errors.getvalue()) is is_terminal


def test_a_bug_that_is_not_found_fails(
    short_matrix: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that is proved where a bug is expected is named, and the exit code is 1."""
    short_matrix(replace(sse_starlette_156.BUG, program=sse_starlette_156.fixed))
    assert main(["bugs"]) == 1
    printed = capsys.readouterr().out
    assert f"sse-starlette#156 on {HERE}: expected refuted, but proved" in printed
    assert "absent (33) !" in printed


def test_a_bug_that_is_found_where_it_is_fixed_fails(short_matrix: Callable[..., None]) -> None:
    """A program that is refuted where the changelog says fixed makes the exit code 1."""
    short_matrix(replace(sse_starlette_156.BUG, fixed_in=((3, 10, 0),)))
    assert main(["bugs"]) == 1


def test_a_twin_that_is_not_fixed_fails(short_matrix: Callable[..., None]) -> None:
    """A fixed twin that is refuted makes the exit code 1."""
    short_matrix(replace(sse_starlette_156.BUG, fixed=sse_starlette_156.program))
    assert main(["bugs"]) == 1


def test_a_missing_version_is_said_loudly(
    short_matrix: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be had is named with what to do; it fails only where the user named it."""
    missing = Interpreter("3.99", missing="no CPython 3.99; get one")
    short_matrix(gh_112202.BUG, others=(missing,))
    assert main(["bugs"]) == 0
    assert "MISSING 3.99: no CPython 3.99; get one" in capsys.readouterr().out
    short_matrix(gh_112202.BUG, others=(replace(missing, is_wanted=True),))
    assert main(["bugs"]) == 1


def test_json_has_every_cell(
    short_matrix: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """One object: the bugs with their links, and a column with the figures of each program."""
    short_matrix(sse_starlette_156.BUG)
    assert main(["bugs", "--json", "--this-version"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["holds"] is True
    assert [bug["id"] for bug in answer["bugs"]] == ["sse-starlette#156"]
    (column,) = answer["columns"]
    assert column["version"] == HERE
    found, fixed = column["cells"]
    assert (found["verdict"], found["schedules"], found["failing"]) == ("refuted", 33, 8)
    assert found["schedule"].startswith("os2/sim.bugs.sse_starlette_156:program/")
    assert (fixed["is_mended"], fixed["verdict"], fixed["executions"]) == (True, "proved", 33)


def test_a_schedule_of_the_matrix_is_replayed_by_the_command(
    short_matrix: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """`onestream replay` brings the violation back, with its sentence."""
    short_matrix(sse_starlette_156.BUG)
    main(["bugs", "--json", "--this-version"])
    cell = json.loads(capsys.readouterr().out)["columns"][0]["cells"][0]
    assert main(["replay", cell["schedule"]]) == 1
    assert cell["violated"] in capsys.readouterr().out


def test_what_is_no_python_is_named() -> None:
    """An interpreter that the user names and that does not answer is missing, and wanted."""
    named = find_interpreters([NOWHERE])[0]
    assert named.is_wanted
    assert named.missing is not None
    assert NOWHERE in named.missing


def test_a_line_that_is_nowhere_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With no interpreter to be found, each other line is missing, with a command that gets it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    found = find_interpreters()
    assert [each.version for each in found] == OTHER_LINES
    for each in found:
        assert each.missing is not None
        assert f"uv python install {each.version}" in each.missing


@pytest.mark.socket
def test_an_interpreter_in_a_root_of_its_own_is_started_by_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """ONESTREAM_PYTHONS may name a script: what it starts has a path that is none out here."""
    line = OTHER_LINES[0]
    command = tmp_path / "python-elsewhere"
    command.write_text(
        f"#!/bin/sh\necho CPython /nowhere/bin/python {line.replace('.', ' ')} 99 final\n"
    )
    command.chmod(0o755)
    monkeypatch.setenv(interpreters.PYTHONS_VARIABLE, str(command))
    found = next(each for each in find_interpreters() if each.version.startswith(f"{line}."))
    assert (found.version, found.path) == (f"{line}.99", str(command))


def test_without_packages_and_uv_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An interpreter that lacks the packages, where no uv is: the reason, and a pip command."""
    monkeypatch.setattr(interpreters, "_PROBE", "import no_such_package")
    monkeypatch.setattr(interpreters, "_uv", lambda: None)
    with pytest.raises(RuntimeError, match=r"no_such_package.*no uv.*-m pip install simpy=="):
        interpreters.run_elsewhere(Interpreter(HERE, sys.executable))


@pytest.mark.thorough
@pytest.mark.socket
@pytest.mark.parametrize("line", OTHER_LINES)
def test_the_matrix_on_the_other_interpreters(line: str) -> None:
    """On each other CPython that is available, every verdict is the expected one."""
    (other,) = (each for each in find_interpreters() if each.version.startswith(line))
    column = matrix.column_of(other)
    if column.missing is not None:
        pytest.skip(f"{line} is MISSING: {column.missing}")
    surprises = [cell for cell in column.cells if not cell.holds]
    assert not surprises
    programs = len(HISTORICAL_BUGS) + sum(bug.fixed is not None for bug in HISTORICAL_BUGS)
    assert len(column.cells) == programs


def test_another_interpreter_gets_all_that_the_command_needs() -> None:
    """What onestream depends on, but for what draws pages, is looked for there and pinned."""
    required = {
        re.match(r"[\w-]+", each)[0]  # type: ignore[index]
        for each in importlib.metadata.requires("onestream") or ()
        if "extra ==" not in each
    }
    assert required - {"jinja2"} <= set(interpreters.PACKAGES)
