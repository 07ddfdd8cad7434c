"""Where an exception would not be caught: a loop around a bare `except` is broken off there.

`while True: try: work() except: pass` takes what is raised in `work` for another failure, whenever
that is. Between its turns it stands in no `try`, if only for an instruction; so its lines are
traced until it comes there. The tables that say so are the interpreter's own (`co_exceptiontable`).
"""

from __future__ import annotations

import functools
import opcode
import sys
from asyncio import Handle
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from sim.kernel.origin import is_simulators

# Where a `try` catches, and where a `with` looks at what it lets out.
_CATCHES = opcode.opmap["PUSH_EXC_INFO"]
_WITH_LOOKS = opcode.opmap["WITH_EXCEPT_START"]
_RUNS: CodeType = Handle._run.__code__


class Hunt:
    """Calls `raises` in the frame's step as soon as nobody in it would catch what that raises.

    through_with: a `with` does not count, most of which let out what is raised in them.
    """

    def __init__(
        self, frame: FrameType | None, raises: Callable[[], None], *, through_with: bool = False
    ) -> None:
        self._through_with = through_with
        self._frames = list(step_of(frame))
        self._raises = raises
        self._is_on = False
        self._trace_before: Any = None
        self._traces_before: list[Any] = []

    def begin(self) -> None:
        """Called in the step, which may be at such a place already."""
        self._raise_if_uncaught(self._frames)
        self._is_on = True
        self._trace_before = sys.gettrace()
        self._traces_before = [each.f_trace for each in self._frames]
        for each in self._frames:
            each.f_trace = self._on_line
        sys.settrace(self._on_call)

    def end(self) -> None:
        """Also where nothing was raised; once, and nothing where it has not begun."""
        if not self._is_on:
            return
        self._is_on = False
        for each, before in zip(self._frames, self._traces_before, strict=True):
            each.f_trace = before
        self._frames.clear()
        sys.settrace(self._trace_before)

    def _on_call(self, frame: FrameType, event: str, arg: Any) -> None:
        """What is called from now on is none of these frames; if it is ours, the step is over."""
        if is_simulators(frame):
            self.end()

    def _on_line(self, frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line" and frame in self._frames:
            self._raise_if_uncaught(self._frames[self._frames.index(frame) :])
        return self._on_line

    def _raise_if_uncaught(self, frames: list[FrameType]) -> None:
        if frames and not any(_catches(each, self._through_with) for each in frames):
            self.end()
            self._raises()


def step_of(frame: FrameType | None) -> Iterator[FrameType]:
    """Innermost first, up to the simulator's or the loop's, which has called the step."""
    while frame is not None and not is_simulators(frame) and frame.f_code is not _RUNS:
        yield frame
        frame = frame.f_back


def _catches(frame: FrameType, through_with: bool) -> bool:
    """Whether something in this frame catches what is raised where it stands, or cleans up."""
    caught = _caught_in(frame.f_code, through_with)
    return any(begin <= frame.f_lasti < end for begin, end in caught)


@functools.lru_cache(maxsize=64)
def _caught_in(code: CodeType, through_with: bool) -> tuple[tuple[int, int], ...]:
    """The ranges of its instructions for which there is an `except`, a `finally` or a `with`."""
    instructions = code.co_code
    return tuple(
        (begin, begin + length)
        for begin, length, target in _entries(code.co_exceptiontable)
        if instructions[target] == _CATCHES
        and not (through_with and instructions[target + 2] == _WITH_LOOKS)
    )


def _entries(table: bytes) -> Iterator[tuple[int, int, int]]:
    """Begin, length and target, in bytes: see Objects/exception_handling_notes.txt of CPython."""
    numbers = _numbers(table)
    for begin in numbers:
        length, target, _ = next(numbers), next(numbers), next(numbers)
        yield 2 * begin, 2 * length, 2 * target


def _numbers(table: bytes) -> Iterator[int]:
    number = 0
    for byte in table:
        number = number << 6 | byte & 63
        if not byte & 64:
            yield number
            number = 0
