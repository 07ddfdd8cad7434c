"""An execution in which the garbage collector runs, at polls: see `Bounds.collections`.

Elsewhere it runs between executions alone, so that what only a circle of objects holds lives on to
the end. On stock Python it runs whenever enough was made, and a task that nobody else holds, or an
object that a WeakSet has, is gone from then on.

It finds what this execution has made, and nothing else: what there was before is frozen, garbage
among it too, so that neither the size of the process nor its history has a part in it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import AsyncGeneratorType, FrameType, GeneratorType
from typing import Any
from weakref import ref

from sim.kernel.current import Execution
from sim.kernel.diagnosis import frames_of, short_place
from sim.kernel.isolation.as_it_is import is_a
from sim.kernel.notices import Special
from sim.kernel.origin import is_own_code
from sim.kernel.world import World

# Bound here: a program may have put its own in their place.
_collect, _freeze, _unfreeze, _frozen = gc.collect, gc.freeze, gc.unfreeze, gc.get_freeze_count
_objects = gc.get_objects

SHOWN_MAX = 3
_YOUNG, _ALL = 1, 2  # Generations.


class Collections:
    """freed: of an execution that is traced, what was, in words."""

    def __init__(self, world: World, execution: Execution) -> None:
        self.freed: list[str] = []
        self._world = world
        self._execution = execution
        self._which = execution.loop.bounds.collections
        self._polls = 0

    def at_poll(self) -> None:
        self._polls += 1
        # A program that has switched the collector off holds what it has as long as it says.
        if not (self._execution.collects and _is_chosen(self._which, self._polls)):
            return
        watched = [] if self._world.trace is None else _watched()
        if not _collect():
            return
        self._execution.loop.bounds_hit.add("collections")
        self._execution.loop.environment.observer.meets(Special.COLLECTIONS)
        gone = sorted({words for alive, words in watched if alive() is None})
        if gone:
            self.freed += gone
            self._world.record(f"frees {listed(gone)}", actor="the collector")


_depth = 0


@contextmanager
def only_what_is_new() -> Iterator[None]:
    """In the block the collector finds what is made in it. Blocks may be nested.

    Where somebody has frozen objects before, nothing says which these were, so that none are frozen
    here: then it only takes longer.
    """
    global _depth
    may_freeze = _depth > 0 or not _frozen()
    # To look for garbage among all that the process has would take longer than a small search.
    _collect(_YOUNG if may_freeze and not _depth else _ALL)
    if may_freeze:
        _freeze()
    _depth += may_freeze
    try:
        yield
        _collect()
    finally:
        _depth -= may_freeze
        if may_freeze and not _depth:
            _unfreeze()


def _is_chosen(which: int, poll: int) -> bool:
    """which: none for 0, all for 1, and some, by that number, for more."""
    return which == 1 or (which > 1 and hash((which, hash((which, poll)))) & 1 == 1)


def _watched() -> list[tuple[ref[Any], str]]:
    """Of all that the execution has made what a reader knows, and what it is called."""
    objects = _objects()
    tasks = [each for each in objects if is_a(each, asyncio.Task)]
    coroutines = {id(each.get_coro()) for each in tasks}
    watched: list[tuple[ref[Any], str]] = [
        (ref(each), _words_of_task(each)) for each in tasks if not each.done()
    ]
    for each in objects:
        words = None if id(each) in coroutines else _words_of(each)
        if words is not None:
            watched.append((ref(each), words))
    return watched


def _words_of_task(task: asyncio.Task[Any]) -> str:
    own = [each for each in frames_of(task.get_coro()) if is_own_code(each.f_code.co_filename)]
    where = f" in {short_place(own[-1].f_code, own[-1].f_lineno)}" if own else ""
    return f"{task.get_name()} as it waited{where}"


def _words_of(each: object) -> str | None:
    """An object of a class of the program's own, or a generator of its that stands somewhere."""
    kind = type(each)
    if kind in (GeneratorType, AsyncGeneratorType):
        frame: FrameType | None = getattr(each, "gi_frame", None) or getattr(each, "ag_frame", None)
        if frame is None or not is_own_code(frame.f_code.co_filename):
            return None
        return f"the generator of {short_place(frame.f_code, frame.f_lineno)}"
    if kind.__weakrefoffset__ == 0 or issubclass(kind, type):
        return None
    module = sys.modules.get(kind.__module__)
    file = getattr(module, "__file__", None)
    if not file or not is_own_code(file):
        return None
    return f"a {kind.__qualname__.rpartition('<locals>.')[2]}"


def listed(words: list[str]) -> str:
    more = [f"{len(words) - SHOWN_MAX} more"] if len(words) > SHOWN_MAX else []
    *first, last = words[:SHOWN_MAX] + more
    return f"{', '.join(first)} and {last}" if first else last
