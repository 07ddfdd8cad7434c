"""Hosts and processes: loops and clocks of their own; they crash, stand still and restart."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from sim import DepartureBounded, Fault, World, explore, run
from sim.exploration.verdict import Verdict
from sim.kernel.execution import Outcome, run_execution
from sim.kernel.guards import guarded
from sim.kernel.hosts.run import How
from sim.kernel.schedule import Bounds
from sim.schedulers import NaturalOrder, StateMatching

Program = Callable[[World], Awaitable[object]]


def traced(program: Program, bounds: Bounds | None = None) -> Outcome:
    scheduler = NaturalOrder()
    scheduler.next_execution()
    with guarded():
        return run_execution(program, scheduler, bounds or Bounds(), traced=True)


def passes(program: Program) -> Outcome:
    outcome = traced(program)
    assert outcome.error is None
    assert outcome.violation is None, outcome.violation
    return outcome


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


# ---- signals, pauses ---------------------------------------------------------------------------


def test_signals_go_to_the_process_they_are_sent_to() -> None:
    """Its handler runs in its loop; without one the signal ends it, without `finally`."""
    log: list[str] = []

    async def main(name: str, handles: bool) -> None:
        done = asyncio.Event()
        if handles:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, done.set)
        try:
            await done.wait()
        finally:
            log.append(name)

    async def program(world: World) -> None:
        polite = world.host("polite").run(main, "polite", True)
        rude = world.host("rude").run(main, "rude", False)
        await world.signal(signal.SIGTERM, to=rude)
        assert (await rude.ended()).value == signal.SIGTERM
        assert log == []
        assert polite.pid is not None
        os.kill(polite.pid, signal.SIGTERM)
        assert (await polite.ended()).how is How.RETURNED
        with pytest.raises(ProcessLookupError):
            os.kill(1001, signal.SIGTERM)

    passes(program)
    assert log == ["polite"]


def test_handlers_of_signal_signal_are_each_processs_own() -> None:
    """One process's handler is not another's, nor the program's."""
    log: list[str] = []

    async def main(name: str) -> None:
        before = signal.signal(signal.SIGTERM, lambda sig, frame: log.append(name))
        assert before is signal.SIG_DFL
        await asyncio.sleep(5)

    async def program(world: World) -> None:
        first, second = (world.host(name).run(main, name) for name in ("a", "b"))
        await asyncio.sleep(1)
        await world.signal(signal.SIGTERM, to=second)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert (await second.ended()).how is (await first.ended()).how is How.RETURNED

    passes(program)
    assert log == ["b"]


@pytest.mark.parametrize("is_pause", [True, False], ids=["pause", "freeze"])
def test_a_pause_leaves_the_clock_running_and_a_freeze_does_not(is_pause: bool) -> None:
    """What a process that stands still missed by its own clock; its callbacks are kept."""
    seen: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(3):
            await asyncio.sleep(1)
            seen.append(round(loop.time(), 3))

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main)
        await asyncio.sleep(1.5)
        process.pause() if is_pause else host.freeze()
        await asyncio.sleep(5)
        process.resume() if is_pause else host.thaw()
        await process.ended()

    passes(program)
    assert seen == ([1, 6.5, 7.5] if is_pause else [1, 2, 3])


# ---- SIGINT, as asyncio.run has it ---------------------------------------------------------------


async def interrupted(send: Callable[[], object], *, is_stubborn: bool = False) -> None:
    try:
        send()
        await asyncio.sleep(10)
    except asyncio.CancelledError:
        if not is_stubborn:
            raise


