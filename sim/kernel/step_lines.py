"""Counts the lines of Python that one step runs, and says in which loop of the program it stays.

A count is decided by the execution, as a limit in seconds is not: where a step is broken off, and
what is said of it, is the same in each run. It costs ten times the step's own time, so it is done
where the watchdog suspects a step, by `sys.settrace` on 3.11 and by `sys.monitoring` since 3.12.
"""

from __future__ import annotations

import _thread
import inspect
import opcode
import sys
from asyncio import Handle
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

from sim.kernel.threads.line_tracing import count_beside
from sim.kernel.threads.workers import Threads

LAST_LINES = 5_000
"""What runs in this number of lines before the end shows in which loop a step stays."""

# Bound here: within executions other functions stand there.
_ident, _new_lock = _thread.get_ident, _thread.allocate_lock

_monitoring: Any = getattr(sys, "monitoring", None)
_TOOL = 3
_NAME = "onestream's watchdog"
# Held by the counter that counts. Taken in one call of C: a signal may suspect a step a second time
# while the first counter begins.
_one_counts = _new_lock()
# A step of the loop, or of a worker thread, begins where one of these is called.
_HANDLE_RUNS: CodeType = Handle._run.__code__
_WORKER_GOES_ON: CodeType = Threads.step.__code__


Frames = list[tuple[FrameType, int]]
"""Those of a step that do not end, innermost first, each with the first line of its loop."""


