"""Timers whose time is no number, as `loop.call_at("soon", f)` arms one, and what becomes of them.

asyncio looks at no type: it puts the timer among the others, and ends with a TypeError where it
compares the two, in `call_at` itself or as the loop waits. So it is an exception of the program's,
in asyncio's words, also where the simulator is the first to compare.
"""

from __future__ import annotations

import asyncio
import heapq
from numbers import Number
from typing import Any

from sim.kernel.origin import modelled


def as_on_stock(loop: Any, raised: TypeError) -> TypeError:
    """What ends the loop in place of what its look at a timer has raised; else that itself."""
    wrong = [handle for handle in loop._scheduled if not is_number(handle.when())]
    if not wrong:
        return raised
    when = wrong[0].when()
    said = raised
    if wrong[0] is loop._scheduled[0]:
        said = _said_of(when, loop.time(), is_waiting=not loop._ready) or raised
    return modelled(
        TypeError(
            f"{said} (in asyncio's loop: a timer is due at {when!r}, and loop.call_at takes a "
            f"number, as loop.time() + 1)"
        )
    )


def forget(loop: Any) -> None:
    """Those that there are; the loop can go on without them."""
    timers: list[asyncio.TimerHandle] = loop._scheduled
    left = [handle for handle in timers if is_number(handle.when())]
    if len(left) < len(timers):
        heapq.heapify(left)
        timers[:] = left


def is_number(when: Any) -> bool:
    """As far as the loop asks: a fraction is one, a decimal is not."""
    return isinstance(when, (int, float)) or _said_of(when, 0.0, is_waiting=True) is None


def as_float(when: Any) -> Any:
    """For the clock, which shows floats: a decimal is compared with it, and no more, as long as the
    loop does not wait for it. What is no number stays what it is.
    """
    if type(when) is float or not isinstance(when, Number):
        return when
    try:
        return float(when)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return when


def _said_of(when: Any, now: float, *, is_waiting: bool) -> TypeError | None:
    """What `_run_once` does with the first timer: it waits for it, or asks whether it is due."""
    try:
        if is_waiting:
            max(0, when - now)
        else:
            bool(when >= now)
    except TypeError as exc:
        return exc
    return None