@pytest.mark.parametrize("is_stubborn", [False, True])
@pytest.mark.parametrize("by", ["kill", "raise_signal", "a thread", "world"])
def test_sigint_cancels_the_main_task_and_what_leaves_it_is_an_interrupt(
    by: str, is_stubborn: bool
) -> None:
    """As on stock, where nothing handles the signal; who goes on ends well."""
    sends: dict[str, Callable[[Any], object]] = {
        "kill": lambda _: os.kill(os.getpid(), signal.SIGINT),
        "raise_signal": lambda _: signal.raise_signal(signal.SIGINT),
        "a thread": lambda _: threading.Thread(
            target=os.kill, args=(os.getpid(), signal.SIGINT)
        ).start(),
        "world": lambda world: world.signal(signal.SIGINT),
    }

    async def program(world: World) -> None:
        await interrupted(lambda: sends[by](world), is_stubborn=is_stubborn)

    outcome = traced(program)
    assert outcome.error is None
    if is_stubborn:
        assert outcome.violation is None
    else:
        assert outcome.violation is not None
        assert "SIGINT cancels the main task" in outcome.violation.detail
    if by in ("kill", "raise_signal"):
        real = interrupted(lambda: sends[by](None), is_stubborn=is_stubborn)
        # A job in the background begins with SIGINT ignored, and asyncio.run would leave it so.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if is_stubborn:
                asyncio.run(real)
            else:
                with pytest.raises(KeyboardInterrupt):
                    asyncio.run(real)
        finally:
            signal.signal(signal.SIGINT, before)


def test_sigint_ends_a_process_after_its_clean_up() -> None:
    """The first one is a cancel; a second does not wait for what that takes."""
    log: list[str] = []

    async def main(name: str) -> None:
        try:
            await asyncio.sleep(100)
        finally:
            log.append(f"{name} cleans up")
            await asyncio.sleep(1)
            log.append(f"{name} is clean")

    async def program(world: World) -> None:
        one, other = (world.host(name).run(main, name) for name in ("a", "b"))
        await asyncio.sleep(1)
        await world.signal(signal.SIGINT, to=one)
        await world.signal(signal.SIGINT, to=other)
        await asyncio.sleep(0.5)
        await world.signal(signal.SIGINT, to=other)
        for process in (one, other):
            end = await process.ended()
            assert (end.how, end.value) == (How.KILLED, signal.SIGINT)
        assert world.now == pytest.approx(2.0, abs=1e-3)

    passes(program)
    assert log == ["a cleans up", "b cleans up", "a is clean"]


def test_handlers_that_read_when_main_returns_are_cancelled_as_on_stock() -> None:
    """What asyncio's own callback then raises is no violation; what a clean-up raises is."""

    async def handles(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readline()

    async def server() -> None:
        listening = await asyncio.start_server(handles, "0.0.0.0", 80)
        await asyncio.sleep(2)
        listening.close()

    async def program(world: World) -> None:
        process = world.host("server").run(server)
        await asyncio.sleep(1)
        reader, writer = await asyncio.open_connection("server", 80)
        assert (await process.ended()).how is How.RETURNED
        assert await reader.read() == b""
        writer.close()

    passes(program)


# ---- disks -------------------------------------------------------------------------------------


def test_what_was_not_synced_may_be_lost_when_the_power_fails() -> None:
    """A departure for each file; what was synced is there in every schedule."""

    async def main(world: World) -> None:
        disk = world.host("a").disk
        disk.write("ledger", b"1")
        disk.sync()
        disk.write("ledger", b"2")
        disk.write("draft", b"x")
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        host.run(main, world)
        await asyncio.sleep(1)
        host.crash()
        draft = host.disk.read("draft") if "draft" in host.disk else None
        world.reached(f"{host.disk.read('ledger')} {draft}")

    ledgers, drafts = (b"1", b"", b"2"), (None, b"", b"x")
    labels = [f"{ledger!r} {draft!r}" for ledger in ledgers for draft in drafts]
    report = explore(program, labels=labels)
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == set(labels)


def saves(*calls: str) -> Program:
    """A file that has content is replaced by these calls of its disk, and then the power fails."""

    async def main(world: World) -> None:
        disk = world.host("a").disk
        disk.write("file", b"old")
        disk.sync()
        for call in calls:
            eval(f"disk.{call}", {"disk": disk})
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        host.run(main, world)
        await asyncio.sleep(1)
        host.crash()
        for name in host.disk:
            world.reached(f"{name}: {host.disk.read(name).decode()}")
        world.reached("either name" if {"file", "new"} & {*host.disk} else "neither name")

    return program


NEW = "write('new', b'new!')"
RENAME = "rename('new', 'file')"


@pytest.mark.parametrize(
    ("calls", "files"),
    [
        (("write('file', b'new!')",), {"old", "", "ne", "new!"}),
        (("write('file', b'new!')", "sync('file')"), {"new!"}),
        (("append('file', b'er!!')",), {"old", "older", "older!!"}),
        # Renamed before its content is on the disk, as the file systems that lose it have it.
        ((NEW, RENAME), {"old", "", "ne", "new!"}),
        ((NEW, "sync('new')", RENAME), {"old", "new!"}),
        ((NEW, "sync('new')", RENAME, "sync_directory()"), {"new!"}),
        ((NEW, RENAME, "sync()"), {"new!"}),
        (("remove('file')", NEW), {"old"}),
    ],
)
def test_what_a_power_failure_leaves_of_a_file_is_what_posix_allows(
    calls: tuple[str, ...], files: set[str]
) -> None:
    """Content that was synced is whole; a rename happens or not, and never takes both names."""
    report = explore(saves(*calls), strategy="depth-first")
    assert report.verdict is Verdict.PROVED, report.reason
    left = {label.removeprefix("file: ") for label in report.labels if label.startswith("file: ")}
    assert left == files
    assert ("neither name" in report.labels) == (calls[0] == "remove('file')")


def test_what_a_power_failure_takes_is_part_of_that_fault() -> None:
    """One departure, so that a proof of those with one has seen what was not synced lost."""

    async def main(world: World, told: list[bool]) -> None:
        disk = world.host("a").disk
        if told:
            world.check("order" in disk, "what was told is there")
            return
        disk.write("order", b"1")
        told.append(True)
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main, world, [])
        host.may_crash(restart_s=1.0)
        await process.returned()

    report = explore(program, strategy=DepartureBounded(1))
    assert report.verdict is Verdict.REFUTED
    assert "departures: 1, at 2 of" in report.text


