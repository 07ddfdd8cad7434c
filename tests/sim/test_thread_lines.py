"""What threads lose between two lines of the program's own module, with nothing declared."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sim import World, explore
from sim.exploration.judgement import Conclusion
from sim.exploration.report import Findings
from sim.exploration.thread_lines import may_be_found
from sim.exploration.verdict import Stop
from sim.schedulers import DepartureBounded
from tests.limits import AMPLE_S
from tests.sim import helper_of_threads
from tests.sim.stock_world import many_switches, run_on_stock


class Counter:
    def __init__(self) -> None:
        self.value = 0

    def add(self) -> None:
        value = self.value
        self.value = value + 1


def _two_add(begin: str) -> Callable[[World], Awaitable[None]]:
    async def program(world: World) -> None:
        counter = Counter()
        if begin == "threads":
            threads = [threading.Thread(target=counter.add) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            await asyncio.gather(*(asyncio.to_thread(counter.add) for _ in range(2)))
        world.check(counter.value == 2, "no update is lost")

    return program


@pytest.mark.parametrize("begin", ["threads", "to_thread"])
def test_a_lost_update_is_found_though_nothing_is_declared(begin: str) -> None:
    """The default strategy ends with executions that have these switch points; they replay."""
    program = _two_add(begin)
    report = explore(program, budget_s=AMPLE_S)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert "own_lines=True" in report.counterexample.schedule
    violation = report.counterexample.replay(program).violation
    assert violation is not None
    assert violation.property == "no update is lost"


def test_an_error_of_an_execution_with_such_lines_is_the_verdict() -> None:
    """What cannot be simulated there could be what refutes; it was left out, and all proved."""

    async def forks_where_an_update_is_lost(world: World) -> None:
        counter = Counter()
        await asyncio.gather(*(asyncio.to_thread(counter.add) for _ in range(2)))
        if counter.value == 1:
            with contextlib.suppress(Exception):
                os.fork()

    report = explore(forks_where_an_update_is_lost, budget_s=AMPLE_S)
    assert report.verdict == "error", report.text
    assert "os.fork" in report.reason


def test_a_refutation_says_where_cpython_itself_would_not_hand_over() -> None:
    """With the GIL a thread goes on from one line of plain numbers to the next, in each version."""
    report = explore(_two_add("threads"))
    assert report.verdict == "refuted"
    is_free = not getattr(sys, "_is_gil_enabled", lambda: True)()
    assert ("lets no other thread go on unless" in report.reason) is not is_free
    assert "before test_thread_lines.py:" in report.reason or is_free


class Called(Counter):
    def add(self) -> None:
        value = self.value
        time.monotonic()
        self.value = value + 1


def test_a_refutation_between_calls_is_without_that() -> None:
    """Where a line calls something, the GIL may be given up, and stock Python loses it as well."""

    async def program(world: World) -> None:
        counter = Called()
        threads = [threading.Thread(target=counter.add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.check(counter.value == 2, "no update is lost")

    report = explore(program)
    assert report.verdict == "refuted"
    assert "lets no other thread go on" not in report.reason


def test_without_them_the_claim_says_what_is_left_out() -> None:
    """That threads switch where they wait alone is a condition of the proof, not a detail."""
    report = explore(_two_add("threads"), thread_lines=False)
    assert report.verdict == "proved", report.text
    assert "if threads switch only where they wait or take a lock" in report.claim
    assert "not between the lines of test_thread_lines.py (nothing is known" in report.claim


@pytest.mark.parametrize("strategy", ["departures", "depth-first", "states"])
def test_no_strategy_proves_without_a_look_between_lines(strategy: str) -> None:
    """One that somebody has chosen, too; what cannot be lost is proved, with what was looked at."""
    report = explore(_two_add("threads"), strategy=strategy)
    assert report.verdict == "refuted", report.text
    assert report.found_by == "random, between the lines of threads"

    async def program(world: World) -> None:
        await asyncio.to_thread(Counter().add)

    report = explore(program, strategy=strategy)
    assert report.verdict == "proved", report.text
    assert "nothing is known of those but for 20 random executions" in report.claim


def test_executions_in_forks_of_their_own_look_between_lines() -> None:
    """With isolate=True as without; the counterexample replays."""

    async def program(world: World) -> None:
        seen: list[int] = []

        def job() -> None:
            seen.append(1)
            seen.append(2)

        running = asyncio.ensure_future(asyncio.to_thread(job))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        world.check(len(seen) != 1, "nobody sees half of it")
        await running

    report = explore(program, isolate=True, strategy="depth-first")
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert report.counterexample.replay(program).violation is not None


def test_where_it_is_inconclusive_the_reason_says_so_too() -> None:
    """Who reads that a budget is spent learns that its schedules are not all there are."""
    report = explore(_two_add("to_thread"), max_executions=2)
    assert report.verdict == "inconclusive"
    assert "not between the lines of test_thread_lines.py (nothing is known of" in report.reason


def _reads_twice(*, declares: bool, calls: bool) -> Callable[[World], Awaitable[None]]:
    """The loop reads in one step what a thread writes meanwhile, without its lock."""

    async def program(world: World) -> None:
        if declares:
            world.declare(__file__)
        written: list[int] = []

        def write() -> None:
            for number in range(2):
                written.append(number)
                time.sleep(0.001)

        job = asyncio.create_task(asyncio.to_thread(write))
        await asyncio.sleep(0.0005)
        if calls:
            seen = len(written)
            again = len(written)
            world.check(seen == again, "nothing is written within a step")
        else:
            first = written
            second = written
            world.check(first is second, "they are one list")
        await job

    return program


@pytest.mark.parametrize("declares", [False, pytest.param(True, marks=pytest.mark.thorough)])
def test_what_a_step_of_the_loop_reads_a_thread_may_write_meanwhile(declares: bool) -> None:
    """Its lines are points at which threads go on, too, in the executions that look there."""
    report = explore(_reads_twice(declares=declares, calls=True))
    assert report.verdict == "refuted", report.text
    assert report.found_by == "random, between the lines of threads"
    proved = explore(_reads_twice(declares=declares, calls=False))
    assert proved.verdict == "proved", proved.text


@pytest.mark.parametrize("declares", [False, True])
def test_a_claim_says_that_steps_of_the_loop_were_taken_as_whole(declares: bool) -> None:
    """Where threads may share something with it, and not where it was overtaken at each line."""
    report = explore(_reads_twice(declares=declares, calls=True), thread_lines=False)
    assert report.verdict == "proved", report.text
    words = "within a step of the loop (nothing is known of those; world.declare(__file__, in_loop"
    assert words in report.claim
    assert ("the lines of" in report.claim) is not declares

    async def shares_nothing(world: World) -> None:
        await asyncio.to_thread(sum, [1])

    assert "a step of the loop" not in explore(shares_nothing).claim


BEGINS: dict[str, Callable[..., Awaitable[object]]] = {
    "to_thread": asyncio.to_thread,
    "a pool": lambda *job: asyncio.wrap_future(ThreadPoolExecutor().submit(*job)),
    "a thread": lambda job, *args: asyncio.sleep(
        0, threading.Thread(target=job, args=args).start()
    ),
}


@pytest.mark.parametrize("begin", BEGINS)
def test_a_claim_tells_a_function_in_c_by_what_it_is_given(begin: str) -> None:
    """One that changes a list may do so within a step of the loop, as stock Python shows."""

    def that_calls(job: Callable[..., object], *args: object) -> Callable[[World], Awaitable[None]]:
        async def program(world: World) -> None:
            await BEGINS[begin](job, *args)

        return program

    for shares in ((heapq.heappush, [], 1), (setattr, Counter(), "value", 1), (sum, iter([1]))):
        report = explore(that_calls(*shares), thread_lines=False)
        assert "a step of the loop" in report.claim, report.text
    for shares_nothing in ((sum, [1]), (int, "1"), (max, 1, 2)):
        report = explore(that_calls(*shares_nothing), thread_lines=False)
        assert report.verdict == "proved", report.text
        assert "a step of the loop" not in report.claim


def test_no_thread_goes_on_between_two_lines_of_what_must_always_hold() -> None:
    """It is asked at one instant: that it calls twice is no reason that it sees half of a pair."""

    async def program(world: World) -> None:
        if declares:
            world.declare(__file__, in_loop=True)
        pair = [(0, 0)]

        def first() -> int:
            return pair[0][0]

        def second() -> int:
            return pair[0][1]

        def are_equal() -> bool:
            one = first()
            other = second()
            return one == other

        def write() -> None:
            for number in range(3):
                pair[0] = (number, number)

        world.always("the two are equal", are_equal)
        writing = asyncio.create_task(asyncio.to_thread(write))
        for _ in range(5):
            await asyncio.sleep(0)
        await writing

    for declares in (False, True):
        strategy = DepartureBounded(1) if declares else "staged"
        report = explore(program, strategy=strategy, budget_s=AMPLE_S)
        assert report.verdict == "proved", report.text
        assert "a step of the loop" not in report.claim or not declares


@pytest.mark.socket
def test_stock_python_can_lose_it() -> None:
    """The two lines are two on stock too: a thread that is paused between them shows it."""

    async def program(world: object) -> None:
        counter, has_read = Counter(), threading.Barrier(2)

        class Slow(int):
            def __add__(self, other: int) -> int:
                has_read.wait(5)
                return int(self) + other

        counter.value = Slow()
        threads = [threading.Thread(target=counter.add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert counter.value == 2

    with many_switches():
        _, result = run_on_stock(program, 0)
    assert isinstance(result, AssertionError)


def test_a_lost_update_in_another_module_is_found() -> None:
    """What a thread begins with may stand beside the program, in a file of the user's."""

    async def program(world: World) -> None:
        counter = helper_of_threads.Counter()
        threads = [threading.Thread(target=counter.add) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        world.check(counter.value == 2, "no update is lost")

    report = explore(program)
    assert report.verdict == "refuted", report.text
    assert report.counterexample is not None
    assert "helper_of_threads.py" in report.counterexample.text
    assert report.counterexample.replay(program).violation is not None


@pytest.mark.thorough
def test_a_search_without_end_looks_between_the_lines_meanwhile() -> None:
    """Not only once the budget is spent: these executions cost little, and find it."""

    async def program(world: World) -> None:
        counter = Counter()
        # More orders than a budget has seconds for.
        await asyncio.gather(*(asyncio.to_thread(_add_often, counter) for _ in range(4)))
        world.check(counter.value == 12, "no update is lost")

    report = explore(program, budget_s=40)
    assert report.verdict == "refuted", report.text
    assert report.seconds < 40 or report.stopped is None


def _add_often(counter: Counter) -> None:
    for _ in range(3):
        counter.add()
        time.sleep(0)


def test_what_does_not_end_is_not_begun_again() -> None:
    """Where the last execution was broken off for the budget, more would outlast it by as much."""
    spent = Findings(stopped=Stop.OUT_OF_BUDGET)
    assert may_be_found(spent, Conclusion("digest"))
    spent.is_broken_off = True
    assert not may_be_found(spent, Conclusion("digest"))
