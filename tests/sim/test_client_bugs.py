"""Planted bugs in how programs keep connections: found with both ends in the chart, and mended."""

from __future__ import annotations

from typing import Any

import pytest

from sim import explore
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S
from tests.sim import client_bugs as bugs

BROKEN = [
    (
        bugs.of_pool(bugs.Pool),
        "who asks has his own answer",
        ("alice leaves", "from 127.0.0.1:7000 reach 127.0.0.1:40000: hello alice"),
    ),
    (
        bugs.of_selector(bugs.Echo),
        "one reset is one client's",
        ("the connection is reset", "ends with ConnectionResetError"),
    ),
    (
        bugs.of_keep_alive(bugs.Client, 5),
        "the program ends without an exception",
        ("RemoteDisconnected", "40000 reach 127.0.0.1:7000 #2: GET / HTTP/1.1"),
    ),
]
MENDED = [
    bugs.of_pool(bugs.MendedPool),
    bugs.of_selector(bugs.MendedEcho),
    bugs.of_keep_alive(bugs.MendedClient, 5),
]
NAMES = ["pool", "selector", "keep-alive"]


@pytest.mark.parametrize(("program", "violated", "shown"), BROKEN, ids=NAMES)
def test_a_planted_bug_is_refuted_with_both_ends(
    program: Any, violated: str, shown: tuple[str, ...]
) -> None:
    """By one departure; the chart has what each end sends to the other."""
    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert violated in report.counterexample.property
    text = " ".join(report.counterexample.text.split())
    for row in shown:
        assert row in text, text
    assert report.counterexample.replay(program).violation is not None


@pytest.mark.parametrize("program", MENDED, ids=NAMES)
def test_the_mended_one_is_proved_to_a_bound(program: Any) -> None:
    """With each single departure."""
    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text