def test_a_crash_in_the_middle_of_a_write_leaves_an_empty_file() -> None:
    """So a file that is written in place is no safe one, and one that is renamed is."""

    async def main(world: World, is_renamed: bool) -> None:
        disk = world.host("a").disk
        if is_renamed:
            disk.write("new", b"new")
            disk.rename("new", "file")
        else:
            disk.write("file", b"new")

    def program(is_renamed: bool) -> Program:
        async def replaces(world: World) -> None:
            host = world.host("a")
            host.disk.write("file", b"old")
            process = host.run(main, world, is_renamed)
            process.may_crash()
            await process.ended()
            found = host.disk.read("file")
            world.check(found in (b"old", b"new"), "the file is whole", f"{found!r}")

        return replaces

    report = explore(program(is_renamed=False))
    assert report.verdict is Verdict.REFUTED
    assert "crashes before it fills file, which is empty" in report.text
    assert explore(program(is_renamed=True)).verdict is Verdict.PROVED


def test_a_process_that_crashes_loses_nothing_it_has_written() -> None:
    """What it has written is the system's, and not its own."""

    async def main(world: World) -> None:
        world.host("a").disk.write("ledger", b"1")
        await asyncio.sleep(100)

    async def program(world: World) -> None:
        host = world.host("a")
        process = host.run(main, world)
        await asyncio.sleep(1)
        process.crash()
        assert host.disk.read("ledger") == b"1"

    assert explore(program).verdict is Verdict.PROVED


# ---- faults ------------------------------------------------------------------------------------


def transfers(synced_together: bool) -> Program:
    """Two accounts on a disk; a crash between two writes loses the money."""

    async def bank(world: World) -> None:
        disk = world.host("bank").disk
        if "a" in disk:
            return
        await asyncio.sleep(1)
        if synced_together:
            disk.write("both", b"60 40")
            disk.rename("both", "a")
        else:
            disk.write("a", b"60")
            disk.write("b", b"40")

    async def program(world: World) -> None:
        host = world.host("bank")
        process = host.run(bank, world)
        process.may_crash(restart_s=1.0)
        await asyncio.sleep(5)
        total = sum(int(part) for name in host.disk for part in host.disk.read(name).split())
        world.check(total in (0, 100), "no money is lost", f"{total}")

    return program


