"""Hosts and processes: what each has of its own, and an execution with several."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore, run
from sim.exploration.verdict import Verdict
from sim.kernel.hosts.run import How
from tests.sim.host_programs import passes, traced

# ---- what belongs to a process -----------------------------------------------------------------


def test_each_process_has_what_a_process_of_the_system_has() -> None:
    """Its own running loop, tasks, context, default executor, number and main thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")
    seen: dict[str, Any] = {}

    async def main(name: str) -> None:
        before = variable.get()
        variable.set(name)
        await asyncio.sleep(1)
        worker = await asyncio.to_thread(threading.current_thread)
        await asyncio.sleep(1)
        loop = asyncio.get_running_loop()
        task = asyncio.current_task()
        assert task is not None
        assert asyncio.all_tasks() == {task}
        names = before, variable.get(), task.get_name(), worker.name
        seen[name] = names, os.getpid(), id(loop), threading.current_thread()

    async def program(world: World) -> None:
        variable.set("program")
        processes = [world.host(name).run(main, name) for name in ("a", "b")]
        for process in processes:
            assert (await process.ended()).how is How.RETURNED
        assert variable.get() == "program"
        assert asyncio.get_running_loop() is world.loop

    passes(program)
    assert seen["a"][0] == ("unset", "a", "main", "asyncio_0")
    assert seen["b"][0] == ("unset", "b", "main", "asyncio_0")
    assert seen["a"][1] != seen["b"][1]
    assert os.getpid() not in (seen["a"][1], seen["b"][1])
    assert seen["a"][2] != seen["b"][2]
    assert seen["a"][3] is seen["b"][3] is threading.main_thread()


def test_clocks_of_a_host_show_world_time_times_rate_plus_offset() -> None:
    """All clocks: the loop's, time.monotonic, time.time, and so timers and sleeps."""
    seen: list[tuple[float, ...]] = []

    async def main() -> None:
        loop, wall = asyncio.get_running_loop(), time.time()
        begun = loop.time()
        await asyncio.sleep(10)
        seen.append((begun, loop.time(), time.monotonic(), time.time() - wall))
        time.sleep(5)  # noqa: ASYNC251
        seen.append((loop.time(),))

    async def program(world: World) -> None:
        await asyncio.sleep(1)
        process = world.host("fast", clock_rate=2.0, clock_offset_s=100.0).run(main)
        await process.ended()
        assert world.now == pytest.approx(1 + (10 + 5) / 2, abs=1e-6)

    passes(program)
    assert seen == [pytest.approx((102, 112, 112, 10), abs=1e-5), pytest.approx((117,), abs=1e-5)]


def test_a_process_that_sleeps_in_its_thread_holds_up_no_other() -> None:
    """time.sleep stops the loop of its own process alone."""
    log: list[str] = []

    async def sleeper() -> None:
        time.sleep(3)  # noqa: ASYNC251
        log.append("slept")

    async def ticker() -> None:
        for number in range(3):
            await asyncio.sleep(0.9)
            log.append(str(number))

    async def program(world: World) -> None:
        slow, fast = world.host("slow").run(sleeper), world.host("fast").run(ticker)
        await slow.ended()
        await fast.ended()

    passes(program)
    assert log == ["0", "1", "2", "slept"]


def test_the_world_is_the_same_in_each_process() -> None:
    """Outside events land in the process that awaits them; labels and checks count."""

    async def main(world: World) -> None:
        await world.outside("a letter", latest=5.0)
        world.reached("a letter came")
        world.check(world.now < 3, "letters are fast")

    async def program(world: World) -> None:
        await world.host("a").run(main, world).ended()

    report = explore(program, max_executions=50)
    assert report.verdict is Verdict.REFUTED
    assert report.counterexample is not None
    assert report.counterexample.property == "letters are fast"
    again = report.counterexample.replay(program)
    assert again.violation is not None
    assert again.labels == {"a letter came"}


async def _sets_its_future(shared: dict[str, Any]) -> None:
    shared["future"] = asyncio.get_running_loop().create_future()
    await asyncio.sleep(3)


async def _waits_for_its_future(shared: dict[str, Any]) -> None:
    shared["future"] = asyncio.get_running_loop().create_future()
    await shared["future"]


