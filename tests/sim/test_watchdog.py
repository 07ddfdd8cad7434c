"""A step that never gives the loop back refutes, by a count; what blocks ends with the budget."""

from __future__ import annotations

import _thread
import asyncio
import itertools
import math
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from sim import Report, World, explore
from sim.exploration.verdict import Stop
from sim.export.file import NotExportable
from sim.kernel import forks, step_lines, watchdog
from sim.kernel.forks import in_a_fork
from sim.kernel.guards import guarded
from sim.kernel.step_lines import LineCounter
from sim.kernel.violation import Kind
from tests.sim.short_budgets import spent_within

pytestmark = [
    pytest.mark.socket,  # real time: of the processor, and some tenths of a second
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no watchdog here"),
]


LINES_MAX = 30_000


@pytest.fixture(autouse=True)
def _looks_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it looks is decided by a real clock; what it says is not."""
    for name in ("TICK_S", "VIRTUAL_TICK_S", "SUSPECT_S", "FREED_S"):
        monkeypatch.setattr(watchdog, name, 0.02)
    monkeypatch.setattr(watchdog, "GRACE_S", 0.1)


def explored(program: Any, **options: Any) -> Report:
    return explore(program, max_executions=50, step_lines_max=LINES_MAX, **options)


def spin() -> None:
    while True:
        pass


async def spins_if_overtaken(world: World) -> None:
    """Where the second arrival lands first, the one who waits for it never gives the loop back."""
    landed: list[str] = []

    async def arrive(name: str) -> None:
        await world.outside(name)
        landed.append(name)
        if landed == ["b"]:
            while "a" not in landed:
                pass

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(arrive(name))


async def spins_and_swallows(world: World) -> None:
    async def stubborn() -> None:
        while True:
            try:
                spin()
            except Exception:
                continue

    await asyncio.create_task(stubborn())


async def spins_in_a_callback(world: World) -> None:
    asyncio.get_running_loop().call_soon(spin)
    await asyncio.sleep(1)


async def spins_in_a_thread(world: World) -> None:
    await asyncio.to_thread(spin)


async def spins_at_a_poll(world: World) -> None:
    world.always("the predicate is true", lambda: spin() or True)  # type: ignore[func-returns-value]
    await asyncio.sleep(1)


def compute() -> bool:
    """Far longer than it is allowed, and not for ever."""
    for _ in range(100_000_000):
        pass
    return True


async def computes_at_a_poll(world: World) -> None:
    world.always("the predicate is true", compute)
    await asyncio.sleep(1)


async def computes_in_a_step(world: World) -> None:
    compute()


async def spins_when_it_is_cancelled(world: World) -> None:
    async def last_words() -> None:
        try:
            await asyncio.sleep(1)
        finally:
            spin()

    asyncio.create_task(last_words(), name="last words")  # noqa: RUF006
    await asyncio.sleep(0)
    world.check(False, "the end comes early")


async def spins_in_an_outside_call(world: World) -> None:
    await world.outside("it comes", call=spin)


async def spins_around_an_event(world: World) -> None:
    """As aio-libs/janus#715: what is awaited is there, so that nothing is ever waited for."""
    event = asyncio.Event()
    event.set()
    jobs = [1]
    while jobs:
        await event.wait()


async def spins_around_a_lock(world: World) -> None:
    mutex = threading.Lock()
    jobs = [1]
    while jobs:
        with mutex:
            pass


async def spins_with_calls_of_c(world: World) -> None:
    while True:
        sorted(range(10))
        re.match("a+", "aaa")


async def spins_in_one_line(world: World) -> None:
    """An instruction that jumps to itself."""
    while True: pass  # noqa: E701 # fmt: skip


