"""The command line as a whole: what it lists, and what it imports."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from sim.cli import COMMANDS, NOBODY_READS_EXIT, _parser, main
from sim.exploration.verdict import EXIT_CODES, Verdict
from sim.tables import table_text

ROOT = Path(__file__).parents[2]


def test_every_module_of_the_commands_is_listed() -> None:
    """A command that was written and not listed would be missed by nobody else."""
    files = {path.stem for path in (ROOT / "sim/commands").glob("*.py")}
    helpers = {name for name in files if name.endswith("_text")} | {"__init__", "options", "pages"}
    assert files - helpers == {each.__name__.rpartition(".")[2] for each in COMMANDS}


def test_each_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    """`--help` of each is answered with exit code 0, and that of all names each, with the codes."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    overview = capsys.readouterr().out
    assert f"{EXIT_CODES[Verdict.INCONCLUSIVE]} inconclusive" in overview
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2].replace("_", "-")
        assert name in overview
        with pytest.raises(SystemExit) as caught:
            main([name, "--help"])
        assert caught.value.code == 0
        assert f"onestream {name}" in capsys.readouterr().out


def test_each_option_says_what_holds_without_it() -> None:
    """As far as that is a value, and not that a switch is off."""
    (commands,) = _parser()._subparsers._group_actions  # type: ignore[union-attr]
    for name, parser in commands.choices.items():  # type: ignore[union-attr]
        for action in parser._actions:
            if action.option_strings and action.default not in (None, False, argparse.SUPPRESS, []):
                told = parser._get_formatter()._expand_help(action) if action.help else ""
                assert "default" in told, (name, action.option_strings)


@pytest.mark.socket
def test_help_waits_for_nothing_heavy() -> None:
    """To list the commands neither the simulator nor the server is imported."""
    code = (
        "import sys, sim.cli; sim.cli._parser();"
        "heavy = {'simpy', 'greenlet', 'fastapi', 'httpx', 'rich', 'sim.kernel.execution'};"
        "print(heavy & {*sys.modules})"
    )
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    assert printed == "set()\n"


@pytest.mark.socket
@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--help"], 0),
        (["explore", "sim.examples.lost_answer:fixed", "--executions", "1"], NOBODY_READS_EXIT),
    ],
    ids=["help", "explore"],
)
def test_nobody_has_to_read_to_the_end(arguments: list[str], exit_code: int) -> None:
    """Into a pipe that is closed, as of `| head`, a command prints no error of Python's."""
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "sim.cli", *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, text=True, stdout=writes, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writes)
    assert done.stderr == ""
    assert done.returncode == exit_code


def test_a_table_is_aligned_and_wrapped() -> None:
    """Columns are as wide as their longest cell, what is too long goes on below its own column."""
    rows = [["name", "1", "short"], ["a longer name", "100", "[words] that take more than a line"]]
    assert table_text(rows, width=40).splitlines() == [
        "name           1    short",
        "a longer name  100  [words] that take",
        "                    more than a line",
    ]


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` says that of the installed package, and which Python runs it."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"onestream {version('onestream')}, ")
