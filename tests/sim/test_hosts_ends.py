"""How processes of hosts end: returned, raised, crashed, started again, or never."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from sim import World, explore
from sim.exploration.verdict import Verdict
from sim.kernel.hosts.run import How
from sim.kernel.schedule import Bounds
from tests.sim.host_programs import passes, traced

# ---- how it ends -------------------------------------------------------------------------------


def test_nothing_of_a_crashed_process_runs_any_more() -> None:
    """No callback, no thread, no `finally` and no `__del__`; others go on."""
    log: list[str] = []

    class Noisy:
        def __del__(self) -> None:
            log.append("del")

    def thread() -> None:
        try:
            time.sleep(2)
            log.append("thread")
        finally:
            log.append("finally of a thread")

    async def generator() -> Any:
        try:
            yield 1
        finally:
            log.append("finally of a generator")

    async def main() -> None:
        noisy, other = Noisy(), asyncio.create_task(asyncio.sleep(100))
        threading.Thread(target=thread).start()
        asyncio.get_running_loop().call_later(2, log.append, "timer")
        try:
            async for _ in generator():
                await other
        finally:
            log.append(f"finally {noisy}")

    async def program(world: World) -> None:
        process = world.host("a").run(main)
        await asyncio.sleep(1)
        process.crash()
        assert not process.is_running
        assert (await process.ended()).how is How.CRASHED
        await asyncio.sleep(10)
        gc.collect()
        world.check(log == [], "nothing of it runs", str(log))

    passes(program)


def test_a_process_that_crashes_itself_ends_in_that_line() -> None:
    """Also os.kill with SIGKILL: the next line does not run, nor a `finally` around it."""
    log: list[str] = []

    async def main(crash: Callable[[], None]) -> None:
        await asyncio.sleep(1)
        try:
            crash()
            log.append("after")
        except BaseException:
            log.append("except")
        finally:
            log.append("finally")

    async def program(world: World) -> None:
        a, b = world.host("a"), world.host("b")
        first = a.run(main, lambda: first.crash())
        second = b.run(main, lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert (await first.ended()).how is How.CRASHED
        assert (await second.ended()).how is How.CRASHED
        world.check(log == [], "nothing of it runs", str(log))

    passes(program)


def test_an_exception_that_ends_a_process_is_a_violation_unless_its_end_is_awaited() -> None:
    """Then the exception is the awaiting one's to judge; a failed assert is a violation anyway."""

    async def main() -> None:
        await asyncio.sleep(1)
        raise LookupError("gone")

    async def nobody_waits(world: World) -> None:
        world.host("a").run(main)
        await asyncio.sleep(2)

    async def somebody_waits(world: World) -> None:
        end = await world.host("a").run(main).ended()
        assert end.how is How.RAISED
        assert isinstance(end.raised, LookupError)

    violation = traced(nobody_waits).violation
    assert violation is not None
    assert "the process a ends with LookupError('gone')" in violation.detail
    passes(somebody_waits)

    async def asserts() -> None:
        raise AssertionError("two and two are four")

    async def waits_for_assert(world: World) -> None:
        await world.host("a").run(asserts).ended()

    violation = traced(waits_for_assert).violation
    assert violation is not None
    assert violation.property == "two and two are four"


def test_a_process_ends_as_asyncio_run_does() -> None:
    """What is left of its tasks is cancelled, and SystemExit ends it well or not."""
    log: list[str] = []

    async def left() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            log.append("cancelled")

    async def main(code: int) -> None:
        log.append("begins")
        task = asyncio.create_task(left())
        await asyncio.sleep(0)
        assert not task.done()
        if code >= 0:
            raise SystemExit(code)

    async def program(world: World) -> None:
        ends = [await world.host(str(code)).run(main, code).ended() for code in (-1, 0)]
        assert [end.how for end in ends] == [How.RETURNED, How.RETURNED]
        world.host("bad").run(main, 3)
        await asyncio.sleep(1)

    outcome = traced(program)
    assert outcome.violation is not None
    assert "SystemExit(3)" in outcome.violation.detail
    assert log == ["begins", "cancelled"] * 3


def test_restart_is_a_fresh_main_with_another_number() -> None:
    """Nothing is left of the one before, but what the disk has."""
    pids: list[int] = []

    async def main(world: World) -> None:
        disk = world.host("a").disk
        pids.append(os.getpid())
        disk.append("starts", b"x")
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main, world)
        await asyncio.sleep(1)
        process.restart()
        await asyncio.sleep(1)
        assert process.is_running
        assert process.pid == pids[-1]
        assert host.disk.read("starts") == b"xx"

    passes(program)
    assert len(set(pids)) == 2


