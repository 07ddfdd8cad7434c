"""Mutants forced on stock asyncio: the file carries the registry, and the line that breaks it."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.bench.catalog import subject_of
from sim.bench.checking.mutants import kill_all
from sim.bench.entry import Entry
from sim.cli import main
from tests.sim.exported_files import run_alone

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "name",
    [
        "withdrawn_by_name_and_not_by_identity",
        "grace_starts_anew",
        "task_is_not_cancelled",
        "youngest_of_the_queue_is_next",
    ],
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


@pytest.mark.parametrize(
    ("scenario", "why"),
    [
        ("size-1s3r0c0l0h", "its outside events are announced to SimPy"),
        ("simulate-calm-0", "the modules that draw its plan need the server"),
    ],
)
def test_what_is_in_no_list_of_scenarios_is_refused(
    scenario: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a sentence, at once: no file is written that would not come to the same."""
    subject = subject_of(Entry("registry", scenario, "quick_fix"))
    assert main(["export", f"os2/{subject.name}/{subject.digest}/natural"]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"{scenario} cannot be forced on stock asyncio: {why}" in told
