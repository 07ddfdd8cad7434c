"""asyncio's default pool has as many threads as the machine's CPUs say: a verdict says of which."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sim import World, explore, new_event_loop
from sim.executors.processes import processes
from sim.exploration.progress import Progress
from sim.exploration.request import Request, explored
from sim.kernel.isolation.machine import real_cpus
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S

DEADLOCK = "no deadlock: nothing waits for what can no longer come"


def meets_in_threads(count: int) -> Any:
    async def program(world: World) -> None:
        barrier = threading.Barrier(count)
        await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(count)))

    return program


async def meets_in_six_threads(world: World) -> None:
    await meets_in_threads(6)(world)


async def has_six_jobs(world: World) -> None:
    done: list[int] = []
    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(asyncio.to_thread(done.append, number))
    world.check(len(done) == 6, "each is done")


async def has_five_jobs(world: World) -> None:
    await asyncio.gather(*(asyncio.to_thread(int) for _ in range(5)))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has none")
def test_a_process_may_run_on_as_many_cpus_as_there_are() -> None:
    """Who asks for its CPUs by `os.sched_getaffinity` is told of the same machine."""

    async def program(world: World) -> None:
        world.check(len(os.sched_getaffinity(0)) == os.cpu_count(), "one number of CPUs")

    report = explore(program, cpus=3)
    assert report.verdict == "proved", report.text
    assert explore(program).verdict == "proved"


def test_ten_jobs_that_wait_for_each_other_deadlock_on_four_cpus_alone() -> None:
    """The refutation says that stock Python passes where there are more CPUs."""
    report = explore(meets_in_threads(10))
    assert report.verdict == "refuted"
    assert "2 jobs wait for one of the 8 threads of asyncio's default pool" in report.text
    assert "the machine has cpus=4 here" in report.reason
    assert "with 28 CPUs this schedule violates nothing" in report.reason
    assert report.bounds_hit == {"cpus"}


def test_what_no_machine_has_threads_for_is_refuted_without_a_condition() -> None:
    """There are 32 threads at most."""
    report = explore(meets_in_threads(33))
    assert report.verdict == "refuted"
    assert "CPUs this schedule" not in report.reason


def test_who_names_the_machine_is_answered_for_it_alone() -> None:
    """Twelve threads are enough for ten jobs, and no other machine is looked at."""
    report = explore(meets_in_threads(10), cpus=8, strategy="departures", max_executions=20)
    assert report.verdict != "refuted", report.text
    assert "cpus=8" in str(report.bounds)
    assert explore(meets_in_threads(10), cpus=4, max_executions=1).verdict == "refuted"


@pytest.mark.parametrize("how", ["alone", "isolated", "two jobs"])
def test_a_machine_with_one_cpu_is_looked_at_however_the_work_is_done(how: str) -> None:
    """It has five threads, and six jobs that wait for each other; the schedule carries it."""
    name = f"{__name__}:{meets_in_six_threads.__name__}"
    # It ends by itself; a search of every schedule would end by the clock.
    request = Request(name, "natural", budget_s=AMPLE_S, isolate=how == "isolated")
    executor = processes(2) if how == "two jobs" else None
    report = explored(request, Progress(None), executor=executor)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert "cpus=1" in report.counterexample.schedule
    replayed = report.counterexample.replay(meets_in_six_threads)
    assert replayed.violation is not None
    assert replayed.violation.property == DEADLOCK


def test_a_claim_names_the_machine_where_it_makes_a_difference() -> None:
    """More jobs than every machine has threads for."""
    report = explore(has_six_jobs, strategy=DepartureBounded(0))
    assert report.verdict == "proved", report.text
    assert "with the threads of 4 CPUs (2 executions looked at 1 and 28)" in report.claim
    assert "CPUs" not in explore(has_five_jobs, strategy=DepartureBounded(0)).reason


def test_a_program_is_told_the_same_number_everywhere() -> None:
    """Also a pool of its own that is made without a number; a loop alone is told the real one."""
    told: list[int | None] = []

    async def program(world: World) -> None:
        with ThreadPoolExecutor() as pool:
            told.extend((os.cpu_count(), pool._max_workers))

    assert explore(program, cpus=4).verdict == "proved"
    assert set(told) == {4, 8}
    assert explore(program, cpus=4).bounds_hit == {"cpus"}
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(program(None))  # type: ignore[arg-type]
        assert told[-2:] == [os.cpu_count(), min(32, real_cpus() + 4)]
