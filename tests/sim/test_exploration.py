"""explore(): its verdicts, what it drains, what it names, its counterexamples and schedules."""

from __future__ import annotations

import _thread
import asyncio
import gc
import importlib
import math
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import Report, ScheduleDoesNotFit, World, explore, outcomes, run
from sim.counterexamples import counterexample, explanation
from sim.counterexamples.shrink import shrink
from sim.exploration import collected
from sim.exploration.search import guarded
from sim.kernel import collections_at_polls
from sim.kernel.errors import BudgetSpent
from sim.kernel.outcome import Outcome
from sim.kernel.schedule import Bounds, Schedule, departures_of
from sim.schedulers import DepartureBounded, DepthFirst, Replay
from tests.executed import executed

Program = Callable[[World], Awaitable[object]]


def run_once(program: Program) -> Outcome:
    """The natural execution."""
    return run(program)


async def lost_update(world: World) -> None:
    """Two withdrawals read, wait, and write: one is lost unless the other is over before."""
    balance = 100

    async def withdraw(name: str) -> None:
        nonlocal balance
        await world.outside(f"{name} comes")
        seen = balance
        await world.outside(f"the bank confirms {name}")
        balance = seen - 10

    await asyncio.gather(withdraw("a"), withdraw("b"))
    world.check(balance == 80, "both withdrawals count", f"the balance is {balance}")


async def correct(world: World) -> None:
    """Two arrivals under a lock."""
    lock = asyncio.Lock()
    inside = 0

    async def client(name: str) -> None:
        nonlocal inside
        await world.outside(f"{name} arrives")
        async with lock:
            inside += 1
            world.check(inside == 1, "one at a time")
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(client("a"), client("b"))
    world.reached("both are through")


# ---- verdicts --------------------------------------------------------------------------------


def test_proved() -> None:
    """A program that holds under every schedule is proved, and the report says what that means."""
    report = explore(correct, labels=["both are through"])
    assert report.verdict == "proved"
    assert report.complete == 1.0
    assert report.counterexample is None
    assert report.labels == {"both are through"}
    assert report.executions > 1
    assert report.claim == "every schedule"
    assert str(Bounds()) in report.reason
    assert report.text.startswith("proved: every schedule")


def test_a_label_reached_in_the_draining_is_not_reached() -> None:
    """What is left when the program returns is cancelled, not explored: its labels don't count."""

    async def program(world: World) -> None:
        async def left_behind() -> None:
            try:
                await asyncio.sleep(100)
            finally:
                world.reached("cleaned up")

        task = asyncio.create_task(left_behind())
        await asyncio.sleep(0)
        assert not task.done()

    report = explore(program, labels=["cleaned up"])
    assert report.verdict == "inconclusive"
    assert "cleaned up" in report.reason


def test_refuted() -> None:
    """A program that can fail is refuted with the sentence that fails."""
    report = explore(lost_update)
    assert report.verdict == "refuted"
    assert report.counterexample is not None
    assert report.counterexample.property == "both withdrawals count"
    assert report.claim == ""
    assert "both withdrawals count" in report.text


@pytest.mark.parametrize("limit", [{"budget_s": 1e-9}, {"max_executions": 1}])
def test_a_search_that_ends_early_is_inconclusive(limit: dict[str, float]) -> None:
    """A budget or a number of executions that does not suffice proves nothing, and says so."""
    report = explore(correct, **limit)
    assert report.verdict == "inconclusive"
    assert report.complete is None or report.complete < 1.0
    assert "budget is spent" in report.reason or "limit of 1 execution" in report.reason


def test_the_last_allowed_execution_may_complete_the_proof() -> None:
    """With exactly as many executions as there are, the program is proved; with one less, not."""
    needed = explore(correct).executions
    assert explore(correct, max_executions=needed).verdict == "proved"
    assert explore(correct, max_executions=needed - 1).verdict == "inconclusive"


