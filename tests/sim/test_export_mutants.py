"""Mutants forced on stock asyncio: the file carries the registry, and the line that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.cli import main
from sim.mutants import kill_all
from tests.sim.test_export import run_alone


@pytest.mark.parametrize(
    "name",
    ["withdrawn_by_name_and_not_by_identity", "grace_starts_anew", "task_is_not_cancelled"],
)
def test_a_mutant_of_the_registry_is_exported(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file breaks the registry that it carries, and stock asyncio shows the violation."""
    (kill,) = kill_all(name=name)
    assert main(["export", kill.schedule]) == 0
    code, output = run_alone(capsys.readouterr().out, tmp_path)
    assert code == 1, output
    assert f"VIOLATED: {kill.violated}" in output


def test_a_mutant_of_the_server_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Also in a scenario of the registry, in which it breaks nothing."""
    (kill,) = kill_all(name="fencing_token_is_reused")
    schedule = kill.schedule.replace(kill.mutant, "pings_are_content")
    assert main(["export", schedule]) == 3
    assert "mutant pings_are_content breaks the server" in capsys.readouterr().err
