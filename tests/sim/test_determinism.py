"""The same schedule gives the same execution, in one process and in others."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from registry import StreamRegistry
from sim import World, explore
from sim.bench.harness.log_capture import silenced
from sim.bench.scenarios import SCENARIOS_BY_LEVEL
from sim.bench.subjects import registry_class
from sim.counterexamples.differences import difference
from sim.exploration.verdict import Verdict
from sim.kernel.hashing import SimTask
from sim.kernel.outcome import Outcome
from sim.kernel.recording import Recording
from sim.kernel.schedule import departures_of
from sim.schedulers import RandomWalk, Replay
from tests.executed import executed
from tests.sim.fresh_processes import HASH_SEEDS, printed_in_fresh_processes

ROOT = Path(__file__).parents[2]
TIMES = 50

Program = Callable[[World], Awaitable[object]]


async def asyncio_group(world: World) -> None:
    """Twelve children are cancelled by a group, which keeps them in a set."""

    async def child(number: int) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            world.record(f"child {number} ends")
            await asyncio.sleep(0)

    async def fails() -> None:
        await world.outside("one fails", latest=1.0)
        raise OSError

    with suppress(BaseExceptionGroup):
        async with asyncio.TaskGroup() as group:
            for number in range(12):
                group.create_task(child(number), name=f"child {number}")
            group.create_task(fails())


async def anyio_group(world: World) -> None:
    """The same with anyio, whose scopes are kept in sets as well."""

    async def child(number: int) -> None:
        try:
            with anyio.CancelScope():
                await anyio.sleep(100)
        finally:
            world.record(f"child {number} ends")

    async with anyio.create_task_group() as group:
        for number in range(12):
            group.start_soon(child, number, name=f"child {number}")
        await world.outside("stop", latest=1.0)
        group.cancel_scope.cancel()


async def waits_for_many(world: World) -> None:
    """asyncio.wait and asyncio.gather over futures that arrive as the schedule says."""

    async def arrives(number: int) -> int:
        await world.outside(f"a{number}", latest=1.0)
        return number

    tasks = {asyncio.create_task(arrives(number)) for number in range(4)}
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            asyncio.create_task(asyncio.sleep(0), name=f"after {task.result()}")  # noqa: RUF006
    await asyncio.sleep(0)


def scenario(name: str) -> Program:
    (found,) = [each for each in SCENARIOS_BY_LEVEL["registry"] if each.name == name]
    return found.program_for(StreamRegistry)


PROGRAMS: dict[str, Program] = {
    "asyncio group": asyncio_group,
    "anyio group": anyio_group,
    "waits for many": waits_for_many,
    "racing registers": scenario("racing_registers"),
    "close while streaming": scenario("close_while_streaming"),
}


def run(program: Program, departures: tuple[tuple[int, int], ...]) -> Outcome:
    return executed(program, Replay(departures), traced=True)


def some_schedule(program: Program, seed: int) -> tuple[tuple[int, int], ...]:
    """The departures of a random execution."""
    return departures_of(executed(program, RandomWalk(seed)).choices)


def hash_of_all(executions: int) -> str:
    """One hash over a number of random executions of every program."""
    digest = hashlib.sha256()
    for name, program in PROGRAMS.items():
        for seed in range(executions):
            departures = some_schedule(program, seed)
            outcome = run(program, departures)
            digest.update(f"{name} {departures} {outcome.trace_hash}".encode())
    return digest.hexdigest()


class Clutter:
    """Keeps objects of random sizes alive, so that addresses differ from run to run."""

    def __init__(self) -> None:
        self._random = random.Random()
        self._kept: list[bytearray] = []

    def add(self) -> None:
        sizes = [self._random.randrange(16, 2000) for _ in range(self._random.randrange(1, 50))]
        self._kept += [bytearray(size) for size in sizes]
        self._random.shuffle(self._kept)
        del self._kept[200:]


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_schedule_gives_the_same_trace(name: str) -> None:
    """50 of 50 replays of a random schedule, at other addresses, have the same trace."""
    program = PROGRAMS[name]
    departures = some_schedule(program, seed=7)
    clutter = Clutter()
    hashes = set()
    for _ in range(TIMES):
        clutter.add()
        outcome = run(program, departures)
        assert departures_of(outcome.choices) == departures
        hashes.add(outcome.trace_hash)
    assert len(hashes) == 1


@pytest.mark.parametrize("name", ["asyncio group", "anyio group", "waits for many"])
def test_other_schedules_give_other_traces(name: str) -> None:
    """The hash of a trace tells executions apart: random schedules give several."""
    program = PROGRAMS[name]
    hashes = {run(program, some_schedule(program, seed)).trace_hash for seed in range(20)}
    assert len(hashes) > 1


def test_without_our_hashes_the_order_of_a_group_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    """With tasks that hash by address, as asyncio's do, the same schedule has several traces."""
    monkeypatch.setattr(SimTask, "__hash__", asyncio.Task.__hash__)
    clutter = Clutter()
    kept: list[object] = []
    hashes = set()
    for _ in range(TIMES):
        clutter.add()
        outcome = run(asyncio_group, ())
        kept.append(outcome)
        hashes.add(outcome.trace_hash)
    assert len(hashes) > 1


