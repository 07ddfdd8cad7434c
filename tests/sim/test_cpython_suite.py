"""CPython's own tests of asyncio pass on simulated loops, in natural and in random order."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# How many tests of each module run at least on a simulated loop, on 3.11. The others of
# test_tasks bring a loop of their own (`test_utils.TestLoop`), whose clock is a generator.
MODULES = {
    "test_locks": 70,
    "test_queues": 44,
    "test_taskgroups": 35,
    "test_timeouts": 32,
    "test_waitfor": 15,
    "test_runners": 25,
    "test_threads": 6,
    "test_context": 1,
    "test_futures2": 3,
}
SINCE_3_12 = {"test_eager_task_factory": 38}
SINCE_3_13 = {"test_staggered": 5}
SINCE_3_14 = {"test_graph": 10}
SLOW = {"test_tasks": 217}
# On a simulated network; `cpython_on_network.py` has what is left out of them, and why.
SOCKETS = {"test_streams": 66, "test_server": 2, "test_buffered_proto": 1, "test_sslproto": 13}
SLOW_SOCKETS = {"test_sock_lowlevel": 36, "test_ssl": 22, "test_sendfile": 57}

EXCLUDED = {
    "test_base_events": "tests BaseEventLoop itself, with a mocked selector",
    "test_selector_events": "tests with a mocked selector what the simulated loop inherits",
    "test_unix_events": "tests another loop's signals, pipes and child watchers",
    "test_proactor_events": "tests a loop of Windows",
    "test_windows_events": "tests a loop of Windows",
    "test_windows_utils": "tests pipes of Windows",
    "test_events": "makes SelectorEventLoops itself, with sockets, pipes and processes",
    "test_futures": "brings a loop of its own (test_utils.TestLoop)",
    "test_pep492": "brings a loop of its own (test_utils.TestLoop)",
    "test_free_threading": "starts threads of the operating system",
    "test_server_context": "needs sockets",
    "test_subprocess": "needs processes",
    "test_protocols": "runs no loop",
    "test_tools": "reads the memory of other processes, and made-up lists of tasks",
    "test_transports": "runs no loop",
}


def of_loops(slow: bool) -> dict[str, int]:
    found = dict(SLOW) if slow else dict(MODULES)
    if not slow and sys.version_info >= (3, 12):
        found |= SINCE_3_12
    if not slow and sys.version_info >= (3, 13):
        found |= SINCE_3_13
    if not slow and sys.version_info >= (3, 14):
        found |= SINCE_3_14
    return found


def require_suite() -> Path:
    spec = importlib.util.find_spec("test")
    folder = Path(spec.origin).parent / "test_asyncio" if spec and spec.origin else None
    if folder is None or not folder.exists():
        pytest.skip(f"Python {sys.version.split()[0]} has no test.test_asyncio: NOTHING IS SHOWN")
    return folder


def run_suite(names: list[str], *options: str) -> list[dict[str, object]]:
    process = subprocess.run(
        [sys.executable, "-m", "tests.sim.cpython_suite", *options, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        # Against a hang alone: a machine may be busy.
        timeout=1200,
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.mark.socket
@pytest.mark.parametrize(
    ("expected", "options"),
    [
        (of_loops(slow=False), ()),
        pytest.param(of_loops(slow=False), ("--seed", "1"), marks=pytest.mark.thorough),
        (SOCKETS, ()),
        pytest.param(SOCKETS, ("--seed", "1"), marks=pytest.mark.thorough),
        pytest.param(of_loops(slow=True), (), marks=pytest.mark.thorough),
        pytest.param(SLOW_SOCKETS, (), marks=pytest.mark.thorough),
    ],
    ids=["natural", "random", "sockets", "random_sockets", "tasks", "slow_sockets"],
)
def test_cpythons_own_tests_pass(expected: dict[str, int], options: tuple[str, ...]) -> None:
    """Every test of these modules passes, and at least a given number of them run on our loop."""
    require_suite()
    results = run_suite(list(expected), *options)
    assert [result["module"] for result in results] == list(expected)
    for result in results:
        assert result["bad"] == [], result
        on_sim = result["on_sim"]
        assert isinstance(on_sim, int)
        assert on_sim >= expected[str(result["module"])], result


def test_every_module_is_run_or_has_a_reason() -> None:
    """What CPython's suite holds is run here, or excluded by name and reason."""
    folder = require_suite()
    found = {path.stem for path in folder.glob("test_*.py")}
    of_sockets = {*SOCKETS, *SLOW_SOCKETS}
    known = {*MODULES, *SINCE_3_12, *SINCE_3_13, *SINCE_3_14, *SLOW, *of_sockets, *EXCLUDED}
    assert found <= known, f"neither run nor excluded: {sorted(found - known)}"
