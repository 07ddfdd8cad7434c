"""By any executor, and whatever happens to its workers, the work comes to the same."""

from __future__ import annotations

import json
import logging
import platform
import re
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest

from sim.bench.checking.check import check
from sim.bench.checking.deepen import deepen
from sim.bench.simulation import run as run_module
from sim.bench.simulation.run import make_simulation, simulate
from sim.cli import main
from sim.commands.explore_text import as_json
from sim.executors import on_ray
from sim.executors.base import MakeExecutor, Task, WorkersLost
from sim.executors.batches import LOSSES_MAX, Batches, in_order
from sim.executors.environment import Environment
from sim.executors.pickled import NotPicklable, dumped
from sim.executors.processes import Processes
from sim.exploration.progress import Progress
from sim.exploration.request import Request, explored
from tests.limits import AMPLE_S
from tests.sim.executors_of_tests import (
    Bare,
    Unreliable,
    ends_its_process,
    ends_its_process_once,
    fails,
    fails_in_two_words,
    finds_a_lock,
    hash_of_a_word,
    square,
    waits_to_be_stopped,
)

SEEDS = range(5)


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
    """Verdicts, counts, labels, counterexamples and their order; some parts are searched twice."""

    def found(executor: MakeExecutor | None) -> list[dict[str, Any]]:
        checked = check(
            level="registry", scenario="second_prompt", executor=executor, budget_s=AMPLE_S
        )
        return [{**each, "seconds": 0} for each in checked.as_json()["results"]]

    made: list[Unreliable] = []
    assert found(unreliable(3, made)) == found(None)
    assert made[0].losses
    assert made[0].repetitions


def test_deepening_on_failing_workers_is_the_same() -> None:
    """In the order of the sizes, whichever was explored first, and with the same counts."""

    def found(executor: MakeExecutor | None) -> list[str]:
        results = deepen(registry="original", budget_s=AMPLE_S, executor=executor)
        return [json.dumps({**each.as_json(), "seconds": 0}) for each in results]

    made: list[Unreliable] = []
    assert found(unreliable(1, made)) == found(None)
    assert made[0].losses


PROGRAMS = """\
import asyncio
import time
from enum import StrEnum


async def a_thread_is_overtaken(world):
    seen = []

    def job():
        seen.append(1)
        seen.append(2)

    running = asyncio.ensure_future(asyncio.to_thread(job))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.check(len(seen) != 1, "nobody sees half of it")
    await running


async def a_thread_is_not_overtaken(world):
    await asyncio.to_thread(lambda: None)
    world.reached("it ends")


async def a_label_of_an_enum(world):
    ends = StrEnum("ends", {"WELL": "it ends"})
    world.reached(ends.WELL)


async def two_readings(world):
    world.check(time.time() != time.time(), "no two readings are equal")
"""


@pytest.mark.parametrize("name", re.findall(r"async def (\w+)", PROGRAMS))
def test_a_program_explored_on_failing_workers_is_the_same(name: str, tmp_path: Path) -> None:
    """Verdict, reason, claim, counts, labels and counterexample, with what is looked at beside."""
    request = Request(in_a_file(name, tmp_path), strategy="depth-first", budget_s=AMPLE_S)
    made: list[Unreliable] = []
    together, alone = (
        {**as_json(request, explored(request, Progress(None), executor=executor)), "seconds": 0}
        for executor in (unreliable(1, made), None)
    )
    assert together == alone
    assert made


def test_workers_overtake_threads_between_lines_by_default(tmp_path: Path) -> None:
    """Their strategy is another than that of one process, and the verdict the same."""
    request = Request(in_a_file("a_thread_is_overtaken", tmp_path), budget_s=AMPLE_S)
    report = explored(request, Progress(None), executor=unreliable(1, []))
    assert report.found_by == "random, between the lines of threads", report.text


def in_a_file(name: str, folder: Path) -> str:
    """The program's name; each is in a module of its own, which the workers import."""
    file = folder / f"of_workers_{name}_{folder.name}.py"
    file.write_text(PROGRAMS)
    return f"{file}:{name}"