async def _has_a_task(shared: dict[str, Any]) -> None:
    shared["task"] = asyncio.current_task()
    await asyncio.sleep(3)


async def _gets(shared: dict[str, Any]) -> None:
    await shared["queue"].get()


async def _locks(shared: dict[str, Any]) -> None:
    async with shared["lock"]:
        await asyncio.sleep(3)


async def _takes(shared: dict[str, Any]) -> None:
    async with shared["semaphore"]:
        pass


async def _clears(shared: dict[str, Any]) -> None:
    shared["event"].clear()


SHARED: dict[str, tuple[Any, Callable[[dict[str, Any]], object], str]] = {
    "a future that is awaited": (
        _waits_for_its_future,
        lambda shared: shared["future"].set_result(1),
        "an asyncio.Future of the process a, which",
    ),
    "a future": (_sets_its_future, lambda shared: shared["future"].cancel(), "asyncio.Future"),
    "a task": (_has_a_task, lambda shared: shared["task"].cancel(), "the task main of the process"),
    "a queue": (_gets, lambda shared: shared["queue"].put_nowait(1), "an asyncio.Queue of"),
    "a lock": (_locks, lambda shared: shared["lock"].release(), "an asyncio.Lock of"),
    "a semaphore": (_takes, lambda shared: shared["semaphore"].release(), "asyncio.Semaphore of"),
    "an event": (_clears, lambda shared: shared["event"].set(), "an asyncio.Event of"),
}


@pytest.mark.parametrize("by_program", [True, False], ids=["the program", "a process"])
@pytest.mark.parametrize("what", SHARED)
def test_processes_share_no_objects_of_asyncio(what: str, by_program: bool) -> None:
    """Who uses another one's is refused, with the place, and with what to use instead."""
    main, use, words = SHARED[what]

    async def other(shared: dict[str, Any]) -> None:
        use(shared)

    async def program(world: World) -> None:
        shared: dict[str, Any] = {
            "queue": asyncio.Queue(),
            "lock": asyncio.Lock(),
            "semaphore": asyncio.Semaphore(),
            "event": asyncio.Event(),
        }
        world.host("a").run(main, shared)
        await asyncio.sleep(1)
        if by_program:
            use(shared)
        else:
            await world.host("b").run(other, shared).ended()

    report = explore(program)
    assert report.verdict is Verdict.ERROR
    assert words in report.reason
    assert "the program itself" if by_program else "the process b" in report.reason
    assert "tests/sim/test_hosts.py:" in report.reason
    assert "processes share no objects of asyncio" in report.reason


def test_a_future_of_the_program_is_not_a_process_s_to_set() -> None:
    """Nor does anything of it stay behind in asyncio's classes."""
    before = {name: vars(asyncio.Event).get(name) for name in ("set", "wait", "clear")}

    async def sets(future: asyncio.Future[None]) -> None:
        future.set_result(None)

    async def program(world: World) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        world.host("a").run(sets, future)
        await future

    report = explore(program)
    assert report.verdict is Verdict.ERROR
    assert "an asyncio.Future of the program itself, which the process a uses" in report.reason
    assert before == {name: vars(asyncio.Event).get(name) for name in before}


# ---- calls without sense -----------------------------------------------------------------------


async def _async() -> None:
    """Nothing."""


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda world: world.host(7), "world.host(7) needs a text"),
        (lambda world: world.host("b", clock_rate="fast"), "clock_rate='fast' makes no sense"),
        (lambda world: world.host("b", clock_offset_s=math.inf), "clock_offset_s=inf makes no"),
        (lambda world: world.host("a").run(7), "host.run(7) needs an async function"),
        (lambda world: world.host("a").run(_async, name=7), "name=7) needs a text"),
        (lambda world: world.host("a").run(print, 1), "host.run(print (test_hosts.py:"),
        (lambda world: world.host("a").run(_async()), "needs an async function"),
        (lambda world: world.host("a").run(_async).may_crash(-1), "restart_s=-1 makes no sense"),
        (lambda world: world.host("a").run(_async).may_crash("1"), "restart_s='1' makes no sense"),
        (lambda world: world.host("a").run(_async).may_pause(0), "for_s=0 makes no sense"),
        (lambda world: world.host("a").may_freeze(math.nan), "for_s=nan makes no sense"),
        (lambda world: world.host("a").may_crash(True), "restart_s=True makes no sense"),
        (lambda world: setattr(world.faults, "faults_max", "3"), "faults_max='3' makes no sense"),
        (lambda world: setattr(world.faults, "faults_max", -1), "faults_max=-1 makes no sense"),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_call_without_sense_is_an_error_with_its_line(call: Any, words: str) -> None:
    """Of the program, also where it catches that, and not of the simulator."""

    async def program(world: World) -> None:
        try:
            call(world)
        except Exception:
            world.reached("caught")
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict is Verdict.ERROR
    assert words in report.reason
    assert "test_hosts.py:" in report.reason
    assert "simulator" not in report.reason