async def spins_beyond_its_calls(world: World) -> None:
    """Some step of the same iteration takes long, and ends."""

    async def long() -> None:
        for _ in range(LINES_MAX // 4):
            pass

    task = asyncio.create_task(long(), name="long")
    spinning = asyncio.create_task(spins_around_an_event(world), name="spinning")
    await asyncio.gather(task, spinning)


SPINNING: list[tuple[Any, str]] = [
    (spins_if_overtaken, "task Task-2 goes on and on in arrive (tests/sim/test_watchdog.py:"),
    (spins_and_swallows, "task Task-1 goes on and on in spin (tests/sim/test_watchdog.py:"),
    (spins_in_a_callback, "callback spin goes on and on in spin (tests/sim/test_watchdog.py:"),
    (spins_at_a_poll, "what is asked at a poll of the loop goes on and on in spin"),
    (spins_in_an_outside_call, "callback spin goes on and on in spin (tests/sim/test_watchdog.py:"),
    (
        spins_around_an_event,
        "task program goes on and on in spins_around_an_event (tests/sim/test_watch",
    ),
    (
        spins_around_a_lock,
        "task program goes on and on in spins_around_a_lock (tests/sim/test_watch",
    ),
    (
        spins_with_calls_of_c,
        "task program goes on and on in spins_with_calls_of_c (tests/sim/test_watch",
    ),
    (spins_in_one_line, "task program goes on and on in spins_in_one_line (tests/sim/test_watch"),
    (
        spins_beyond_its_calls,
        "task spinning goes on and on in spins_around_an_event (tests/sim/test_watch",
    ),
]


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(("program", "seen"), SPINNING)
def test_a_step_without_an_end_refutes(program: Any, seen: str) -> None:
    """Wherever it runs: whose step it is, and in which line of the program its loop begins."""
    report = explored(program)
    assert report.verdict == "refuted", report.reason
    assert report.counterexample is not None
    assert report.counterexample.property == Kind.ENDLESS_STEP.value
    assert seen in one_line(report.text)
    assert f"{LINES_MAX:,} lines in one step" in one_line(report.text)


@pytest.mark.parametrize("program", [spins_if_overtaken, spins_around_a_lock, spins_at_a_poll])
def test_it_says_the_same_each_time(program: Any) -> None:
    """The report's text is the same for all runs of one busy loop, and so is its replay's."""
    reports = [explored(program) for _ in range(3)]
    assert len({report.text for report in reports}) == 1
    found = reports[0].counterexample
    assert found is not None
    details = {found.replay(program).violation for _ in range(2)}
    assert len(details) == 1


def test_a_step_suspected_again_while_its_count_begins_is_counted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The watchdog's thread and a signal may both ask, one in the middle of what the other does."""
    first, second = (LineCounter(1_000, lambda frames: 1_000) for _ in range(2))
    began: list[bool] = []

    def interrupted(tool: int) -> str | None:
        if not began:
            began.append(second.begin(None))
        return get_tool(tool)

    if sys.version_info >= (3, 12):
        get_tool = sys.monitoring.get_tool
        monkeypatch.setattr(step_lines._monitoring, "get_tool", interrupted)
    try:
        assert first.begin(None)
        assert began in ([], [False])
        assert not second.begin(None)
        second.end()
        assert first.is_counting
    finally:
        first.end()
    assert second.begin(None)
    second.end()


@pytest.mark.parametrize("program", [computes_at_a_poll, computes_in_a_step])
def test_what_was_found_once_is_found_again_by_its_count_alone(
    program: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no clock suspects it any more, and it would end of itself a little later."""
    with watchdog.watched():
        found = explored(program).counterexample
        assert found is not None
        monkeypatch.setattr(watchdog, "SUSPECT_S", math.inf)
        again = found.replay(program).violation
    assert again is not None
    assert again.property == Kind.ENDLESS_STEP.value


def test_a_thread_that_spins_is_inconclusive() -> None:
    """On stock another thread may end it; the reason says so, and is the same each time."""
    reports = [explored(spins_in_a_thread) for _ in range(4)]
    assert {report.verdict for report in reports} == {"inconclusive"}
    assert {report.stopped for report in reports} == {Stop.THREAD_SPINS}
    assert len({report.reason for report in reports}) == 1
    reason = reports[0].reason
    assert "goes on and on in spin (tests/sim/test_watchdog.py:" in reason
    assert "it is not known whether another one would end this" in reason
    assert "if threads switch only" not in reason


def test_a_thread_that_spins_until_the_budget_is_spent_is_told_what_to_do() -> None:
    """Its lines were not counted by then; to give it more would not help."""
    reason = spent_within(spins_in_a_thread).reason
    assert "spin (tests/sim/test_watchdog.py:" in reason
    assert "world.declare(__file__)" in reason
    assert "give it more" not in reason
    assert "if threads switch only" not in reason


def test_outside_of_the_main_thread_it_says_the_same() -> None:
    """There an exception breaks the step off, and a repetition counts its lines."""
    reports: list[Report] = []
    thread = threading.Thread(target=lambda: reports.append(explored(spins_around_an_event)))
    thread.start()
    thread.join()
    assert reports[0].text == explored(spins_around_an_event).text


def test_what_comes_after_the_end_is_broken_off_as_well() -> None:
    """A task that spins when the program's end cancels it doesn't keep the verdict waiting."""
    report = explore(spins_when_it_is_cancelled, max_executions=1, step_lines_max=LINES_MAX)
    assert report.verdict == "refuted"
    assert "the end comes early" in report.reason


def spins_and_swallows_when_it_is_cancelled(*, is_violated: bool) -> Any:
    async def program(world: World) -> None:
        async def last_words() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                while True:
                    try:
                        await fails()
                    except:  # noqa: E722
                        continue

        async def fails() -> None:
            raise ValueError

        asyncio.create_task(last_words(), name="last words")  # noqa: RUF006
        await asyncio.sleep(0)
        world.check(not is_violated, "the end comes early")

    return program


def test_what_swallows_being_broken_off_hides_no_violation() -> None:
    """It is broken off again until that hits a line outside of its `try`; the violation stays."""
    program = spins_and_swallows_when_it_is_cancelled(is_violated=True)
    report = explored(program)
    assert report.verdict == "refuted"
    assert "the end comes early" in report.reason


def test_what_goes_on_when_it_is_cancelled_at_the_end_is_an_error() -> None:
    """Stock asyncio would hang there; it was "proved"."""
    report = explored(spins_and_swallows_when_it_is_cancelled(is_violated=False))
    assert report.verdict == "error"
    assert (
        "task last words goes on and on in last_words (tests/sim/test_watchdog.py:" in report.reason
    )
    assert "as it is cancelled at the program's end" in report.reason


def spins_in_a_function(*, is_in_with: bool) -> Any:
    def tries_again() -> None:
        while True:
            try:
                sum(range(1000))
            except:  # noqa: E722
                continue

    async def program(world: World) -> None:
        async def last_words() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                with threading.Lock() if is_in_with else nullcontext():
                    tries_again()

        asyncio.create_task(last_words(), name="last words")  # noqa: RUF006
        await asyncio.sleep(0)

    return program


@pytest.mark.parametrize("is_in_with", [False, True])
def test_a_function_that_tries_again_is_broken_off_where_it_catches_nothing(
    is_in_with: bool,
) -> None:
    """Between two turns it stands in no `try`: there, though nearly all of its time is in one."""
    report = explored(spins_in_a_function(is_in_with=is_in_with))
    assert report.verdict == "error"
    assert "task last words goes on and on in tries_again (" in report.reason
    assert "as it is cancelled at the program's end" in report.reason


def test_a_coroutine_that_goes_on_as_it_is_freed_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where no loop runs its waits raise; what the collector finds later hangs nobody, either."""

    async def program(world: World) -> None:
        async def keeps_on() -> None:
            while True:
                try:
                    await asyncio.sleep(1)
                except:  # noqa: E722
                    continue

        coroutine = keeps_on()
        coroutine.send(None)
        circle: list[Any] = [coroutine]
        circle.append(circle)

    unraisable: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda each: unraisable.append(str(each.exc_value)))
    assert explored(program).verdict == "proved"
    # Where the collector runs within an execution there is a loop, and its wait is one.
    between = [each for each in unraisable if each != "coroutine ignored GeneratorExit"]
    assert between and all("broken off by the watchdog" in each for each in between)


def test_it_is_replayed_and_not_exported() -> None:
    """On stock asyncio the step would spin for ever, so no file is written."""
    report = explored(spins_if_overtaken)
    assert report.counterexample is not None
    again = report.counterexample.replay(spins_if_overtaken)
    assert again.violation is not None
    assert again.violation.property == Kind.ENDLESS_STEP.value
    with pytest.raises(NotExportable, match="a step never ends"):
        report.counterexample.export(spins_if_overtaken)


@pytest.fixture
def counts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One item for each step that was suspected."""
    seen: list[int] = []
    begin = LineCounter.begin

    def note_and_begin(counter: LineCounter, frame: Any) -> bool:
        seen.append(1)
        return begin(counter, frame)

    monkeypatch.setattr(LineCounter, "begin", note_and_begin)
    return seen


def test_a_long_step_that_ends_refutes_nothing(counts: list[int]) -> None:
    """Though it was suspected: it is counted, and has fewer lines."""

    async def long(world: World) -> None:
        while not counts:
            pass
        await asyncio.sleep(1)

    assert explored(long).verdict == "proved"
    assert counts


def test_many_short_steps_are_no_long_one(counts: list[int]) -> None:
    """What polls is not suspected, and ends with the budget."""

    async def polls(world: World) -> None:
        while True:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1e-4)

    report = spent_within(polls, horizon_s=1e9)
    assert report.verdict == "inconclusive"
    assert "the budget is spent: one execution goes on and on" in report.reason
    assert not counts


def test_what_always_lands_at_once_is_named_where_time_stands_still() -> None:
    """Natural order lets nothing else come, and the reader is told what would."""

    async def reads(world: World) -> None:
        while True:
            await world.outside("a message", latest=0.02)

    reason = spent_within(reads).reason
    assert re.search(r"has polled [\d,]+ times, and hardly any virtual time has passed", reason)
    assert "as «a message» lands at once whenever it is awaited" in reason, reason


@pytest.mark.parametrize(
    ("polls", "lasted_s", "words"),
    [
        (91, 0.0, "in the middle of an execution, at its poll 91"),
        (
            5_000,
            450.0,
            "450 s of virtual time have passed; if it should be over by then",
        ),
        (5_000, 0.0, "hardly any virtual time has passed, as «a message» lands at once"),
    ],
)
def test_an_execution_that_the_budget_ends_is_told_by_its_polls(
    polls: int, lasted_s: float, words: str
) -> None:
    """A few polls say that it is slow alone; of many the reader is told what would end it."""
    environment: Any = SimpleNamespace(polls=polls, lasted_s=lasted_s, landed="a message")
    assert words in watchdog._goes_on(environment, 600.0)


def test_many_short_executions_are_no_long_step(counts: list[int]) -> None:
    """Each of them has polls of its own."""

    async def short(world: World) -> None:
        await asyncio.sleep(1)

    until = time.process_time() + 10 * watchdog.SUSPECT_S
    with guarded():
        while time.process_time() < until:
            assert explore(short, max_executions=1).verdict == "proved"
    assert not counts


async def sleeps(world: World) -> None:
    slept[0](100)


async def matches_in_a_thread(world: World) -> None:
    await asyncio.to_thread(lambda: re.match("(a+)+$", "a" * 40 + "b"))


async def matches(world: World) -> None:
    re.match("(a+)+$", "a" * 40 + "b")


# In lists, where no exploration finds and replaces them.
slept: list[Callable[[float], None]] = [time.sleep]

# Since 3.13 a sleep is an audit event, and refused at once.
BLOCKING = [matches, matches_in_a_thread, *[sleeps] * (sys.version_info < (3, 13))]


@pytest.mark.parametrize("program", BLOCKING)
def test_what_blocks_ends_with_the_budget(program: Any) -> None:
    """A call that waits in real time, or computes in C, is broken off, and named with its line."""
    report = spent_within(program)
    assert report.verdict == "inconclusive"
    assert "the budget is spent: " in report.reason
    where = report.reason.partition("has not given the loop back in ")[2]
    assert where.startswith((program.__name__, "<lambda>"))
    assert "(tests/sim/test_watchdog.py:" in where


def test_nothing_ticks_outside() -> None:
    """The timer, the handler of the signal and the thread are given back."""

    async def program(world: World) -> None:
        assert signal.getitimer(signal.ITIMER_VIRTUAL) != (0.0, 0.0)

    threads = _thread._count()
    assert explore(program).verdict == "proved"
    assert _thread._count() == threads
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


def test_a_timer_of_somebody_else_goes_on() -> None:
    """Of the processor's seconds there is one timer, and a profiler may have set it before."""
    rung: list[int] = []
    handled_before = signal.signal(signal.SIGVTALRM, lambda *_: rung.append(1))
    signal.setitimer(signal.ITIMER_VIRTUAL, 1000, 500)
    try:
        assert explore(spins_in_a_thread, max_executions=1).verdict == "inconclusive"
        left_s, every_s = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert left_s > 500
        assert every_s == 500
        assert not rung
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handled_before)