# ---- where --cluster cannot work ---------------------------------------------------------------


def test_a_node_with_another_python_is_refused() -> None:
    """With both versions, the cause, and what to do; one that is the same is not."""
    here = Environment.here()
    assert here.why_not(Environment.here()) == ""
    other = replace(here, host="far", python="CPython 3.9.9")
    assert re.match(
        rf"the node far is refused: it runs CPython 3\.9\.9, and this is "
        rf"{re.escape(here.python)}\. Start Ray there",
        here.why_not(other),
    )


@pytest.mark.parametrize(
    ("different", "words"),
    [
        ({"code": "0123"}, "its code of onestream has the digest 0123, and this one has"),
        ({"packages": ("simpy 1.0",)}, "it has simpy 1.0, and here is"),
        ({"program": ""}, "the digest of none: it is missing, and here abc"),
        ({"program": "abd"}, "the program's file there has the digest abd, and here abc"),
    ],
)
def test_a_node_with_other_code_is_refused(different: dict[str, Any], words: str) -> None:
    """Onestream's own, what it needs, or the user's program."""
    here = replace(Environment.here(), program="abc")
    assert words in here.why_not(replace(here, **different))


def test_the_digest_is_that_of_the_users_file(tmp_path: Path) -> None:
    """Of a program by its file or its module; none where it is missing."""
    file = tmp_path / "slots.py"
    file.write_text("async def program(world): ...\n")
    one = Environment.here(f"{file}:program").program
    assert one
    file.write_text("async def program(world): return\n")
    assert Environment.here(f"{file}:program").program not in (one, "")
    assert Environment.here("sim.cli:main").program
    assert Environment.here("no_such_module.there:main").program == ""


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(on_ray, "_SETTINGS", {})
    monkeypatch.setattr(on_ray, "_LOOPBACK", {})


@pytest.mark.usefixtures("without_ray")
def test_without_ray_a_cluster_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With what to install, for which Python, and what does the same without it."""
    assert main(["simulate", "--seeds", "1", "--cluster"]) == 3
    printed = capsys.readouterr().err
    assert f"this Python {platform.python_version()} has none" in printed
    assert "onestream[cluster]" in printed
    assert "--jobs" in printed


@pytest.mark.socket
@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "nothing answers at 127.0.0.1:1"), ("far", "'far' is no address")],
)
def test_an_address_without_a_cluster_is_refused(
    address: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once: Ray itself would look for it for minutes."""
    assert main(["simulate", "--seeds", "1", "--cluster", address]) == 3
    assert words in capsys.readouterr().err


# ---- in processes -----------------------------------------------------------------------------


MADE: list[MakeExecutor] = [partial(Processes, 2), Bare]

in_processes = pytest.mark.parametrize("make", MADE, ids=["jobs", "bare"])


def answered(make: MakeExecutor, task: Task, *, is_cancelled: bool = False) -> Any:
    with closing(make()) as executor:
        batches = Batches(executor)
        batches.submit(task)
        if is_cancelled:
            executor.cancel()
        while True:
            for _, value in batches.answers():
                return value


@pytest.mark.socket
@in_processes
def test_a_batch_whose_process_was_killed_is_done_again(make: MakeExecutor, tmp_path: Any) -> None:
    """As by the system, for want of memory."""
    assert answered(make, partial(ends_its_process_once, str(tmp_path / "begun"))) == "done"


@pytest.mark.socket
@in_processes
def test_what_ends_each_process_is_given_up(make: MakeExecutor) -> None:
    """It says so, and does not go on for ever."""
    with pytest.raises(WorkersLost, match=r"terminated abruptly|its process ended with -9"):
        answered(make, ends_its_process)


@pytest.mark.socket
@in_processes
def test_what_a_batch_raises_is_raised_here(make: MakeExecutor) -> None:
    """The error itself, and it is not done again."""
    with pytest.raises(LookupError, match="no such seed"):
        answered(make, fails)