def test_no_execution_at_all_proves_nothing() -> None:
    """With no execution allowed, the verdict is inconclusive, whatever the program is."""
    report = explore(correct, max_executions=0)
    assert (report.verdict, report.executions) == ("inconclusive", 0)


def test_a_label_that_was_never_reached_is_inconclusive() -> None:
    """Everything was seen, but not what had to be seen: inconclusive, and the label is named."""
    report = explore(correct, labels=["both are through", "never there"])
    assert report.verdict == "inconclusive"
    assert "never there" in report.reason
    assert "both are through" not in report.reason


@pytest.mark.parametrize("strategy", ["random", "natural"])
def test_strategies_that_do_not_see_all_prove_nothing(strategy: str) -> None:
    """Without a violation, a random or natural search is inconclusive."""
    report = explore(correct, strategy=strategy, max_executions=20)
    assert report.verdict == "inconclusive"
    assert report.complete is None


def test_a_random_search_refutes() -> None:
    """A violation that a random search meets is as good as any other; the seed decides it."""
    one = explore(lost_update, strategy="random", max_executions=100, seed=1)
    same = explore(lost_update, strategy="random", max_executions=100, seed=1)
    assert one.verdict == "refuted"
    assert (one.executions, one.counterexample) == (same.executions, same.counterexample)


def test_a_search_bounded_in_departures_names_its_bound() -> None:
    """What was seen with up to one departure is claimed for one departure, and for no more."""
    report = explore(correct, strategy=DepartureBounded(1))
    assert report.verdict == "proved"
    assert report.claim == "every schedule with up to 1 departure"
    assert report.complete is None
    deep = explore(correct, strategy=DepartureBounded(50))
    assert (deep.verdict, deep.claim, deep.complete) == ("proved", "every schedule", 1.0)


def test_unknown_strategies_are_refused() -> None:
    """A strategy that there is not raises ValueError with those that there are."""
    with pytest.raises(
        ValueError, match="staged, depth-first, departures, reduced, states, random"
    ):
        explore(correct, strategy="breadth-first")


def test_an_interrupted_search_is_inconclusive() -> None:
    """Ctrl-C ends the search with a report, not a traceback, and proves nothing."""
    executions = 0

    async def program(world: World) -> None:
        nonlocal executions
        executions += 1
        world.choose("any", "ab")
        if executions == 2:
            _thread.interrupt_main()

    # A process that was started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        report = explore(program)
    finally:
        signal.signal(signal.SIGINT, before)
    assert report.verdict == "inconclusive"
    assert report.was_interrupted


def test_a_program_that_cannot_be_drained_is_an_error() -> None:
    """A task that outlives all cancels would spoil the next execution: no verdict, and its name."""
    released = False

    async def stubborn(world: World) -> None:
        while not released:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(1000)

    async def program(world: World) -> None:
        asyncio.create_task(stubborn(world), name="the stubborn one")  # noqa: RUF006
        await asyncio.sleep(1)

    report = explore(program)
    assert report.verdict == "error"
    assert "the stubborn one" in report.reason
    released = True
    gc.collect()


def test_who_swallows_each_cancel_is_refuted_where_that_violates() -> None:
    """A group waits for ever for a task that goes on after its cancel: that is what is reported."""

    async def program(world: World) -> None:
        async def stubborn() -> None:
            while True:
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(1)

        async def fails() -> None:
            await world.outside("the server hangs up", latest=1)
            raise ConnectionError

        async with asyncio.TaskGroup() as group:
            group.create_task(stubborn())
            group.create_task(fails())

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert "the execution ends" in report.text


# ---- what refutes ----------------------------------------------------------------------------


def refutation(program: Program, **options: object) -> tuple[str, str]:
    """The violated sentence, and the text of the counterexample."""
    report = explore(program, **options)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    return report.counterexample.property, report.counterexample.text


def test_an_exception_refutes() -> None:
    """A program that raises is refuted, with the exception and where it was raised."""

    async def program(world: World) -> None:
        raise KeyError("gone")

    violated, text = refutation(program)
    assert violated == "the program ends without an exception"
    assert "KeyError('gone')" in text


