"""Who runs the present step, and where in the program, in words."""

from __future__ import annotations

import asyncio
from types import FrameType
from typing import Any

from sim.kernel.diagnosis import place_of_line
from sim.kernel.origin import is_installed, is_programs
from sim.kernel.step_lines import Frames
from sim.kernel.world import call_and_settle


def who_runs(loop: Any, frames: list[FrameType]) -> str:
    """The task, the thread or the callback. frames: of the step, innermost first."""
    worker = loop.threads.current
    if worker is not None:
        return f"thread {worker.identity.shown}"
    task = asyncio.current_task(loop)
    if task is not None:
        return f"task {task.get_name()}"
    for frame in frames:
        if frame.f_code is _HANDLE_RUNS:
            return f"callback {_name_of(frame.f_locals['self'])}"
    return "what is asked at a poll of the loop"


def _name_of(handle: asyncio.Handle) -> str:
    called: Any = handle._callback  # type: ignore[attr-defined]
    if called is call_and_settle:
        called = handle._args[1]
    return getattr(called, "__qualname__", type(called).__qualname__)


def where_it_stays(frames: Frames) -> str:
    """The program's innermost place, and who calls it where that is an installed package."""
    own = [each for each in frames if _can_be_shown(each[0])]
    if not own:
        return "a function of C, which the program has handed over"
    where = _place(*own[0])
    callers = [each for each in own if not is_installed(each[0].f_code.co_filename)]
    if callers and is_installed(own[0][0].f_code.co_filename):
        where += f", called in {_place(*callers[0])}"
    return where


_HANDLE_RUNS = asyncio.Handle._run.__code__


def _can_be_shown(frame: FrameType) -> bool:
    """Whether it is the program's, and from a file."""
    return is_programs(frame) and not frame.f_code.co_filename.startswith("<")


def _place(frame: FrameType, line: int) -> str:
    return place_of_line(frame.f_code, frame.f_globals, line)
