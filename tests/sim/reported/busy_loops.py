"""A step that never gives the loop back: f03."""

from __future__ import annotations

import asyncio
import threading

from sim import World
from tests.sim.reported.base import OnStock, Reported


async def never_yields(world: World) -> None:
    """It waits for a job that another task would take, for an event that is set."""
    event = asyncio.Event()
    event.set()
    jobs = [1]
    while jobs:
        await event.wait()


async def never_yields_and_locks(world: World) -> None:
    """The same, under a threading.Lock."""
    mutex = threading.Lock()
    event = asyncio.Event()
    event.set()
    jobs = [1]
    while jobs:
        with mutex:
            pass
        await event.wait()


_SOON = {"step_lines_max": 20_000}
_WORDS = ("each step gives the loop back", "busy_loops.py")
PROGRAMS = [
    Reported("f03", "a busy loop", never_yields, "refuted", OnStock.NOT_RUN, _WORDS, _SOON),
    Reported(
        "f03", "… with a lock", never_yields_and_locks, "refuted", OnStock.NOT_RUN, _WORDS, _SOON
    ),
]
