"""What is read first after a wrong use: one line that says what it is, and then a next step."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sim.cli import main

WRONG = """\
import pytest


@pytest.mark.explore(strategy="nope")
async def test_it():
    pass
"""


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("explore", "newcomer.py:nothing"), "onestream: newcomer.py has no 'nothing';"),
        (("explore", "newcomer.py:plain"), "onestream: plain is not a program: it returns 1,"),
        (
            ("replay", "os2/newcomer.py:program/00000000/natural"),
            "onestream: the schedule was made",
        ),
        (("replay", "text"), "onestream: 'text' is not a schedule."),
        (("check", "--scenario", "nope"), "onestream: scenario 'nope' is not known;"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_an_error_begins_with_its_sentence(
    arguments: tuple[str, ...],
    first: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No line is longer than 100 columns, and the first one ends where its sentence does."""
    (tmp_path / "newcomer.py").write_text(
        "async def program(world): ...\n\n\ndef plain(world): return 1\n"
    )
    monkeypatch.chdir(tmp_path)
    # Each test has a file of this name.
    sys.modules.pop("newcomer", None)
    assert main(arguments) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(first)
    assert max(map(len, lines)) <= 100


def test_a_wrong_option_comes_before_all_others(capsys: pytest.CaptureFixture[str]) -> None:
    """The first line names the option and what it takes; the second where all of them stand."""
    with pytest.raises(SystemExit) as caught:
        main(["explore", "slots.py:program", "--budget", "x"])
    assert caught.value.code == 3
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "onestream explore: argument --budget: 'x' is not a positive number of seconds"
    )
    assert second == "usage: onestream explore --help"


def test_a_wrong_marker_is_told_once(pytester: pytest.Pytester) -> None:
    """Without the exception behind it, and without a place in pytest's own script."""
    pytester.makepyfile(WRONG)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.no_fnmatch_line("*During handling*")
    result.stdout.no_fnmatch_line("*in <module>*")
    result.stdout.fnmatch_lines(["@pytest.mark.explore: strategy 'nope' is not known;*"])


def test_a_misspelt_argument_of_the_marker_is_guessed(pytester: pytest.Pytester) -> None:
    """What is meant stands beside what is not known."""
    pytester.makepyfile(WRONG.replace('strategy="nope"', "budget=3"))
    result = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*does not know budget (is it budget_s?); it knows *"])