def test_a_plain_assert_refutes_with_its_message() -> None:
    """An assert that fails is a violation; its message is the sentence."""

    async def program(world: World) -> None:
        assert world.now > 1, "time has passed"

    assert refutation(program)[0].startswith("time has passed")


def test_a_program_that_ends_cancelled_is_refuted() -> None:
    """A program whose own task is cancelled has not ended as it should."""

    async def program(world: World) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    violated, text = refutation(program)
    assert violated == "the program ends without an exception"
    assert "it was cancelled" in text


def test_an_exception_in_a_callback_refutes() -> None:
    """A callback that raises would be logged and forgotten by asyncio; here it refutes."""

    async def program(world: World) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(0.1)

    violated, text = refutation(program)
    assert violated == "no callback raises"
    assert "ZeroDivisionError" in text


def test_a_check_in_a_task_that_nobody_awaits_refutes() -> None:
    """A failed check ends the execution wherever it stands."""

    async def checks(world: World) -> None:
        await world.outside("a", latest=1.0)
        world.check(False, "never so", "seen here")

    async def program(world: World) -> None:
        task = asyncio.create_task(checks(world))
        await asyncio.sleep(2)
        task.cancel()

    violated, text = refutation(program)
    assert violated == "never so"
    assert "seen: seen here" in text


def test_a_check_that_is_swallowed_refutes_all_the_same() -> None:
    """A program that catches the failure of its own check is refuted."""

    async def program(world: World) -> None:
        with suppress(AssertionError):
            world.check(False, "never so")

    assert refutation(program)[0] == "never so"


def test_always_is_asked_at_every_poll() -> None:
    """A predicate that is false between two steps is found, though it is true at the end."""

    async def program(world: World) -> None:
        counter = 0
        world.always("the counter is even", lambda: counter % 2 == 0)
        counter += 1
        await asyncio.sleep(0)
        counter += 1
        await asyncio.sleep(0)

    assert refutation(program)[0] == "the counter is even"


def test_a_deadlock_names_who_waits() -> None:
    """With nothing ahead that could wake anybody, the tasks that wait are named, and where."""

    async def waits_in_vain() -> None:
        await asyncio.Event().wait()

    async def program(world: World) -> None:
        await asyncio.create_task(waits_in_vain(), name="the forgotten one")

    violated, text = refutation(program)
    assert violated.startswith("no deadlock")
    assert "the forgotten one waits" in text
    assert "no timer is armed" in " ".join(text.split())


def test_a_deadlock_of_two_locks_is_found() -> None:
    """Two clients that take two locks in opposite order: refuted, and both are named."""

    async def program(world: World) -> None:
        one, other = asyncio.Lock(), asyncio.Lock()

        async def client(name: str, first: asyncio.Lock, second: asyncio.Lock) -> None:
            await world.outside(f"{name} arrives")
            async with first:
                await asyncio.sleep(0)
                async with second:
                    pass

        await asyncio.gather(
            asyncio.create_task(client("a", one, other), name="a"),
            asyncio.create_task(client("b", other, one), name="b"),
        )

    violated, text = refutation(program)
    assert violated.startswith("no deadlock")
    words = " ".join(text.split())
    assert "a waits" in words
    assert "b waits" in words


def test_a_livelock_is_found() -> None:
    """A loop that spins while nothing else can happen is refuted after spin_max iterations."""

    async def program(world: World) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    violated, text = refutation(program, spin_max=50)
    assert violated == "no livelock: nothing spins while virtual time stands still"
    assert "spin_max=50" in text


def test_a_spin_that_time_ends_is_no_livelock() -> None:
    """Who polls until a timer has fired is let go on: the world goes on after spin_max polls."""

    async def program(world: World) -> None:
        is_over = False

        def end() -> None:
            nonlocal is_over
            is_over = True

        asyncio.get_running_loop().call_later(5, end)
        while not is_over:  # noqa: ASYNC110
            await asyncio.sleep(0)

    report = explore(program, spin_max=20)
    assert report.verdict == "proved"
    assert report.bounds_hit == {"spin_max"}


