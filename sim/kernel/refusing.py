"""A loop that refuses what is not simulated: it says what, where in the program, what instead."""

from __future__ import annotations

import asyncio
import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from sim.kernel.arguments import misused
from sim.kernel.diagnosis import (
    place_in_program,
    place_of_line,
    programs_frame,
    where_it_waits,
)
from sim.kernel.errors import NotSimulated
from sim.kernel.threads.workers import Threads

STOCK = asyncio.SelectorEventLoop
NO_PROCESSES = (
    "it reaches another process; put what stands behind it into the program as a coroutine that "
    "awaits world.outside(…) (world is the program's argument, and in a marked test the fixture)"
)
NO_FOREIGN_THREADS = (
    "threads of the operating system run in no order that could be replayed; use "
    "loop.run_in_executor(None, …), asyncio.to_thread or world.executor(), which are simulated"
)

_REFUSED = (
    "connect_read_pipe",
    "connect_write_pipe",
    "subprocess_exec",
    "subprocess_shell",
)


class Refusing(asyncio.BaseEventLoop):
    """The part of a loop that refuses."""

    threads: Threads
    main_task: asyncio.Task[Any] | None

    # What the program asked for that is not simulated, with what to use instead.
    refused: str | None = None

    def misuse(self, what: str) -> NoReturn:
        """A call that makes no sense: an error, also where the program catches what is raised."""
        raised = misused(what)
        self.refused = self.refused or str(raised)
        raise raised

    def refuse(self, what: str, instead: str) -> NoReturn:
        """Also recorded, so that a program that swallows the error gets no verdict."""
        where = self._place_in_program(sys._getframe(1))
        refused = f"{what} in {where} is not simulated: {instead}"
        # What comes after the first may follow from it.
        self.refused = self.refused or refused
        raise NotSimulated(refused)

    def _place_in_program(self, frame: FrameType) -> str:
        """A worker may have been given a function of the library's: then where that was."""
        worker = self.threads.current
        started_at = None if worker is None else worker.started_at
        if worker is None or programs_frame(frame) is not None:
            return place_in_program(frame)
        if started_at is not None:
            return f"a thread of {place_of_line(*started_at)}"
        main = self.main_task
        # As of create_task(asyncio.to_thread(os.read, …)): no line of the program's has begun it.
        if main is None or main.done():
            return "a thread"
        return f"a thread, while {main.get_name()} waits {where_it_waits(main)}"


def _refusal(what: str) -> Callable[..., NoReturn]:
    # With the signature of what it replaces.
    @functools.wraps(getattr(STOCK, what))
    def refuse(self: Refusing, *args: object, **kwargs: object) -> NoReturn:
        self.refuse(f"loop.{what}", NO_PROCESSES)

    return refuse


for _what in _REFUSED:
    setattr(Refusing, _what, _refusal(_what))