def test_a_crash_between_two_writes_is_found_and_shown() -> None:
    """A fault is a departure: the counterexample has that one, and nothing else."""
    report = explore(transfers(synced_together=False))
    assert report.verdict is Verdict.REFUTED
    assert report.counterexample is not None
    assert report.counterexample.property == "no money is lost"
    text = report.counterexample.text
    assert "1. at 1.000 s: bank crashes before it writes b" in text
    assert "≠ crashes before it writes b\n" in text
    assert "departures: 1, at 1 of " in text


def test_one_write_is_proved_under_every_crash() -> None:
    """With one fault; the verdict names the budget that limited it."""
    report = explore(transfers(synced_together=True))
    assert report.verdict is Verdict.PROVED, report.reason
    assert "faults_max=1" in report.bounds_hit


def test_a_cancel_is_offered_at_each_step_of_a_process() -> None:
    """`offer_cancels` in the program holds for its processes, those to come as well."""

    async def main() -> None:
        items = [1]
        item = items.pop()
        await asyncio.sleep(1)
        items.append(item)

    async def program(world: World) -> None:
        world.offer_cancels()
        await world.host("a").run(main).ended()

    report = explore(program, strategy="cancel everywhere")
    assert "main" not in report.reason
    assert report.executions > 2


def test_a_budget_of_faults_is_the_programs() -> None:
    """No more happen than it declares, in any schedule."""
    counts = set()

    async def main() -> None:
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        world.faults.faults_max = 2
        processes = []
        for name in ("a", "b", "c"):
            processes.append(world.host(name).run(main))
            processes[-1].may_crash()
            await processes[-1].ended()
        ends = [await process.ended() for process in processes]
        counts.add(sum(end.how is How.CRASHED for end in ends))

    report = explore(program)
    assert report.verdict is Verdict.PROVED, report.reason
    assert counts == {0, 1, 2}


def test_network_and_hosts_have_one_budget_of_faults() -> None:
    """With one fault a connection is refused or the client crashes, and never both."""
    seen = set()

    async def accepts() -> None:
        await (await asyncio.start_server(lambda _, to: to.close(), "0.0.0.0", 80)).serve_forever()

    async def connects(world: World, faults: set[str]) -> None:
        try:
            _, writer = await asyncio.open_connection("server", 80)
            writer.close()
        except ConnectionRefusedError:
            faults.add("refused")
        await asyncio.sleep(1)

    async def program(world: World) -> None:
        world.network.may_fail(Fault.REFUSED)
        faults: set[str] = set()
        world.host("server").run(accepts)
        await asyncio.sleep(1)
        client = world.host("client").run(connects, world, faults)
        client.may_crash()
        if (await client.ended()).how is How.CRASHED:
            faults.add("crashed")
        seen.add(tuple(sorted(faults)))

    report = explore(program, strategy=DepartureBounded(2))
    assert report.counterexample is None
    assert seen == {(), ("refused",), ("crashed",)}
    assert "faults_max=1" in report.bounds_hit


