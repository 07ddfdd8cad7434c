"""The programs of other people's bug reports: explore says of each what stock Python shows."""

from __future__ import annotations

import pytest

from sim.kernel import forks, watchdog
from tests.sim.reported import module_state
from tests.sim.reported.base import OnStock, Reported
from tests.sim.reported.catalog import PROGRAMS

STOCK_RUNS = 20


def _names(reported: Reported) -> str:
    return f"{reported.report}: {reported.name}"


@pytest.mark.parametrize("reported", PROGRAMS, ids=_names)
@pytest.mark.fresh_copies
def test_the_verdict_is_that_of_stock_python(
    reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flawed programs are refuted, fixed ones proved, and what is not simulated is neither."""
    # A busy loop is looked for soon; what is said of it does not depend on when.
    for name in ("TICK_S", "VIRTUAL_TICK_S", "SUSPECT_S"):
        monkeypatch.setattr(watchdog, name, 0.1)
    if reported in module_state.PROGRAMS and forks.are_possible():
        # What these leave in their module would decide the verdicts of the tests that come after.
        report = forks.in_a_fork(reported.explored)
    else:
        report = reported.explored()
    assert report.verdict == reported.verdict, report.text
    text = " ".join(report.text.split())
    assert [each for each in reported.words if each not in text] == []


@pytest.mark.socket
@pytest.mark.parametrize(
    "reported", [each for each in PROGRAMS if each.on_stock != OnStock.NOT_RUN], ids=_names
)
def test_stock_asyncio_agrees(reported: Reported) -> None:
    """In some noisy runs what is proved holds, and what always fails does."""
    violations = reported.violations_on_stock(STOCK_RUNS)
    if reported.on_stock == OnStock.HOLDS:
        assert violations == 0
        assert reported.verdict in ("proved", "inconclusive")
    else:
        assert reported.verdict == "refuted"
    if reported.on_stock == OnStock.FAILS:
        assert violations == STOCK_RUNS
