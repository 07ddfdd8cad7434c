"""Small programs whose schedules are few: what they can come to, and how many there are, by hand.

Each test derives its count from the arrival model (ARCHITECTURE.md): at a poll the scheduler
lands one enabled outside event after the other, or says "no more"; with the ready queue empty and
no other instant to wait for, "no more" is no option.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import permutations

import pytest

from sim import World, explore

pytestmark = pytest.mark.once

Seen = list[str]


def count(main: Callable[[World, Seen], Awaitable[None]], **bounds: float) -> tuple[set[str], int]:
    """The orders that were observed, and in how many executions, once all were seen."""
    orders: set[str] = set()

    async def program(world: World) -> None:
        seen: Seen = []
        await main(world, seen)
        orders.add(" ".join(seen))

    report = explore(program, strategy="depth-first", max_executions=20_000, **bounds)
    assert report.verdict == "proved", report.text
    assert report.complete == 1.0
    return orders, report.executions


Actor = Callable[[World, Seen], Awaitable[None]]


def arrival(name: str, **window: float) -> Actor:
    """Waits for an outside event, and writes its name down."""

    async def actor(world: World, seen: Seen) -> None:
        await world.outside(name, **window)
        seen.append(name)

    return actor


def timer(after_s: float) -> Actor:
    """Sleeps, and writes that down."""

    async def actor(world: World, seen: Seen) -> None:
        await asyncio.sleep(after_s)
        seen.append("timer")

    return actor


def together(*actors: Actor) -> Actor:
    async def main(world: World, seen: Seen) -> None:
        await asyncio.gather(*(actor(world, seen) for actor in actors))

    return main


def test_nothing_to_choose() -> None:
    """A program without outside events has one execution."""
    assert count(together(timer(0.5), timer(0.7))) == ({"timer timer"}, 1)


@pytest.mark.parametrize(
    ("names", "executions"), [("a", 1), ("ab", 8), ("abc", 96), ("abcd", 1536)]
)
@pytest.mark.parametrize("window", [{}, {"earliest": 1.0, "latest": 1.0}], ids=["open", "at 1.0 s"])
def test_arrivals_alone(names: str, executions: int, window: dict[str, float]) -> None:
    """n outside events that are enabled together: n! orders in n! · 4ⁿ⁻¹ executions.

    While the queue is empty and no instant is ahead, one of those left must land: that gives the
    n! orders. Behind one that has landed, three polls follow before the queue is empty again: the
    poll of the landing itself, the one after the event's callback (the task's wake-up is queued),
    and the one after the task (the gather's callback is queued). The next event lands in one of
    these three, or when the queue is empty: 4 ways for each but the first.
    """
    orders = {" ".join(order) for order in permutations(names)}
    assert count(together(*(arrival(name, **window) for name in names))) == (orders, executions)


def test_an_arrival_well_before_a_timer() -> None:
    """20 ms before the timer, more than the loop is ever late: 1 execution."""
    program = together(arrival("a", earliest=0.98, latest=0.98), timer(1.0))
    assert count(program) == ({"a timer"}, 1)


def test_an_arrival_just_before_a_timer() -> None:
    """5 ms before the timer: the loop may be late past it in 3 polls, or in none: 4 executions.

    The arrival joins the queue before the timers are added, so the order is the same in all four.
    """
    program = together(arrival("a", earliest=0.995, latest=0.995), timer(1.0))
    assert count(program) == ({"a timer"}, 4)


@pytest.mark.parametrize("earliest", [1.001, 1.005, 1.009])
def test_an_arrival_just_after_a_timer(earliest: float) -> None:
    """Within lateness after the timer: the loop wakes on time, or so late that both are there."""
    program = together(arrival("a", earliest=earliest, latest=earliest), timer(1.0))
    assert count(program) == ({"timer a", "a timer"}, 2)


def test_an_arrival_well_after_a_timer() -> None:
    """20 ms after the timer, more than the loop is ever late: 1 execution."""
    program = together(arrival("a", earliest=1.02, latest=1.02), timer(1.0))
    assert count(program) == ({"timer a"}, 1)


def test_a_loop_that_is_never_late() -> None:
    """With lateness_s=0 the order is that of the times, in 1 execution each."""
    before = together(arrival("a", earliest=0.999, latest=0.999), timer(1.0))
    after = together(arrival("a", earliest=1.001, latest=1.001), timer(1.0))
    assert count(before, lateness_s=0.0) == ({"a timer"}, 1)
    assert count(after, lateness_s=0.0) == ({"timer a"}, 1)


@pytest.mark.parametrize(
    ("passes_max", "executions", "orders"),
    [
        (0, 1, {"a timer"}),
        (1, 5, {"a timer"}),
        (2, 6, {"a timer"}),
        (3, 9, {"a timer", "timer a"}),
        (4, 9, {"a timer", "timer a"}),
    ],
)
def test_how_often_an_arrival_is_passed_over(
    passes_max: int, executions: int, orders: set[str]
) -> None:
    """Without `latest`, against a timer at 1.0 s: 1, then 4, 1 and 3 more with each further pass.

    No pass: it lands at 0, 1 execution. One: it may land 10 ms before the deadline, where the loop
    may be late in 3 polls or in none: 4 more. Two: it may land at the deadline, with the timer
    behind it: 1 more. Three: it may land after the timer, in the 2 polls until the queue is empty
    or then: 3 more. With the timer gone no instant is ahead, so a fourth pass changes nothing.
    """
    assert count(together(arrival("a"), timer(1.0)), passes_max=passes_max) == (orders, executions)


@pytest.mark.parametrize(("earliest", "first"), [(0.0, 0.0), (0.5, 0.5)])
def test_the_instants_at_which_a_window_is_tried(earliest: float, first: float) -> None:
    """An event with a window lands at its bounds, at a deadline within, and just before that.

    Against a timer at 1.0 s: 1 execution at its `earliest`, 4 just before the deadline, 1 at it, 3
    after it, as above, and 1 more at its `latest`, where it must land: 10.
    """
    landed_at: set[float] = set()

    async def program(world: World, seen: Seen) -> None:
        actors = asyncio.gather(
            arrival("a", earliest=earliest, latest=2.0)(world, seen), timer(1.0)(world, seen)
        )
        await asyncio.sleep(0)
        if world.environment.pending:
            (event,) = world.environment.pending
            event.callbacks.append(lambda _: landed_at.add(round(world.now, 3)))
        else:
            landed_at.add(round(world.now, 3))
        await actors

    orders, _ = count(program)
    assert orders == {"a timer", "timer a"}
    assert landed_at == {first, 0.99, 1.0, 2.0}
    plain = together(arrival("a", earliest=earliest, latest=2.0), timer(1.0))
    assert count(plain) == ({"a timer", "timer a"}, 10)


def test_choices_of_the_program() -> None:
    """Two choices of three and of two options: 3 × 2 executions, each combination once."""

    async def main(world: World, seen: Seen) -> None:
        seen.append(world.choose("first", ["1", "2", "3"]))
        seen.append(world.choose("second", ["x", "y"]))

    assert count(main) == ({f"{first} {second}" for first in "123" for second in "xy"}, 6)


def test_a_choice_of_one_option_is_none() -> None:
    """A choice without an alternative is no choice point."""

    async def main(world: World, seen: Seen) -> None:
        seen.append(world.choose("only", ["x"]))

    assert count(main) == ({"x"}, 1)


def test_an_event_that_nobody_awaits_is_withdrawn() -> None:
    """A cancelled waiter takes its event with it: it neither lands nor keeps the clock.

    The timeout at 1.0 s ends the wait for an event that comes at 5.0 s at the earliest, so there
    is nothing to choose, and the program ends at 1.0 s.
    """

    async def main(world: World, seen: Seen) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                await world.outside("late", earliest=5.0)
        await asyncio.sleep(0)
        assert world.environment.pending == []
        seen.append(f"{world.now:.3f}")

    assert count(main) == ({"1.000"}, 1)


def test_a_timer_that_is_due_at_once_may_meet_a_later_one() -> None:
    """The loop may be late where it need not sleep, too: then both fire in one iteration."""

    async def main(world: World, seen: Seen) -> None:
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def fires(name: str) -> None:
            seen.append(name)
            loop.call_soon(seen.append, f"after {name}")

        loop.call_later(0, fires, "the first")
        loop.call_later(0.001, fires, "the second")
        loop.call_later(1, over.set)
        await over.wait()

    one, other = "the first after the first", "the second after the second"
    together = "the first the second after the first after the second"
    # On time; late by a millisecond at the first poll, or at the second, too late to meet.
    assert count(main) == ({f"{one} {other}", together}, 3)
