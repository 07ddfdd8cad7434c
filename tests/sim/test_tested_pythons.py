"""A verdict says which interpreter it is of, and whether that was tested."""

from __future__ import annotations

import json
import platform
import tomllib
from pathlib import Path

import pytest

from sim.cli import main
from sim.exploration.tested_pythons import TESTED, described, interpreter

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("implementation", "version", "words"),
    [
        ("CPython", "3.14.10", "CPython 3.14.10 (tested)"),
        ("CPython", "3.14.3", "(not tested with this version: of its line 3.14.10 was)"),
        ("CPython", "3.16.0", "(not tested with this version: CPython 3.11 to 3.15 were)"),
        ("PyPy", "3.11.7", "(not tested with this version: CPython 3.11 to 3.15 were)"),
    ],
)
def test_an_interpreter_is_tested_or_not(implementation: str, version: str, words: str) -> None:
    """Only the very release that the tests ran on is called tested."""
    assert described(implementation, version).endswith(words)


def test_the_certificate_names_the_interpreter(capsys: pytest.CaptureFixture[str]) -> None:
    """In the text of a check, with the word for whether it was tested."""
    main(["check", "--scenario", "racing_registers", "--level", "registry", "--budget", "1"])
    told = capsys.readouterr().out
    assert f"certificate: {interpreter()}, code " in told
    assert platform.python_version() in interpreter()


@pytest.mark.parametrize(
    "command",
    [
        "check --scenario racing_registers --level registry --budget 1",
        "deepen --size size-1s1r0c0l0h --budget 1",
        "simulate --level registry --seeds 1",
    ],
)
def test_what_a_program_reads_names_the_interpreter(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each JSON object that holds a verdict says what the certificate's text says."""
    main([*command.split(), "--json"])
    assert json.loads(capsys.readouterr().out)["interpreter"] == interpreter()


def test_what_is_tested_is_what_is_promised() -> None:
    """The classifiers name the same lines of CPython."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    prefix = "Programming Language :: Python :: 3."
    named = [each.removeprefix(prefix[:-2]) for each in project["classifiers"] if prefix in each]
    assert named == list(TESTED)
