"""Whoever does the work, and whatever happens to the workers, it comes to the same."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import closing
from functools import partial
from random import Random
from typing import Any

import pytest

from sim.bench.checking.check import check
from sim.bench.simulation import run as run_module
from sim.bench.simulation.run import make_simulation, simulate
from sim.executors.base import IsStopped, MakeExecutor, Task, WorkersLost
from sim.executors.batches import LOSSES_MAX, Batches, in_order
from sim.executors.processes import Processes
from tests.limits import AMPLE_S
from tests.sim.executors_of_tests import Unreliable

SEEDS = range(5)


def square(number: int, is_stopped: IsStopped) -> int:
    return number * number


def fails(is_stopped: IsStopped) -> None:
    raise LookupError("no such seed")


def ends_its_process(is_stopped: IsStopped) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def ends_its_process_once(file: str, is_stopped: IsStopped) -> str:
    """The second time it finds what the first has left."""
    if not os.path.exists(file):
        with open(file, "w"):
            os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def waits_to_be_stopped(is_stopped: IsStopped) -> str:
    while not is_stopped():
        pass
    return "stopped"


def squares(count: int) -> list[Task]:
    return [partial(square, number) for number in range(count)]


# ---- with an executor that loses, delays and repeats ------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_each_batch_counts_once_and_in_order(seed: int) -> None:
    """Whatever is lost, late or answered twice."""
    executor = Unreliable(Random(seed))
    assert list(in_order(executor, squares(40))) == [number * number for number in range(40)]
    assert executor.losses
    assert executor.repetitions


def test_a_batch_that_loses_each_of_its_workers_is_given_up() -> None:
    """After some, with what to do: else it would be done again for ever."""
    executor = Unreliable(Random(0), loses=1.0, comes_late=0.0)
    with pytest.raises(WorkersLost, match=f"{LOSSES_MAX} workers were lost .* its node is gone"):
        list(in_order(executor, squares(1)))


def unreliable(seed: int, made: list[Unreliable]) -> MakeExecutor:
    def make() -> Unreliable:
        made.append(Unreliable(Random(seed)))
        return made[-1]

    return make


@pytest.mark.parametrize("registry", ["production", "quick_fix"])
def test_a_simulation_on_failing_workers_is_the_same(
    registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest, verdict, the failed seed and what happened are those of one process."""
    monkeypatch.setattr(run_module, "SEEDS_PER_BATCH", 2)
    simulation = make_simulation(level="registry", registry=registry, profile=None, client="both")
    made: list[Unreliable] = []
    alone, together = (
        {**simulate(simulation, seeds=16, executor=executor).as_json(), **ANY_SPEED}
        for executor in (None, unreliable(2, made))
    )
    assert together == alone
    assert made[0].losses
    assert made[0].is_closed


ANY_SPEED = {"seconds": 0, "seeds_per_second": 0}


def test_a_check_on_failing_workers_is_the_same() -> None:
    """One tree in parts, some of them searched twice: verdicts, counts, labels, counterexamples."""

    def found(executor: MakeExecutor | None) -> list[dict[str, Any]]:
        checked = check(
            level="registry", scenario="second_prompt", executor=executor, budget_s=AMPLE_S
        )
        results = [{**each, "seconds": 0} for each in checked.as_json()["results"]]
        return sorted(results, key=lambda each: str(each["registry"]))

    made: list[Unreliable] = []
    assert found(unreliable(3, made)) == found(None)
    assert made[0].losses
    assert made[0].repetitions


# ---- in processes -----------------------------------------------------------------------------


def answered(task: Task, *, before: Callable[[Processes], None] = lambda executor: None) -> Any:
    with closing(Processes(2)) as executor:
        batches = Batches(executor)
        batches.submit(task)
        before(executor)
        while True:
            for _, value in batches.answers():
                return value


@pytest.mark.socket
def test_a_batch_whose_process_was_killed_is_done_again(tmp_path: Any) -> None:
    """As by the system, for want of memory."""
    assert answered(partial(ends_its_process_once, str(tmp_path / "begun"))) == "done"


@pytest.mark.socket
def test_what_ends_each_process_is_given_up() -> None:
    """It says so, and does not go on for ever."""
    with pytest.raises(WorkersLost, match="terminated abruptly"):
        answered(ends_its_process)


@pytest.mark.socket
def test_what_a_batch_raises_is_raised_here() -> None:
    """The error itself, and it is not done again."""
    with pytest.raises(LookupError, match="no such seed"):
        answered(fails)


@pytest.mark.socket
def test_a_batch_that_runs_learns_that_it_is_stopped() -> None:
    """So that Ctrl-C comes to what was found so far."""
    assert answered(waits_to_be_stopped, before=Processes.cancel) == "stopped"


@pytest.mark.socket
def test_a_simulation_with_a_seed_that_ends_its_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The verdict names the seed from which on nothing is known."""
    monkeypatch.setattr(run_module, "_play", lambda simulated, cls: ends_its_process(bool))
    simulation = make_simulation(level="registry", registry="original", profile=None, client="both")
    report = simulate(simulation, seeds=1, executor=partial(Processes, 2))
    assert report.verdict == "error"
    assert report.reason.startswith("seed 0: ")
