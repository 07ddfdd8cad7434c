"""A time that is no number ends the program with a TypeError, as on stock asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from sim import World, explore


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