def test_what_waits_until_a_process_returns_waits_over_its_crashes() -> None:
    """And is told what it returned in the end; an exception of it is not theirs to judge."""

    async def main(world: World) -> int:
        disk = world.host("a").disk
        disk.append("starts", b"x")
        await asyncio.sleep(2)
        return len(disk.read("starts"))

    async def program(world: World) -> None:
        process = world.host("a").run(main, world)
        returned = asyncio.create_task(process.returned())
        for _ in range(2):
            await asyncio.sleep(1)
            process.restart()
        assert await returned == await process.returned() == 3

    passes(program)

    async def raises() -> None:
        raise LookupError("gone")

    async def waits(world: World) -> None:
        await world.host("a").run(raises).returned()

    violation = traced(waits).violation
    assert violation is not None
    assert "LookupError" in violation.detail


# ---- no end, no progress -----------------------------------------------------------------------


def test_a_deadlock_names_the_processes_that_wait() -> None:
    """All of them, with the place."""

    async def main() -> None:
        await asyncio.Event().wait()

    async def program(world: World) -> None:
        world.host("a").run(main)
        await world.host("b").run(main).ended()

    violation = traced(program).violation
    assert violation is not None
    assert violation.property.startswith("no deadlock")
    assert "a: main waits in main" in violation.detail
    assert "b: main waits in main" in violation.detail


def test_what_was_kept_waiting_lands_where_nothing_else_is_to_come() -> None:
    """An event of one process may wait for what others do, and not for ever."""

    async def main(world: World, name: str) -> None:
        await world.outside(f"a letter for {name}")
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        processes = [world.host(name).run(main, world, name) for name in ("a", "b")]
        await world.outside("somebody looks")
        for process in processes:
            await process.ended()

    report = explore(program, strategy="states")
    assert report.verdict is Verdict.PROVED, report.reason


def test_a_process_that_spins_is_a_livelock_only_where_nothing_else_happens() -> None:
    """Others go on beside it, and it ends when they have done what it waits for."""
    flags: set[str] = set()

    async def spins() -> None:
        while "done" not in flags:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def sets() -> None:
        await asyncio.sleep(3)
        flags.add("done")

    async def fair(world: World) -> None:
        flags.clear()
        spinning = world.host("a").run(spins)
        world.host("b").run(sets)
        await spinning.ended()

    async def alone(world: World) -> None:
        flags.clear()
        await world.host("a").run(spins).ended()

    passes(fair)
    violation = traced(alone).violation
    assert violation is not None
    assert violation.property.startswith("no livelock")


def test_a_process_that_goes_on_for_ever_has_no_end() -> None:
    """The horizon is counted in world time, whatever its clock shows."""

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(1)

    async def program(world: World) -> None:
        await world.host("a", clock_rate=100.0).run(main).ended()

    violation = traced(program, Bounds(horizon_s=20)).violation
    assert violation is not None
    assert violation.property == "the execution ends"
    assert 19 < violation.at < 21


def test_threads_of_a_process_that_has_returned_are_gone() -> None:
    """Also of a pool that nobody shuts down: `threading` knows of none after the execution."""
    before = threading.enumerate()

    async def main(world: World) -> None:
        await asyncio.get_running_loop().run_in_executor(world.executor(), int)

    async def program(world: World) -> None:
        assert (await world.host("a").run(main, world).ended()).how is How.RETURNED

    passes(program)
    assert threading.enumerate() == before


def test_a_process_that_crashes_in_a_step_and_would_go_on_for_ever_is_over() -> None:
    """The task whose step is broken off takes its end for its own; the loop goes on no more."""

    async def crashes() -> None:
        await asyncio.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    async def main() -> None:
        task = asyncio.create_task(crashes())
        while True:  # noqa: ASYNC110 - as uvicorn does
            await asyncio.sleep(0.1)
        await task

    async def program(world: World) -> None:
        assert (await world.host("a").run(main).ended()).how is How.CRASHED

    passes(program)


@pytest.mark.parametrize("fault", ["may_crash", "may_pause"])
def test_what_befalls_a_process_in_a_thread_befalls_that_thread_alone(fault: str) -> None:
    """Who runs meanwhile, and its own main once it starts anew, is in the main thread."""
    of_thread = threading.local()

    def check_that_it_is_the_main_thread(world: World) -> None:
        world.check(threading.current_thread() is threading.main_thread(), "it is the main thread")
        world.check(not hasattr(of_thread, "value"), "it has no value of another thread")
        world.check(sys.gettrace() is trace, "it is traced as before")

    async def program(world: World) -> None:
        nonlocal trace
        world.declare(__file__)
        trace = sys.gettrace()
        server = world.host("server")
        begun = 0

        def writes() -> None:
            of_thread.value = 1
            server.disk.write("log", b"x")
            world.check(threading.current_thread() is not threading.main_thread(), "a thread")

        async def main() -> None:
            nonlocal begun
            begun += 1
            check_that_it_is_the_main_thread(world)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if begun == 1:
                await asyncio.to_thread(writes)
                check_that_it_is_the_main_thread(world)

        process = server.run(main)
        getattr(process, fault)(1.0)
        await asyncio.sleep(0.5)
        check_that_it_is_the_main_thread(world)
        await process.returned()

    trace: Any = None
    report = explore(program, strategy="departures", max_executions=1000)
    assert report.verdict == Verdict.PROVED, report.text