@pytest.mark.socket
@in_processes
def test_an_error_that_cannot_be_made_again_here_comes_in_words(make: MakeExecutor) -> None:
    """It is no lost worker, of which three would be tried."""
    with pytest.raises(RuntimeError, match=r"in a worker: OfTwoWords\('no such seed'\)"):
        answered(make, fails_in_two_words)


@pytest.mark.socket
@in_processes
def test_a_task_that_cannot_be_pickled_is_refused(make: MakeExecutor) -> None:
    """With the name of what cannot, where it is, and what to do; it goes to no worker."""
    words = (
        r"a task has to go to another process, and at \(number\)\.here in it is the function "
        r"\S+\.local, which cannot be pickled: .+\. Make it .+ leave out --jobs and --cluster"
    )

    def local() -> None: ...

    with pytest.raises(NotPicklable, match=words):
        answered(make, partial(square, number=SimpleNamespace(there=1, here=local)))


@pytest.mark.socket
@in_processes
def test_what_a_worker_found_that_cannot_be_pickled_is_refused(make: MakeExecutor) -> None:
    """By the same words."""
    words = (
        r"found has to .+ and at \['seen'\]\[1\] in it is the lock <unlocked .+ cannot be pickled"
    )
    with pytest.raises(NotPicklable, match=words):
        answered(make, finds_a_lock)


def test_what_refers_to_itself_and_cannot_be_pickled_is_named() -> None:
    """The search for it ends."""
    there, back = SimpleNamespace(), SimpleNamespace(lock=Lock())
    there.back, back.there = back, there
    with pytest.raises(NotPicklable, match=r"at \(0\)\.back\.lock in it is the lock"):
        dumped(partial(square, there))


@pytest.mark.socket
@in_processes
def test_a_batch_that_runs_learns_that_it_is_stopped(make: MakeExecutor) -> None:
    """So that Ctrl-C comes to what was found so far."""
    assert answered(make, waits_to_be_stopped, is_cancelled=True) == "stopped"


BEGINS_A_WORKER = """
import sys
from sim.executors.batches import in_order
from sim.executors.processes import Processes
from tests.sim.executors_of_tests import what_its_process_imported

before, executor = set(sys.modules), Processes(1)
(imported,) = in_order(executor, [what_its_process_imported])
executor.close()
print(sorted(imported - before))
"""


@pytest.mark.socket
@pytest.mark.skipif(sys.platform != "linux", reason="only there workers are forks")
def test_a_worker_imports_nothing_of_its_own() -> None:
    """Else its guards look through all modules anew, as they know by what was imported."""
    began = subprocess.run(
        [sys.executable, "-c", BEGINS_A_WORKER], capture_output=True, text=True, check=True
    )
    assert began.stdout.strip() == "[]", began.stdout


@pytest.mark.socket
def test_the_workers_of_a_cluster_hash_strings_alike() -> None:
    """Else sets of them had another order in each, and the parts of one tree were not of one."""
    hashes = {answered(partial(Bare, hash_seed=seed), hash_of_a_word) for seed in ("7", "7", "8")}
    assert len(hashes) == 2


@pytest.mark.socket
def test_who_asks_for_work_changes_nothing_of_it() -> None:
    """Ray's processes have records of the log that read the clock once more, which bounds hit."""

    def found(executor: MakeExecutor | None) -> list[dict[str, Any]]:
        checked = check(
            level="registry",
            scenario="second_prompt",
            registry="quick_fix",
            executor=executor,
            budget_s=AMPLE_S,
        )
        return [{**each, "seconds": 0} for each in checked.as_json()["results"]]

    def as_of_ray(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = ordinary(*args, **kwargs)
        record.created = time.time_ns() / 1e9
        return record

    alone, ordinary = found(None), logging.getLogRecordFactory()
    logging.setLogRecordFactory(as_of_ray)
    try:
        in_this_process, in_its_own = found(unreliable(3, [])), found(Bare)
    finally:
        logging.setLogRecordFactory(ordinary)
    assert in_its_own == alone
    assert in_this_process != alone


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