async def computes_in_c(world: World) -> None:
    sum(itertools.count())


@pytest.mark.skipif(not forks.are_possible(), reason="this system cannot fork")
def test_in_isolation_whatever_blocks_ends_with_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a call that neither runs Python nor looks for signals: its process is ended."""
    monkeypatch.setattr("sim.kernel.execution.LATER_S", 0.3)
    report = spent_within(computes_in_c, isolate=True)
    assert report.verdict == "inconclusive"
    assert "the budget is spent: the process of an execution does not end" in report.reason


def in_another_thread(function: Callable[[], Any]) -> Any:
    """What it returns there; raises what it raises."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


def test_a_limit_is_one_of_its_thread() -> None:
    """Another thread, which simulates meanwhile, has its own or none, and its executions go on."""
    with watchdog.limited(time.perf_counter()):
        assert watchdog.seconds_left() == 0
        assert in_another_thread(watchdog.seconds_left) == math.inf


@pytest.mark.skipif(not forks.are_possible(), reason="this system cannot fork")
def test_a_thread_that_forks_ends_no_other_threads_watch() -> None:
    """The one that is watched goes on, and so does what watches it."""

    def fork() -> int:
        return in_a_fork(lambda: 1)

    threads = _thread._count()
    with watchdog.watched():
        watchdog.begin()
        assert in_another_thread(fork) == 1
        assert _thread._count() == threads + 1
    assert _thread._count() == threads