class LineCounter:
    """After `lines_max` lines of one step `is_over(frames)` is asked; it raises, or allows as many
    more as it returns.

    step: how many have begun since `begin`. is_for_one: it ends where the next step begins.
    begins: called with the frame of each line that is counted, before it runs.
    """

    def __init__(
        self,
        lines_max: int,
        is_over: Callable[[Frames], int],
        *,
        is_for_one: bool = False,
        begins: Callable[[FrameType], None] | None = None,
    ) -> None:
        self.step = 0
        self._is_for_one = is_for_one
        self._lines_max = lines_max
        self._last_lines = min(LAST_LINES, lines_max // 2)
        self._is_over = is_over
        self._begins = begins
        # Sets how many lines are left; a variable of the callbacks, which is faster to count in.
        self._allow: Callable[[int], None] = lambda lines: None
        self._last_left = 0
        # While the last lines are counted: the frames in which they began, and the first line of
        # each that was run since.
        self._first_lines: dict[FrameType, int | None] | None = None
        self._traced_before: list[tuple[FrameType, Any]] = []
        self._trace_before: Any = None
        # The frame whose line is being counted by `sys.settrace`.
        self._traced_now: FrameType | None = None
        self._thread = 0
        self.is_counting = False

    def begin(self, frame: FrameType | None) -> bool:
        """Lines are counted from now on, also those of this frame and of its callers.

        False where that cannot be: another counter counts, or a tool that is none of ours.
        """
        if not _one_counts.acquire(False):
            return False
        if _monitoring is not None and _monitoring.get_tool(_TOOL) is not None:
            _one_counts.release()
            return False
        self.is_counting = True
        self._first_lines = None
        if _monitoring is None:
            self._trace_before = sys.gettrace()
            on_call, on_line = self._trace_functions()

            def trace(frame: FrameType) -> None:
                self._traced_before.append((frame, frame.f_trace))
                _trace(frame, on_line)

            for each in callers(frame):
                trace(each)
            sys.settrace(on_call)
            count_beside(on_call, trace)
        else:
            self._monitor()
        return True

    def end(self) -> None:
        if not self.is_counting:
            return
        self.is_counting = False
        self._first_lines = None
        try:
            self._forget_events()
        finally:
            _one_counts.release()

    def _forget_events(self) -> None:
        if _monitoring is None:
            count_beside(None)
            sys.settrace(self._trace_before)
            for frame, trace in reversed(self._traced_before):
                frame.f_trace, frame.f_trace_opcodes = trace, False
                if frame is not self._traced_now:
                    let_go_of_locals(frame)
            self._traced_before.clear()
            return
        _monitoring.set_events(_TOOL, 0)
        for code in (_HANDLE_RUNS, _WORKER_GOES_ON):
            _monitoring.set_local_events(_TOOL, code, 0)
        _monitoring.free_tool_id(_TOOL)

    def _next_step(self) -> None:
        if self._is_for_one:
            self.end()
            return
        self.step += 1
        self._first_lines = None
        self._allow(self._lines_max)

    def _trace_functions(self) -> tuple[Any, Any]:
        left = self._lines_max - self._last_lines
        begins = self._begins

        def allow(lines: int) -> None:
            nonlocal left
            left = lines - self._last_lines

        def on_call(frame: FrameType, event: str, arg: Any) -> Any:
            code = frame.f_code
            if code is _HANDLE_RUNS or code is _WORKER_GOES_ON:
                self._next_step()
            return _trace(frame, on_line)

        def on_line(frame: FrameType, event: str, arg: Any) -> Any:
            nonlocal left
            if event == "line" or event == "opcode":
                self._traced_now = frame
                if begins is not None:
                    begins(frame)
                left -= 1
                if left < 0:
                    self._note(frame)
                self._traced_now = None
                if not self.is_counting:
                    frame.f_trace = _Last(frame)
            return on_line

        self._allow = allow
        return on_call, on_line

    def _monitor(self) -> None:
        # From the first event on, which is a line of this very function.
        left = self._lines_max - self._last_lines
        begins = self._begins

        def allow(lines: int) -> None:
            nonlocal left
            left = lines - self._last_lines

        thread = self._thread = _ident()

        def on_line(code: CodeType, line: int) -> None:
            nonlocal left
            if _ident() != thread:
                # It is called for all threads, also for the one that watches.
                return
            if begins is not None:
                self._tell_of(sys._getframe(1))
            left -= 1
            if left < 0:
                self._note(sys._getframe(1))

        def on_jump(code: CodeType, at: int, to: int) -> object:
            # `while True: pass` in one line is an instruction that jumps to itself: no line begins.
            if at != to:
                return _monitoring.DISABLE
            on_line(code, to)
            return None

        self._allow = allow
        events = _monitoring.events
        _monitoring.use_tool_id(_TOOL, _NAME)
        _monitoring.register_callback(_TOOL, events.LINE, on_line)
        _monitoring.register_callback(_TOOL, events.JUMP, on_jump)
        _monitoring.register_callback(_TOOL, events.PY_START, self._on_start)
        for code in (_HANDLE_RUNS, _WORKER_GOES_ON):
            _monitoring.set_local_events(_TOOL, code, events.PY_START)
        starts = events.NO_EVENTS if begins is None else events.PY_START
        _monitoring.set_events(_TOOL, events.LINE | events.JUMP | starts)

    def _on_start(self, code: CodeType, at: int) -> None:
        if _ident() != self._thread:
            return
        if code is _HANDLE_RUNS or code is _WORKER_GOES_ON:
            self._next_step()
        elif self._begins is not None:
            # Since 3.13 no line begins with a lambda, whose only line it is.
            self._tell_of(sys._getframe(1))

    def _tell_of(self, frame: FrameType) -> None:
        if self._begins is not None:
            self._begins(frame)
            let_go_of_locals(frame)

    def _note(self, frame: FrameType) -> None:
        """One of the last lines."""
        if self._first_lines is None:
            self._first_lines = dict.fromkeys(callers(frame))
            self._last_left = self._last_lines
        if frame in self._first_lines:
            line = self._first_lines[frame]
            self._first_lines[frame] = min(line or frame.f_lineno, frame.f_lineno)
        self._last_left -= 1
        if self._last_left <= 0:
            stays = [
                (each, self._first_lines[each] or each.f_lineno)
                for each in callers(frame)
                if each in self._first_lines
            ]
            self._first_lines = None
            self._allow(self._is_over(stays))


def _trace(frame: FrameType, on_line: Any) -> Any:
    """`while True: pass` in one line is an instruction that jumps to itself: no line begins."""
    if _jumps_to_itself(frame.f_code):
        frame.f_trace_opcodes = True
    frame.f_trace = on_line
    return on_line


def let_go_of_locals(frame: FrameType) -> None:
    """Before 3.13 the frame keeps a dict of its variables once that was asked for, as a trace
    function does: what the program deletes would live on. Not while that function runs.
    """
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        kept: Any = frame.f_locals
        # Where nobody has it of `locals()`: the frame, this function, and who is asked.
        if sys.getrefcount(kept) <= 3:
            kept.clear()


class _Last:
    """Takes the place of a frame's trace function while the last call of that returns.

    CPython drops it when it has put back the variables of the frame from their dict.
    """

    def __init__(self, frame: FrameType) -> None:
        self._frame = frame

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Nothing is counted any more."""

    def __del__(self) -> None:
        let_go_of_locals(self._frame)


def _jumps_to_itself(code: CodeType) -> bool:
    # By id: a hash of code reads all of it.
    known = _self_jumps.get(id(code))
    if known is None or known[0] is not code:
        instructions = code.co_code
        jumps = any(
            instructions[at] == _JUMP_BACKWARD and instructions[at + 1] == 1
            for at in range(0, len(instructions), 2)
        )
        known = _self_jumps[id(code)] = code, jumps
    return known[1]


_JUMP_BACKWARD = opcode.opmap["JUMP_BACKWARD"]
_self_jumps: dict[int, tuple[CodeType, bool]] = {}


def callers(frame: FrameType | None) -> list[FrameType]:
    """The frame and all that called it, innermost first."""
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames


def callers_in_step(frame: FrameType | None) -> Iterator[FrameType]:
    """The frame and those that called it, innermost first, up to where the step begins."""
    while frame is not None and frame.f_code not in (_HANDLE_RUNS, _WORKER_GOES_ON):
        yield frame
        frame = frame.f_back