@pytest.mark.parametrize("strategy", ["depth-first", "states"])
def test_a_spin_that_an_event_ends_is_no_livelock(strategy: str) -> None:
    """However late the event lands, what follows has its own iterations; both searches say so."""

    async def program(world: World) -> None:
        done: list[int] = []

        async def comes() -> None:
            await world.outside("it comes")
            done.append(1)

        task = asyncio.create_task(comes())
        while not done:  # noqa: ASYNC110 - it spins
            await asyncio.sleep(0)
        await task

    report = explore(program, strategy=strategy, spin_max=20)
    assert report.verdict == "proved", report.text


def test_a_spin_that_a_thread_ends_is_no_livelock() -> None:
    """A thread that could go on is let go on in the end, however long it was kept waiting."""

    async def program(world: World) -> None:
        done: list[int] = []
        task = asyncio.create_task(asyncio.to_thread(done.append, 1))
        while not done:  # noqa: ASYNC110 - it spins
            await asyncio.sleep(0)
        await task

    report = explore(program, strategy=DepartureBounded(1), spin_max=20)
    assert report.verdict == "proved", report.text
    assert report.bounds_hit == {"spin_max"}


def test_an_execution_that_never_ends_is_refuted_at_the_horizon() -> None:
    """A program that goes on beyond the horizon does not end, and the report says so."""

    async def program(world: World) -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(10)

    violated, text = refutation(program, horizon_s=100)
    assert violated == "the execution ends"
    assert "horizon_s=100" in text


def test_the_bounds_that_had_a_say_are_named() -> None:
    """A proof for which events were not passed over any further names passes_max."""

    async def program(world: World) -> None:
        await asyncio.gather(
            world.outside("a"), asyncio.sleep(1), asyncio.sleep(2), asyncio.sleep(3)
        )

    report = explore(program, passes_max=2)
    assert report.verdict == "proved"
    assert "passes_max" in report.bounds_hit
    assert "; hit: passes_max)" in report.reason
    assert "passes_max=2" in report.reason


# ---- draining --------------------------------------------------------------------------------


def test_what_is_left_is_cancelled_and_runs_to_its_end() -> None:
    """Tasks that are pending when the program returns are cancelled, clean-ups of theirs run."""
    ended: list[str] = []

    async def child(name: str, swallows: int) -> None:
        try:
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    if not swallows:
                        raise
                    swallows -= 1
        finally:
            await asyncio.sleep(0.5)
            ended.append(name)

    async def program(world: World) -> None:
        for number in range(3):
            asyncio.create_task(child(f"c{number}", number))  # noqa: RUF006
        await asyncio.sleep(0.1)

    outcome = run_once(program)
    assert outcome.error is None
    assert sorted(ended) == ["c0", "c1", "c2"]


def test_asynchronous_generators_are_closed() -> None:
    """A generator that is suspended when the program returns runs its clean-up in the loop."""
    closed: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    kept = []

    async def program(world: World) -> None:
        generator = numbers()
        kept.append(generator)
        assert await anext(generator) == 1

    run_once(program)
    assert closed == ["closed"]


def test_executions_do_not_see_each_other() -> None:
    """Each execution begins at time 0, with no label, no task and no event of another."""
    begins: list[tuple[float, int, int]] = []

    async def program(world: World) -> None:
        begins.append((round(world.now, 6), len(world.environment.pending), len(world.loop.tasks)))
        asyncio.create_task(asyncio.sleep(1000))  # noqa: RUF006
        world.choose("any", "abc")
        with suppress(TimeoutError):
            async with asyncio.timeout(0.5):
                await world.outside("never", earliest=100)

    assert explore(program).verdict == "proved"
    assert len(begins) >= 3
    assert set(begins) == {(0.0, 0, 1)}