async def tasks_wait_for_tasks(world: World) -> None:
    """A deadlock in which a group, kept in a set, and gathered tasks wait for each other."""
    lock = asyncio.Lock()

    async def child(number: int) -> None:
        await world.outside(f"child {number} comes")
        async with lock:
            world.record(f"child {number} is in", actor=f"child {number}")
            await asyncio.Event().wait()

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(child(number), name=f"child {number}")


async def comes_third(world: World) -> None:
    """It takes departures, and so a nearest passing execution, to fail."""
    order: list[int] = []

    async def child(number: int) -> None:
        await world.outside(f"child {number} comes", latest=1.0)
        order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(4):
            group.create_task(child(number), name=f"child {number}")
    world.check(order.index(3) > 1, "the last is not among the first two", f"{order}")


def texts_of_counterexamples() -> str:
    """What is printed of some failures that a random search finds, and shrinking makes small."""
    suspect = next(each for each in SCENARIOS_BY_LEVEL["registry"] if each.name == "two_sessions")
    programs = [tasks_wait_for_tasks, comes_third, suspect.program_for(registry_class("original"))]
    texts = []
    with silenced():
        for program in programs:
            report = explore(program, strategy="random", seed=3, max_executions=200)
            assert report.counterexample is not None
            texts.append(report.counterexample.text)
    return "\n".join(texts)


IN_OTHER_PROCESSES = """
from tests.sim.test_determinism import hash_of_all, texts_of_counterexamples
print(hash_of_all(2))
print(texts_of_counterexamples())
"""


@pytest.mark.socket
def test_another_process_has_the_same_traces_and_tells_the_same() -> None:
    """Under another PYTHONHASHSEED: callback by callback, and each text to the letter."""
    here = texts_of_counterexamples()
    assert "wait in child (tests/sim/test_determinism.py:" in " ".join(here.split())
    assert "first difference (≠)" in here
    assert printed_in_fresh_processes(IN_OTHER_PROCESSES, HASH_SEEDS[1:]) == {
        f"{hash_of_all(2)}\n{here}"
    }


# ---- nondeterminism --------------------------------------------------------------------------

# How many executions look in forks for a violation, where two differ: fifty, if none is asked for.
FORKS = 5
# Within how many a choice that differs has been met: the first are random, or alike.
DIFFERS = 50


def test_a_choice_that_no_schedule_decides_is_found() -> None:
    """A global counter that changes how many choices there are: inconclusive, never proved."""
    executions = itertools.count()

    async def program(world: World) -> None:
        world.choose("first", ["a", "b"])
        if next(executions) % 2:
            world.choose("second", ["c", "d"])

    report = explore(program, max_executions=DIFFERS)
    assert report.verdict == "inconclusive"
    assert "nondeterminism found" in report.reason


def test_a_width_that_no_schedule_decides_is_found() -> None:
    """A global counter that changes how many options a choice has: inconclusive, never proved."""
    executions = itertools.count()

    async def program(world: World) -> None:
        world.choose("first", range(2 + next(executions) % 2))
        world.choose("second", "ab")

    report = explore(program, max_executions=DIFFERS)
    assert report.verdict == "inconclusive"
    assert "nondeterminism found" in report.reason


