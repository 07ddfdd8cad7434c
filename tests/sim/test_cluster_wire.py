"""redis-py and the production script in the simulator: connections break anywhere.

python3 -m uv run --isolated --group wire pytest tests/sim/test_cluster_wire.py
"""

from __future__ import annotations

import gc

import pytest

pytest.importorskip("fakeredis", reason="python3 -m uv run --isolated --group wire pytest …")

from server.stores.redis_store import SCRIPT
from sim import DepartureBounded, Fault, explore
from sim.bench.harness.log_capture import silenced
from tests.limits import AMPLE_S
from tests.sim.cluster_wire import S1, two_workers

# All of them are more than were run to their end so far.
EXECUTIONS_MAX = 300
LABELS = ("v was let in", "w was let in", "all is over")


def test_two_workers_share_a_session_through_the_production_client_and_script() -> None:
    """The newer prompt takes the session over, and no two gates are open."""
    with silenced():
        report = explore(two_workers(), strategy=DepartureBounded(0), labels=LABELS)
    assert report.verdict == "proved", report.text


# An execution that ends with a violation closes no connection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_script_that_does_not_wait_for_the_holder_is_refuted() -> None:
    """It lets the newer one in while the older has not heard yet."""
    broken = SCRIPT.replace("or (holder and now < free_at())", "")
    assert broken != SCRIPT
    with silenced():
        report = explore(two_workers(script=broken), strategy=DepartureBounded(0))
    assert report.counterexample is not None, report.text
    assert report.counterexample.property == S1
    # Now, while their warnings are ignored: what its tasks held is part of a circle.
    gc.collect()


@pytest.mark.thorough
def test_a_connection_that_breaks_anywhere_opens_no_second_gate() -> None:
    """The first schedules with one departure: a reset in place of a segment, or a late one."""
    with silenced():
        report = explore(
            two_workers(Fault.RESET),
            strategy=DepartureBounded(1),
            budget_s=AMPLE_S,
            max_executions=EXECUTIONS_MAX,
        )
    assert report.counterexample is None, report.text
    assert report.executions == EXECUTIONS_MAX or report.verdict == "proved", report.text
    assert set(LABELS) <= report.labels