async def switches_the_collector(world: World) -> None:
    """As a server does that ends: what it makes then is not to be looked at again and again."""
    assert gc.isenabled()
    gc.freeze()
    gc.disable()
    assert not gc.isenabled()
    gc.enable()
    assert gc.isenabled()
    await world.outside("it comes")


def test_what_a_program_switches_of_the_collector_is_its_executions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is kept from the collector for good, and it begins on its own in no execution."""
    # As for users: see conftest.
    monkeypatch.setattr(collections_at_polls, "_frozen", gc.get_freeze_count)
    monkeypatch.setattr(collections_at_polls, "_unfreeze", gc.unfreeze)
    was_enabled, frozen = gc.isenabled(), gc.get_freeze_count()
    assert explore(switches_the_collector).verdict == "proved"
    assert gc.isenabled() == was_enabled
    # Of what was frozen before, some may have been freed.
    assert gc.get_freeze_count() <= frozen


async def tunes_the_collector(world: World) -> None:
    gc.set_threshold(12_345)
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.callbacks.append(lambda phase, info: None)
    circle: list[object] = []
    circle.append(circle)
    del circle
    gc.collect()
    assert gc.garbage
    assert (gc.get_threshold()[0], gc.get_debug()) == (12_345, gc.DEBUG_SAVEALL)
    await world.outside("it comes")


def test_what_a_program_tunes_of_the_collector_ends_with_its_execution() -> None:
    """Its thresholds, its flags, who is called by it and what it could not free are as before."""

    def is_as_it_is() -> tuple[object, ...]:
        return gc.get_threshold(), gc.get_debug(), [*gc.callbacks], len(gc.garbage)

    before = is_as_it_is()
    report = explore(tunes_the_collector)
    now = is_as_it_is()
    gc.set_threshold(*before[0])  # type: ignore[misc]
    gc.set_debug(0)
    assert report.verdict == "proved", report.text
    assert now == before


def test_the_interpreter_is_left_as_it_was() -> None:
    """Afterwards the collector runs again, threads start again, and no loop is left."""
    start, lock = threading.Thread.start, threading.Lock
    trace = sys.gettrace()
    explore(lost_update)
    assert gc.isenabled()
    assert threading.Thread.start is start
    assert threading.Lock is lock
    assert sys.gettrace() is trace
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()


# ---- counterexamples and replay --------------------------------------------------------------


async def long_story(world: World) -> None:
    """Many actors with long names, many departures, and a long sentence."""
    order: list[int] = []

    async def actor(number: int) -> None:
        for turn in range(6):
            await world.outside(f"{'a very long name ' * 8}{number}.{turn}")
            world.record("something that takes many words to say " * 5)
            order.append(number)

    await asyncio.gather(*(actor(number) for number in range(6)))
    world.check(order == sorted(order), "the order is that of the actors " * 20, f"{order}" * 10)


@pytest.mark.parametrize("program", [lost_update, long_story])
def test_a_counterexample_fits_a_screen(program: Program) -> None:
    """At most 40 lines of 100 columns, whatever the program; only the replay line may be longer."""
    report = explore(program, max_executions=2000, strategy="random", seed=3)
    assert report.counterexample is not None
    lines = report.counterexample.text.splitlines()
    assert len(lines) <= 40
    assert max(len(line) for line in lines[:-1]) <= 100
    assert lines[0].startswith("violated at ")
    assert lines[-1] == f"replay: onestream replay {report.counterexample.schedule}"


def test_a_counterexample_replays() -> None:
    """The schedule leads to the same violation again, with the same trace each time."""
    report = explore(lost_update)
    assert report.counterexample is not None
    outcomes = [report.counterexample.replay(lost_update) for _ in range(3)]
    assert {outcome.violation.property for outcome in outcomes if outcome.violation} == {
        "both withdrawals count"
    }
    assert len({outcome.trace_hash for outcome in outcomes}) == 1
    assert outcomes[0].trace


def test_a_replay_on_a_fixed_program_says_that_nothing_is_violated() -> None:
    """Where the choice points are the same, but the fault is gone, there is no violation."""

    def withdrawals(is_fixed: bool) -> Program:
        async def program(world: World) -> None:
            balance = 100

            async def withdraw(name: str) -> None:
                nonlocal balance
                seen = balance
                await world.outside(f"the bank confirms {name}")
                balance = (balance if is_fixed else seen) - 10

            await asyncio.gather(withdraw("a"), withdraw("b"))
            world.check(balance == 80, "both withdrawals count")

        return program

    report = explore(withdrawals(is_fixed=False))
    assert report.counterexample is not None
    assert report.counterexample.replay(withdrawals(is_fixed=True)).violation is None


def test_a_schedule_that_does_not_fit_is_refused() -> None:
    """A departure that meets no choice point, or no such option, raises ScheduleDoesNotFit."""

    async def one_choice(world: World) -> None:
        world.choose("any", "abc")

    def replay(departures: tuple[tuple[int, int], ...]) -> None:
        scheduler = Replay(departures)
        outcome = executed(one_choice, scheduler)
        scheduler.require_all_taken(len(outcome.choices))

    replay(((0, 2),))
    with pytest.raises(ScheduleDoesNotFit, match="option 3 at choice point 0"):
        replay(((0, 3),))
    with pytest.raises(ScheduleDoesNotFit, match="departs at choice point 1"):
        replay(((1, 1),))


def test_a_program_cannot_swallow_that_its_schedule_does_not_fit() -> None:
    """Raised where the program chooses, the refusal reaches the caller, not the program."""

    async def program(world: World) -> None:
        with suppress(Exception):
            world.choose("any", "ab")
        world.choose("other", "ab")

    with pytest.raises(ScheduleDoesNotFit, match="option 7 at choice point 0"):
        executed(program, Replay(((0, 7), (1, 1))))


def test_a_counterexample_of_another_program_is_refused() -> None:
    """A schedule with departures does not silently pass on a program without choice points."""

    async def fails_late(world: World) -> None:
        world.check(world.choose("any", "ab") == "a", "always a")

    report = explore(fails_late)
    assert report.counterexample is not None

    async def nothing(world: World) -> None:
        world.choose("any", "ab")

    found = report.counterexample
    for refused in (
        lambda: found.replay(nothing),
        lambda: found.export(nothing),
        lambda: run(nothing, found.schedule),
    ):
        with pytest.raises(ScheduleDoesNotFit, match=r"fails_late, and this is .*nothing: give"):
            refused()


def test_a_counterexample_of_an_edited_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its file has other text than when it was explored: that is said, and nothing is run."""
    file = tmp_path / "edited_since.py"
    file.write_text("async def program(world):\n    assert world.choose('any', 'ab') == 'a'\n")
    monkeypatch.syspath_prepend(tmp_path)
    program = importlib.import_module("edited_since").program
    found = explore(program).counterexample
    assert found is not None
    assert run(program, found.schedule).violation is not None
    file.write_text("async def program(world):\n    pass\n")
    for refused in (lambda: found.replay(program), lambda: run(program, found.schedule)):
        with pytest.raises(ScheduleDoesNotFit, match="its file was edited since"):
            refused()


