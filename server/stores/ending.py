"""The end of tasks that ask a store: said if it is a failure, and bounded if it is a cancel."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from server.lines import line

_logger = logging.getLogger("onestream.registry")

# Of a connection to the store, when the worker ends; and how often what does not end is cancelled.
CLOSE_S = 0.2
_CANCELS = 3


def say_if_failed(task: asyncio.Task[None], worker: str) -> None:
    """Of one that nobody awaits: an exception that nobody foresaw would be nobody's."""
    if not task.cancelled() and task.exception() is not None:
        sentence = f"{task.get_name()} has ended by an exception that nobody foresaw"
        _logger.error(line("worker_failed", sentence, worker=worker), exc_info=task.exception())


async def end_tasks(tasks: Sequence[asyncio.Task[None]], *, patience_s: float = 0.0) -> None:
    """Cancels what is not over after patience_s, more than once, and waits only so long.

    A client of a store may swallow a cancel that meets its own time limit, and a process that is
    about to end must not wait for it.
    """
    left = set(tasks)
    for _ in range(_CANCELS):
        if left and patience_s:
            _, left = await asyncio.wait(left, timeout=patience_s)
        for task in tasks:
            if task in left:
                task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=CLOSE_S)
    if left:
        names = ", ".join(task.get_name() for task in tasks if task in left)
        _logger.warning(line("tasks_left_behind", names))
