"""The benchmark of programs with threads runs."""

from __future__ import annotations

import pytest

from tests.benchmarks import threads


@pytest.mark.parametrize("points", [[], ["--all-switch-points"]])
def test_it_prints_the_executions_of_a_proof(
    points: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With fewer switch points it takes no more."""
    monkeypatch.setattr("sys.argv", ["threads", *points, "to_thread"])
    threads.main()
    name, verdict, executions = capsys.readouterr().out.split()
    assert (name, verdict) == ("to_thread", "proved")
    assert int(executions) <= 303
