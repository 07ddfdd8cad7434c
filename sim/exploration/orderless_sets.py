"""Sets that iterate in another order each time, as their members hash by address: found and named.

Tasks, futures and the like hash by names or counters within an execution; an object of the
program's, an Event, a Queue or a function does not. Where two natural executions differ and nothing
has survived the first, such a set is the likely cause.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from types import FunctionType
from typing import Any
from weakref import WeakSet

from sim.exploration.subject import Problem
from sim.kernel.diagnosis import frames_of, place_of_frame
from sim.kernel.execution import run_execution
from sim.kernel.guards import guarded
from sim.kernel.isolation.as_it_is import attributes_of, is_a
from sim.kernel.loop import SimLoop
from sim.kernel.observer import Observer
from sim.kernel.origin import is_own_code
from sim.kernel.world import World
from sim.schedulers import NaturalOrder
from sim.schedulers.states.object_readers import hashes_by_address

SHOWN_MAX = 3
_SETS = (set, frozenset, WeakSet)
_BY_NAME_OR_COUNTER = (asyncio.Future, asyncio.BaseTransport, asyncio.BaseProtocol)


def orderless_sets(problem: Problem) -> list[str]:
    """Those that the natural execution keeps, in words; asked of a fresh process."""
    watching = _Watching()
    watching.next_execution()
    with guarded():
        run_execution(problem.subject.program, watching, problem.bounds)
    return list(watching.seen.found.values())[:SHOWN_MAX]


class _Watching(NaturalOrder):
    def __init__(self) -> None:
        super().__init__()
        self.seen = _Seen()

    def observer(self) -> Observer:
        return self.seen


class _Seen(Observer):
    """found: by the set's address, in words; which it keeps alive."""

    def __init__(self) -> None:
        self.found: dict[int, str] = {}
        self._kept: list[Any] = []

    def begin(self, loop: SimLoop, world: World) -> None:
        self._loop = loop

    def end(self) -> None:
        self.poll_begins()

    def poll_begins(self) -> None:
        for task in self._loop.tasks:
            for frame in frames_of(task.get_coro()):
                code = frame.f_code
                if not is_own_code(code.co_filename):
                    continue
                held = _globals_of(frame.f_globals, code.co_names) | dict(frame.f_locals)
                for name, value in _held_by(held):
                    words = f"{name} in {place_of_frame(frame)} is a set of {_kind(value)}"
                    self.found.setdefault(id(value), words)
                    self._kept.append(value)


def _globals_of(module: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: module[name] for name in names if name in module}


def _held_by(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Variables with such a set, and attributes of the objects in variables."""
    for name, value in tuple(values.items()):
        if _is_orderless(value):
            yield f"{prefix}{name}", value
        elif not prefix and type(held := attributes_of(value)) is dict:
            yield from _held_by(held, f"{name}.")


def _is_orderless(value: Any) -> bool:
    return is_a(value, _SETS) and len(value) > 1 and any(map(_hashes_by_address, tuple(value)))


def _hashes_by_address(member: Any) -> bool:
    if is_a(member, FunctionType):
        return "<locals>" in member.__qualname__
    return not is_a(member, _BY_NAME_OR_COUNTER) and hashes_by_address(member)


def _kind(value: Any) -> str:
    return type(next(iter(value))).__name__