def test_a_partition_is_a_fault_of_the_budget_and_ends() -> None:
    """Wherever it begins, what was sent arrives once it is over."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def server() -> None:
        await (await asyncio.start_server(answers, "0.0.0.0", 80)).serve_forever()

    async def client(world: World) -> None:
        begun = world.now
        reader, writer = await asyncio.open_connection("server", 80)
        for number in range(2):
            writer.write(b"%d\n" % number)
            assert await reader.readline() == b"%d\n" % number
        writer.close()
        world.reached(f"after {world.now - begun:.0f} s")

    async def program(world: World) -> None:
        world.host("server").run(server)
        far = world.host("client")
        world.network.may_part("server", "client", for_s=5.0)
        await asyncio.sleep(1)
        await far.run(client, world).ended()

    report = explore(program, strategy=DepartureBounded(1), labels=["after 0 s", "after 5 s"])
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == {"after 0 s", "after 5 s"}


def test_what_a_fault_ends_is_its_own() -> None:
    """A pause or a freeze that the program made goes on when that of a fault is over."""

    async def main(log: list[str]) -> None:
        await asyncio.sleep(1)
        log.append("goes on")

    async def program(world: World) -> None:
        log: list[str] = []
        host = world.host("a")
        process = host.run(main, log)
        process.may_pause(for_s=2.0)
        host.may_freeze(for_s=2.0)
        await asyncio.sleep(0.5)
        world.choose("who", [process.pause, host.freeze])()
        if world.faults.taken:
            world.reached("a fault, and the program")
        await asyncio.sleep(5)
        world.check(not log, "the program's own pause lasts")
        process.resume()
        host.thaw()
        await process.ended()

    report = explore(program, labels=["a fault, and the program"])
    assert report.verdict is Verdict.PROVED, report.text


def test_a_frozen_host_that_crashes_starts_anew() -> None:
    """Its power is gone, and what was frozen with it; its clock goes on."""

    async def main(log: list[str]) -> None:
        await asyncio.sleep(1)
        log.append("ends")

    async def program(world: World) -> None:
        log: list[str] = []
        host = world.host("a")
        process = host.run(main, log)
        host.freeze()
        host.crash()
        host.restart()
        await process.returned()
        assert log == ["ends"]

    passes(program)


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


# ---- states ------------------------------------------------------------------------------------


def crashing() -> Program:
    async def main(world: World, number: int) -> None:
        disk = world.host(f"h{number}").disk
        disk.append("starts", b"x")
        await asyncio.sleep(number)
        if len(disk.read("starts")) > 1:
            world.reached(f"{number} started twice")
        await world.outside(f"letter {number}", latest=2.0)
        world.reached(f"{number} ends at {world.now:.1f}")

    async def program(world: World) -> None:
        processes = [world.host(f"h{number}").run(main, world, number) for number in (1, 2)]
        processes[0].may_crash(restart_s=1.0)
        processes[1].may_pause(for_s=1.5)
        for process in processes:
            end = await process.ended()
            world.reached(f"{process.name} {end.how.value}")

    return program


def frozen() -> Program:
    async def main(world: World) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(1)
        await asyncio.sleep(1)
        world.reached(f"after {world.now:.1f} s it shows {loop.time():.1f}")

    async def program(world: World) -> None:
        world.faults.faults_max = 2
        host = world.host("a", clock_rate=2.0)
        process = host.run(main, world)
        host.may_freeze(for_s=3.0)
        process.may_pause(for_s=0.25)
        await process.ended()

    return program


@pytest.mark.parametrize("make", [crashing, frozen], ids=lambda make: make.__name__)
def test_states_with_processes_reach_what_every_schedule_reaches(make: Any) -> None:
    """What tells two states apart is read: who stands where, clocks, disks, the rest of faults."""
    program = make()
    every = explore(program, strategy="depth-first", budget_s=600)
    matched = explore(program, strategy=StateMatching(with_labels=True), budget_s=600)
    assert every.verdict is matched.verdict is Verdict.PROVED, (every.reason, matched.reason)
    assert every.labels == matched.labels
    assert len(every.labels) > 3
    assert matched.executions < every.executions


def test_a_process_in_the_middle_of_a_callback_makes_the_state_unique() -> None:
    """What is on its stack is not read, so nothing is taken to be the same."""

    async def main(world: World, slow: float) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        time.sleep(slow)  # noqa: ASYNC251
        world.reached(f"slept {loop.time() - started:.0f}")

    async def other(world: World) -> None:
        await world.outside("a letter", latest=1.0)

    async def program(world: World) -> None:
        slow = world.choose("slow", [1.0, 2.0])
        first = world.host("a").run(main, world, slow)
        world.host("b").run(other, world)
        await first.ended()

    scheduler = StateMatching(with_labels=True)
    report = explore(program, strategy=scheduler)
    assert report.verdict is Verdict.PROVED, report.reason
    assert report.labels == {"slept 1", "slept 2"}
    assert "a process in the middle of a callback" in scheduler.opaque


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
