"""Planted bugs in how programs use connections: found with both ends in the chart, and mended."""

from __future__ import annotations

from typing import Any

import pytest

from sim import explore
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S
from tests.sim import client_bugs
from tests.sim import library_bugs as bugs

BROKEN = [
    (
        bugs.of_long_lines(bugs.Table),
        "a line that is too long does nothing",
        (
            "7000 answers",
            "the first 9 come alone",
            "reach 127.0.0.1:7000: delete 7",
            "127.0.0.1:40000: 0 rows",
        ),
    ),
    (
        bugs.of_websockets(bugs.sends),
        "who is told of no error gets the soup",
        (
            "7000 answers",
            "the connection is reset",
            "a reset by 127.0.0.1:7000 reaches 127.0.0.1:40000",
        ),
    ),
    (
        bugs.of_redis(bugs.counts),
        "a ticket is sold once",
        ("the connection is reset", "127.0.0.1:6379 reach 127.0.0.1:40001: :2"),
    ),
    (
        client_bugs.of_pool(client_bugs.Pool),
        "who asks has his own answer",
        ("alice leaves", "from 127.0.0.1:7000 reach 127.0.0.1:40000: hello alice"),
    ),
    (
        client_bugs.of_selector(client_bugs.Echo),
        "one reset is one client's",
        ("the connection is reset", "ends with ConnectionResetError"),
    ),
    (
        client_bugs.of_keep_alive(client_bugs.Client, 5),
        "the program ends without an exception",
        ("RemoteDisconnected", "40000 reach 127.0.0.1:7000 #2: GET / HTTP/1.1"),
    ),
]
MENDED = [
    bugs.of_long_lines(bugs.MendedTable),
    bugs.of_websockets(bugs.sends_until_it_is_told),
    bugs.of_redis(bugs.notes_each),
    client_bugs.of_pool(client_bugs.MendedPool),
    client_bugs.of_selector(client_bugs.MendedEcho),
    client_bugs.of_keep_alive(client_bugs.MendedClient, 5),
]
NAMES = ["streams", "websockets", "redis", "pool", "selector", "keep-alive"]


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


# asyncio leaves a transport behind where a server is closed as it accepts a connection: up to 3.11
# `Server._attach` raises then, later `Server._detach`, as the transport is freed.
@pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning")
@pytest.mark.filterwarnings(
    "ignore:Exception ignored .*_SelectorTransport.__del__:pytest.PytestUnraisableExceptionWarning"
)
@pytest.mark.parametrize("program", MENDED, ids=NAMES)
def test_the_mended_one_is_proved_to_a_bound(program: Any) -> None:
    """With each single departure; the first three in 14, 106 and 146 executions."""
    report = explore(program, strategy=DepartureBounded(1), budget_s=AMPLE_S)
    assert report.verdict == "proved", report.text
