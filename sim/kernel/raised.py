"""An exception in words: the frame that raised it, the program's own line, and what led to it."""

from __future__ import annotations

import asyncio
import inspect
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sim.kernel.diagnosis import place_of_line, place_of_predicate, short_place
from sim.kernel.isolation.as_it_is import code_of, name_of
from sim.kernel.origin import is_of_simulator, is_own_code

LEAVES_MAX = 4
BEHIND_MAX = 2
REPR_MAX = 200
HEADLINE_MAX = 60

_GET_LOOP = asyncio.mixins._LoopBoundMixin._get_loop.__code__  # type: ignore[attr-defined]

Line = tuple[FrameType, int]
"""A frame of a traceback, and the line at which it stood."""


def words_of_exception(raised: BaseException) -> str:
    """A sentence; or several lines: for a group, its leaves, or for what the exception follows."""
    lines = [_sentence(raised)]
    leaves = list(_leaves(raised)) if isinstance(raised, BaseExceptionGroup) else []
    lines += [f"in the group: {_sentence(each)}" for each in leaves[:LEAVES_MAX]]
    if len(leaves) > LEAVES_MAX:
        lines.append(f"and {len(leaves) - LEAVES_MAX} more in the group")
    # What led to a leaf is shown where it is the only one, as in most groups.
    last = leaves[0] if len(leaves) == 1 else raised
    lines += [f"{how}: {_sentence(each)}" for how, each in _behind(last)]
    return ";\n".join(lines)


def short_words_of_exception(raised: BaseException) -> str:
    """For a row of a chart: its name, and the program's own line."""
    own = _own_line(_lines(raised))
    return name_of_exception(raised) + (f" in {short_place(own[0].f_code, own[1])}" if own else "")


def headline_of_exception(raised: BaseException) -> str:
    """In half a line: type and message, cut, and where the program's own code raised it; of a group
    its first leaf."""
    leaves = list(_leaves(raised))
    first = leaves[0] if leaves else raised
    name = name_of_exception(first)
    name = name if len(name) <= HEADLINE_MAX else name[: HEADLINE_MAX - 1] + "…"
    own = _own_line(_lines(first))
    words = f"{name} in {short_place(own[0].f_code, own[1])}" if own else name
    if not isinstance(raised, BaseExceptionGroup):
        return words
    more = f" and {len(leaves) - 1} more" if len(leaves) > 1 else ""
    return f"{type(raised).__name__} of {words}{more}"


def name_of_exception(raised: BaseException) -> str:
    """As `repr`, which a program's own exception may lack, and which may be long."""
    if isinstance(raised, BaseExceptionGroup):
        return f"{type(raised).__name__}({raised.message!r})"
    try:
        name = repr(raised)
    except Exception as exc:
        name = f"{type(raised).__name__}, whose repr raises {type(exc).__name__}"
    return name if len(name) <= REPR_MAX else name[: REPR_MAX - 1] + "…"


def place_of_exception(raised: BaseException) -> str:
    """The program's own line, with its text; empty for an exception without a traceback."""
    own = _own_line(_lines(raised))
    return _place(*own) if own is not None else ""


def words_of_callback(handle: asyncio.Handle) -> str:
    """A callback of the loop's, by its name and where it is defined."""
    callback: Any = handle._callback  # type: ignore[attr-defined]
    code = code_of(callback)
    if code is not None and is_of_simulator(code.co_filename):
        # It stands for one of the program's, which is among its arguments.
        given = [each for each in handle._args if callable(each)]
        callback = given[0] if given else inspect.unwrap(callback)
    return words_of_function(callback)


def words_of_function(function: Any) -> str:
    place = place_of_predicate(function)
    return place or name_of(function)


def _sentence(raised: BaseException) -> str:
    lines = _lines(raised)
    if not lines:
        return name_of_exception(raised)
    frame, _ = innermost = lines[-1]
    own = _own_line(lines)
    if own is None or own[0] is frame:
        return f"{name_of_exception(raised)} raised in {_place(*innermost)}"
    inner = _place(*innermost, has_text=False)
    return f"{name_of_exception(raised)} raised in {inner}, on behalf of {_place(*own)}"


def _place(frame: FrameType, line: int, *, has_text: bool = True) -> str:
    return place_of_line(frame.f_code, frame.f_globals, line, has_text=has_text)


def _lines(raised: BaseException) -> list[Line]:
    """Outermost first, without the simulator's own frames, of which the program knows nothing."""
    lines = list(traceback.walk_tb(raised.__traceback__))
    theirs = [each for each in lines if not is_of_simulator(each[0].f_code.co_filename)]
    if not theirs and raised.__cause__ is not None:
        # A StopIteration that leaves a coroutine becomes a RuntimeError where that is awaited.
        theirs = _lines(raised.__cause__)
    return theirs or lines


def _own_line(lines: list[Line]) -> Line | None:
    """The innermost of the program's own code; else, of a program that is a library, the last."""
    own = (each for each in reversed(lines) if is_own_code(each[0].f_code.co_filename))
    return next(own, lines[-1] if lines else None)


def bound_to(raised: BaseException) -> object:
    """The loop to which the object is bound that raised "is bound to a different event loop"."""
    for leaf in _leaves(raised):
        for frame, _ in _lines(leaf):
            if frame.f_code is _GET_LOOP:
                return frame.f_locals["self"]._loop
    return None


def _leaves(group: BaseException) -> Iterator[BaseException]:
    if not isinstance(group, BaseExceptionGroup):
        yield group
        return
    for each in group.exceptions:
        yield from _leaves(each)


def _behind(raised: BaseException) -> Iterator[tuple[str, BaseException]]:
    """What it follows from, and how: the nearest first."""
    seen = {id(raised)}
    for _ in range(BEHIND_MAX):
        cause, context = raised.__cause__, raised.__context__
        if cause is not None:
            how, raised = "caused by", cause
        elif context is not None and not raised.__suppress_context__:
            how, raised = "raised while this was handled", context
        else:
            return
        # asyncio.timeout raises its error from the cancel by which it works.
        is_how_timeouts_work = how == "caused by" and isinstance(raised, asyncio.CancelledError)
        if id(raised) in seen or is_how_timeouts_work:
            return
        seen.add(id(raised))
        yield how, raised
