"""What a person sees on a terminal of 80 columns: progress, a table that fits, and no colours."""

from __future__ import annotations

import argparse
import importlib
import os
import pty
import re
import subprocess
import sys
import termios
from itertools import takewhile

import pytest

from sim.commands.options import progress_stream
from tests.limits import HANGS_S

COLUMNS = 80
# Of colours and of bold; redrawing a line takes others.
COLOURS = re.compile(r"\x1b\[[\d;]*m")
MOVES = re.compile(r"\x1b\[[\d;?]*[A-Za-z]")
ARGUMENTS = ("check", "--registry", "quick_fix", "--scenario", "racing_registers")


def on_terminal(*arguments: str, **environment: str) -> str:
    """What `onestream` prints on a terminal, both streams."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, COLUMNS))
    named = {"TERM": "xterm", "PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}
    with subprocess.Popen(
        [sys.executable, "-m", "sim.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=named | environment,
    ) as process:
        os.close(theirs)
        printed = b""
        try:
            while part := os.read(ours, 65536):
                printed += part
        except OSError:
            # Linux's word for a terminal whose other side is closed.
            pass
        process.wait(HANGS_S)
    os.close(ours)
    return printed.decode()


@pytest.mark.socket
@pytest.mark.parametrize(
    "environment", [pytest.param({}, marks=pytest.mark.thorough), {"NO_COLOR": "1"}]
)
def test_a_check_on_a_terminal_of_80_columns(environment: dict[str, str]) -> None:
    """The table fits, and what the verdict rests on; without colours, as NO_COLOR asks."""
    printed = on_terminal(*ARGUMENTS, **environment)
    assert not COLOURS.search(printed)
    table = MOVES.sub("", printed.replace("\r", "\n"))
    (result,) = re.findall(r"^refuted .*$", table, re.MULTILINE)
    figures = r"refuted +quick_fix racing_registers +\d+ executions? +\d+\.\d\d s"
    assert re.fullmatch(figures, result)
    below = table.partition(result)[2].splitlines()[1:]
    reason = [*takewhile(lambda line: line.startswith(" " * 13), filter(None, below))]
    assert reason, table
    covers = table.partition("\nbounds: ")[2].splitlines()
    assert any(each.startswith("Not covered: ") for each in covers)
    assert max(map(len, (result, *reason, *covers))) <= COLUMNS


@pytest.mark.socket
@pytest.mark.thorough
def test_quiet_prints_no_progress() -> None:
    """Not on a terminal either; the result is the same."""
    printed = on_terminal(*ARGUMENTS, "--quiet")
    assert "executions, " not in printed
    assert not MOVES.search(printed)
    assert printed.startswith("refuted ")


@pytest.mark.parametrize("command", ["check", "explore", "simulate"])
def test_every_command_with_progress_can_be_quiet(command: str) -> None:
    """By the same option, and not by closing stderr, which has the errors."""
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    importlib.import_module(f"sim.commands.{command}").add_parser(subparsers)
    program = ["x.py:y"] if command == "explore" else []
    assert progress_stream(parser.parse_args([command, *program, "--quiet"])) is None
    assert progress_stream(parser.parse_args([command, *program])) is sys.stderr