AT = ("0.0001", "0.0002")


def test_two_steps_that_read_alike_are_told_apart() -> None:
    """What differs is in what is printed: when it is less than a millisecond, or what is called."""
    earlier, later = (Outcome(recording=Recording(steps=[f"{at} loop Meter.ticks"])) for at in AT)
    assert difference(earlier, later) == (
        "step 1 in natural order was: the callback Meter.ticks runs (Meter.ticks), at 0.000100 s; "
        "and then: the callback Meter.ticks runs (Meter.ticks), at 0.000200 s"
    )


@pytest.mark.fresh_copies
def test_a_step_that_no_schedule_decides_is_found() -> None:
    """A counter that changes what runs, though no choice, is found by a second run, and named."""
    executions = itertools.count()

    async def program(world: World) -> None:
        for _ in range(next(executions) % 2):
            await asyncio.sleep(0)

    report = explore(program, max_executions=FORKS)
    assert report.verdict == "inconclusive"
    assert report.reason.startswith("state survived the first execution: executions, a variable of")
    assert "was count(0), then count(1); step" in report.reason


@pytest.mark.fresh_copies
def test_a_violation_that_does_not_come_back_is_no_counterexample() -> None:
    """A check that fails in a later execution alone is inconclusive, and shown as unconfirmed."""
    executions = itertools.count()

    async def program(world: World) -> None:
        world.choose("any", "ab")
        world.check(next(executions) != 3, "holds but once")

    report = explore(program, max_executions=FORKS)
    assert report.verdict == "inconclusive"
    assert report.counterexample is None
    assert "was count(0), then count(1); «holds but once» was violated" in report.reason
    assert "holds but once" in report.unconfirmed
    assert report.unconfirmed in report.text


@pytest.mark.fresh_copies
def test_a_violation_of_the_first_execution_alone_is_one() -> None:
    """In fresh processes it comes back each time: refuted, and what survives is named."""
    executions = itertools.count()

    async def program(world: World) -> None:
        world.check(next(executions) != 0, "holds but once")

    report = explore(program, max_executions=FORKS)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "holds but once"
    assert "state survived the first execution: executions, a variable of" in report.reason


def test_tasks_without_a_name_are_numbered_as_by_asyncio() -> None:
    """Those that have one do not count, so that names say nothing of what others made."""

    async def program(world: World) -> None:
        # `asyncio.create_task` of 3.11 makes a task without a name, and names it then.
        named = world.loop.create_task(asyncio.sleep(0), name="named")
        unnamed = [asyncio.create_task(asyncio.sleep(0)) for _ in range(2)]
        world.check([each.get_name() for each in unnamed] == ["Task-1", "Task-2"], "1, then 2")
        await asyncio.gather(named, *unnamed)

    assert explore(program, max_executions=10).verdict == Verdict.PROVED


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_an_eager_task_has_another_name_than_those_that_it_makes() -> None:
    """It begins before the loop has it among its tasks."""

    async def program(world: World) -> None:
        async def names() -> list[str]:
            inner = asyncio.create_task(asyncio.sleep(0))
            task = asyncio.current_task()
            return [each.get_name() for each in (task, inner) if each is not None]

        world.loop.set_task_factory(asyncio.eager_task_factory)
        world.check(await asyncio.create_task(names()) == ["Task-1", "Task-2"], "two names")

    assert explore(program, max_executions=10).verdict == Verdict.PROVED


def test_a_violation_that_shows_an_address_is_repeated() -> None:
    """In the next execution the object stands elsewhere; it is the same violation all the same."""
    kept: list[list[object]] = []

    async def program(world: World) -> None:
        # Those of before live on, so that their addresses are not given again.
        kept.append([Path("a"), object()])
        await world.outside("one")
        assert False, f"{kept[-1][1]!r} is wrong"  # noqa: PT015

    report = explore(program, max_executions=10)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert report.counterexample.property == "<object object at 0x…> is wrong"
