"""Planted bugs in how servers handle connections: found with both ends in the chart, and mended."""

from __future__ import annotations

from typing import Any

import pytest

from sim import explore
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S
from tests.sim import connection_bugs as bugs

pytestmark = pytest.mark.once

BROKEN = [
    (bugs.of_streams(bugs.Printer), "no deadlock", 7000),
    (bugs.of_aiohttp(bugs.Downloads), "a download that has ended leaves its slot", 8000),
    (bugs.of_uvicorn(bugs.Till), "it is withdrawn once", 8000),
]
MENDED = [
    (bugs.of_streams(bugs.MendedPrinter), "reset"),
    (bugs.of_aiohttp(bugs.MendedDownloads), "reset"),
    (bugs.of_uvicorn(bugs.MendedTill), "asked again"),
]
NAMES = ["streams", "aiohttp", "uvicorn"]


@pytest.mark.parametrize(("program", "violated", "port"), BROKEN, ids=NAMES)
def test_a_planted_bug_is_refuted_with_both_ends(program: Any, violated: str, port: int) -> None:
    """By one reset; the chart has what each end sends to the other."""
    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert violated in report.counterexample.property
    text = " ".join(report.counterexample.text.split())
    assert "the connection is reset" in text
    assert f"127.0.0.1:{port} answers 127.0.0.1:40000" in text
    assert f"from 127.0.0.1:40000 reach 127.0.0.1:{port}" in text
    assert report.counterexample.replay(program).violation is not None


def prove(program: Any, label: str, departures: int) -> None:
    report = explore(
        program, strategy=DepartureBounded(departures), labels=[label], budget_s=AMPLE_S
    )
    assert report.verdict == "proved", report.text


@pytest.mark.parametrize(("program", "label"), MENDED, ids=NAMES)
def test_the_mended_one_is_proved_to_a_bound(program: Any, label: str) -> None:
    """With each single departure."""
    prove(program, label, 1)


@pytest.mark.soak
@pytest.mark.parametrize(("program", "label"), MENDED, ids=NAMES)
def test_the_mended_one_is_proved_with_two_departures(program: Any, label: str) -> None:
    """2,360, 3,258 and 1,915 executions."""
    prove(program, label, 2)
