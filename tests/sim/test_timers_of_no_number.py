"""A time that is no number ends the program with a TypeError, as on stock asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from sim import World, explore, outcomes
from sim.schedulers import DepthFirst


def _arms(when: Any, method: str, before: bool) -> Callable[[], Awaitable[None]]:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        if before:
            loop.call_later(5, print)
        getattr(loop, method)(when, print)
        await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)

    return main


def _run_on_stock(main: Callable[[], Awaitable[None]]) -> None:
    loop: Any = asyncio.new_event_loop()
    task = loop.create_task(main())
    try:
        loop.run_until_complete(task)
    finally:
        # Neither does it end what is left: asyncio.run raises from its clean-up.
        loop._scheduled.clear()
        task.cancel()
        with contextlib.suppress(RuntimeError):
            # What it waited for first stops it once more.
            loop.run_until_complete(asyncio.wait([task]))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


def _explored(main: Callable[[], Awaitable[None]]) -> Any:
    async def program(world: World) -> None:
        await main()

    return explore(program)


WRONG = ["soon", None, [], 1j, Decimal("0.5")]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("method", ["call_at", "call_later"])
@pytest.mark.parametrize("when", WRONG, ids=map(repr, WRONG))
def test_what_ends_stock_asyncio_is_a_violation(when: object, method: str, before: bool) -> None:
    """In the call, or as the loop looks at its timers: no fault of the simulator, and no crash."""
    main = _arms(when, method, before)
    with pytest.raises(TypeError):
        _run_on_stock(main)
    report = _explored(main)
    assert report.verdict == "refuted", report.text
    assert "TypeError" in report.reason
    assert "sim/kernel" not in report.text


def test_the_value_and_the_way_out_are_named() -> None:
    """It arises in no line of the program's, so the text says what the timer's time is."""
    report = _explored(_arms(Decimal("0.5"), "call_at", False))
    assert "a timer is due at Decimal('0.5')" in " ".join(report.text.split())
    assert "loop.call_at takes a number" in " ".join(report.text.split())


def test_other_numbers_are_times() -> None:
    """A fraction is one to asyncio, and the program goes on."""
    main = _arms(Fraction(1, 2), "call_at", True)
    _run_on_stock(main)
    assert _explored(main).verdict == "proved"


class Seconds(float):
    pass


BUSY = [Decimal, Fraction, Seconds, float]


@pytest.mark.parametrize("kind", BUSY, ids=lambda each: str(each.__name__))
def test_a_busy_loop_only_compares_them(kind: Callable[[str], Any]) -> None:
    """As it does not wait for one, a decimal is a time as well, and the clock shows floats."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        fired: list[float] = []
        when = kind(str(loop.time() + 0.02))
        loop.call_at(when, lambda: fired.append(loop.time()))
        while not fired:  # noqa: ASYNC110 - a busy loop is what it is about
            await asyncio.sleep(0)
        assert type(fired[0]) is float
        assert fired[0] >= when

    _run_on_stock(main)
    report = _explored(main)
    assert report.verdict == "proved", report.text


def test_each_kind_of_number_is_due_at_the_same_polls() -> None:
    """In every order in which an outside event and the late clock meet it."""

    def seen_of(kind: Callable[[str], Any]) -> list[tuple[int, float]]:
        seen: list[tuple[int, float]] = []

        async def program(world: World) -> None:
            loop = asyncio.get_running_loop()
            fired: list[float] = []
            polls = 0
            loop.call_at(kind("0.02"), lambda: fired.append(loop.time()))
            loop.call_later(0.015, lambda: None)
            await world.outside("it comes", latest=0.03)
            while not fired:
                polls += 1
                await asyncio.sleep(0)
            seen.append((polls, fired[0]))

        for _, outcome in zip(range(50), outcomes(program, DepthFirst()), strict=False):
            assert outcome.violation is None
        return seen

    assert len({tuple(seen_of(kind)) for kind in BUSY}) == 1