def test_a_main_that_raises_as_it_is_called_ends_its_process() -> None:
    """As a program that is called with the wrong arguments."""

    async def program(world: World) -> None:
        world.host("a").run(_async, 1)
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict is Verdict.REFUTED
    assert "the process a ends with TypeError" in report.text


# ---- the execution -----------------------------------------------------------------------------


def test_an_execution_with_processes_is_the_same_each_time_and_leaves_nothing() -> None:
    """Natural order twice, with what was running at the end, crashed or not."""

    async def left() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    async def main(world: World) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(left())
            await world.outside("somebody comes", latest=3.0)

    async def program(world: World) -> None:
        processes = [world.host(name).run(main, world) for name in ("a", "b")]
        await asyncio.sleep(0.5)
        processes[0].crash()
        await asyncio.sleep(0.5)

    one, other = passes(program), passes(program)
    assert one.trace_hash == other.trace_hash
    assert len(one.steps) > 10
    del one, other
    gc.collect()
    assert not [each for each in gc.get_objects() if type(each).__name__ == "Run"]


def test_two_processes_that_can_run_are_run_in_either_order() -> None:
    """Natural is in turns; the other order is a departure."""
    orders: set[tuple[str, ...]] = set()

    async def main(name: str, order: list[str]) -> None:
        order.append(name)

    async def program(world: World) -> None:
        order: list[str] = []
        processes = [world.host(name).run(main, name, order) for name in ("a", "b")]
        for process in processes:
            await process.ended()
        orders.add(tuple(order))

    assert run(program).violation is None
    assert orders == {("a", "b")}
    assert explore(program).verdict is Verdict.PROVED
    assert orders == {("a", "b"), ("b", "a")}


def test_a_process_has_one_column_in_a_chart() -> None:
    """Its tasks are named in the rows."""

    async def main(world: World) -> None:
        world.record("serves")
        await asyncio.sleep(1)
        world.check(False, "it never ends")

    async def program(world: World) -> None:
        await world.host("server").run(main, world).ended()

    report = explore(program)
    assert report.counterexample is not None
    lines = [line.split(maxsplit=1) for line in report.counterexample.text.splitlines()]
    assert ["server"] in lines
    assert ["1.000", "main sleep of 1 s"] in [[each[0], each[-1][:17]] for each in lines]


def test_who_has_read_a_file_may_be_overtaken_before_he_writes_it() -> None:
    """Two processes of one host that each add one to a number lose one of the two."""

    async def adds(world: World) -> None:
        disk = world.host("bank").disk
        number = int(disk.read("number"))
        await asyncio.sleep(0)
        disk.write("number", b"%d" % (number + 1))

    async def program(world: World) -> None:
        bank = world.host("bank")
        bank.disk.write("number", b"0")
        processes = [bank.run(adds, world) for _ in range(2)]
        for process in processes:
            await process.ended()
        world.check(bank.disk.read("number") == b"2", "both additions count")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert report.counterexample.property == "both additions count"


def test_asyncio_is_what_it_was_after_a_traced_execution_with_hosts() -> None:
    """What is put in place for hosts goes before what the recording had put in place earlier."""
    before = {name: vars(asyncio.Lock).get(name) for name in ("acquire", "release")}

    async def program(world: World) -> None:
        async def main() -> None:
            async with asyncio.Lock():
                await asyncio.sleep(0)

        await world.host("a").run(main).ended()

    assert traced(program).violation is None
    assert {name: vars(asyncio.Lock).get(name) for name in before} == before
