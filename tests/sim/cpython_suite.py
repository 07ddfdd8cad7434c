"""Runs modules of CPython's own asyncio tests on simulated loops, and prints the results.

    python -m tests.sim.cpython_suite [--seed N] MODULE…

Run in a process of its own, since these tests change the policy, the signal handlers and warnings
of theirs. One JSON object per module: `run`, `on_sim` (tests in which a simulated loop ran),
`skipped`, `left_out`, `bad` (names and last lines of failures).
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import json
import signal
import sys
import unittest
import warnings
from typing import Any

from sim.runner import EventLoopPolicy, StandaloneLoop, new_event_loop
from tests.sim import cpython_on_network

_at_test: list[str] = []
_on_sim: set[str] = set()


class _Result(unittest.TextTestResult):
    def startTest(self, test: unittest.TestCase) -> None:
        _at_test[:] = [test.id()]
        super().startTest(test)


class _ResultOnNetwork(_Result):
    test = cpython_on_network.OneTest()

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.test.starts()

    def stopTest(self, test: unittest.TestCase) -> None:
        self.test.ends()
        super().stopTest(test)


class _PolicyOnNetwork(EventLoopPolicy):
    def new_event_loop(self) -> asyncio.AbstractEventLoop:
        loop = super().new_event_loop()
        assert isinstance(loop, StandaloneLoop)
        _ResultOnNetwork.test.has_loop(loop)
        return loop


def _note_which_loops_run() -> None:
    run_forever = StandaloneLoop.run_forever

    def noted(loop: StandaloneLoop) -> None:
        _on_sim.update(_at_test)
        run_forever(loop)

    StandaloneLoop.run_forever = noted  # type: ignore[method-assign]


def _runners_on_sim(module: Any, seed: int | None) -> None:
    """test_runners makes its loops itself, with a mocked selector; here they are simulated."""

    def new_loop(self: unittest.TestCase) -> StandaloneLoop:
        loop = new_event_loop(seed=seed)
        shutdown_asyncgens = loop.shutdown_asyncgens

        async def noted() -> None:
            loop.shutdown_ag_run = True  # type: ignore[attr-defined]
            await shutdown_asyncgens()

        loop.shutdown_ag_run = False  # type: ignore[attr-defined]
        loop.shutdown_asyncgens = noted  # type: ignore[method-assign]
        return loop

    module.BaseTest.new_loop = new_loop


class _Factory:
    """Replaces asyncio.EventLoop, from which test cases make their loop since 3.14."""

    def __init__(self, seed: int | None, on_network: bool) -> None:
        self._seed, self._on_network = seed, on_network

    def __call__(self) -> StandaloneLoop:
        loop = new_event_loop(seed=self._seed)
        if self._on_network:
            _ResultOnNetwork.test.has_loop(loop)
        return loop


_STOCK = getattr(asyncio, "EventLoop", None)  # Since 3.13.


def _set_policy(seed: int | None, on_network: bool) -> None:
    policy = _PolicyOnNetwork if on_network else EventLoopPolicy
    # Deprecated since 3.14.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(policy(seed=seed))


# Why these tests of 3.14 and later are left out.
LEFT_OUT = {
    ("test_graph", "TestCallStackPy"): "about tasks written in Python; ours are those written in C",
}


def _leave_out(name: str, module: Any) -> None:
    for of, what in LEFT_OUT:
        for holder in (module, *vars(module).values()):
            if of == name and sys.version_info >= (3, 14) and what in vars_of(holder):
                delattr(holder, what)


def vars_of(holder: Any) -> dict[str, Any]:
    return dict(getattr(holder, "__dict__", {}))


def run(name: str, seed: int | None) -> dict[str, object]:
    _on_sim.clear()
    on_network = name in cpython_on_network.MODULES
    new_loop = _Factory(seed, on_network)
    if sys.version_info >= (3, 14):
        # One of test_runners checks that it is asyncio's own; its loops come from the policy.
        factory = _STOCK if name == "test_runners" else new_loop
        asyncio.EventLoop = factory  # type: ignore[misc,assignment]
    if on_network:
        module = cpython_on_network.prepare(name, new_loop)
    else:
        module = importlib.import_module(f"test.test_asyncio.{name}")
    load = unittest.defaultTestLoader.loadTestsFromModule
    all_tests = load(module).countTestCases()
    _leave_out(name, module)
    cpython_on_network.leave_out(name, module)
    if name == "test_runners":
        _runners_on_sim(module, seed)
    # Each module takes its policy down at its end.
    _set_policy(seed, on_network)
    suite = load(module)
    left_out = all_tests - suite.countTestCases()
    output = io.StringIO()
    kind = _ResultOnNetwork if on_network else _Result
    result = unittest.TextTestRunner(output, verbosity=0, resultclass=kind).run(suite)
    bad = [(test.id(), text.splitlines()[-1]) for test, text in result.failures + result.errors]
    return {
        "module": name,
        "run": result.testsRun,
        "on_sim": len(_on_sim),
        "skipped": len(result.skipped),
        "left_out": left_out,
        "bad": bad,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int)
    parser.add_argument("modules", nargs="+")
    arguments = parser.parse_args()
    _note_which_loops_run()
    # Ignored in what a shell runs in the background, and then asyncio's runners leave it alone.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for each in arguments.modules:
        print(json.dumps(run(each, arguments.seed)), flush=True)
