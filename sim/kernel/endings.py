"""Ends coroutines that their tasks do not end, so that none of their code runs later.

A coroutine is closed when it is freed, too, in whichever step that happens. Without a running loop
much of asyncio raises there instead of waiting, and `while True: try: await … except: pass` takes
that for another failure and tries again, for ever. So what may go on is never freed.
"""

from __future__ import annotations

import asyncio
import ctypes
from contextlib import suppress
from typing import Any

# The program whose tasks, cancelled at the end of an execution, go on and on in one step.
_endless: list[object] = []


def remember(program: object) -> None:
    _endless[:] = [program]


def never_ends(program: object) -> bool:
    return program is not None and any(each is program for each in _endless)


def forget() -> None:
    _endless.clear()


def close(task: asyncio.Task[Any], loop: asyncio.AbstractEventLoop) -> None:
    """As a step of the task, which raises GeneratorExit where it stands; it may await on."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    before = asyncio._get_running_loop()
    asyncio._set_running_loop(loop)
    asyncio._enter_task(loop, task)
    try:
        # What its clean-up raises is heard of by nobody.
        with suppress(Exception):
            coroutine.close()
    finally:
        asyncio._leave_task(loop, task)
        asyncio._set_running_loop(before)
    keep(task)


def keep(task: asyncio.Task[Any]) -> None:
    """Its coroutine, unless it has ended, is never freed, also not where the interpreter ends."""
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine: Any = task.get_coro()
    if getattr(coroutine, "cr_frame", None) is not None:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(coroutine))
