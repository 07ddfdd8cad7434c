"""Hashes that are the same in every run, so that sets iterate in the same order.

asyncio's TaskGroup and anyio keep tasks and scopes in sets, and servers their connections, and by
default these are ordered by address: the order in which a group cancels its children, or a server
closes its connections, then varies from run to run. Here tasks hash by their names, and the others
by a counter that starts anew with each execution.
"""

from __future__ import annotations

import asyncio
import re
import weakref
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import anyio._backends._asyncio as anyio_asyncio

from sim.kernel.current import execution_of_this_thread

# How many were given in this execution.
_serials = 0
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
# Of an object, as `repr` and `id` have it.
_ADDRESS = re.compile(r"0x[0-9a-f]{6}|\d{10}")
_names: Mapping[str, Sequence[str]] = {}
# Of `Bounds`: 0 mostly the order in which they were made, 1 the reverse, others mix them.
_set_order = 0
# By pattern, in which order the names came up in this execution.
_turns: dict[str, dict[str, int]] = {}


def restart_serials(set_order: int = 0) -> None:
    """To be called before each execution. set_order: see `Bounds`."""
    global _serials, _set_order
    _serials = 0
    _set_order = set_order
    _turns.clear()


def next_serial() -> int:
    global _serials
    _serials += 1
    return _serials


def serials_given() -> int:
    """What decides the next one."""
    return _serials


# No hash by address is: a program may write one into bytes, or as hexadecimal digits.
_NONE_BELOW_0 = (1 << 60) - 1


def in_set_order(number: int) -> int:
    """The hash of what else had this one: an order in which a set may iterate as well.

    sim/export/shim.py has the same.
    """
    if _set_order < 2:
        return ~number & _NONE_BELOW_0 if _set_order else number
    # Of numbers alone, so the same in each process; twice, as one round keeps neighbours together.
    return hash((_set_order, hash((_set_order, number)))) & _NONE_BELOW_0


def hash_of_name(name: str) -> int:
    """The number in `Task-7`, so that the order is mostly that in which tasks were made.

    From the name and not from a counter, so that a state, which holds the tasks' names, also
    decides the order of sets of them; sim/export/shim.py has the same.
    """
    number = name.removeprefix("Task-")
    return int(number) if number.isdecimal() else zlib.crc32(name.encode())


def pattern_of(name: str) -> str:
    """The name without its numbers."""
    return _NUMBERS.sub("#", name)


def stable_name(name: str) -> str:
    """The name of a task, or the one it would have had if nothing had been executed before.

    A library may number its tasks in a counter of its module, or name them by an address. The
    numbers are those of the first execution, in the same order; see `names_kept`.
    """
    # An address is longer than most names.
    has_address = len(name) > 7 and _ADDRESS.search(name) is not None
    if not _names and not has_address:
        return name
    pattern = pattern_of(name)
    if pattern not in _names and not has_address:
        return name
    turns = _turns.setdefault(pattern, {})
    turn = turns.setdefault(name, len(turns))
    # Addresses are others in each process, so that those of the first execution say no more.
    first = () if has_address else _names[pattern]
    return first[turn] if turn < len(first) else f"{pattern} {turn}"


@contextmanager
def names_kept(names: Mapping[str, Sequence[str]]) -> Iterator[None]:
    """Within the block `stable_name` finds these, which are those of a first execution.

    names: by pattern, those that were others in a second.
    """
    global _names
    before, _names = _names, names
    try:
        yield
    finally:
        _names = before


class SimTask(asyncio.Task[Any]):
    # None until it is first asked for.
    _sim_hash: int | None = None

    def __hash__(self) -> int:
        known = self._sim_hash
        if known is None:
            name = stable_name(self.get_name())
            known = self._sim_hash = in_set_order(hash_of_name(name))
        return known


class SimFuture(asyncio.Future[Any]):
    # 0 until it is first asked for.
    _sim_hash = 0

    def __hash__(self) -> int:
        if not self._sim_hash:
            self._sim_hash = in_set_order(next_serial())
        return self._sim_hash


# As which the program's own messages, and asyncio's, speak of them.
SimTask.__name__, SimFuture.__name__ = "Task", "Future"


class SimCancelScope(anyio_asyncio.CancelScope):
    __slots__ = ("_sim_hash",)

    def __hash__(self) -> int:
        try:
            return self._sim_hash
        except AttributeError:
            self._sim_hash: int = in_set_order(next_serial())
            return self._sim_hash


class Numbers:
    """By which objects hash: kept beside them, as a program may print or compare attributes."""

    def __init__(self) -> None:
        # By address.
        self._kept: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def of(self, each: object) -> int | None:
        known = self._kept.get(object.__hash__(each))
        return None if known is None else known[0]

    def give(self, each: object, number: int) -> int:
        """Raises TypeError for what cannot be referred to weakly."""
        address = object.__hash__(each)
        forgets = weakref.ref(each, lambda _: self._kept.pop(address, None))
        self._kept[address] = number, forgets
        return number


def _hash_of_connection(self: asyncio.BaseProtocol | asyncio.BaseTransport) -> int:
    known = _of_connections.of(self)
    if known is not None:
        return known
    if execution_of_this_thread() is not None:
        # Else it is of a class with slots alone.
        with suppress(TypeError):
            return _of_connections.give(self, in_set_order(next_serial()))
    return object.__hash__(self)


_of_connections = Numbers()
# What `asyncio.gather` returns.
GatheringFuture: type[asyncio.Future[Any]] = asyncio.tasks._GatheringFuture  # type: ignore[attr-defined]


def hashes_of_connections() -> list[tuple[Any, str, Any]]:
    """What stands in its place within executions: protocols and transports hash by the counter."""
    return [
        (cls, "__hash__", _hash_of_connection)
        for cls in (asyncio.BaseProtocol, asyncio.BaseTransport, GatheringFuture)
    ]


def use_deterministic_scopes() -> None:
    """From now on anyio makes its scopes of the class above, in this process."""
    anyio_asyncio.CancelScope = SimCancelScope  # type: ignore[misc]
