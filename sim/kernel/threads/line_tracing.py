"""Calls back before each line of declared files, wherever they run.

CPython 3.11 has `sys.settrace` for it, which is asked about every call of a thread. Since 3.12 each
change of the trace function instruments all code anew, and `sys.monitoring` watches single code
objects instead (PEP 669), so there it is used.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import CodeType, FrameType, ModuleType
from typing import Any

from sim.kernel.errors import NotSimulated
from sim.kernel.isolation.as_it_is import attributes_of, is_a
from sim.kernel.isolation.bound_names import functions_behind, nested_codes

OnLine = Callable[[str, int], None]

_monitoring: Any = getattr(sys, "monitoring", None)
MONITORS = _monitoring is not None
_TOOL = 4
# The files whose code objects are watched in this process; the callback looks up the execution.
_watched: set[str] = set()


def watch(files: frozenset[str], on_line: OnLine) -> None:
    """Since 3.12: from now on `on_line(file, line)` is called, in every greenlet."""
    if not MONITORS:
        return
    monitoring = _monitoring
    if monitoring.get_tool(_TOOL) is None:
        monitoring.use_tool_id(_TOOL, "onestream")
        monitoring.register_callback(
            _TOOL, monitoring.events.LINE, lambda code, line: on_line(code.co_filename, line)
        )
    elif monitoring.get_tool(_TOOL) != "onestream":
        raise NotSimulated(
            f"lines cannot be switch points: {monitoring.get_tool(_TOOL)} has tool id {_TOOL} of "
            f"sys.monitoring; run without it"
        )
    for file in files - _watched:
        for code in _codes_of(file):
            monitoring.set_local_events(_TOOL, code, monitoring.events.LINE)
        _watched.add(file)


def unwatch() -> None:
    """Since 3.12: no code is watched any more."""
    if not MONITORS or _monitoring.get_tool(_TOOL) != "onestream":
        return
    for file in _watched:
        for code in _codes_of(file):
            _monitoring.set_local_events(_TOOL, code, 0)
    _watched.clear()
    _monitoring.free_tool_id(_TOOL)


def trace_function(files: frozenset[str], on_line: OnLine) -> Any:
    """On 3.11: what `sys.settrace` is given in a thread that runs these files; else None."""
    if MONITORS or not files:
        return None

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        return on_event if frame.f_code.co_filename in files else None

    def on_event(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            on_line(frame.f_code.co_filename, frame.f_lineno)
        return on_event

    return on_call


def trace_callers(function: Any) -> None:
    """On 3.11: it traces the loop's thread from now on, and the frames that are at work."""
    if function is None:
        return
    set_trace(function)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        own = function(frame, "call", None)
        if own is not None:
            before = frame.f_trace
            frame.f_trace = own if before is None else functools.partial(_on_event, before, own)
        frame = frame.f_back


CALLED_AT_LINES = frozenset(
    code
    for function in (trace_function, watch)
    for code in nested_codes(function.__code__)
    if code.co_name in ("on_event", "<lambda>")
)
"""What the interpreter calls before a line, wherever that is."""


def set_trace(function: Any) -> None:
    """On 3.11: `sys.settrace`. Later versions have nothing to set."""
    if MONITORS:
        return
    traced = function if _counting is None else _both(_counting, function)
    # CPython lets only one thread at a time call it.
    if traced is not sys.gettrace():
        sys.settrace(traced)


def count_beside(
    on_call: Any, begin: Callable[[FrameType], None] | None = None, *, comes_last: bool = False
) -> None:
    """On 3.11: what is traced from now on is traced by this function as well; None ends that.

    begin: traces a frame that has begun before. comes_last: it is told of a line once that was a
    switch point, and so after the lines of those who went first.
    """
    global _counting, _begin, _comes_last
    _counting, _begin, _comes_last = on_call, begin, comes_last


def resumed() -> None:
    """Called in a thread that goes on: it may have been switched out before the count began."""
    if _begin is not None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            _begin(frame)
            frame = frame.f_back
        # That of the thread; what switches restores an older one.
        sys.settrace(sys.gettrace())


_counting: Any = None
_comes_last = False
_begin: Callable[[FrameType], None] | None = None


def _both(counting: Any, function: Any) -> Any:
    if function is None or function is counting or hasattr(function, "_counts"):
        return function or counting

    def on_call(frame: FrameType, event: str, arg: Any) -> Any:
        count, own = counting(frame, event, arg), function(frame, event, arg)
        if count is None or own is None:
            return own if count is None else count
        return functools.partial(_on_event, *((own, count) if _comes_last else (count, own)))

    on_call._counts = True  # type: ignore[attr-defined]
    return on_call


def _on_event(first: Any, second: Any, frame: FrameType, event: str, arg: Any) -> Any:
    first(frame, event, arg)
    second(frame, event, arg)
    return frame.f_trace


def _codes_of(file: str) -> Iterator[CodeType]:
    """Every code object of the imported modules that come from the file."""
    for module in tuple(sys.modules.values()):
        if getattr(module, "__file__", None) == file:
            # What a module takes from another, or is decorated with, has its lines elsewhere.
            yield from (c for c in _codes_in(module, module.__name__) if c.co_filename == file)


def _codes_in(holder: ModuleType | type, module_name: str) -> Iterator[CodeType]:
    for value in tuple(vars(holder).values()):
        if is_a(value, type):
            if attributes_of(value).get("__module__") == module_name:
                yield from _codes_in(value, module_name)
            continue
        for function in functions_behind(value):
            yield from nested_codes(function.__code__)
