"""Exceptions that nobody retrieves, and coroutines that nobody awaits.

asyncio logs both when memory is freed, and the program goes on. Here tasks that are still there are
asked at the end of an execution. Of others, of futures and of coroutines is heard when they are
freed, by their reference counts alone: the garbage collector does not run within an execution, or
at polls (`Bounds.collections`), so that its schedule decides when.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from sim.kernel.current import execution_of_this_thread
from sim.kernel.diagnosis import short_place
from sim.kernel.errors import StepBrokenOff
from sim.kernel.origin import is_own_code
from sim.kernel.raised import short_words_of_exception


@dataclass(slots=True)
class LeftBehind:
    """at: when the program ended. freed: in words, what was freed by then. failed: tasks."""

    at: float
    freed: tuple[str, ...]
    failed: Sequence[asyncio.Task[Any]]

    def seen(self) -> tuple[str, ...]:
        """In words: also each task whose exception nobody has asked for yet."""
        if not (self.freed or self.failed):
            return ()
        return *self.freed, *map(_words_of_task, filter(_is_unretrieved, self.failed))


def words_of_dead(tasks: Sequence[asyncio.Task[Any]]) -> list[str]:
    """Of tasks that have ended in an exception of which nobody has heard."""
    return [*LeftBehind(0.0, (), failed_tasks(tasks)).seen()]


def failed_tasks(tasks: Sequence[asyncio.Task[Any]]) -> list[asyncio.Task[Any]]:
    # Not `exception()`, which would mark it as retrieved.
    return [
        task
        for task in tasks
        if (raised := getattr(task, "_exception", None)) is not None
        and not isinstance(raised, StepBrokenOff)
    ]


def _is_unretrieved(task: asyncio.Task[Any]) -> bool:
    return task._log_traceback


def _words_of_task(task: asyncio.Task[Any]) -> str:
    assert task._exception is not None
    words = short_words_of_exception(task._exception)
    return f"{task.get_name()} ended with {words}, which nobody retrieves"


def words_of_logged(context: dict[str, Any]) -> str:
    """Of what the loop's exception handler hears of, where no callback raised it."""
    words = short_words_of_exception(context["exception"])
    if isinstance(context.get("future"), asyncio.Task):
        return f"{context['future'].get_name()} ended with {words}, which nobody retrieves"
    is_of_future = isinstance(context.get("future"), asyncio.Future)
    what = "a future has an exception that nobody retrieves" if is_of_future else context["message"]
    return f"{what}: {words}"


@contextmanager
def unawaited_noted() -> Iterator[None]:
    """In the block an execution's loop hears of each coroutine of its that nobody awaits.

    Python's own warning comes once for a coroutine and a place: executions repeat it, and
    `warnings` forgets what it has shown whenever a filter changes. A program that catches warnings
    has each.
    """
    module: Any = warnings
    original, filters = module._warn_unawaited_coroutine, module.filters
    warned: set[str] = set()

    def note_and_warn(coroutine: Any) -> None:
        execution = execution_of_this_thread()
        words = _words_of_unawaited(coroutine)
        if execution is not None:
            execution.loop.leaves_behind(words)
            # A program that catches warnings has filters of its own.
            if words in warned and module.filters is filters:
                return
            warned.add(words)
        if coroutine.cr_origin:
            original(coroutine)
            return
        # What the original says, which would name this line as the place.
        message = f"coroutine '{coroutine.__qualname__}' was never awaited"
        warnings.warn(message, RuntimeWarning, stacklevel=2, source=coroutine)

    module._warn_unawaited_coroutine = note_and_warn
    try:
        yield
    finally:
        module._warn_unawaited_coroutine = original


def _words_of_unawaited(coroutine: Any) -> str:
    code = coroutine.cr_code
    words = f"the coroutine {short_place(code, code.co_firstlineno)} is never awaited"
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not is_own_code(frame.f_code.co_filename):
        frame = frame.f_back
    return (
        f"{words}; it is dropped in {short_place(frame.f_code, frame.f_lineno)}" if frame else words
    )