# ---- shrinking -------------------------------------------------------------------------------


async def fails_with_two(world: World) -> None:
    """Twelve choices of four; two of them suffice to fail: the fourth and the ninth, both ≥ 2."""
    chosen = [world.choose(f"choice {number}", range(4)) for number in range(12)]
    world.check(chosen[3] < 2 or chosen[8] < 2, "not both")


@pytest.mark.parametrize("seed", range(5))
def test_shrinking_finds_the_known_minimum(seed: int) -> None:
    """Whatever a random search has found, what is left are the two departures that are needed."""
    report = explore(fails_with_two, strategy="random", seed=seed, max_executions=1000)
    assert report.counterexample is not None
    assert Schedule.parse(report.counterexample.schedule).departures == ((3, 2), (8, 2))


def test_shrinking_keeps_to_the_same_violation() -> None:
    """A smaller schedule that violates something else is not taken for a smaller counterexample."""

    async def program(world: World) -> None:
        a, b = world.choose("a", range(3)), world.choose("b", range(3))
        world.check(a != 2 or b != 1, "the one")
        world.check(b != 1, "the other")

    with guarded():
        found, executions = shrink(
            program, ((0, 2), (1, 1)), "the one", Bounds(), executions_max=99
        )
        other, _ = shrink(program, ((0, 1), (1, 1)), "the other", Bounds(), executions_max=99)
        kept, none = shrink(program, ((0, 2), (1, 1)), "the one", Bounds(), executions_max=0)
    assert found == ((0, 2), (1, 1))
    assert executions > 1
    assert other == ((1, 1),)
    assert (kept, none) == (((0, 2), (1, 1)), 0)