@pytest.mark.skipif(not forks.are_possible(), reason="this system cannot fork")
def test_a_signal_that_comes_as_the_watch_ends_ends_no_process() -> None:
    """One that waits while signals are blocked, as they are where a process forks, is dropped."""

    def asked_as_it_ends() -> str:
        with watchdog.watched():
            watchdog.begin()
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGVTALRM})
            signal.pthread_kill(threading.get_ident(), signal.SIGVTALRM)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return "goes on"

    assert in_a_fork(asked_as_it_ends) == "goes on"


def test_two_threads_do_not_explore_at_once() -> None:
    """What modules hold would be replaced by the stand-ins of both: it is refused, with a way."""

    async def program(world: World) -> None:
        await asyncio.sleep(1)

    raised: list[BaseException] = []
    may_begin = _thread.allocate_lock()
    may_begin.acquire()

    def explores() -> None:
        with may_begin:
            try:
                explore(program)
            except RuntimeError as exc:
                raised.append(exc)

    thread = threading.Thread(target=explores)
    thread.start()
    with guarded():
        may_begin.release()
        while thread.is_alive():
            pass
    assert "explore one after the other" in str(raised[0])
    assert in_another_thread(lambda: explore(program)).verdict == "proved"


def test_the_watch_is_that_of_the_system_thread_also_where_a_simulated_one_runs() -> None:
    """A signal that comes while a simulated thread has its turn finds the limit and the watch."""
    seen: list[float] = []

    async def program(world: World) -> None:
        before = watchdog.seconds_left()
        seen.append(before)
        seen.append(await asyncio.to_thread(watchdog.seconds_left))

    assert explore(program, budget_s=1000, max_executions=3).counterexample is None
    assert all(math.isfinite(each) for each in seen)


def test_a_step_that_is_asked_twice_is_counted_once() -> None:
    """By its thread and a signal at the same time: a second count would outlive the execution."""

    async def program(_: World) -> None:
        watch = watchdog._here.watched.watch
        assert watch is not None
        for _ in range(2):
            watch._asked = watch._position(), watchdog.Asked.COUNT
            watch._on_signal(signal.SIGVTALRM, sys._getframe())
        spin()

    traced = sys.gettrace()
    assert explored(program).verdict == "refuted"
    assert sys.gettrace() is traced
    assert not hasattr(sys, "monitoring") or sys.monitoring.get_tool(step_lines._TOOL) is None
