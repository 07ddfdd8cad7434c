"""The benchmark runs; how fast, it says itself."""

from __future__ import annotations

import pytest

from tests.benchmarks import isolation


@pytest.mark.thorough
def test_the_benchmark_prints_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """What a fork costs, and what it costs to look for surviving state."""
    isolation.main(["--rounds", "1"])
    printed = capsys.readouterr().out
    assert "the same in a fork" in printed
    assert "to look for surviving state" in printed