def _spends_the_budget(*_: object) -> Any:
    raise BudgetSpent


@pytest.mark.parametrize("what", ["nearest_passing", "facts_in_lines", "condition"])
def test_what_explains_a_violation_may_take_too_long(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A violation that came back is refuted also where what explains it is slow."""
    where = collected if what == "condition" else counterexample
    monkeypatch.setattr(where, what, _spends_the_budget)
    report = explore(lost_update, max_executions=100)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert report.counterexample.replay(lost_update).violation is not None


def test_the_search_for_a_passing_execution_has_a_part_of_the_budget(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where nothing of it is left, the counterexample says that none was found."""
    monkeypatch.setattr(explanation, "seconds_left", lambda: 0.0)
    report = explore(lost_update, max_executions=100)
    assert report.verdict == "refuted", report.text
    assert "no passing execution was found nearby (0 executions tried" in report.text


def test_a_violation_in_natural_order_has_no_departures() -> None:
    """What fails anyway is shown without any departure, however it was found."""

    async def program(world: World) -> None:
        world.choose("any", "abc")
        world.check(False, "never so")

    report = explore(program, strategy="random", max_executions=10, seed=5)
    assert report.counterexample is not None
    assert report.counterexample.schedule.endswith("/natural")
    assert "departures: none, it happens in natural order" in report.counterexample.text


# ---- schedules as text -----------------------------------------------------------------------

names = st.from_regex(r"[a-z][a-z_:.<>]{0,20}", fullmatch=True)
amounts = st.floats(min_value=0, max_value=1e6, allow_nan=False)
bounds = st.builds(
    Bounds,
    lateness_s=amounts,
    passes_max=st.integers(0, 100),
    spin_max=st.integers(1, 10_000),
    horizon_s=amounts.filter(bool),
)
some_departures = st.dictionaries(st.integers(0, 10_000), st.integers(1, 50), max_size=10).map(
    lambda choices: tuple(sorted(choices.items()))
)
schedules = st.builds(
    Schedule,
    subject=names,
    digest=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    bounds=bounds,
    departures=some_departures,
)


@given(schedules)
def test_a_schedule_survives_being_written_down(schedule: Schedule) -> None:
    """What is parsed is what was written, to the last digit, in one word without spaces."""
    text = str(schedule)
    assert Schedule.parse(text) == schedule
    assert Schedule.parse(f"  {text}\n") == schedule
    assert text.split() == [text]


@given(bounds)
def test_bounds_survive_being_written_down(some: Bounds) -> None:
    """Bounds are written out where they are not the usual ones, exactly."""
    assert Bounds.parse(some.written_out()) == some
    assert Bounds().written_out() == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "natural",
        "os2/x/abc",
        "os3/x/abc/natural",
        "os2/x/abc/1",
        "os2/x/abc/1=0",
        "os2/x/abc/1=x",
        "os2/x/abc/2=1+1=1",
        "os2/x/abc/1=1+1=2",
        "os2/x/abc,foo=1/natural",
        "os2/x/abc,spin_max=x/natural",
        "os2/x/abc/natural/more",
    ],
)
def test_what_is_no_schedule_is_refused(text: str) -> None:
    """A text that is no schedule raises ValueError, which says what one looks like."""
    with pytest.raises(ValueError, match="is not a schedule"):
        Schedule.parse(text)


