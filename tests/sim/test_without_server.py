"""Without the extra `server` programs are explored, and the other commands say what they lack."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sim.cli import SERVER_PACKAGES

pytestmark = pytest.mark.socket

ROOT = Path(__file__).parents[2]
# Runs before anything else of the process: an import of one of these finds that there is none.
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({sorted(SERVER_PACKAGES)!r}))\n"
PROGRAM = """\
import asyncio

balance = 0

async def lost_update(world):
    global balance
    balance = 0
    async def deposit(name):
        global balance
        seen = balance
        await world.outside(name)
        balance = seen + 1
    await asyncio.gather(deposit("a"), deposit("b"))
    world.check(balance == 2, "both deposits count")

async def test_lost_update(world):
    await lost_update(world)
"""


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the code in a process that has none of the server's packages."""
    return subprocess.run(
        [sys.executable, "-c", WITHOUT + code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        capture_output=True,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user stands, with a program of theirs."""
    (tmp_path / "bank.py").write_text(PROGRAM)
    return tmp_path


def test_the_extra_is_what_the_command_line_asks_for() -> None:
    """What pyproject.toml installs with the extra, and what a command says that it lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extra = project["optional-dependencies"]["server"]
    names = {each.partition(">")[0].replace("-", "_") for each in extra}
    assert names == SERVER_PACKAGES


def test_a_program_is_explored_replayed_and_exported(folder: Path) -> None:
    """`sim.explore` refutes it, and `onestream replay` and `export` take its schedule."""
    code = "import sim, bank; print(sim.explore(bank.lost_update).counterexample.schedule)"
    explored = python(code, folder)
    assert explored.returncode == 0, explored.stderr
    schedule = explored.stdout.strip()
    for command, found in (("replay", "violated at"), ("export", "both deposits count")):
        ran = python(f"import sim.cli; sys.exit(sim.cli.main([{command!r}, {schedule!r}]))", folder)
        assert found in ran.stdout, ran.stderr
        assert ran.returncode == (1 if command == "replay" else 0)


def test_the_pytest_plugin_works(folder: Path) -> None:
    """A marked test is explored, and refuted."""
    (folder / "test_bank.py").write_text(
        f"import pytest\n{PROGRAM}\npytestmark = pytest.mark.explore\n"
    )
    code = "import pytest; sys.exit(pytest.main(['test_bank.py']))"
    ran = python(code, folder)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "refuted: both deposits count" in ran.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["deepen"],
        ["simulate"],
        ["serve"],
        ["fake-ollama"],
        ["demo"],
        ["bugs", "--this-version"],
        ["mutants"],
        ["replay", "os2/registry:racing_registers:quick_fix/00000000/natural"],
    ],
    ids=lambda arguments: str(arguments[0]),
)
def test_a_command_of_the_bench_says_what_to_install(arguments: list[str], folder: Path) -> None:
    """One sentence on stderr, and exit code 3."""
    ran = python(f"import sim.cli; sys.exit(sim.cli.main({arguments!r}))", folder)
    assert ran.returncode == 3
    assert ran.stdout == ""
    assert ran.stderr.startswith("onestream: this needs ")
    assert ran.stderr.endswith("python3 -m pip install 'onestream[server]'\n")
    assert ran.stderr.count("\n") == 1