@given(st.lists(st.integers(0, 3)))
def test_departures_are_the_choices_that_are_not_natural(choices: list[int]) -> None:
    """Filled up with natural choices, the departures give the choices back."""
    filled = [dict(departures_of(choices)).get(index, 0) for index in range(len(choices))]
    assert filled == choices


def test_bounds_reach_the_replay() -> None:
    """A counterexample found under bounds of its own is replayed under them."""

    async def program(world: World) -> None:
        passed = False

        async def waits() -> None:
            nonlocal passed
            await world.outside("a")
            passed = world.now > 0.5

        await asyncio.gather(waits(), asyncio.sleep(1.0), asyncio.sleep(2.0), asyncio.sleep(3.0))
        world.check(not passed, "it is never passed over so long")

    assert explore(program, passes_max=0).verdict == "proved"
    report: Report = explore(program, passes_max=1, lateness_s=0.25)
    assert report.counterexample is not None
    schedule = Schedule.parse(report.counterexample.schedule)
    assert schedule.bounds == Bounds(lateness_s=0.25, passes_max=1)
    assert report.counterexample.replay(program).violation is not None
    assert run_once(program).violation is None
    assert math.isclose(schedule.bounds.horizon_s, 600)


def test_events_at_one_instant_come_in_either_order() -> None:
    """That one was announced some readings of the clock before the other decides nothing."""
    orders = set()

    async def program(world: World) -> None:
        order: list[str] = []

        async def comes(name: str, polls_later: int) -> None:
            for _ in range(polls_later):
                await asyncio.sleep(0)
            await world.outside(name, earliest=0.5, latest=0.5)
            order.append(name)

        await asyncio.gather(comes("a", 0), comes("b", 2))
        orders.add("".join(order))

    assert explore(program, max_executions=100).verdict == "proved"
    assert orders == {"ab", "ba"}


def test_a_schedule_of_an_older_version_is_refused_by_name() -> None:
    """Its form is no longer read; the sentence says what to do instead."""
    with pytest.raises(ValueError, match="of an older version"):
        Schedule.parse("os1/registry/racing_registers/quick_fix/ae727baa/natural")


# ---- without a verdict ------------------------------------------------------------------------


def test_one_execution_is_run_by_its_schedule() -> None:
    """`run` takes natural order, or the schedule of a counterexample, which shows it again."""

    async def fails_late(world: World) -> None:
        world.check(world.choose("which", ("early", "late")) == "early", "it is early")

    assert run(fails_late).violation is None
    report = explore(fails_late)
    assert report.counterexample is not None
    again = run(fails_late, report.counterexample.schedule, traced=True)
    assert again.violation is not None
    assert again.violation.property == "it is early"
    assert again.trace
    with pytest.raises(ValueError, match="is not a schedule"):
        run(fails_late, "none")


def test_outcomes_are_those_of_a_whole_search() -> None:
    """`outcomes` plays what the scheduler says to its end, also beyond a violation."""

    async def one_of_three(world: World) -> None:
        which = world.choose("which", (1, 2, 3))
        world.check(which != 2, "it is not the second")

    found = [outcome.violation is None for outcome in outcomes(one_of_three, DepthFirst())]
    assert found == [True, False, True]


def test_a_strategy_that_a_search_has_used_up_says_so() -> None:
    """One object for two searches, as a constant of a module: the second is no verdict, and why."""
    strategy = DepartureBounded(1)

    async def program(world: World) -> None:
        await world.outside("it comes")

    assert explore(program, strategy=strategy).verdict == "proved"
    again = explore(program, strategy=strategy, labels=["reached"])
    assert again.verdict == "error"
    assert "this DepartureBounded has no schedule left" in again.reason
    assert "make one for each search" in again.reason
